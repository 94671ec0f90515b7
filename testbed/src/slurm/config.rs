//! The configuration of Slurm in a box.

use super::Options;
use super::Release;
use super::registries;

/// The network of the box: the host `ctl` is `.254`, a node has its number.
pub const NETWORK: &str = "10.77.0";

/// `slurm.conf`. `cgroups` says whether the box has control groups that Slurm can use.
///
/// A node has more processors than any machine here, so that no test's job waits for another's, and a killed job waits
/// three seconds for its end, not thirty. Everything else is what a small site would have.
pub fn slurm_conf(options: &Options, cgroups: bool) -> String {
    let proctrack = if cgroups { "proctrack/cgroup" } else { "proctrack/linuxproc" };
    let nodes = options.nodes;
    format!(
        "\
ClusterName=test
SlurmctldHost=ctl({NETWORK}.254)
SlurmUser=root
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=debug
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd/%n
ProctrackType={proctrack}
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
LaunchParameters=use_interactive_step
KillWait=3
ReturnToService=2
MailProg=/bin/true
NodeName=n[1-{nodes}] CPUs=64 State=UNKNOWN {words}
PartitionName={partition} Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
{more}",
        words = options.node_conf,
        partition = options.partition,
        more = options.slurm_conf
    )
}

/// `cgroup.conf`. Every release loads a plugin for control groups, even where nothing is to use them; 22.05 does not know
/// the one that does nothing, and looks for the wrong folder when there is no file at all.
pub fn cgroup_conf(release: Release, cgroups: bool) -> &'static str {
    match (cgroups, release) {
        (true, _) => "CgroupPlugin=autodetect\n",
        (false, Release::Bookworm) => "CgroupPlugin=cgroup/v1\n",
        (false, _) => "CgroupPlugin=disabled\n",
    }
}

/// `/etc/hosts`.
pub fn hosts(options: &Options) -> String {
    let nodes = (1..=options.nodes).map(|number| format!("{NETWORK}.{number} n{number}\n"));
    let registries = registries::NAMES.join(" ");
    format!("127.0.0.1 localhost\n{NETWORK}.254 ctl {registries}\n{}", nodes.collect::<String>())
}
