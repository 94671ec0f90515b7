//! `berth ps --job`: one step asks all nodes of the job, and what they say is put together.
//!
//! Slurm hands output on in lines, as long as these are short; so a container with many processes is told in several lines.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead as _;
use std::process::Stdio;

use serde::{Deserialize, Serialize};

use crate::output::Table;
use crate::{CommandError, Context, ExitCode, config, output, slurm};

/// Most processes of a line.
const PIDS: usize = 32;

/// A container as `--json` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    node: String,
    /// `JOB.STEP`.
    step: String,
    /// Its name, if it has one.
    name: Option<String>,
    /// The image as it was asked for, where that is known.
    image: Option<String>,
    digest: Option<String>,
    /// Processes of the step in it.
    pids: Vec<u32>,
}

/// What makes two lines those of one container.
type Key = (String, String, Option<String>, Option<String>);

/// On a node: tells what there is.
pub fn list_node(name: &slurm::Name) -> Result<ExitCode, CommandError> {
    let node = slurm::node_name();
    let rows = slurm::members(name).into_iter().map(|member| Row {
        node: node.clone(),
        step: format!("{}.{}", name.job, member.step),
        name: member.rooted.name().map(str::to_owned),
        image: None,
        digest: member.rooted.digest().map(str::to_owned),
        pids: vec![member.rooted.pid],
    });
    let mut lines = Vec::new();
    for row in merged(rows) {
        for pids in row.pids.chunks(PIDS) {
            lines.push(serde_json::to_string(&Row { pids: pids.to_vec(), ..row.clone() })?);
        }
    }
    output::lines(lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks all nodes.
pub fn list(name: &slurm::Name, context: &Context) -> Result<ExitCode, CommandError> {
    let job = slurm::Job::find(name)?;
    let step = name.step.as_ref().map(|step| format!(".{step}")).unwrap_or_default();
    let mut srun = job.step(job.nodes);
    srun.arg(slurm::own_program()).arg("ps").arg(format!("--of-job={}{step}", job.id));
    let started = srun.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let output = started.and_then(|child| child.wait_with_output()).map_err(|e| slurm::not_started("srun", e))?;
    if !output.status.success() {
        return Err(CommandError::failure(format!("not all nodes of {name} have told their containers"))
            .with_hint("what srun said stands above; berth has to be on each node where it is here"));
    }
    let mut rows = Vec::new();
    for line in output.stdout.lines() {
        rows.push(serde_json::from_str::<Row>(&line?)?);
    }
    let images = images(job.id);
    let rows: Vec<Row> =
        merged(rows).into_iter().map(|row| Row { image: images.get(&row.step).cloned(), ..row }).collect();
    if context.json() {
        output::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    if context.quiet() {
        output::lines(rows.iter().filter_map(|row| row.name.as_deref()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["NODE", "STEP", "NAME", "IMAGE", "PROCESSES"]);
    for row in rows {
        let digest = row.digest.map(|digest| digest.chars().take(12).collect());
        let pids: Vec<String> = row.pids.iter().map(u32::to_string).collect();
        let image = row.image.or(digest).unwrap_or_default();
        table.row([row.node, row.step, row.name.unwrap_or_default(), image, pids.join(" ")]);
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

/// One row for each container of a step on a node.
fn merged(rows: impl IntoIterator<Item = Row>) -> Vec<Row> {
    let mut found: BTreeMap<Key, Row> = BTreeMap::new();
    for row in rows {
        let key = (row.node.clone(), row.step.clone(), row.name.clone(), row.digest.clone());
        match found.get_mut(&key) {
            Some(known) => known.pids.extend(&row.pids),
            None => drop(found.insert(key, row)),
        }
    }
    found
        .into_values()
        .map(|mut row| {
            row.pids.sort_unstable();
            row
        })
        .collect()
}

/// The images of a job's steps, by what was written down when they started.
fn images(job: u32) -> HashMap<String, String> {
    #[derive(Deserialize)]
    struct Line {
        step: String,
        image: String,
    }
    let path = config::xdg_directory("XDG_STATE_HOME", ".local/state")
        .map(|base| base.join(format!("berth/jobs/{job}.jsonl")));
    let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    // A number that was used before stands for its last job.
    text.lines()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .map(|line| (line.step, line.image))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_of_several_lines_is_one_row() {
        let row = |node: &str, step: &str, pids: &[u32]| Row {
            node: node.to_owned(),
            step: step.to_owned(),
            name: None,
            image: None,
            digest: None,
            pids: pids.to_vec(),
        };
        let rows = [row("n2", "5.0", &[9]), row("n1", "5.0", &[8, 3]), row("n1", "5.1", &[4]), row("n1", "5.0", &[1])];
        assert_eq!(merged(rows), [row("n1", "5.0", &[1, 3, 8]), row("n1", "5.1", &[4]), row("n2", "5.0", &[9])]);
    }
}
