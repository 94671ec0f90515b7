//! Many steps, and many users at once: nothing adds up, and nobody sees what is another's.

use std::path::Path;

use testbed::slurm::Release;

use crate::plugin::world::Rows;
use crate::plugin::world::SMALL;
use crate::plugin::world::World;
use crate::world::Step;

on_each_release!("load" with registry:
    steps_in_a_row_leave_nothing,
    jobs_of_five_users_at_once_do_not_meet,
);

fn steps_in_a_row_leave_nothing(release: Release) {
    let world = World::new(release);
    // A hundred steps a job.
    let jobs = if release == Release::Bookworm { 5 } else { 1 };
    assert_eq!(world.srun(&[SMALL], &["echo", "first"]).ok(), "first\n");
    let descriptors =
        || world.cluster.node("n1").shell("ls /proc/$(cat /run/slurmd.pid)/fd | wc -l").ok().trim().parse::<usize>();
    let before = descriptors().expect("a number");
    let script = "for i in $(seq 100); do srun --overlap -n1 --container-image=small true || echo step $i failed; done; echo done";
    for _ in 0..jobs {
        let said = Step(world.user().spawn(&["salloc", "-Q", "-n1", "bash", "-c", script])).end();
        assert_eq!(said.ok(), "done\n");
    }
    // Some come and go with its connections.
    let after = descriptors().expect("a number");
    assert!(after < before + 20, "slurmd has {after} descriptors and had {before}");
    world.assert_clean();
}

/// Made for each user: a job whose container is told from all others by what it has written into it.
const JOB: &str = "#!/bin/bash
srun -n1 --container-image=small --container-name=job$SLURM_JOB_ID --container-mount-home sh -c '
  test ! -e /mark && id -u >/mark && echo >~/ready-$SLURM_JOB_ID
  until [ -e ~/go ]; do sleep 0.2; done
  test \"$(cat /mark)\" = \"$(id -u)\" && echo >~/done-$SLURM_JOB_ID'
";

/// As another user: what is there of others that should not be. Prints what it could reach.
const PROBE: &str = r#"
for process in /proc/[0-9]*; do
  pid=${process#/proc/}
  owner=$(stat -c %u $process 2>/dev/null) || continue
  [ "$owner" = "$(id -u)" ] && continue
  ls $process/root/ >/dev/null 2>&1 && echo "root of $pid"
  ls $process/cwd/ >/dev/null 2>&1 && echo "cwd of $pid"
  cat $process/environ >/dev/null 2>&1 && [ -s $process/cmdline ] && echo "environment of $pid"
  nsenter -t $pid -U true 2>/dev/null && echo "user namespace of $pid"
  nsenter -t $pid -m true 2>/dev/null && echo "mounts of $pid"
done
for place in /home/*/.local/share/berth /var/lib/berth/*; do
  [ "$(stat -c %u $place 2>/dev/null)" = "$(id -u)" ] && continue
  ls "$place"/* >/dev/null 2>&1 && echo "$place"
done
own=$(squeue -h -u "$(id -un)" -o 'job%i|')
berth ps -a 2>/dev/null | grep job | grep -vE "${own//$'\n'/}none"
for id in 20001 20002 20003; do
  BERTH_STORE=/home/tuser$((id - 20000))/.local/share/berth/store berth run small true 2>/dev/null && echo "store of $id"
done
true
"#;

fn jobs_of_five_users_at_once_do_not_meet(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let users = ["tuser1", "tuser2", "tuser3", "tuser4"];
    let last = "tuser5";
    let each = if release == Release::Bookworm { 10 } else { 4 };
    for user in users.iter().copied().chain([last]) {
        for _ in 0..each {
            world
                .cluster
                .as_user(user)
                .run_with(&["sbatch", "-n1", "-t", "10", "-o", "/dev/null"], JOB.as_bytes())
                .ok();
        }
    }
    let there = |user: &str, what: &str| {
        let home = world.cluster.path(Path::new("/home").join(user));
        let entries = std::fs::read_dir(home).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(what)).count()
    };
    let all = |what: &str| users.iter().copied().chain([last]).map(|user| there(user, what)).sum::<usize>();
    world.cluster.wait_until("all containers run", || all("ready-") == 5 * each);
    let probe = world.cluster.node("n1").user(last).run(&["bash", "-c", PROBE]);
    rows.prints(&probe, "");
    for user in users.iter().copied().chain([last]) {
        world.cluster.as_user(user).run(&["touch", "go"]).ok();
    }
    world.cluster.wait_until("all are done", || all("done-") == 5 * each);
    world.cluster.wait_until("no job is left", || world.cluster.root().run(&["squeue", "-h"]).stdout.is_empty());
    let failed = world.cluster.root().shell("scontrol -o show jobs | grep -v JobState=COMPLETED").stdout;
    rows.same("all jobs were completed", failed.as_str(), "");
    rows.end();
    for user in users.iter().copied().chain([last]) {
        world.cluster.as_user(user).shell("rm go ready-* done-*").ok();
    }
    world.forget_containers();
    world.assert_clean();
}
