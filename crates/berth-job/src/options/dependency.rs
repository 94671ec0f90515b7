//! `--dependency`: after which other jobs a job may start.

/// What is asked of another job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Slurm's words.
pub enum Condition {
    After,
    AfterAny,
    AfterOk,
    AfterNotOk,
    AfterCorr,
}

/// One job that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct One {
    /// What is asked of it.
    pub condition: Condition,
    /// Its number; an array's for all its elements.
    pub job: u32,
    /// An element of an array.
    pub element: Option<u32>,
    /// `after:JOB+MINUTES`: this long after it has started.
    pub minutes: u32,
}

/// A list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// The jobs.
    pub list: Vec<One>,
    /// Whether one of them is enough (`?` instead of `,`).
    pub any: bool,
    /// `singleton`: after all earlier jobs of the same name.
    pub singleton: bool,
}

/// What is known of a job that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits.
    Pending,
    /// It runs, since this time.
    Running(u64),
    /// It has ended: with success or not. A job that was cancelled before it ran has not started.
    Over {
        /// Whether as COMPLETED.
        success: bool,
    },
}

/// Whether a job may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Satisfied,
    /// Not yet; where it is known, from this time on.
    Waiting(Option<u64>),
    /// Never.
    Never,
}

/// Reads the option.
pub fn parse(text: &str) -> Option<Dependencies> {
    let any = text.contains('?');
    if any && text.contains(',') {
        return None;
    }
    let mut result = Dependencies { any, ..Dependencies::default() };
    for part in text.split([',', '?']) {
        if part == "singleton" {
            result.singleton = true;
            continue;
        }
        let (word, jobs) = part.split_once(':')?;
        let condition = match word {
            "after" => Condition::After,
            "afterany" => Condition::AfterAny,
            "afterok" => Condition::AfterOk,
            "afternotok" => Condition::AfterNotOk,
            "aftercorr" => Condition::AfterCorr,
            _ => return None,
        };
        for job in jobs.split(':') {
            let (job, minutes) = match job.split_once('+') {
                Some((job, minutes)) if condition == Condition::After => (job, minutes.parse().ok()?),
                Some(_) => return None,
                None => (job, 0),
            };
            let (job, element) = match job.split_once('_') {
                Some((job, "*")) => (job, None),
                Some((job, element)) => (job, Some(element.parse().ok()?)),
                None => (job, None),
            };
            let job = job.parse().ok().filter(|&job| job > 0)?;
            result.list.push(One { condition, job, element, minutes });
        }
    }
    Some(result)
}

impl Dependencies {
    /// Whether a job may start. `status` gives what there is of a job or an element: several for an array as a whole, none
    /// where nothing is known any more. `earlier` is whether earlier jobs of its name are not over.
    pub fn verdict(
        &self,
        now: u64,
        element: Option<u32>,
        earlier: bool,
        mut status: impl FnMut(&One) -> Vec<Status>,
    ) -> Verdict {
        if self.singleton && earlier {
            return Verdict::Waiting(None);
        }
        let verdicts: Vec<Verdict> = self
            .list
            .iter()
            .map(|one| {
                let mut one = *one;
                if one.condition == Condition::AfterCorr && one.element.is_none() {
                    one.element = element;
                }
                judge(&one, now, &status(&one))
            })
            .collect();
        let satisfied = |verdict: &Verdict| *verdict == Verdict::Satisfied;
        let soonest = || {
            let times = verdicts.iter().filter_map(|verdict| match verdict {
                Verdict::Waiting(time) => *time,
                _ => None,
            });
            if self.any { times.min() } else { times.max() }
        };
        if verdicts.is_empty() || verdicts.iter().all(satisfied) || (self.any && verdicts.iter().any(satisfied)) {
            return Verdict::Satisfied;
        }
        let never = |verdict: &Verdict| *verdict == Verdict::Never;
        let lost = if self.any { verdicts.iter().all(never) } else { verdicts.iter().any(never) };
        if lost { Verdict::Never } else { Verdict::Waiting(soonest()) }
    }
}

/// One job; its elements must all be as they should.
fn judge(one: &One, now: u64, statuses: &[Status]) -> Verdict {
    let mut verdict = Verdict::Satisfied;
    for status in statuses {
        let single = match (one.condition, status) {
            (Condition::After, Status::Running(start)) => {
                let time = start + u64::from(one.minutes) * 60;
                if time <= now { Verdict::Satisfied } else { Verdict::Waiting(Some(time)) }
            }
            (_, Status::Pending | Status::Running(_)) => Verdict::Waiting(None),
            (Condition::After | Condition::AfterAny, Status::Over { .. }) => Verdict::Satisfied,
            (Condition::AfterOk | Condition::AfterCorr, Status::Over { success }) => {
                if *success {
                    Verdict::Satisfied
                } else {
                    Verdict::Never
                }
            }
            (Condition::AfterNotOk, Status::Over { success }) => {
                if *success {
                    Verdict::Never
                } else {
                    Verdict::Satisfied
                }
            }
        };
        match (single, verdict) {
            (Verdict::Never, _) => return Verdict::Never,
            (Verdict::Waiting(time), _) => verdict = Verdict::Waiting(time),
            (Verdict::Satisfied, _) => {}
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_have_slurms_forms() {
        let parsed = parse("afterok:1:2_3,after:4+10,singleton").unwrap();
        assert_eq!((parsed.list.len(), parsed.any, parsed.singleton), (3, false, true));
        assert_eq!(parsed.list[1].element, Some(3));
        assert_eq!(parsed.list[2].minutes, 10);
        assert!(parse("afterany:1?afterok:2").unwrap().any);
        for text in ["", "foo:1", "afterok", "afterok:x", "afterok:0", "afterok:1,afterany:2?afterany:3", "afterok:1+5"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn each_kind_waits_for_its_own() {
        let over = |success| Status::Over { success };
        for (text, status, expected) in [
            ("after:1", Status::Pending, Verdict::Waiting(None)),
            ("after:1", Status::Running(100), Verdict::Satisfied),
            ("after:1+1", Status::Running(100), Verdict::Waiting(Some(160))),
            ("afterany:1", Status::Running(1), Verdict::Waiting(None)),
            ("afterany:1", over(false), Verdict::Satisfied),
            ("afterok:1", over(true), Verdict::Satisfied),
            ("afterok:1", over(false), Verdict::Never),
            ("afternotok:1", over(false), Verdict::Satisfied),
            ("afternotok:1", over(true), Verdict::Never),
            ("afterok:1?afternotok:1", over(true), Verdict::Satisfied),
            ("afterok:1,afternotok:1", over(true), Verdict::Never),
            ("singleton", over(true), Verdict::Satisfied),
        ] {
            assert_eq!(parse(text).unwrap().verdict(100, None, false, |_| vec![status]), expected, "{text}");
        }
        assert_eq!(parse("singleton").unwrap().verdict(1, None, true, |_| vec![]), Verdict::Waiting(None));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,20}|(after|afterok|singleton|[0-9:_+?,]){0,6}") {
            let _ = parse(&text);
        }
    }
}
