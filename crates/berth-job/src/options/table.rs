//! The options of `srun`, `sbatch` and `salloc`: one row each.

/// One of the three commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    Srun,
    Sbatch,
    Salloc,
}

impl Verb {
    /// As it is typed, and as it stands in front of what it says.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Srun => "srun",
            Verb::Sbatch => "sbatch",
            Verb::Salloc => "salloc",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Verb::Srun => R,
            Verb::Sbatch => B,
            Verb::Salloc => A,
        }
    }
}

/// Whether an option takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Takes {
    Nothing,
    Value,
    /// `--name` or `--name=value`.
    Optional,
}

/// A row.
#[derive(Debug)]
pub struct Definition {
    /// The long name, without `--`.
    pub name: &'static str,
    /// The letter; `\0` for none.
    pub letter: char,
    /// Whether it takes a value.
    pub takes: Takes,
    /// What its value is called in the help.
    pub argument: &'static str,
    /// The end of the variable that stands for it (`SLURM_…` for srun, `SBATCH_…`, `SALLOC_…`); empty for none.
    pub variable: &'static str,
    /// Its line in the help. Empty for one that says nothing on one machine: it is accepted, and no more.
    pub help: &'static str,
    verbs: u8,
}

const R: u8 = 1;
const B: u8 = 2;
const A: u8 = 4;
const ALL: u8 = R | B | A;
const RB: u8 = R | B;
const BA: u8 = B | A;

const fn row(
    verbs: u8,
    letter: char,
    name: &'static str,
    argument: &'static str,
    variable: &'static str,
    help: &'static str,
) -> Definition {
    let takes = if argument.is_empty() {
        Takes::Nothing
    } else if argument.as_bytes()[0] == b'[' {
        Takes::Optional
    } else {
        Takes::Value
    };
    Definition { name, letter, takes, argument, variable, help, verbs }
}

const NONE: char = '\0';

/// All of them, in the order of the alphabet.
#[rustfmt::skip] // One row a line.
pub static OPTIONS: &[Definition] = &[
    row(ALL, 'A', "account", "name", "ACCOUNT", "charge the job to this account (kept with the record)"),
    row(ALL, NONE, "acctg-freq", "list", "", ""),
    row(B,   'a', "array", "indexes", "ARRAY_INX", "submit an array: 0-15, 1,3,5, 0-30:10, with %N at most N at once"),
    row(B,   NONE, "batch", "features", "", ""),
    row(ALL, NONE, "bb", "spec", "", ""),
    row(ALL, NONE, "bbf", "file", "", ""),
    row(R,   NONE, "bcast", "[path]", "", ""),
    row(ALL, 'b', "begin", "time", "", "start not before this time: now+1hour, 16:00, 2030-01-20T12:34:00"),
    row(A,   NONE, "bell", "", "", ""),
    row(ALL, 'D', "chdir", "path", "WORKING_DIR", "start in this directory"),
    row(ALL, NONE, "cluster-constraint", "list", "", ""),
    row(ALL, 'M', "clusters", "names", "", ""),
    row(ALL, NONE, "comment", "text", "", "keep this text with the job's record"),
    row(R,   NONE, "compress", "[library]", "", ""),
    row(ALL, 'C', "constraint", "list", "CONSTRAINT", "ask for features of the node: this machine has none"),
    row(ALL, NONE, "container", "path", "", "run in an OCI bundle: not without a cluster yet"),
    row(ALL, NONE, "container-id", "id", "", ""),
    row(ALL, NONE, "contiguous", "", "", ""),
    row(ALL, 'S', "core-spec", "count", "", ""),
    row(ALL, NONE, "cores-per-socket", "count", "", ""),
    row(R,   NONE, "cpu-bind", "type", "CPU_BIND", "bind tasks to CPUs: none, cores, threads, ..."),
    row(ALL, NONE, "cpu-freq", "range", "", ""),
    row(ALL, NONE, "cpus-per-gpu", "count", "", ""),
    row(ALL, 'c', "cpus-per-task", "count", "", "give each task this many CPUs"),
    row(ALL, NONE, "deadline", "time", "", ""),
    row(ALL, NONE, "delay-boot", "minutes", "", ""),
    row(ALL, 'd', "dependency", "list", "DEPENDENCY", "start after other jobs: after, afterany, afterok, afternotok, aftercorr, singleton"),
    row(ALL, 'm', "distribution", "type", "DISTRIBUTION", ""),
    row(RB,  'e', "error", "pattern", "", "standard error goes to this file"),
    row(R,   NONE, "epilog", "program", "", ""),
    row(R,   NONE, "exact", "", "EXACT", "use only the CPUs that the step needs (it does anyway)"),
    row(ALL, 'x', "exclude", "nodes", "", ""),
    row(ALL, NONE, "exclusive", "[how]", "EXCLUSIVE", "share the machine with no other job; in a job, CPUs with no other step"),
    row(RB,  NONE, "export", "list", "", "variables that the job gets: ALL, NONE, NIL, NAME, NAME=VALUE"),
    row(B,   NONE, "export-file", "file", "", ""),
    row(ALL, NONE, "extra", "text", "", ""),
    row(ALL, 'B', "extra-node-info", "spec", "", ""),
    row(BA,  NONE, "get-user-env", "[how]", "", ""),
    row(ALL, NONE, "gid", "group", "", ""),
    row(ALL, NONE, "gpu-bind", "type", "", ""),
    row(ALL, NONE, "gpu-freq", "type", "", ""),
    row(ALL, 'G', "gpus", "count", "GPUS", "GPUs of the job: 2, type:2"),
    row(ALL, NONE, "gpus-per-node", "count", "GPUS_PER_NODE", "GPUs of each node"),
    row(ALL, NONE, "gpus-per-socket", "count", "", ""),
    row(ALL, NONE, "gpus-per-task", "count", "GPUS_PER_TASK", "GPUs of each task"),
    row(ALL, NONE, "gres", "list", "GRES", "generic resources: gpu:2, gpu:type:2"),
    row(ALL, NONE, "gres-flags", "type", "", ""),
    row(R,   NONE, "het-group", "value", "", ""),
    row(ALL, 'h', "help", "", "", "show this help"),
    row(ALL, NONE, "hint", "type", "", ""),
    row(ALL, 'H', "hold", "", "", "let the job wait until it is released"),
    row(B,   NONE, "ignore-pbs", "", "", ""),
    row(RA,  'I', "immediate", "[seconds]", "IMMEDIATE", "fail if the machine is not free at once"),
    row(RB,  'i', "input", "pattern", "", "standard input comes from this file"),
    row(R,   NONE, "interactive", "", "", ""),
    row(R,   NONE, "jobid", "id", "JOB_ID", "start a step of this job"),
    row(ALL, 'J', "job-name", "name", "JOB_NAME", "call the job this"),
    row(A,   'K', "kill-command", "[signal]", "", ""),
    row(R,   'K', "kill-on-bad-exit", "[0|1]", "KILL_BAD_EXIT", "end the step when a task fails"),
    row(B,   NONE, "kill-on-invalid-dep", "yes|no", "", "cancel the job when its dependencies can never be satisfied"),
    row(R,   'l', "label", "", "LABELIO", "put the task's number in front of each line"),
    row(ALL, 'L', "licenses", "list", "", ""),
    row(ALL, NONE, "mail-type", "type", "", ""),
    row(ALL, NONE, "mail-user", "user", "", ""),
    row(ALL, NONE, "mcs-label", "label", "", ""),
    row(ALL, NONE, "mem", "size", "MEM_PER_NODE", "memory of the job: 500M, 2G; 0 is all"),
    row(ALL, NONE, "mem-bind", "type", "", ""),
    row(ALL, NONE, "mem-per-cpu", "size", "MEM_PER_CPU", "memory for each CPU"),
    row(ALL, NONE, "mem-per-gpu", "size", "", ""),
    row(ALL, NONE, "mincpus", "count", "", ""),
    row(R,   NONE, "mpi", "type", "MPI_TYPE", "how MPI ranks find each other: none"),
    row(R,   NONE, "msg-timeout", "seconds", "", ""),
    row(R,   NONE, "multi-prog", "", "", "the command is a file that says what each task runs"),
    row(ALL, NONE, "network", "type", "", ""),
    row(ALL, NONE, "nice", "[adjustment]", "", ""),
    row(ALL, 'k', "no-kill", "[off]", "NO_KILL", ""),
    row(A,   NONE, "no-bell", "", "", ""),
    row(B,   NONE, "no-requeue", "", "NO_REQUEUE", "never put the job back into the queue"),
    row(A,   NONE, "no-shell", "", "", ""),
    row(ALL, 'F', "nodefile", "file", "", ""),
    row(ALL, 'w', "nodelist", "nodes", "", "run on this node: it must be this machine"),
    row(ALL, 'N', "nodes", "count", "", "how many nodes: 1"),
    row(ALL, 'n', "ntasks", "count", "NTASKS", "how many tasks"),
    row(ALL, NONE, "ntasks-per-core", "count", "", ""),
    row(ALL, NONE, "ntasks-per-gpu", "count", "", ""),
    row(ALL, NONE, "ntasks-per-node", "count", "NTASKS_PER_NODE", "how many tasks on each node"),
    row(ALL, NONE, "ntasks-per-socket", "count", "", ""),
    row(ALL, NONE, "oom-kill-step", "[0|1]", "", ""),
    row(RB,  NONE, "open-mode", "append|truncate", "OPEN_MODE", "what becomes of output files that exist"),
    row(RB,  'o', "output", "pattern", "", "standard output goes to this file"),
    row(ALL, 'O', "overcommit", "", "OVERCOMMIT", "allow more tasks than CPUs"),
    row(R,   NONE, "overlap", "", "OVERLAP", "let the step share its CPUs with other steps"),
    row(ALL, 's', "oversubscribe", "", "", ""),
    row(B,   NONE, "parsable", "", "", "print the job's number and nothing else"),
    row(ALL, 'p', "partition", "name", "PARTITION", "the partition: local"),
    row(ALL, NONE, "power", "flags", "", ""),
    row(R,   'E', "preserve-env", "", "", ""),
    row(ALL, NONE, "prefer", "list", "", ""),
    row(ALL, NONE, "priority", "value", "", ""),
    row(ALL, NONE, "profile", "list", "", ""),
    row(R,   NONE, "prolog", "program", "", ""),
    row(RB,  NONE, "propagate", "[limits]", "", ""),
    row(R,   NONE, "pty", "[file]", "", "give task 0 a terminal"),
    row(ALL, 'q', "qos", "name", "QOS", ""),
    row(ALL, 'Q', "quiet", "", "", "tell errors only"),
    row(R,   NONE, "quit-on-interrupt", "", "", "end at the first Ctrl-C"),
    row(ALL, NONE, "reboot", "", "", ""),
    row(R,   'r', "relative", "number", "", ""),
    row(B,   NONE, "requeue", "", "REQUEUE", "put the job back into the queue when the machine fails"),
    row(ALL, NONE, "reservation", "names", "", ""),
    row(R,   NONE, "resv-ports", "[count]", "", ""),
    row(R,   NONE, "send-libs", "[yes|no]", "", ""),
    row(ALL, NONE, "segment", "size", "", ""),
    row(ALL, NONE, "signal", "[R:|B:]signal[@seconds]", "SIGNAL", "send a signal before the time limit"),
    row(R,   NONE, "slurmd-debug", "level", "", ""),
    row(ALL, NONE, "sockets-per-node", "count", "", ""),
    row(ALL, NONE, "spread-job", "", "", ""),
    row(ALL, NONE, "switches", "spec", "", ""),
    row(R,   NONE, "task-epilog", "program", "", ""),
    row(R,   NONE, "task-prolog", "program", "", ""),
    row(RB,  NONE, "test-only", "", "", "say when the job would start, and do nothing"),
    row(ALL, NONE, "thread-spec", "count", "", ""),
    row(R,   'T', "threads", "count", "THREADS", ""),
    row(ALL, NONE, "threads-per-core", "count", "", ""),
    row(ALL, 't', "time", "time", "TIMELIMIT", "time limit: minutes, hours:minutes:seconds, days-hours"),
    row(ALL, NONE, "time-min", "time", "", ""),
    row(ALL, NONE, "tmp", "size", "", ""),
    row(ALL, NONE, "tres-bind", "list", "", ""),
    row(ALL, NONE, "tres-per-task", "list", "", ""),
    row(RA,  NONE, "x11", "[how]", "", ""),
    row(ALL, NONE, "uid", "user", "", ""),
    row(R,   'u', "unbuffered", "", "UNBUFFEREDIO", "pass output on as it comes, not by lines"),
    row(ALL, NONE, "usage", "", "", "show a short help"),
    row(ALL, NONE, "use-min-nodes", "", "", ""),
    row(ALL, 'v', "verbose", "", "", "tell more"),
    row(ALL, 'V', "version", "", "", "print the version"),
    row(R,   'W', "wait", "seconds", "WAIT", "end the step this long after its first task has ended"),
    row(B,   'W', "wait", "", "WAIT", "wait until the job has ended, and exit as it did"),
    row(BA,  NONE, "wait-all-nodes", "0|1", "", ""),
    row(ALL, NONE, "wckey", "key", "", ""),
    row(B,   NONE, "wrap", "command", "", "make a script of this line"),
    row(R,   'X', "disable-status", "", "DISABLE_STATUS", ""),
    row(ALL, NONE, "embedded", "", "", "run here, also where a Slurm cluster answers"),
];

const RA: u8 = R | A;

/// The options of a command.
pub fn of(verb: Verb) -> impl Iterator<Item = &'static Definition> {
    OPTIONS.iter().filter(move |row| row.verbs & verb.bit() != 0)
}
