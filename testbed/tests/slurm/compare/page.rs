//! `docs/jobs-compared.md`.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use super::GROUPS;
use super::row::Row;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/jobs-compared.md")
}

/// Writes the page.
pub fn write() -> std::io::Result<()> {
    fs::write(path(), document())
}

pub fn the_page_tells_what_was_compared() {
    let page = fs::read_to_string(path()).unwrap_or_default();
    assert!(page == document(), "docs/jobs-compared.md is old: cargo test -p testbed --test slurm -- --write");
}

fn document() -> String {
    let mut text = String::from(INTRODUCTION);
    let rows = GROUPS.iter().map(|(_, rows)| rows.len()).sum::<usize>();
    let differing = GROUPS.iter().flat_map(|(_, rows)| rows.iter()).filter(|row| !row.differs.is_empty()).count();
    let _ =
        writeln!(text, "{rows} scripts are compared; {} give the same, {differing} differ as told.", rows - differing);
    for (title, rows) in GROUPS {
        let _ = write!(text, "\n## {title}\n| | result |\n|---|---|\n");
        for row in rows {
            let _ = writeln!(text, "| {} | {} |", row.name, result(row));
        }
        for row in rows.iter().filter(|row| !row.differs.is_empty()) {
            let _ = write!(text, "\n### {}\n```sh\n{}\n```\n", row.name, row.script.trim());
            for difference in row.differs {
                let _ = writeln!(text, "\n{}", difference.why);
                text.push_str("\n```diff\n");
                difference.slurm.iter().for_each(|line| text.push_str(&format!("-{line}\n")));
                difference.berth.iter().for_each(|line| text.push_str(&format!("+{line}\n")));
                text.push_str("```\n");
            }
        }
    }
    text
}

fn result(row: &Row) -> &'static str {
    if row.differs.is_empty() { "the same" } else { "differs, see below" }
}

const INTRODUCTION: &str = "\
# Jobs under Slurm and under berth

The same scripts and command lines, run by real Slurm 24.11 with one node and by berth on that node, as the same user: what they
print, their exit codes, the states of their jobs and the files that they leave. Made alike before are numbers of jobs, times, the user and
the directory (`JOB01`, `TIME`, `USER`, `HERE`), and the order of lines on standard error. Left out are lines that say that a job waits
or how far it was when it was ended, which depend on when the scheduler looks. A script that differs is run again, three times in all:
who speaks first is a matter of chance, a difference is not.

This page is written by the test (`cargo test -p testbed --test slurm -- --write`). The test fails where anything differs that is
not told here, and where something that is told does not differ any more. Lines with `-` are Slurm's, those with `+` berth's.

";
