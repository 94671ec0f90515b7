//! Signals, time limits, `scancel`, and putting jobs back.

use super::row::Row;
use super::row::same;

pub const ROWS: &[Row] = &[
    same(
        "scancel of a script that has a handler",
        "j=$(job -o out --wrap 'trap \"echo term; exit 5\" TERM; touch up; while :; do sleep 0.1; done'); there up; scancel $j; ended $j; state $j; rm up",
    ),
    same(
        "scancel of a script without one",
        "j=$(job -o out --wrap 'touch up; sleep 100'); there up; scancel $j; ended $j; state $j; rm up",
    ),
    same("scancel of a job that waits", "j=$(wrap -H --wrap true); scancel $j; echo $?; ended $j; state $j"),
    same(
        "scancel of a step",
        "j=$(job -o out --wrap 'srun -n1 bash -c \"touch up; sleep 100\"; echo srun ended with $?'); there up; scancel $j.0; ended $j; state $j; sort out | grep -vE 'Force Terminated|Job step aborted'; rm up out",
    ),
    same(
        "scancel with a signal",
        "j=$(job -o out --wrap 'trap \"echo usr1\" USR1; touch up; until [ -e stop ]; do sleep 0.1; done'); there up; scancel -b -s USR1 $j; sleep 0.5; touch stop; ended $j; state $j; rm up stop",
    ),
    same(
        "scancel by name and by state",
        "a=$(wrap -H -J one --wrap true); b=$(wrap -H -J two --wrap true); scancel -n one -u $(id -un); ended $a; state $a; state $b; scancel -t PENDING -u $(id -un); ended $b; state $b",
    ),
    same(
        "a time limit",
        "j=$(job -t 0:01 -o out --wrap 'trap \"echo term\" TERM; touch up; true'); ended $j; state $j; rm up",
    ),
    same(
        "Ctrl-C at srun, twice",
        "srun bash -c 'touch up; sleep 100' 2>err & p=$!; there up; kill -INT $p; sleep 0.3; kill -INT $p; wait $p; echo $?; grep -oE 'srun: (interrupt|forcing|Job step).*' err | sort -u; rm up err",
    ),
    same(
        "SIGTERM at srun",
        "srun bash -c 'touch up; sleep 100' 2>err & p=$!; there up; kill -TERM $p; wait $p; echo $?; grep -oE 'srun: (interrupt|forcing|Job step).*' err | sort -u; rm up err",
    ),
    same(
        "another signal is passed on",
        "srun bash -c 'trap \"echo usr1; exit 3\" USR1; touch up; while :; do sleep 0.1; done' & p=$!; there up; kill -USR1 $p; wait $p; echo $?; rm up",
    ),
    same(
        "scancel of an srun",
        "srun -J victim bash -c 'touch up; sleep 100' 2>/dev/null & p=$!; there up; j=$(squeue -h -n victim -u $(id -un) -o %i); scancel $j; wait $p; echo $?; ended $j; state $j; rm up",
    ),
    same(
        "scontrol requeue",
        "j=$(job --requeue -o out --open-mode=append --wrap 'echo run $SLURM_RESTART_COUNT; touch up; [ -n \"$SLURM_RESTART_COUNT\" ] || sleep 100'); there up; scontrol requeue $j; echo $?; until scontrol show job $j | grep -o Restarts=1; do sleep 0.1; done; scancel $j; ended $j; rm -f up out",
    ),
];
