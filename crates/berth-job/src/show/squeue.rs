//! `squeue`: the jobs that wait or run.

use std::cmp::Ordering;

use super::View;
use super::facts;
use super::layout::Layout;
use super::squeue_fields::Field;
use crate::options::array;
use crate::record::{Array, Job, State};

/// The layout without an option.
pub const DEFAULT: &str = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R";
/// The layout of `-l`.
pub const LONG: &str = "%.18i %.9P %.8j %.8u %.8T %.10M %.9l %.6D %R";
/// The layout of `--start`.
pub const START: &str = "%.18i %.9P %.8j %.8u %.2t %.19S %.6D %20Y %R";

/// How a line of `-o` is laid out.
pub fn by_letters(format: &str) -> Layout<&'static Field> {
    Layout::by_letters(format, Field::by_letter)
}

/// How a line of `-O` is laid out.
pub fn by_names(format: &str) -> Layout<&'static Field> {
    Layout::by_names(format, Field::by_name)
}

/// The header's line.
pub fn header(layout: &Layout<&'static Field>) -> String {
    layout.line(|field| field.header.to_owned())
}

/// The jobs' lines.
pub fn lines(layout: &Layout<&'static Field>, view: &View) -> Vec<String> {
    view.jobs.iter().map(|job| layout.line_with(|field| (field.value(job, view), field.is_cut()))).collect()
}

/// Makes a job of each element that waits (`--array`).
pub fn expand_arrays(view: &mut View) {
    let jobs = std::mem::take(&mut view.jobs);
    for job in jobs {
        match &job.array {
            Some(all @ Array { task: None, waiting, .. }) => {
                for task in array::parse_set(waiting).unwrap_or_default() {
                    let element = Array { task: Some(task), waiting: String::new(), ..all.clone() };
                    view.jobs.push(Job { array: Some(element), ..job.clone() });
                }
            }
            _ => view.jobs.push(job),
        }
    }
}

/// The order without an option: by partition, state and priority, as Slurm's `P,t,-p`, then by number.
pub const ORDER: &str = "P,t,-p,i";

/// Puts jobs into an order: letters of `-o`, with `-` in front for the other way round.
///
/// # Errors
/// A letter that jobs cannot be sorted by.
pub fn sort(view: &mut View, order: &str) -> Result<(), String> {
    let now = view.now;
    for word in order.split(',').map(str::trim).rev() {
        let (backwards, letter) = match word.strip_prefix('-') {
            Some(letter) => (true, letter),
            None => (false, word.strip_prefix('+').unwrap_or(word)),
        };
        let Some(compare) = comparison(letter) else { return Err(letter.to_owned()) };
        // Stable, so that the keys in front decide and those behind tell apart what they leave equal.
        view.jobs.sort_by(|one, other| {
            let ordering = compare(one, other, now);
            if backwards { ordering.reverse() } else { ordering }
        });
    }
    Ok(())
}

type Comparison = fn(&Job, &Job, u64) -> Ordering;

fn comparison(letter: &str) -> Option<Comparison> {
    Some(match letter {
        "i" | "A" | "F" => |a, b, _| facts::order(a).cmp(&facts::order(b)),
        "a" => |a, b, _| a.account.cmp(&b.account),
        "c" | "C" => |a, b, _| facts::cpus(a).cmp(&facts::cpus(b)),
        "d" | "D" | "f" | "v" | "w" | "n" | "x" => |_, _, _| Ordering::Equal,
        "e" => |a, b, _| facts::end(a).cmp(&facts::end(b)),
        "g" => |a, b, _| a.group.cmp(&b.group),
        "G" => |a, b, _| a.gid.cmp(&b.gid),
        "j" => |a, b, _| a.name.cmp(&b.name),
        "l" => |a, b, _| a.time_limit.unwrap_or(u32::MAX).cmp(&b.time_limit.unwrap_or(u32::MAX)),
        "L" => |a, b, now| {
            let left = |job| facts::left(job, now).unwrap_or(i64::MAX);
            left(a).cmp(&left(b))
        },
        "m" => |a, b, _| facts::memory(a).cmp(&facts::memory(b)),
        "M" => |a, b, now| a.elapsed(now).cmp(&b.elapsed(now)),
        "N" | "R" => |a, b, _| facts::node_or_reason(a).cmp(&facts::node_or_reason(b)),
        "p" | "Q" => |a, b, _| facts::priority(a).cmp(&facts::priority(b)),
        "P" => |a, b, _| a.partition.cmp(&b.partition),
        "r" => |a, b, _| facts::reason(a).cmp(&facts::reason(b)),
        "S" => |a, b, _| facts::start(a).unwrap_or(u64::MAX).cmp(&facts::start(b).unwrap_or(u64::MAX)),
        "t" | "T" => |a, b, _| rank(a.state).cmp(&rank(b.state)),
        "u" => |a, b, _| a.user.cmp(&b.user),
        "U" => |a, b, _| a.uid.cmp(&b.uid),
        "V" => |a, b, _| a.submitted.cmp(&b.submitted),
        "Z" => |a, b, _| a.directory.cmp(&b.directory),
        "k" => |a, b, _| a.comment.cmp(&b.comment),
        _ => return None,
    })
}

/// Slurm's numbers of the states, by which it sorts; one that is about to end is what it was.
fn rank(state: State) -> u8 {
    match state {
        State::Pending | State::Requeued => 0,
        State::Running | State::Completing => 1,
        State::Completed => 3,
        State::Cancelled => 4,
        State::Failed => 5,
        State::Timeout => 6,
        State::NodeFail => 7,
        State::OutOfMemory => 11,
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    fn shown(format: &str, order: &str) -> Vec<String> {
        let mut view = example::view();
        view.keep(|job| !job.state.is_over());
        sort(&mut view, order).unwrap();
        let layout = by_letters(format);
        [vec![header(&layout)], lines(&layout, &view)].concat()
    }

    /// Slurm's squeue printed this, but for the partition's name and the order of 133 and 131, which depends on when the
    /// scheduler looked at them.
    #[test]
    fn the_table_is_slurms() {
        let expected = "             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)
               130     local     pend   tuser1 PD       0:00      1 (Resources)
       131_[1-3%1]     local      arr   tuser1 PD       0:00      1 (Priority)
               133     local      beg   tuser1 PD       0:00      1 (BeginTime)
       132_[1,5-7]     local     arr2   tuser1 PD       0:00      1 (JobHeldUser)
               129     local longjobn   tuser1  R       0:02      1 n1";
        assert_eq!(shown(DEFAULT, ORDER).join("\n"), expected);
    }

    #[test]
    fn the_long_table_is_slurms() {
        let expected =
            "             JOBID PARTITION     NAME     USER    STATE       TIME TIME_LIMI  NODES NODELIST(REASON)
               130     local     pend   tuser1  PENDING       0:00 2-03:00:00      1 (Resources)";
        assert_eq!(shown(LONG, ORDER)[..2].join("\n"), expected);
    }

    #[test]
    fn the_order_is_by_the_letters_that_were_named() {
        let ids = |order| shown("%A", order)[1..].join(" ");
        assert_eq!(ids("i"), "129 130 131 132 133");
        assert_eq!(ids("-i"), "133 132 131 130 129");
        assert_eq!(ids("t,-i"), "133 132 131 130 129");
        assert_eq!(ids("-t,j"), "129 131 132 133 130");
        assert_eq!(ids("l,i"), "129 130 131 132 133");
        assert_eq!(sort(&mut example::view(), "i,%"), Err("%".to_owned()));
    }

    #[test]
    fn elements_that_wait_are_jobs_of_their_own_if_that_is_asked_for() {
        let mut view = example::view();
        view.keep(|job| job.array.is_some());
        expand_arrays(&mut view);
        let ids: Vec<String> = view.jobs.iter().map(Job::display_id).collect();
        assert_eq!(ids, ["131_1", "131_2", "131_3", "132_1", "132_5", "132_6", "132_7"]);
    }

    #[test]
    fn names_make_the_same_table() {
        let view = example::view();
        let layout = by_names("JobArrayID:10,Name:5,NumCPUs,MinMemory");
        assert_eq!(header(&layout), "JOBID     NAME CPUS                MIN_MEMORY          ");
        assert_eq!(lines(&layout, &view)[3], "132_[1,5-7arr2 1                   0                   ");
    }
}
