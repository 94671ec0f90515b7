//! What each phase of a start took, for `--timings`.

use std::fmt::Write as _;
use std::time::Instant;

/// A stopwatch with names. One that is off does nothing.
#[derive(Debug)]
pub struct Timings {
    phases: Option<Vec<(&'static str, Instant)>>,
}

impl Timings {
    /// Starts it.
    pub fn new(on: bool) -> Timings {
        Timings { phases: on.then(|| vec![("", Instant::now())]) }
    }

    /// A phase has ended.
    pub fn phase(&mut self, name: &'static str) {
        if let Some(phases) = &mut self.phases {
            phases.push((name, Instant::now()));
        }
    }

    /// What each phase took, on one line: `timings: image 0.12 ms, host 0.20 ms, sum 0.32 ms`.
    pub fn report(&self) -> Option<String> {
        let phases = self.phases.as_ref()?;
        let milliseconds = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
        let mut line = String::from("timings: ");
        for pair in phases.windows(2) {
            let _ = write!(line, "{} {:.2} ms, ", pair[1].0, milliseconds(pair[0].1, pair[1].1));
        }
        let sum = milliseconds(phases[0].1, phases[phases.len() - 1].1);
        let _ = write!(line, "sum {sum:.2} ms");
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_is_named_once_in_its_order() {
        let mut timings = Timings::new(true);
        timings.phase("image");
        timings.phase("host");
        let line = timings.report().unwrap();
        let names: Vec<&str> =
            line["timings: ".len()..].split(", ").filter_map(|part| part.split(' ').next()).collect();
        assert_eq!(names, ["image", "host", "sum"]);
        assert_eq!(Timings::new(false).report(), None);
    }
}
