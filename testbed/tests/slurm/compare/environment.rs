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
    differing(
        "of a task",
        variables!("srun -n2 -c2 -J nm -t 5 --mem=100M env"),
        &[but(
            &["SLURM_CONF=/etc/slurm/slurm.conf", "SLURM_CONF=/etc/slurm/slurm.conf"],
            &[],
            "There is no configuration file.",
        )],
    ),
    differing(
        "of a task without options",
        variables!("srun env"),
        &[but(
            &["SLURM_CONF=/etc/slurm/slurm.conf"],
            &["SLURM_DISTRIBUTION=block"],
            "There is no configuration file. The distribution is always told.",
        )],
    ),
    differing(
        "of a script",
        variables!("ended $(job -n2 -c2 -t 10 -J nm -o out --wrap env); (cat out; rm out)"),
        &[but(
            &["SLURM_CONF=/etc/slurm/slurm.conf"],
            &["SLURMD_DEBUG=2", "SLURM_UMASK=0022"],
            "There is no configuration file. What steps have, scripts have, too.",
        )],
    ),
    differing(
        "of a step in a script",
        variables!("ended $(job -n2 -c2 -o out --wrap 'srun -n1 env'); (cat out; rm out)"),
        &[but(&["SLURM_CONF=/etc/slurm/slurm.conf"], &[], "There is no configuration file.")],
    ),
    differing(
        "of a command of salloc",
        variables!("salloc -Q -n2 env"),
        &[but(&["SLURM_CONF=/etc/slurm/slurm.conf"], &[], "There is no configuration file.")],
    ),
    differing(
        "of a step in salloc",
        variables!("salloc -Q -n2 --mem=10 srun env"),
        &[but(
            &[
                "SLURM_CONF=/etc/slurm/slurm.conf",
                "SLURM_CONF=/etc/slurm/slurm.conf",
                "SLURM_DISTRIBUTION=block",
                "SLURM_DISTRIBUTION=block",
            ],
            &["SLURM_DISTRIBUTION=cyclic", "SLURM_DISTRIBUTION=cyclic"],
            "There is no configuration file. On one node both distributions are the same; Slurm's name for it depends on the number of tasks.",
        )],
    ),
    differing(
        "of an element of an array",
        variables!("ended $(job --array=3 -o out --wrap env); (cat out; rm out)"),
        &[but(
            &["SLURM_CONF=/etc/slurm/slurm.conf"],
            &["SLURMD_DEBUG=2", "SLURM_UMASK=0022"],
            "There is no configuration file. What steps have, scripts have, too.",
        )],
    ),
    differing(
        "beside Slurm's own",
        "srun env | grep -vE '^(SLURM|SRUN|BERTH_ENGINE|BERTH_JOB_(CPUS|MEMORY|KILL_WAIT))' | cut -d= -f1 | sort",
        &[but(
            &[
                "HYDRA_BOOTSTRAP",
                "HYDRA_LAUNCHER_EXTRA_ARGS",
                "I_MPI_HYDRA_BOOTSTRAP",
                "I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS",
                "OMPI_MCA_plm_slurm_args",
                "PRTE_MCA_plm_slurm_args",
                "TMPDIR",
            ],
            &["BERTH_JOB_MARK"],
            "The launchers of MPI are told to start their daemons with srun, which no run on one node does; TMPDIR is the user's. By its mark what a job has started is found when all that watched over it was killed.",
        )],
    ),
    same(
        "inputs",
        "SLURM_NTASKS=2 srun bash -c 'echo task'; SBATCH_JOB_NAME=viaenv SBATCH_OUTPUT=out job --wrap true >/dev/null; SLURM_LABELIO=1 srun echo x; SALLOC_TIMELIMIT=7 salloc -Q bash -c 'squeue -h -j $SLURM_JOB_ID -o %l'; ended $(squeue -h -u $(id -un) -o %i)",
    ),
];
