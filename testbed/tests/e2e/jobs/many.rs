//! Many jobs, and jobs that wait.

use std::fs;

use super::world::World;
use super::world::wait_for;
use testbed::chapter;

chapter!("jobs-many",
    []:
        a_thousand_jobs_in_a_burst_run_once_each_and_in_order,
        ten_thousand_elements_run_once_each,
        who_waits_uses_no_processor,
        small_jobs_pass_a_large_one_only_where_it_is_not_delayed;
);

fn a_thousand_jobs_in_a_burst_run_once_each_and_in_order() {
    let world = World::new();
    // Each takes the whole machine, so that the order in which they run can be seen.
    for number in 1..=1000 {
        assert_eq!(world.submit(&["-n4"], &format!("echo {number} >> order")), number);
    }
    world.wait_until_idle();
    let order = fs::read_to_string(world.fixture.path("work/order")).expect("what ran");
    let expected: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    assert!(order == expected, "{} lines, or another order", order.lines().count());
    for id in world.ids() {
        assert_eq!(world.end(id), "COMPLETED 0:0", "job {id}");
    }
}

fn ten_thousand_elements_run_once_each() {
    let world = World::new();
    world.submit(&["--array=0-9999"], "echo $SLURM_ARRAY_TASK_ID >> seen");
    world.wait_until_idle();
    let seen = fs::read_to_string(world.fixture.path("work/seen")).expect("what ran");
    let mut seen: Vec<u32> = seen.lines().map(|line| line.parse().expect("a number")).collect();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..10_000), "{} elements", seen.len());
    assert_eq!(world.ids().len(), 10_000);
}

/// Ticks of processor time, and how often it went to sleep by itself.
fn activity(pid: i32) -> (Vec<String>, String) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process that lives");
    let fields = stat[stat.rfind(')').expect("a name")..].split(' ').map(str::to_owned);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that lives");
    let switches = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).expect("a count");
    (fields.skip(12).take(2).collect(), switches.to_owned())
}

fn who_waits_uses_no_processor() {
    let world = World::new();
    world.submit(&["-H"], "true");
    world.submit(&["--begin=now+1hour"], "true");
    world.submit(&["-d", "afterok:1"], "true");
    let running = world.submit(&["-n4"], "touch up; exec sleep 1000");
    world.submit(&["-n4"], "true");
    world.wait_for_file("work/up");
    let mut srun = world.command(&["srun", "-Q", "-n4", "true"]).spawn().expect("a start");
    wait_for("srun in the queue", || {
        fs::read_to_string(world.queue().join("active")).is_ok_and(|active| active.contains("\"srun\""))
    });
    let mut pids = world.keepers();
    // A keeper, its guard and a supervisor.
    assert_eq!(pids.len(), 3);
    pids.push(srun.id() as i32);
    let now = || pids.iter().map(|&pid| activity(pid)).collect::<Vec<_>>();
    // They may still be on their way to sleep.
    let mut before = now();
    wait_for("all of them asleep", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        std::mem::replace(&mut before, now()) == now()
    });
    let before = now();
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(now(), before, "somebody woke up");
    world.berth(&["scancel", "--me"]).ok();
    let _ = srun.wait();
    world.wait_until_idle();
    assert_eq!(world.end(running), "CANCELLED 0:15");
    wait_for("the keeper's end", || world.keepers().is_empty());
}

fn small_jobs_pass_a_large_one_only_where_it_is_not_delayed() {
    let world = World::new();
    let wait = "while [ ! -e go ]; do sleep 0.05; done";
    world.submit(&["-n2", "-t10"], wait);
    world.submit(&["-n4", "-t10"], "echo large >> order");
    world.submit(&["-n1", "-t20"], "echo long >> order");
    world.submit(&["-n1", "-t5"], "echo short >> order; touch short");
    world.wait_for_file("work/short");
    fs::write(world.fixture.path("work/go"), "").expect("a file");
    world.wait_until_idle();
    let order = fs::read_to_string(world.fixture.path("work/order")).expect("what ran");
    assert_eq!(order, "short\nlarge\nlong\n");
}
