//! What jobs, steps and tasks find in their environment.

use super::row::Row;
use super::row::but;
use super::row::differing;
use super::row::same;

/// Everything of Slurm's but what is a number of a process or a port.
macro_rules! variables {
    ($before:literal) => {
        concat!(
            $before,
            " | grep -E '^(SLURM|SBATCH|SRUN|SALLOC)' | grep -vE '(_PORT|_PID|_IPADDR|COMM_HOST|_START_TIME|_END_TIME)=' | sort"
        )
    };
}

pub const ROWS: &[Row] = &[
    same("of a task", variables!("srun -n2 -c2 -J nm -t 5 --mem=100M env")),
    same("of a task without options", variables!("srun env")),
    same("of a script", variables!("ended $(job -n2 -c2 -t 10 -J nm -o out --wrap env); (cat out; rm out)")),
    same("of a step in a script", variables!("ended $(job -n2 -c2 -o out --wrap 'srun -n1 env'); (cat out; rm out)")),
    differing(
        "of a command of salloc",
        variables!("salloc -Q -n2 env"),
        &[but(&["SLURM_CONF=/etc/slurm/slurm.conf"], &[], "There is no configuration file.")],
    ),
    same("of a step in salloc", variables!("salloc -Q -n2 --mem=10 srun env")),
    same("of an element of an array", variables!("ended $(job --array=3 -o out --wrap env); (cat out; rm out)")),
    same(
        "beside Slurm's own",
        "srun env | grep -vE '^(SLURM|SRUN|BERTH_ENGINE|BERTH_JOB_(CPUS|MEMORY|KILL_WAIT))' | cut -d= -f1 | sort",
    ),
    same(
        "inputs",
        "SLURM_NTASKS=2 srun bash -c 'echo task'; SBATCH_JOB_NAME=viaenv SBATCH_OUTPUT=out job --wrap true >/dev/null; SLURM_LABELIO=1 srun echo x; SALLOC_TIMELIMIT=7 salloc -Q bash -c 'squeue -h -j $SLURM_JOB_ID -o %l'; ended $(squeue -h -u $(id -un) -o %i)",
    ),
];
