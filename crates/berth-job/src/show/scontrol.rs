//! `scontrol show`: a job, the node, the partition and the configuration, as paragraphs of `Key=Value`.

use super::View;
use super::facts;
use super::json_node;
use super::sinfo::Facts;
use super::squeue_fields::dependency;
use crate::record::{Job, PARTITION, State};
use crate::time::{duration, local};

/// Lines of one thing, as a paragraph or, with `-o`, as one line.
fn paragraph(lines: &[String], one_line: bool) -> String {
    if one_line { lines.join(" ") + "\n" } else { lines.join("\n   ") + "\n\n" }
}

/// What `scontrol show job` says of a job.
pub fn job(job: &Job, view: &View, one_line: bool, detail: bool) -> String {
    paragraph(&job_lines(job, view, detail), one_line)
}

fn job_lines(job: &Job, view: &View, detail: bool) -> Vec<String> {
    let mut lines = vec![first_line(job)];
    let mut line = |text: String| lines.push(text);
    line(format!("UserId={}({}) GroupId={}({}) MCS_label=N/A", job.user, job.uid, job.group, job.gid));
    let nice = job.other.get("nice").map_or("0", String::as_str);
    line(format!(
        "Priority={} Nice={} Account={} QOS={}",
        facts::priority(job),
        nice,
        job.account.as_deref().unwrap_or("(null)"),
        facts::qos(job).unwrap_or("(null)")
    ));
    line(format!("JobState={} Reason={} Dependency={}", job.state.name(), facts::reason(job), dependency(job)));
    line(format!(
        "Requeue={} Restarts={} BatchFlag={} Reboot=0 ExitCode={}",
        u8::from(job.requeue),
        job.restarts,
        u8::from(job.kind == crate::record::Kind::Batch),
        job.exit
    ));
    if detail {
        line(format!("DerivedExitCode={}", job.derived_exit));
    }
    line(format!("RunTime={} TimeLimit={} TimeMin=N/A", duration(job.elapsed(view.now)), facts::long_limit(job)));
    line(format!("SubmitTime={} EligibleTime={}", local(job.submitted), time(facts::eligible(job))));
    line(format!("AccrueTime={}", time(facts::eligible(job))));
    line(format!("StartTime={} EndTime={} Deadline=N/A", time(facts::start(job)), time(facts::end(job))));
    line(format!(
        "SuspendTime=None SecsPreSuspend=0 LastSchedEval={} Scheduler=Main",
        local(job.started.unwrap_or(job.submitted))
    ));
    line(format!("Partition={} AllocNode:Sid={}:{}", job.partition, job.submit_host, job.submit_session));
    line("ReqNodeList=(null) ExcNodeList=(null)".to_owned());
    let node = facts::node(job);
    line(format!("NodeList={node}"));
    if !node.is_empty() {
        line(format!("BatchHost={node}"));
    }
    line(format!(
        "NumNodes=1 NumCPUs={} NumTasks={} CPUs/Task={} ReqB:S:C:T=0:0:*:*",
        facts::cpus(job),
        job.resources.tasks.max(1),
        facts::cpus_per_task(job)
    ));
    line(format!("ReqTRES={}", facts::requested_tres(job)));
    line(format!("AllocTRES={}", facts::allocated_tres(job).unwrap_or_else(|| "(null)".to_owned())));
    let per_node = job.resources.tasks_per_node.unwrap_or(0);
    line(format!("Socks/Node=* NtasksPerN:B:S:C={per_node}:0:*:* CoreSpec=*"));
    if let Some(held) = job.allocation.as_ref().filter(|_| detail) {
        let cpus = crate::options::array::format_ranges(&held.cpus);
        let memory = held.memory.unwrap_or(0) >> 20;
        line("JOB_GRES=(null)".to_owned());
        line(format!("  Nodes={node} CPU_IDs={cpus} Mem={memory} GRES="));
    }
    let memory = if job.resources.memory_per_cpu.is_some() { "MinMemoryCPU" } else { "MinMemoryNode" };
    line(format!("MinCPUsNode={} {memory}={} MinTmpDiskNode=0", facts::minimum_cpus(job), facts::minimum_memory(job)));
    line("Features=(null) DelayBoot=00:00:00".to_owned());
    let shared = if job.resources.exclusive { "NO" } else { "OK" };
    line(format!("OverSubscribe={shared} Contiguous=0 Licenses=(null) Network=(null)"));
    line(format!("Command={}", facts::command(job).as_deref().unwrap_or("(null)")));
    line(format!("WorkDir={}", job.directory.display()));
    if let Some(comment) = &job.comment {
        line(format!("Comment={comment} "));
    }
    if let Some([input, output, error]) = facts::files(job) {
        line(format!("StdErr={error}"));
        line(format!("StdIn={input}"));
        line(format!("StdOut={output}"));
    }
    if let Some(gres) = &job.resources.gres {
        line(format!("TresPerNode={gres}"));
    }
    if let Some(cpus) = job.resources.cpus_per_task {
        line(format!("TresPerTask=cpu={cpus}"));
    }
    for option in &job.container {
        line(option.trim_start_matches("--").to_owned());
    }
    // Slurm's paragraphs end with three blanks.
    line(String::new());
    lines
}

fn first_line(job: &Job) -> String {
    match &job.array {
        None => format!("JobId={} JobName={}", job.id, job.name),
        Some(array) => {
            let task = facts::array_task(job).unwrap_or_default();
            let limit = if array.limit > 0 { format!(" ArrayTaskThrottle={}", array.limit) } else { String::new() };
            format!("JobId={} ArrayJobId={} ArrayTaskId={task}{limit} JobName={}", job.id, array.job, job.name)
        }
    }
}

fn time(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "Unknown".to_owned(), local)
}

/// What `scontrol show node` says of the machine.
pub fn node(view: &View, one_line: bool) -> String {
    let facts = Facts::of(view);
    let name = facts.name();
    let system = json_node::system();
    let gpus = |count: u32| if count > 0 { format!(",gres/gpu={count}") } else { String::new() };
    let held = match facts.allocated_cpus {
        0 => String::new(),
        cpus if facts.allocated_memory > 0 => format!("cpu={cpus},mem={}", facts::mebibytes(facts.allocated_memory)),
        cpus => format!("cpu={cpus}"),
    };
    let lines = [
        format!("NodeName={name} Arch={} CoresPerSocket=1 ", std::env::consts::ARCH),
        format!(
            "CPUAlloc={} CPUEfctv={cpus} CPUTot={cpus} CPULoad={}",
            facts.allocated_cpus,
            json_node::load(),
            cpus = facts.cpus()
        ),
        "AvailableFeatures=(null)".to_owned(),
        "ActiveFeatures=(null)".to_owned(),
        format!("Gres={}", facts.gres().as_deref().unwrap_or("(null)")),
        format!("NodeAddr={name} NodeHostName={name} Version={}", env!("CARGO_PKG_VERSION")),
        format!("OS={system} "),
        format!(
            "RealMemory={} AllocMem={} FreeMem={} Sockets={} Boards=1",
            facts.memory(),
            facts.allocated_memory >> 20,
            json_node::free_memory(),
            facts.cpus()
        ),
        format!(
            "State={} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A",
            facts.state().to_ascii_uppercase()
        ),
        format!("Partitions={PARTITION} "),
        format!("BootTime={} SlurmdStartTime=None", local(json_node::boot_time())),
        format!("LastBusyTime={} ResumeAfterTime=None", local(last_busy(view))),
        format!(
            "CfgTRES=cpu={cpus},mem={},billing={cpus}{}",
            facts::mebibytes(facts.memory() << 20),
            gpus(view.node.gpus.len() as u32),
            cpus = facts.cpus(),
        ),
        format!("AllocTRES={held}{}", gpus(facts.allocated_gpus)),
        "CurrentWatts=0 AveWatts=0".to_owned(),
        String::new(),
    ];
    paragraph(&lines, one_line)
}

/// When something ran last.
pub(super) fn last_busy(view: &View) -> u64 {
    let busy = view.jobs.iter().filter_map(|job| match job.state {
        State::Running | State::Completing => Some(view.now),
        _ => job.ended.filter(|_| job.started.is_some()),
    });
    busy.max().unwrap_or_else(json_node::boot_time)
}

/// What `scontrol show partition` says.
pub fn partition(view: &View, one_line: bool) -> String {
    let facts = Facts::of(view);
    let lines = [
        format!("PartitionName={PARTITION}"),
        "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL".to_owned(),
        "AllocNodes=ALL Default=YES QoS=N/A".to_owned(),
        "DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO ExclusiveTopo=NO GraceTime=0 Hidden=NO".to_owned(),
        "MaxNodes=1 MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED MaxCPUsPerSocket=UNLIMITED".to_owned(),
        "NodeSets=ALL".to_owned(),
        format!("Nodes={}", facts.name()),
        "PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO".to_owned(),
        "OverTimeLimit=NONE PreemptMode=OFF".to_owned(),
        format!("State=UP TotalCPUs={} TotalNodes=1 SelectTypeParameters=NONE", facts.cpus()),
        "JobDefaults=(null)".to_owned(),
        "DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED".to_owned(),
        format!("TRES={}", facts.tres()),
    ];
    paragraph(&lines, one_line)
}

/// What `scontrol show config` says: what there is to configure here, by Slurm's names.
pub fn config(view: &View, queue: &str) -> String {
    let rows = [
        ("BOOT_TIME", local(json_node::boot_time())),
        ("ClusterName", super::CLUSTER.to_owned()),
        ("KillWait", format!("{} sec", view.node.kill_wait)),
        ("MaxArraySize", (crate::options::array::MAX + 1).to_string()),
        ("SchedulerType", "sched/backfill".to_owned()),
        ("SelectType", "select/cons_tres".to_owned()),
        ("SelectTypeParameters", "CR_CPU_MEMORY".to_owned()),
        ("SLURM_VERSION", format!("berth {}", env!("CARGO_PKG_VERSION"))),
        ("SlurmctldHost[0]", view.node.name.clone()),
        ("StateSaveLocation", queue.to_owned()),
    ];
    let lines: String = rows.iter().map(|(name, value)| format!("{name:<23} = {value}\n")).collect();
    format!("Configuration data as of {}\n{lines}", local(view.now))
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    /// Slurm's scontrol printed this of the same job, but for the times and what each machine has of its own.
    #[test]
    fn a_job_is_told_as_slurm_tells_it() {
        let view = example::view();
        let (now, start) = (example::at(example::NOW - 1), example::at(example::NOW - 2));
        let expected = format!(
            "JobId=134 JobName=mixed
   UserId=tuser1(20001) GroupId=tuser1(20001) MCS_label=N/A
   Priority=1 Nice=0 Account=(null) QOS=(null)
   JobState=FAILED Reason=NonZeroExitCode Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=2:0
   RunTime=00:00:00 TimeLimit=00:10:00 TimeMin=N/A
   SubmitTime={start} EligibleTime={start}
   AccrueTime={start}
   StartTime={now} EndTime={now} Deadline=N/A
   SuspendTime=None SecsPreSuspend=0 LastSchedEval={now} Scheduler=Main
   Partition=local AllocNode:Sid=n1:7
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList=n1
   BatchHost=n1
   NumNodes=1 NumCPUs=2 NumTasks=2 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   ReqTRES=cpu=2,mem=64M,node=1,billing=2
   AllocTRES=cpu=2,mem=64M,node=1,billing=2
   Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*
   MinCPUsNode=1 MinMemoryNode=64M MinTmpDiskNode=0
   Features=(null) DelayBoot=00:00:00
   OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null)
   Command=/home/tuser1/w/s.sh
   WorkDir=/home/tuser1/w
   StdErr=/home/tuser1/w/slurm-134.out
   StdIn=/dev/null
   StdOut=/home/tuser1/w/slurm-134.out
   

"
        );
        assert_eq!(job(example::job(&view, 134), &view, false, false), expected);
    }

    #[test]
    fn what_a_job_has_beyond_that_has_its_lines() {
        let view = example::view();
        let text = |id| job(example::job(&view, id), &view, false, true);
        assert!(
            text(135).contains("   WorkDir=/home/tuser1\n   Comment=cc \n   TresPerTask=cpu=2\n   \n\n"),
            "{}",
            text(135)
        );
        assert!(text(135).contains("   Command=sleep\n"));
        assert!(text(129).contains("   JOB_GRES=(null)\n     Nodes=n1 CPU_IDs=0-1 Mem=100 GRES=\n"));
        assert!(text(131).starts_with("JobId=131 ArrayJobId=131 ArrayTaskId=1-3%1 ArrayTaskThrottle=1 JobName=arr\n"));
        assert!(text(132).contains("Priority=0 ") && text(132).contains("EligibleTime=Unknown\n"));
        assert_eq!(job(example::job(&view, 129), &view, true, false).lines().count(), 1);
    }

    #[test]
    fn the_node_tells_what_is_in_use() {
        let view = example::view();
        let text = node(&view, false);
        for line in [
            "NodeName=n1 ",
            "\n   CPUAlloc=2 CPUEfctv=4 CPUTot=4 ",
            "\n   RealMemory=4096 AllocMem=100 ",
            "Sockets=4 Boards=1\n   State=MIXED ThreadsPerCore=1 ",
            "\n   CfgTRES=cpu=4,mem=4G,billing=4\n   AllocTRES=cpu=2,mem=100M\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(partition(&view, false).ends_with("   TRES=cpu=4,mem=4G,node=1,billing=4\n\n"));
        assert!(config(&view, "/q").contains("KillWait                = 0 sec\n"));
    }
}
