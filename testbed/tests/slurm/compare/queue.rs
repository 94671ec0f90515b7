//! Arrays, dependencies, and jobs that wait.

use super::row::Row;
use super::row::same;

pub const ROWS: &[Row] = &[
    same(
        "an array",
        "j=$(sbatch --parsable --array=1-5:2%1 -o 'a-%a.txt' --wrap 'env | grep ^SLURM_ARRAY_ | grep -v JOB_ID | sort'); ended $j",
    ),
    same(
        "the default output of an array",
        "ended $(job --array=0,7 -J arr --wrap 'echo $SLURM_ARRAY_TASK_ID'); ls | sed 's/.*_/_/'",
    ),
    same("an array of one", "ended $(job --array=4 -o 'o-%A_%a' --wrap 'echo $SLURM_ARRAY_TASK_COUNT')"),
    same(
        "an element that fails",
        "j=$(job --array=1-3 -o /dev/null --wrap '[ $SLURM_ARRAY_TASK_ID != 2 ]'); ended $j; for i in 1 2 3; do state ${j}_$i; done",
    ),
    same(
        "scancel of an element",
        "j=$(job -H --array=1-3 -o /dev/null --wrap true); scancel ${j}_2; squeue -h -r -j $j -S i -o '%K %T'; scancel $j; ended $j",
    ),
    same(
        "afterok and afternotok",
        "a=$(wrap --wrap 'exit 3'); b=$(wrap -d afterok:$a --wrap true); c=$(wrap -d afternotok:$a --wrap true); ended $a; ended $c; state $c; sleep 1; state $b",
    ),
    same(
        "afterany and after",
        "a=$(wrap --wrap 'sleep 1; exit 3'); b=$(wrap -d afterany:$a --wrap true); c=$(wrap -d after:$a --wrap true); ended $b; ended $c; for j in $a $b $c; do state $j; done",
    ),
    same(
        "aftercorr",
        "a=$(wrap --array=1-2 --wrap '[ $SLURM_ARRAY_TASK_ID = 1 ]'); b=$(wrap -d aftercorr:$a --array=1-2 --wrap true); ended $a; ended ${b}_1; sleep 1; state ${b}_1; state ${b}_2",
    ),
    same(
        "singleton",
        "a=$(wrap -J one --wrap 'sleep 0.5; date +%s%N >first'); b=$(wrap -J one -d singleton --wrap 'date +%s%N >second'); ended $a; ended $b; [ $(cat first) -lt $(cat second) ] && echo in order; rm first second; state $b",
    ),
    same(
        "several dependencies, with , and ?",
        "a=$(wrap --wrap 'exit 1'); b=$(wrap --wrap true); c=$(wrap -d afterok:$a?afterok:$b --wrap true); d=$(wrap -d afternotok:$a,afterok:$b --wrap true); ended $c; ended $d; state $c; state $d",
    ),
    same(
        "--kill-on-invalid-dep",
        "a=$(wrap --wrap 'exit 1'); b=$(wrap --kill-on-invalid-dep=yes -d afterok:$a --wrap true); ended $a; ended $b; state $b",
    ),
    same(
        "dependencies as squeue shows them",
        "a=$(wrap -H --wrap true); b=$(wrap -d afterok:$a --wrap true); squeue -h -j $b -o '%r %E'",
    ),
    same(
        "hold and release",
        "j=$(wrap -H --wrap true); state $j; scontrol release $j; echo $?; ended $j; state $j; scontrol hold $j; echo $?",
    ),
    same(
        "--begin keeps a job waiting",
        "j=$(wrap --begin=now+1hour --wrap true); squeue -h -j $j -o '%T %r'; scancel $j; ended $j; state $j",
    ),
    same(
        "scontrol update",
        "j=$(wrap -H -J old -t 10 --wrap true); scontrol update jobid=$j timelimit=20 name=new; echo $?; scontrol update job $j comment=hi; echo $?; squeue -h -j $j -o '%j %l %k'; scontrol update jobid=$j nosuch=1; echo $?; scontrol update jobid=$j timelimit=abc; echo $?; scontrol update nosuch=1; echo $?; scontrol update TimeLimit+=5 jobid=$j; scontrol update jobid=$j TimeLimit+=5; squeue -h -j $j -o %l",
    ),
    same(
        "jobs start in the order in which they were submitted",
        "for i in 1 2 3 4 5; do wrap -n64 --wrap \"echo $i >>order\"; done >/dev/null; until [ $(wc -l <order) = 5 ]; do sleep 0.1; done 2>/dev/null; sleep 0.3",
    ),
];
