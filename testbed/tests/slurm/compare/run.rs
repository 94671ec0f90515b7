//! `srun`: a command as a job.

use super::row::Row;
use super::row::but;
use super::row::differing;
use super::row::same;

pub const ROWS: &[Row] = &[
    same("tasks and what they print", "srun -n3 echo hi; srun -l -n3 bash -c 'echo $SLURM_PROCID of $SLURM_NTASKS' | sort"),
    same(
        "the exit code is the highest one",
        "srun -n3 bash -c 'exit $SLURM_PROCID' 2>&1 | sort; srun -n3 bash -c 'exit $SLURM_PROCID' 2>/dev/null; echo $?
srun -n2 bash -c 'exit 3'; echo $?",
    ),
    same("one of four tasks fails", "srun -n4 bash -c '[ $SLURM_PROCID = 2 ] && exit 5; true'; echo $?"),
    same("a task is killed", "srun bash -c 'kill -9 $$' 2>&1 | grep -v Force; srun bash -c 'kill -9 $$' 2>/dev/null; echo $?"),
    same("a task dies of its own fault", "srun bash -c 'ulimit -c 0; kill -SEGV $$'; echo $?"),
    same("a command that is not there", "srun nosuchcommand; echo $?; srun ./nofile; echo $?; srun /etc/passwd; echo $?"),
    same("-K ends all tasks with the first that fails", "srun -K -n3 bash -c '[ $SLURM_PROCID = 1 ] && exit 2; sleep 20' 2>/dev/null; echo $?"),
    same("-W ends all tasks a while after the first that ends", "srun -W1 -n2 bash -c '[ $SLURM_PROCID = 1 ] && exit 0; sleep 20' 2>&1 | grep -oE 'First task exited .*'"),
    differing("-D and a directory that is not there", "mkdir sub; srun -D sub pwd; srun -D /nosuch pwd; echo $?", &[but(&["stderr: slurmstepd-n1: error: couldn't chdir to `/nosuch': No such file or directory: going to /tmp instead"], &[], "Slurm says it twice.")]),
    same(
        "names of output files",
        "srun -n2 -J nm -o 'o-%j-%s-%t-%n-%N-%x-%u-%J-%%-%3t-%4j.txt' echo hi
srun -n2 -o 1 bash -c 'echo $SLURM_PROCID'; srun -n2 -o none echo x; srun -n2 -o f.txt -e g.txt bash -c 'echo out; echo err >&2'",
    ),
    same("--open-mode", "srun -o f.txt echo a; srun -o f.txt --open-mode=append echo b; srun -o g.txt echo a; srun -o g.txt echo b"),
    same(
        "standard input",
        "echo hello | srun -n2 cat; echo hello | srun -n2 -i none cat; echo hello | srun -n2 -l -i 1 cat; echo abc >in; srun -n2 -i in cat
seq 20000 | srun cat | md5sum",
    ),
    same(
        "--multi-prog",
        "printf '0 echo first %%t %%o\\n1-2 echo rest %%t %%o\\n* echo others\\n' >conf; srun -n4 -l --multi-prog conf | sort",
    ),
    same("--multi-prog with a bad file", "echo 'x echo' >conf; srun -n1 --multi-prog conf; echo $?; srun -n1 --multi-prog nosuch; echo $?"),
    same("--pty gives a terminal", "script -qec \"srun --pty bash -c 'test -t 0 && test -t 1 && echo a terminal; exit 4'\" /dev/null | grep -oE 'a terminal|srun: error.* 4' | sort; srun --pty echo no terminal; echo $?"),
    same("-u passes on what is no line yet", "srun -u bash -c 'printf abc; sleep 0.2; printf def'; srun bash -c 'printf xyz'"),
    same("--export", "export A=1 B=2; srun --export=A,C=3 /bin/bash -c 'echo $A$B$C'; srun --export=A bash -c 'echo $A'; srun --export=NONE /bin/bash -c 'echo $A$B'; srun --export=ALL,B=5 bash -c 'echo $A$B'"),
    same("-c and --ntasks-per-node", "srun -n2 -c2 bash -c 'echo $SLURM_CPUS_PER_TASK $SLURM_CPUS_ON_NODE' | sort -u; srun -N1 --ntasks-per-node=3 bash -c 'echo $SLURM_NTASKS $SLURM_TASKS_PER_NODE' | sort -u"),
    same("more nodes than tasks", "srun -N2 -n1 echo one"),
    same("--test-only", "srun --test-only -n2 true; echo $?"),
    same("--begin", "srun -Q --begin=now+1 echo later; echo $?"),
    same("a line is never torn by -l", "srun -n4 -l bash -c 'for i in $(seq 200); do echo line $i of task $SLURM_PROCID; done' | sort | md5sum"),
    same("time limit", "srun -Q -t 0:01 true; echo $?"),
    same("-Q and -v", "srun -Q true; echo $?; srun --quiet -n2 true; echo $?"),
];
