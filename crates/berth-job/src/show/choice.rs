//! Which jobs are meant: `-j 12,13_4`, `-t R,PD`, `-u me`.

use crate::options::begin;
use crate::record::{Job, State, StepId};
use crate::show::facts;

/// A job, an element, or a step, as people write it: `12`, `12_3`, `12.0`, `12_3.batch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// The number of the job or of the array.
    pub job: u32,
    /// The element of the array.
    pub element: Option<u32>,
    /// The step.
    pub step: Option<StepId>,
}

impl Name {
    /// Reads one. Brackets behind the array's number (`12_[3-5]`) stand for all of its elements that wait.
    pub fn parse(text: &str) -> Option<Name> {
        let (job, step) = text.split_once('.').map_or((text, None), |(job, step)| (job, Some(step)));
        let step = match step {
            None => None,
            Some("batch") => Some(StepId::Batch),
            Some(number) => Some(StepId::Number(digits(number)?)),
        };
        let (job, element) = match job.split_once('_') {
            None => (digits(job)?, None),
            Some((job, element)) if element.starts_with('[') && element.ends_with(']') => (digits(job)?, None),
            Some((job, element)) => (digits(job)?, Some(digits(element)?)),
        };
        (job > 0).then_some(Name { job, element, step })
    }

    /// Whether a job is meant: the job itself, an element by its own number or the array's, or all of an array's.
    pub fn means(&self, job: &Job) -> bool {
        match (self.element, &job.array) {
            (None, _) => self.job == job.id || self.job == facts::array_job(job),
            (Some(element), Some(array)) => {
                self.job == array.job
                    && match array.task {
                        Some(task) => task == element,
                        None => crate::options::array::parse_set(&array.waiting)
                            .is_some_and(|waiting| waiting.binary_search(&element).is_ok()),
                    }
            }
            (Some(_), None) => false,
        }
    }
}

fn digits(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// The states that Slurm's commands know, in its order, with their short names.
const STATES: [(&str, &str); 24] = [
    ("pending", "PD"),
    ("running", "R"),
    ("suspended", "S"),
    ("completed", "CD"),
    ("cancelled", "CA"),
    ("failed", "F"),
    ("timeout", "TO"),
    ("node_fail", "NF"),
    ("preempted", "PR"),
    ("boot_fail", "BF"),
    ("deadline", "DL"),
    ("out_of_memory", "OOM"),
    ("completing", "CG"),
    ("configuring", "CF"),
    ("resizing", "RS"),
    ("resv_del_hold", "RD"),
    ("requeued", "RQ"),
    ("requeue_fed", "RF"),
    ("requeue_hold", "RH"),
    ("revoked", "RV"),
    ("signaling", "SI"),
    ("special_exit", "SE"),
    ("stage_out", "SO"),
    ("stopped", "ST"),
];

/// All states by their long names, as the errors list them.
pub fn state_names() -> String {
    STATES.map(|(name, _)| name).join(",")
}

/// States that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum States {
    /// All.
    All,
    /// Those with these long names.
    Some(Vec<&'static str>),
}

impl States {
    /// Reads a list of long or short names, or `all`.
    ///
    /// # Errors
    /// The word that is no state.
    pub fn parse(list: &str) -> Result<States, String> {
        let mut names = Vec::new();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if word.eq_ignore_ascii_case("all") {
                return Ok(States::All);
            }
            let known =
                STATES.iter().find(|(long, short)| [long, short].iter().any(|name| name.eq_ignore_ascii_case(word)));
            names.push(known.ok_or_else(|| word.to_owned())?.0);
        }
        Ok(States::Some(names))
    }

    /// Whether a state is among them.
    pub fn contain(&self, state: State) -> bool {
        match self {
            States::All => true,
            States::Some(names) => names.iter().any(|name| name.eq_ignore_ascii_case(state.name())),
        }
    }
}

/// A time that lies in the past, mostly, as `sacct -S` takes it: `2030-01-20`, `10:00` of today, `now-1hour`.
///
/// # Errors
/// Where it cannot be understood, in bytes from the start.
pub fn past(text: &str, now: u64) -> Result<u64, usize> {
    if let Some(offset) = text.trim().strip_prefix("now-") {
        let later = begin::parse(&format!("now+{offset}"), now)?;
        return Ok(now.saturating_sub(later - now));
    }
    let time = begin::parse(text, now)?;
    // `--begin` takes a time of day that is over for tomorrow's.
    let is_of_day = !text.contains(['-', '/', 't', 'T', 'n']);
    Ok(if is_of_day && time > now && time - now <= 86400 { time - 86400 } else { time })
}

/// The number of a user of this machine, by name or number.
pub fn user(text: &str, passwd: &str) -> Option<u32> {
    let by_name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == text).then(|| fields.nth(1)?.parse().ok())?
    });
    by_name.or_else(|| digits(text))
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn names_of_jobs_elements_and_steps_are_read() {
        let name = |job, element, step| Some(Name { job, element, step });
        for (text, expected) in [
            ("12", name(12, None, None)),
            ("12_3", name(12, Some(3), None)),
            ("12_[3-5%2]", name(12, None, None)),
            ("12.0", name(12, None, Some(StepId::Number(0)))),
            ("12_3.batch", name(12, Some(3), Some(StepId::Batch))),
            ("abc", None),
            ("0", None),
            ("12.x", None),
            ("12_", None),
            ("-1", None),
            ("99999999999", None),
        ] {
            assert_eq!(Name::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_name_means_a_job_or_an_array_or_one_of_its_elements() {
        let view = example::view();
        let meant = |text: &str| {
            let name = Name::parse(text).unwrap();
            view.jobs.iter().filter(|job| name.means(job)).map(|job| job.id).collect::<Vec<u32>>()
        };
        assert_eq!(
            (meant("129"), meant("132_6"), meant("132_2"), meant("132")),
            (vec![129], vec![132], vec![], vec![132])
        );
    }

    #[test]
    fn states_are_read_by_both_names() {
        let states = States::parse("r,PENDING").unwrap();
        assert!(states.contain(State::Running) && states.contain(State::Pending) && !states.contain(State::Failed));
        assert!(States::parse("CD,all").unwrap().contain(State::Timeout));
        assert_eq!(States::parse("R,foo"), Err("foo".to_owned()));
        assert!(States::parse("S,PR,oom").unwrap().contain(State::OutOfMemory));
    }

    #[test]
    fn times_lie_in_the_past() {
        let now = 1_795_904_698;
        assert_eq!(
            (past("now-1hour", now), past("now-10", now), past("now", now)),
            (Ok(now - 3600), Ok(now - 10), Ok(now))
        );
        let clock = crate::time::clock(now);
        for time in ["00:00", "23:59:59"] {
            let day = crate::time::clock(past(time, now).unwrap()).day;
            assert!(day == clock.day || day + 1 == clock.day, "{time}");
        }
        assert_eq!(past("garbage", now), Err(0));
    }

    #[test]
    fn users_have_names_or_numbers() {
        let passwd = "root:x:0:0::/root:/bin/sh\ntuser1:x:20001:20001::/:/bin/sh\n";
        assert_eq!((user("tuser1", passwd), user("7", passwd), user("nosuch", passwd)), (Some(20001), Some(7), None));
    }
}
