//! `squeue -s` and `scontrol show step`: the steps that run.

use super::View;
use super::facts;
use super::layout::Layout;
use crate::record::{Job, State, Step, StepId};
use crate::time::local;

/// The layout without an option.
pub const DEFAULT: &str = "%.15i %.8j %.9P %.8u %.9M %N";

/// How a line of `squeue -s -o` is laid out: by letters.
pub fn by_letters(format: &str) -> Layout<char> {
    Layout::by_letters(format, |letter| header_of(letter).map(|_| letter))
}

fn header_of(letter: char) -> Option<&'static str> {
    Some(match letter {
        'A' => "TASKS",
        'b' => "TRES_PER_NODE",
        'i' => "STEPID",
        'j' => "NAME",
        'l' => "TIME_LIMIT",
        'M' => "TIME",
        'N' => "NODELIST",
        'P' => "PARTITION",
        'S' => "START_TIME",
        'u' => "USER",
        'U' => "UID",
        _ => return None,
    })
}

/// The header's line.
pub fn header(layout: &Layout<char>) -> String {
    layout.line(|letter| header_of(*letter).unwrap_or_default().to_owned())
}

/// The steps that run, in the order in which Slurm lists them: a job's numbered ones, then its batch script.
pub fn running(view: &View) -> Vec<(&Job, &Step)> {
    let mut steps = Vec::new();
    for job in &view.jobs {
        let mut own: Vec<&Step> =
            view.steps_of(job).iter().filter(|step| matches!(step.state, State::Running | State::Completing)).collect();
        own.sort_by_key(|step| (step.id == StepId::Batch, step.id));
        steps.extend(own.into_iter().map(|step| (job, step)));
    }
    steps
}

/// The lines of the steps.
pub fn lines(layout: &Layout<char>, view: &View) -> Vec<String> {
    running(view).into_iter().map(|(job, step)| layout.line(|letter| value(*letter, job, step, view.now))).collect()
}

fn value(letter: char, job: &Job, step: &Step, now: u64) -> String {
    match letter {
        'A' => step.tasks.to_string(),
        'b' => "N/A".to_owned(),
        'i' => id(job, step),
        'j' => step.name.clone(),
        'l' => "UNLIMITED".to_owned(),
        'M' => facts::short_duration(step.ended.unwrap_or(now).saturating_sub(step.started)),
        'N' => step.allocation.node.clone(),
        'P' => job.partition.clone(),
        'S' => local(step.started),
        'u' => job.user.clone(),
        _ => job.uid.to_string(),
    }
}

/// As people read it: `12.0`, `12_3.batch`.
pub fn id(job: &Job, step: &Step) -> String {
    format!("{}.{}", job.display_id(), step.id)
}

/// A step's TRES.
pub fn tres(step: &Step) -> String {
    let held = &step.allocation;
    facts::tres(held.cpus.len() as u32, held.memory, held.gpus.len() as u32, false)
}

/// What `scontrol show step` says of a step. An empty line stands behind each.
pub fn paragraph(job: &Job, step: &Step, one_line: bool) -> String {
    let host = &step.allocation.node;
    let pid = step.supervisor.as_ref().map_or(0, |process| process.pid);
    let mut lines = vec![
        format!("StepId={} UserId={} StartTime={} TimeLimit=UNLIMITED", id(job, step), job.uid, local(step.started)),
        format!("State={} Partition={} NodeList={host}", step.state.name(), job.partition),
        format!("Nodes=1 CPUs={} Tasks={} Name={} Network=(null)", step.allocation.cpus.len(), step.tasks, step.name),
        format!("TRES={}", tres(step)),
        "ResvPorts=(null)".to_owned(),
        "CPUFreqReq=Default Dist=Block".to_owned(),
        format!("SrunHost:Pid={host}:{pid}"),
    ];
    if let Some(cpus) = job.resources.cpus_per_task {
        lines.push(format!("TresPerTask=cpu={cpus}"));
    }
    if one_line { lines.join(" ") + "\n" } else { lines.join("\n   ") + "\n\n" }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn the_table_of_steps_is_slurms() {
        let view = example::view();
        let layout = by_letters(DEFAULT);
        let text = [vec![header(&layout)], lines(&layout, &view)].concat().join("\n");
        let expected = "         STEPID     NAME PARTITION     USER      TIME NODELIST
          129.0    sleep     local   tuser1      0:02 n1
      129.batch    batch     local   tuser1      0:02 n1";
        assert_eq!(text, expected);
        assert_eq!(header(&by_letters("%A|%l|%m")), "TASKS|TIME_LIMIT|%m");
        assert_eq!(by_letters("%m").unknown, ["m"]);
    }

    #[test]
    fn a_step_is_told_as_scontrol_tells_it() {
        let view = example::view();
        let (job, step) = running(&view)[0];
        let time = example::at(step.started);
        let expected = format!(
            "StepId=129.0 UserId=20001 StartTime={time} TimeLimit=UNLIMITED
   State=RUNNING Partition=local NodeList=n1
   Nodes=1 CPUs=2 Tasks=1 Name=sleep Network=(null)
   TRES=cpu=2,mem=100M,node=1
   ResvPorts=(null)
   CPUFreqReq=Default Dist=Block
   SrunHost:Pid=n1:0

"
        );
        assert_eq!(paragraph(job, step, false), expected);
        assert_eq!(paragraph(job, step, true).lines().count(), 1);
    }
}
