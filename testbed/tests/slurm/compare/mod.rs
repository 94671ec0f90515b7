//! The same scripts and command lines under real Slurm with one node, and under berth on that node, as the same user.
//!
//! Standard output, standard error, exit codes, the states of jobs and the files that are left are compared, after numbers of
//! jobs and times have been made alike. A difference must be listed in its row with its reason; one that is not listed fails
//! the test, and so does a listed one that has gone. `docs/jobs-compared.md` is made of the rows:
//! `cargo test -p testbed --test slurm -- --write`.

use std::time::Duration;

use testbed::harness::Case;
use testbed::harness::Chapter;
use testbed::slurm::Release;

mod batch;
mod cancel;
mod environment;
mod errors;
mod page;
mod queue;
mod row;
mod run;
mod same;
mod show;
mod world;

pub use page::write;

use row::Row;

/// The rows, by what they are about.
const GROUPS: [(&str, &[Row]); 7] = [
    ("srun", run::ROWS),
    ("Mistakes", errors::ROWS),
    ("sbatch and salloc", batch::ROWS),
    ("Arrays, dependencies and the queue", queue::ROWS),
    ("Signals, limits and scancel", cancel::ROWS),
    ("The environment", environment::ROWS),
    ("squeue, scontrol and sinfo", show::ROWS),
];

/// The tests of this file.
pub const CHAPTER: Chapter = Chapter {
    name: "slurm_24_11::compare",
    cases: &[
        Case {
            name: "jobs_are_alike_under_both",
            needs: &const { crate::needs(Release::Trixie) },
            limit: Duration::from_secs(600),
            run: world::jobs_are_alike_under_both,
        },
        Case {
            name: "the_page_tells_what_was_compared",
            needs: &[],
            limit: Duration::from_secs(60),
            run: page::the_page_tells_what_was_compared,
        },
    ],
};
