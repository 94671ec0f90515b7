//! Sets of numbers, as `--array` and CPU lists write them: `1,3-5,10-20:5`.

/// Largest element that is accepted, and most elements of an array.
pub const MAX: u32 = 1_000_000;

/// An array: its elements, ascending, and how many may run at once (0 for no limit).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elements {
    /// Ascending.
    pub tasks: Vec<u32>,
    /// 0 for no limit.
    pub limit: u32,
    /// The step, where all was one range with one.
    pub step: u32,
}

/// Reads `--array`.
pub fn parse(text: &str) -> Option<Elements> {
    let (list, limit) = match text.split_once('%') {
        Some((list, limit)) => (list, number(limit)?),
        None => (text, 0),
    };
    let tasks = parse_set(list.trim_start_matches('[').trim_end_matches(']'))?;
    let step = list.split_once(':').and_then(|(_, step)| number(step)).unwrap_or(1);
    Some(Elements { tasks, limit, step })
}

/// Reads a set.
pub fn parse_set(text: &str) -> Option<Vec<u32>> {
    let mut tasks = Vec::new();
    for part in text.split(',') {
        let (range, step) = match part.split_once(':') {
            Some((range, step)) => (range, number(step).filter(|&step| step > 0)?),
            None => (part, 1),
        };
        match range.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return None;
                }
                tasks.extend((first..=last).step_by(step as usize));
            }
            None if step == 1 => tasks.push(number(range)?),
            None => return None,
        }
        if tasks.len() > MAX as usize {
            return None;
        }
    }
    tasks.sort_unstable();
    tasks.dedup();
    (!tasks.is_empty()).then_some(tasks)
}

fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().filter(|&number| number <= MAX)
}

/// Writes a set, ascending numbers, as short as ranges make it; evenly spaced ones with their step, as Slurm does.
pub fn format(tasks: &[u32]) -> String {
    if tasks.len() > 2 {
        let step = tasks[1] - tasks[0];
        if step > 1 && tasks.windows(2).all(|pair| pair[1] - pair[0] == step) {
            return format!("{}-{}:{step}", tasks[0], tasks[tasks.len() - 1]);
        }
    }
    format_ranges(tasks)
}

/// Likewise, without steps, as CPUs and tasks are listed.
pub fn format_ranges(tasks: &[u32]) -> String {
    let mut text = String::new();
    let mut rest = tasks;
    while let Some(&first) = rest.first() {
        let run = rest.iter().zip(first..).take_while(|(task, expected)| **task == *expected).count();
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&first.to_string());
        if run > 1 {
            text.push_str(&format!("-{}", rest[run - 1]));
        }
        rest = &rest[run..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sets_have_slurms_forms() {
        assert_eq!(parse("0-3%2").unwrap(), Elements { tasks: vec![0, 1, 2, 3], limit: 2, step: 1 });
        assert_eq!(parse("1-7:3").unwrap(), Elements { tasks: vec![1, 4, 7], limit: 0, step: 3 });
        assert_eq!(parse("5,1,1-2").unwrap().tasks, [1, 2, 5]);
        for text in ["", "a", "3-1", "1-", "-1", "1-5:0", "1%", "1:2", "0-99999999", "4294967296"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(format(&[0, 1, 2, 5]), "0-2,5");
        assert_eq!(format(&[0, 10, 20]), "0-20:10");
    }

    proptest! {
        #[test]
        fn a_set_that_is_written_is_read(set in proptest::collection::btree_set(0u32..3000, 1..60)) {
            let tasks: Vec<u32> = set.into_iter().collect();
            prop_assert_eq!(parse_set(&format(&tasks)), Some(tasks.clone()));
            prop_assert_eq!(parse_set(&format_ranges(&tasks)), Some(tasks));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,20}|[0-9,:%-]{0,20}") {
            let _ = parse(&text);
        }
    }
}
