//! Lines that are wrong, and requests that cannot be met.

use super::row::Row;
use super::row::but;
use super::row::differing;
use super::row::same;

pub const ROWS: &[Row] = &[
    same("no command", "srun; echo $?"),
    same(
        "an option that is none",
        "srun --nosuch true; echo $?; srun -9; echo $?; sbatch --nosuch; echo $?; salloc --nosuch; echo $?; squeue --nosuch; echo $?",
    ),
    same(
        "numbers that are none",
        "srun -n true; echo $?; srun -n 0 true; echo $?; srun -n -3 true; echo $?; srun -c 0 true; echo $?; sbatch -n x --wrap true; echo $?",
    ),
    same(
        "more CPUs than there are",
        "srun -n 100 true; echo $?; srun -c 100 true; echo $?; sbatch -n 100 --wrap true; echo $?; salloc -n 100 true; echo $?",
    ),
    differing(
        "more nodes than there are",
        "srun -N2 true; echo $?; sbatch -N2 --wrap true; echo $?",
        &[but(
            &[],
            &[
                "stderr: sbatch: error: this machine is one node: more of them are where Slurm runs, with the same command line",
                "stderr: srun: error: this machine is one node: more of them are where Slurm runs, with the same command line",
            ],
            "berth adds where such a job can run.",
        )],
    ),
    same(
        "more memory than there is",
        "srun --mem=100G true; echo $?; sbatch --mem=100G --wrap true; echo $?; srun --mem-per-cpu=100G true; echo $?",
    ),
    same(
        "memory and times that are none",
        "srun --mem=abc true; echo $?; srun -t abc true; echo $?; srun -t 1-0:0:0:0 true; echo $?; sbatch -t zz --wrap true; echo $?",
    ),
    same("--begin that is no time", "srun --begin=garbage true; echo $?; sbatch --begin=foo --wrap true; echo $?"),
    same(
        "a partition, a node, a feature that is none",
        "srun -p nosuch true; echo $?; srun -w n2 true; echo $?; srun -C foo true; echo $?; srun -w n1 echo ok",
    ),
    same(
        "GPUs that are not there",
        "srun --gres=gpu:1 true; echo $?; srun --gpus=1 true; echo $?; sbatch --gres=gpu:1 --wrap true; echo $?",
    ),
    same(
        "a dependency that is none",
        "sbatch --wrap true -d afterok:99999; echo $?; sbatch --wrap true -d foo; echo $?; srun -d foo:1 true; echo $?",
    ),
    same("output that cannot be written", "srun -o /nosuch/x true; echo $?; srun -i /nosuch/x true; echo $?"),
    same("a script without #!", "echo 'echo hi' >s; sbatch s; echo $?"),
    same(
        "a script that is not there, or empty",
        "sbatch nosuch.sh; echo $?; : >empty; sbatch empty; echo $?; sbatch /tmp; echo $?",
    ),
    same("a script of another system", "printf '#!/bin/bash\\r\\necho\\r\\n' >dos; sbatch dos; echo $?"),
    same("--wrap with a script", "sbatch --wrap true x; echo $?; sbatch --wrap; echo $?"),
    same("arrays that are none", "for a in 5-1 1-4:0 -1 a 1-2-3 1,x; do sbatch --array=$a --wrap true; echo $?; done"),
    same("an account is only a word", "srun -A nosuch echo ok; echo $?"),
    same("versions", "for c in srun sbatch salloc squeue scancel sinfo scontrol; do $c --version | wc -l; done"),
    same(
        "scancel of nothing",
        "scancel; echo $?; scancel abc; echo $?; scancel 99999; echo $?; scancel -v 99999; echo $?; scancel -n nosuch; echo $?",
    ),
    same(
        "scontrol of nothing",
        "scontrol hold 99999; echo $?; scontrol release abc; echo $?; scontrol show job 99999; echo $?; scontrol foo; echo $?; scontrol show; echo $?; scontrol show foo; echo $?; scontrol requeue 99999; echo $?",
    ),
    same(
        "squeue of nothing",
        "squeue -j 99999; echo $?; squeue -j abc; echo $?; squeue -u nosuch; echo $?; squeue -t foo 2>/dev/null; echo $?; squeue -o '%s|%i' -j 99998,99999; echo $?",
    ),
];
