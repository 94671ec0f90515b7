//! What the verbs that show print.

use super::row::Row;
use super::row::but;
use super::row::differing;
use super::row::same;

/// Jobs to be shown: one that runs, others that wait.
macro_rules! jobs {
    ($then:literal) => {
        concat!(
            "a=$(wrap -J longjobname-verylong -n2 -t 1:30:00 --mem=100 --wrap 'sleep 100'); runs $a
b=$(wrap -H -J pend -n4 -t 2-3 --mem=2G --wrap true); c=$(wrap -H --array=1-3%2 -J arr --wrap true)
d=$(wrap -H --array=1,5-7 -J arr2 --comment=hello --wrap true); e=$(wrap --begin=now+1hour -J beg --wrap true); until squeue -h -j $e -o %r | grep -q BeginTime; do sleep 0.1; done
",
            $then
        )
    };
}

pub const ROWS: &[Row] = &[
    same(
        "squeue",
        jobs!("squeue --me -S i | sed 's/ 0:0[0-9]/ 0:0n/; s/(Resources)/(BeginTime)/'; squeue --me -S -i -h -o %i"),
    ),
    same(
        "squeue -l and -r",
        jobs!(
            "squeue --me -l -S i | tail -n +2 | sed 's/ 0:0[0-9]/ 0:0n/; s/(Resources)/(BeginTime)/'; squeue --me -r -S i -h -o %i"
        ),
    ),
    same(
        "squeue -o, each letter",
        jobs!(
            "for f in A B c C d D E f F g G h H i I j J k K l m n N o O P Q r R t T u U v w W x X y z Z; do squeue --me -S i -o \"$f %$f|\"; done"
        ),
    ),
    same("squeue -o, times and priorities", jobs!("squeue --me -S i -h -o '%V %S %e %p %Y %q %a'")),
    same(
        "squeue -o, widths",
        jobs!(
            "squeue --me -S i -o '%5i|%.5i|%-8j|%3j|x%%y'; squeue --me -S i -o 'JOB %i name %j'; squeue --me -S i -o '%z %!'"
        ),
    ),
    same(
        "squeue -O",
        jobs!(
            "squeue --me -S i -O JobArrayID:10,Name:5,NumCPUs,MinMemory,state:.12; squeue --me -S i -h -O 'jobid: |,name:|'"
        ),
    ),
    same(
        "squeue -O, each name",
        jobs!(
            "for f in arrayjobid arraytaskid batchflag batchhost cluster command comment contiguous cores corespec cpus-per-task deadline delayboot dependency derivedec exit_code feature groupid groupname jobarrayid jobid licenses maxnodes mcslabel mincpus minmemory mintime mintmpdisk name network nice nodelist ntpercore ntpernode ntpersocket ntperboard numcpus numnodes numtasks oversubscribe partition prioritylong profile reason reasonlist reboot reqnodes reqswitch requeue reservation restartcnt resizetime sct state statecompact stderr stdin stdout timelimit tres-per-job tres-per-node tres-per-socket tres-per-task userid username wait4switch wckey workdir threads preempttime; do squeue --me -S i -O $f; done"
        ),
    ),
    same(
        "squeue, choices",
        jobs!(
            "squeue --me -h -t PD -S i -o %j; squeue --me -h -t R,CG -o %j; squeue -h -n pend,beg --me -S i -o %j; squeue -h -j $a,$b -S i -o %j; squeue -h -j ${c}_2 -r -o %i; squeue -h -w n1 --me -o %j; squeue -h -p nosuch; squeue -u root -h"
        ),
    ),
    same(
        "squeue --json, keys and values",
        jobs!("squeue --json -j $b >/dev/null; echo $?; squeue --me --json | grep -cE '\"job_id\"'"),
    ),
    same(
        "squeue of a job that is over",
        "j=$(wrap --wrap true); ended $j; squeue -j $j; echo $?; squeue -h -t all -j $j -o '%i %T %r'",
    ),
    differing(
        "squeue -s",
        "j=$(job -o out --wrap 'srun -n1 bash -c \"touch up; sleep 100\"'); there up; squeue -s -j $j 2>/dev/null | sed 's/ 0:0[0-9]/ 0:0n/'; scancel $j; ended $j; rm up out",
        &[but(
            &["        JOB01.0     bash     local   USER      0:0n n1"],
            &["        JOB01.0     wrap     local   USER      0:0n n1"],
            "A step without a name has its job's name, not that of its command.",
        )],
    ),
    same(
        "scontrol show job, waiting",
        "j=$(wrap -H -J nm -n2 -c2 --mem=10 -t 10 --comment=hello --wrap true); scontrol show job $j | sed 's/Sid=[^ ]*/Sid=x/; s/AccrueTime=.*/AccrueTime=x/'",
    ),
    differing(
        "scontrol show job, running",
        "j=$(wrap -J nm -n2 --mem=100 --wrap 'sleep 100'); runs $j; scontrol show job $j | sed 's/RunTime=[0-9:]*/RunTime=x/; s/Sid=[^ ]*/Sid=x/; s/AccrueTime=.*/AccrueTime=x/'",
        &[but(
            &["   AllocTRES=cpu=2,node=1,billing=2"],
            &["   AllocTRES=cpu=2,mem=100M,node=1,billing=2"],
            "Slurm counts memory where its configuration says so, which is not this one's; berth always does.",
        )],
    ),
    differing(
        "scontrol show job, over",
        "printf '#!/bin/sh\\nexit 3\\n' >s.sh; j=$(job --mem=100 -o out -e err s.sh a b); ended $j; scontrol show job $j | sed 's/RunTime=[0-9:]*/RunTime=x/; s/Sid=[^ ]*/Sid=x/; s/AccrueTime=.*/AccrueTime=x/'",
        &[but(
            &["   AllocTRES=cpu=1,node=1,billing=1"],
            &["   AllocTRES=cpu=1,mem=100M,node=1,billing=1"],
            "Slurm counts memory where its configuration says so, which is not this one's; berth always does.",
        )],
    ),
    differing(
        "scontrol show job of an srun",
        "srun -J shown -n1 -c2 --mem=100 bash -c 'touch up; sleep 100' 2>/dev/null & p=$!; there up; j=$(squeue -h -n shown -u $(id -un) -o %i); scontrol show job $j | sed 's/RunTime=[0-9:]*/RunTime=x/; s/Sid=[^ ]*/Sid=x/; s/AccrueTime=.*/AccrueTime=x/'; kill $p; wait $p; rm up",
        &[but(
            &["   AllocTRES=cpu=2,node=1,billing=2"],
            &["   AllocTRES=cpu=2,mem=100M,node=1,billing=2"],
            "Slurm counts memory where its configuration says so, which is not this one's; berth always does.",
        )],
    ),
    same(
        "scontrol show job of an array",
        "j=$(wrap -H --array=1-3%2 --wrap true); scontrol show job $j | head -5; scontrol -o show job ${j} | wc -l",
    ),
    same(
        "scontrol show hostnames",
        "scontrol show hostnames 'a[1-3,07-09]b,c'; scontrol show hostnames n1; scontrol show hostlist a1,a2,a3,b; scontrol show hostnames; echo $?",
    ),
    same(
        "scontrol write batch_script",
        "j=$(wrap -H --wrap 'echo hi'); scontrol write batch_script $j -; scontrol write batch_script $j f.sh >/dev/null; cat f.sh; rm f.sh",
    ),
    differing(
        "scontrol show partition",
        "scontrol show partition; scontrol show partition nosuch; echo $?; scontrol show node nosuch; echo $?",
        &[but(
            &[
                "   MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED MaxCPUsPerSocket=UNLIMITED",
            ],
            &["   MaxNodes=1 MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED MaxCPUsPerSocket=UNLIMITED"],
            "A machine is one node.",
        )],
    ),
    same(
        "sinfo",
        "sinfo | sed -E 's/ +(idle|mix|comp|alloc|plnd) / state /'; sinfo -h | wc -l; sinfo -s | cut -c1-30; sinfo -o '%P %a %l %D %N %c %m %f %G'; sinfo -h -p nosuch; sinfo -n nosuch -h; sinfo -t foo 2>/dev/null; echo $?",
    ),
    same(
        "sinfo -N -l",
        "sinfo -N -l | tail -n +2 | sed -E 's/ +(idle|mixed|completing|allocated|planned) / state /'; sinfo -N -o '%N %P' -h; sinfo -R | head -1; sinfo -O nodelist,partition,cpus,memory",
    ),
];
