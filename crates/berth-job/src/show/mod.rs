//! What of jobs, steps and the machine is shown, and how: formats, tables and JSON of `squeue`, `sacct`, `sinfo` and
//! `scontrol show`.
