//! Killed at any moment, keepers and supervisors lose no job, run none twice, and leave none in a wrong state.

use std::fs;
use std::time::Duration;

use super::world::World;
use super::world::wait_for;
use testbed::chapter;
use testbed::process;

chapter!("jobs-kills",
    []:
        a_hundred_kills_change_no_jobs_end,
        a_job_whose_processes_are_all_killed_is_told_as_lost,
        a_killed_srun_leaves_no_task_and_no_job_that_runs;
);

/// xorshift64: moments that differ from run to run would make failures that nobody sees again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

fn a_hundred_kills_change_no_jobs_end() {
    let world = World::new();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut submitted = 0;
    let mut submit = |random: &mut Random| {
        let line = format!("echo x >> ran.{submitted}; sleep 0.{}; exit {}", random.below(8), submitted % 3);
        submitted += 1;
        assert_eq!(world.submit(&[], &line), submitted);
    };
    (0..10).for_each(|_| submit(&mut random));
    let mut kills = 0;
    while kills < 100 {
        // There is always something to kill.
        if fs::metadata(world.queue().join("active")).expect("a list").len() < 3000 {
            submit(&mut random);
        }
        std::thread::sleep(Duration::from_millis(random.below(60) as u64));
        let pids = world.keepers();
        if pids.is_empty() {
            // All were killed before one could help another: the next command that is typed looks after what is left.
            let _ = world.berth(&["squeue"]);
            continue;
        }
        kills += usize::from(world.kill(pids[random.below(pids.len())]));
    }
    let _ = world.berth(&["squeue"]);
    world.wait_until_idle();
    for id in world.ids() {
        let number = id - 1;
        let ran = fs::read_to_string(world.fixture.path(&format!("work/ran.{number}"))).unwrap_or_default();
        let expected = if number % 3 == 0 { "COMPLETED 0:0".to_owned() } else { format!("FAILED {}:0", number % 3) };
        assert_eq!((ran.as_str(), world.end(id)), ("x\n", expected), "job {id}: {}", world.job(id));
    }
    wait_for("the last keeper's end", || world.keepers().is_empty());
}

fn a_job_whose_processes_are_all_killed_is_told_as_lost() {
    let world = World::new();
    let id = world.submit(&[], "echo $$ > script; exec sleep 1000");
    world.wait_for_file("work/script");
    wait_for("the script's number", || {
        fs::read_to_string(world.fixture.path("work/script")).is_ok_and(|text| !text.is_empty())
    });
    let script: i32 = fs::read_to_string(world.fixture.path("work/script")).expect("it").trim().parse().expect("it");
    // Stopped first, so that none can do anything for another.
    let pids = world.keepers();
    pids.iter().for_each(|&pid| process::kill(pid, libc::SIGSTOP));
    process::kill(script, libc::SIGKILL);
    pids.iter().for_each(|&pid| process::kill(pid, libc::SIGKILL));
    wait_for("their end", || world.keepers().is_empty());
    let _ = world.berth(&["squeue"]);
    world.wait_until_idle();
    // Where the script's end can still be seen, it is known.
    let end = world.end(id);
    assert!(["NODE_FAIL 0:0", "FAILED 0:9"].contains(&end.as_str()), "{end}");
}

fn a_killed_srun_leaves_no_task_and_no_job_that_runs() {
    let world = World::new();
    let mut srun = world.command(&["srun", "sh", "-c", "echo $$ > task; exec sleep 1000"]).spawn().expect("a start");
    let task = || fs::read_to_string(world.fixture.path("work/task")).ok()?.trim().parse::<i32>().ok();
    wait_for("the task", || task().is_some());
    process::kill(srun.id() as i32, libc::SIGKILL);
    let _ = srun.wait();
    let task = task().expect("its number");
    wait_for("the task's end", || !std::path::Path::new(&format!("/proc/{task}/exe")).exists());
    let _ = world.berth(&["squeue"]);
    assert_eq!(world.end(1), "NODE_FAIL 0:0");
    assert!(world.is_idle());
}
