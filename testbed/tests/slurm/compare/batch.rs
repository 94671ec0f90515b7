//! Scripts, and allocations with commands in them.

use super::row::Row;
use super::row::but;
use super::row::differing;
use super::row::same;

pub const ROWS: &[Row] = &[
    same("a script, its arguments and its output", "printf '#!/bin/bash\\n#SBATCH -J script\\n#SBATCH -n 2 -t 10\\necho $SLURM_JOB_NAME $SLURM_NTASKS in $PWD with $*\\n' >s.sh
sbatch s.sh a b 'c d'; ended $(sbatch --parsable s.sh x); ended $(squeue -h -u $(id -un) -o %i); state $(ls slurm-*.out | tail -1 | tr -dc 0-9)"),
    same("what is typed counts more than what the script says", "printf '#!/bin/sh\\n#SBATCH --job-name=inside --ntasks=3\\n# a comment\\n#SBATCH --comment=\"two words\"\\necho $SLURM_JOB_NAME $SLURM_NTASKS\\n#SBATCH -J late\\n' >s.sh
j=$(job -J typed -o out s.sh); ended $j; scontrol show job $j | grep -oE 'JobName=.*|Comment=.*'"),
    same("--wrap and a script from standard input", "ended $(job -o out --wrap 'echo wrapped; cat $0'); ended $(printf '#!/bin/sh\\necho from stdin\\n' | sbatch --parsable -o in)"),
    same("what sbatch prints", "sbatch -Q -o /dev/null --wrap true; sbatch --parsable -o /dev/null --wrap true; sbatch -o /dev/null --wrap true; sbatch --test-only --wrap true 2>&1 | sed 's/at .* using/at a time using/'"),
    same("-W waits for the exit code", "sbatch -Q -W -o /dev/null --wrap 'exit 3'; echo $?"),
    same("exit codes and states", "for c in 'exit 0' 'exit 3' 'kill -9 $$' 'kill -TERM $$' 'kill -USR1 $$'; do j=$(wrap --wrap \"$c\"); ended $j; state $j; done"),
    same("a step that fails in a script", "j=$(job -o out --wrap 'srun -n1 bash -c \"exit 4\"; echo $?; srun -n1 bash -c \"exit 3\"'); ended $j; state $j
j=$(job -o two --wrap 'srun -n2 bash -c \"exit 5\"; exit 0'); ended $j; state $j"),
    same("names of a script's output files", "ended $(job -J nm -o 'o-%j-%x-%u-%N-%n-%t-%s-%%-%4j.txt' -e 'e-%J' --wrap 'echo out; echo err >&2')"),
    same("standard input of a script", "echo data >in; ended $(job -i in -o out --wrap 'cat; echo end'); ended $(job -o none --wrap 'cat; echo end')"),
    same("--open-mode of a script", "for m in '' --open-mode=append --open-mode=truncate; do ended $(job -o out $m --wrap \"echo x$m\"); cat out; done"),
    same("-D of a script", "mkdir sub; ended $(job -D sub -o out --wrap pwd); cat sub/out"),
    same("--export of a script", "export A=1 B=2; ended $(job -o out --export=A --wrap 'echo $A$B'); ended $(job -o two --export=ALL,C=3 --wrap 'echo $A$B$C'); ended $(job -o three --export=NONE --wrap 'echo $A$B$HOME')"),
    same("an interpreter that is not there", "printf '#!/nosuch/interpreter\\n' >s; j=$(job -o out s); ended $j; state $j"),
    differing("output that cannot be written is told", "sbatch -o /nosuch/x --wrap true; sbatch -D /nosuch --wrap true; sleep 1", &[but(&["Submitted batch job JOB01", "Submitted batch job JOB02"], &["stderr: sbatch: error: Could not open stdout file /nosuch/x: No such file or directory", "stderr: sbatch: error: couldn't chdir to /nosuch: No such file or directory"], "Slurm accepts such a job, which then fails without a word (0:53). berth tells it at once.")]),
    same("steps side by side in a job", "j=$(job -n4 -o out --wrap 'for i in 1 2 3 4; do srun -n1 --exact bash -c \"echo step; sleep 0.3\" & done; wait; echo done'); ended $j; state $j"),
    same("a step that overlaps", "j=$(job -n1 -o out --wrap 'srun -n1 bash -c \"touch a; until [ -e b ]; do sleep 0.05; done\" & until [ -e a ]; do sleep 0.05; done; srun --overlap -n1 touch b; wait; echo done'); ended $j; state $j"),
    same("a step wants more than its job has", "j=$(job -n1 -o out --wrap 'srun -n2 true; echo $?; srun -n1 -c8 true; echo $?'); ended $j; state $j"),
    same("salloc runs a command in a job", "salloc -n2 bash -c 'srun echo x; exit 7'; echo $?; salloc -Q -n1 srun bash -c 'echo $SLURM_JOB_NAME'; echo $?"),
    same("salloc's job has a state", "salloc -Q -n1 bash -c 'echo $SLURM_JOB_ID >id; exit 7'; state $(cat id); rm id"),
    same("a job reads and changes its files", "j=$(job -o out --wrap 'echo $SLURM_SUBMIT_DIR; umask; pwd'); umask 027; k=$(job -o two --wrap umask); ended $j; ended $k"),
    same("a task starts others that outlive it", "j=$(job -o out --wrap 'sleep 1000 & echo started'); ended $j; state $j; pgrep -u $(id -u) -x sleep || echo none left"),
    same("limits of the shell go with the job", "ulimit -S -n 512; srun bash -c 'ulimit -S -n'; ended $(job -o out --wrap 'ulimit -S -n')"),
];
