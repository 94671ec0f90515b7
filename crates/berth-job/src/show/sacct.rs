//! `sacct`: what became of jobs and steps.

use super::View;
use super::layout::fit;
use super::sacct_fields::{Field, Line};
use crate::record::StepId;
use crate::show::facts;

/// The fields without an option.
pub const DEFAULT: &str = "jobid,jobname,partition,account,alloccpus,state,exitcode";
/// Those of `-b`.
pub const BRIEF: &str = "jobid,state,exitcode";
/// Those of `-l`.
pub const LONG: &str = "jobid,jobidraw,jobname,partition,maxvmsize,maxvmsizenode,maxvmsizetask,avevmsize,maxrss,maxrssnode,\
maxrsstask,averss,maxpages,maxpagesnode,maxpagestask,avepages,mincpu,mincpunode,mincputask,avecpu,ntasks,alloccpus,elapsed,\
state,exitcode,avecpufreq,reqcpufreqmin,reqcpufreqmax,reqcpufreqgov,reqmem,consumedenergy,maxdiskread,maxdiskreadnode,\
maxdiskreadtask,avediskread,maxdiskwrite,maxdiskwritenode,maxdiskwritetask,avediskwrite,reqtres,alloctres,tresusageinave,\
tresusageinmax,tresusageinmaxnode,tresusageinmaxtask,tresusageinmin,tresusageinminnode,tresusageinmintask,tresusageintot,\
tresusageoutmax,tresusageoutmaxnode,tresusageoutmaxtask,tresusageoutave,tresusageouttot";

/// A column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    field: &'static Field,
    width: i32,
}

/// Reads `-o`: `NAME[%[-]WIDTH],...`, or `all`.
///
/// # Errors
/// The name that is no field.
pub fn columns(format: &str) -> Result<Vec<Column>, String> {
    let mut columns = Vec::new();
    for word in format.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if word.eq_ignore_ascii_case("all") {
            columns.extend(Field::all().iter().map(|field| Column { field, width: field.width }));
            continue;
        }
        let (name, width) = word.split_once('%').map_or((word, None), |(name, width)| (name, Some(width)));
        let field = Field::named(name).ok_or_else(|| name.to_owned())?;
        let width = match width.and_then(|width| width.parse::<i32>().ok()) {
            Some(width) if width != 0 => width.clamp(-4096, 4096),
            _ => field.width,
        };
        columns.push(Column { field, width });
    }
    Ok(columns)
}

/// How a table is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Style {
    /// In columns.
    Columns,
    /// With a delimiter between the fields (`-P`), and behind the last one, too (`-p`).
    Delimited(String, bool),
}

impl Style {
    fn line(&self, columns: &[Column], mut value: impl FnMut(&'static Field) -> String) -> String {
        match self {
            Style::Columns => columns.iter().map(|column| cell(&value(column.field), column.width) + " ").collect(),
            Style::Delimited(delimiter, ends) => {
                let values: Vec<String> = columns.iter().map(|column| value(column.field)).collect();
                values.join(delimiter) + if *ends { delimiter } else { "" }
            }
        }
    }
}

/// A value in so many characters; a `+` at the end tells that it is longer.
fn cell(value: &str, width: i32) -> String {
    let characters = width.unsigned_abs() as usize;
    let mut text = value.to_owned();
    if value.chars().count() > characters {
        text = value.chars().take(characters - 1).chain(['+']).collect();
    }
    fit(&text, characters, width > 0)
}

/// The header's lines.
pub fn header(columns: &[Column], style: &Style) -> Vec<String> {
    match style {
        Style::Columns => {
            // A name that is too long is cut, without a sign.
            let name =
                |column: &Column| fit(column.field.name, column.width.unsigned_abs() as usize, column.width > 0) + " ";
            let names = columns.iter().map(name).collect();
            let rules = columns.iter().map(|column| "-".repeat(column.width.unsigned_abs() as usize) + " ").collect();
            vec![names, rules]
        }
        Style::Delimited(..) => vec![style.line(columns, |field| field.name.to_owned())],
    }
}

/// The lines of the jobs in the view and of their steps, without these for `-X`. `wanted` says which lines are asked for: a
/// job's, where it is given no step, and its steps'.
pub fn lines(
    columns: &[Column],
    style: &Style,
    no_steps: bool,
    view: &View,
    wanted: impl Fn(&crate::record::Job, Option<StepId>) -> bool,
) -> Vec<String> {
    let mut jobs: Vec<_> = view.jobs.iter().collect();
    jobs.sort_by_key(|job| facts::order(job));
    let mut lines = Vec::new();
    for job in jobs {
        if wanted(job, None) {
            lines.push(style.line(columns, |field| field.value(Line::Job(job), view)));
        }
        let steps = if no_steps { &[] } else { view.steps_of(job) };
        for step in steps.iter().filter(|step| wanted(job, Some(step.id))) {
            lines.push(style.line(columns, |field| field.value(Line::Step(job, step), view)));
        }
    }
    lines
}

/// The names of all fields, four a line (`-e`).
pub fn field_names() -> Vec<String> {
    let line = |fields: &[Field]| {
        let cells: Vec<String> = fields.iter().map(|field| format!("{:<19}", field.name)).collect();
        cells.join(" ")
    };
    Field::all().chunks(4).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    fn table(format: &str, style: &Style, no_steps: bool, ids: &[u32]) -> String {
        let mut view = example::view();
        view.keep(|job| ids.contains(&job.id));
        let columns = columns(format).unwrap();
        let lines = lines(&columns, style, no_steps, &view, |_, _| true);
        [header(&columns, style), lines].concat().join("\n")
    }

    /// Slurm's sacct printed this, but for the account and the partition.
    #[test]
    fn the_table_is_slurms() {
        let expected = "\
JobID           JobName  Partition    Account  AllocCPUS      State ExitCode 
------------ ---------- ---------- ---------- ---------- ---------- -------- 
134               mixed      local                     2     FAILED      2:0 
134.batch         batch                                2     FAILED      2:0 
134.0              true                                2  COMPLETED      0:0 
134.1              bash                                2     FAILED      3:0 
134.2              bash                                2  CANCELLED      0:9 ";
        assert_eq!(table(DEFAULT, &Style::Columns, false, &[134]), expected);
    }

    #[test]
    fn what_is_too_long_ends_with_a_plus() {
        let expected = "\
JobID                JobN Use 
-------------------- ---- --- 
135                    nn tu+ 
131_[1-3%1]           arr tu+ ";
        let text = table("jobid%-20,jobname%4,user%-3", &Style::Columns, true, &[131, 135]);
        let mut lines: Vec<&str> = text.lines().collect();
        lines.swap(2, 3);
        assert_eq!(lines.join("\n"), expected);
        assert!(table("state", &Style::Columns, true, &[135]).ends_with("CANCELLED+ "));
    }

    #[test]
    fn delimited_lines_are_slurms() {
        let style = Style::Delimited("|".into(), false);
        let expected = "JobID|JobName|State|ExitCode|ReqMem|MaxRSS|TotalCPU
134|mixed|FAILED|2:0|64M||00:00.004
134.batch|batch|FAILED|2:0||3688K|00:00.001
134.0|true|COMPLETED|0:0||3688K|00:00.001
134.1|bash|FAILED|3:0||3688K|00:00.001
134.2|bash|CANCELLED|0:9||3688K|00:00.001";
        assert_eq!(table("jobid,jobname,state,exitcode,reqmem,maxrss,totalcpu", &style, false, &[134]), expected);
        let ended = Style::Delimited(",".into(), true);
        assert_eq!(table("JobID,state", &ended, true, &[135]), "JobID,State,\n135,CANCELLED by 20001,");
    }

    #[test]
    fn jobs_have_what_their_steps_have_not() {
        let style = Style::Delimited("|".into(), false);
        let text = table(
            "jobid,alloctres,reqtres,nnodes,nodelist,ntasks,timelimit,timelimitraw,derivedexitcode,reason,cputimeraw,user",
            &style,
            true,
            &[130, 134],
        );
        let expected = [
            "130||billing=4,cpu=4,mem=4G,node=1|1|None assigned||2-03:00:00|3060|0:0|Resources|0|tuser1",
            "134|billing=2,cpu=2,mem=64M,node=1|billing=2,cpu=2,mem=64M,node=1|1|n1||00:10:00|10|3:0|NonZeroExitCode|0|tuser1",
        ];
        assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_field_that_is_none_is_named() {
        assert_eq!(columns("jobid,nosuch%5").unwrap_err(), "nosuch");
        assert_eq!(columns("all").unwrap().len(), 118);
        assert_eq!(columns(LONG).unwrap().len(), 54);
        assert_eq!(field_names()[0], "Account             AdminComment        AllocCPUS           AllocNodes         ");
        assert!(columns("jobid%0,user%x,uid%99999").is_ok());
    }
}
