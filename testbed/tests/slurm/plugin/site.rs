//! What a site and those who repeat a run rely on: what is written down, bounded and swept.

use testbed::slurm::Options;
use testbed::slurm::Release;

use super::world::HOME;
use super::world::Rows;
use super::world::SMALL;
use super::world::World;
use super::world::report;

on_each_release!("plugin_site" with registry:
    what_a_job_ran_in_is_written_down,
    a_quota_bounds_named_containers,
    a_boot_ends_the_containers_of_jobs,
    a_file_says_what_the_environment_is,
);

fn what_a_job_ran_in_is_written_down(release: Release) {
    let world = World::with(release, Options { nodes: 2, ..Options::default() }.plugin("comment=1"));
    let said = world.srun(&["-N2", SMALL, "--container-workdir=/bin"], &["sh", "-c", "echo $SLURM_JOB_ID"]);
    let job = said.ok().lines().next().expect("a number").to_owned();
    let text = world.user().run(&["cat", &format!(".local/state/berth/jobs/{job}.jsonl")]).ok();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 1, "one for the step, not one for each node: {text}");
    let digest = lines[0]["digest"].as_str().expect("a digest").to_owned();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{text}");
    assert_eq!(lines[0]["step"], format!("{job}.0"));
    assert!(lines[0]["options"].as_array().expect("a list").contains(&"--container-workdir=/bin".into()), "{text}");
    world.cluster.wait_until("the comment is there", || world.cluster.job(&job).contains(&digest));
    let again = world.srun(&[&format!("--container-image={digest}")], &["ls", "/bin/busybox"]);
    assert_eq!(again.ok(), "/bin/busybox\n");
    world.assert_clean();
}

fn a_quota_bounds_named_containers(release: Release) {
    let world = World::with(release, Options::default().plugin("quota=1M"));
    let mut rows = Rows::default();
    let fill = "dd if=/dev/zero of=/data bs=64k count=32 2>/dev/null; ls /data";
    rows.prints(&world.shell(&[SMALL, "--container-name=one"], fill), "/data\n");
    let said = world.srun(&[SMALL, "--container-name=two"], &["true"]);
    rows.fails(&said, 1, &["named containers of yours take", "the site allows"]);
    // The one that is there can be used, and goes.
    rows.prints(&world.srun(&["--container-name=one"], &["rm", "/data"]), "");
    rows.prints(&world.srun(&[SMALL, "--container-name=two"], &["true"]), "");
    rows.end();
    world.forget_containers();
    world.assert_clean();
}

fn a_boot_ends_the_containers_of_jobs(release: Release) {
    let world = World::with(release, Options::default().plugin("container_scope=job"));
    let node = world.cluster.node("n1");
    // A job's that was not ended, and one of a site that has changed its mind.
    world.srun(&[SMALL, "--container-name=kept"], &["true"]).ok();
    let place = "/var/lib/berth/20001/n1/containers";
    let make =
        |name: &str| format!("mkdir -p {place} && mkdir {place}/{name} && echo '{{}}' >{place}/{name}/container.json");
    let user = node.clone().user("tuser1");
    for name in ["job77.mine", "global"] {
        user.shell(&make(name)).ok();
    }
    if release == Release::Bookworm {
        // 22.05 does not load its plugins anew while slurmd runs: what they would call.
        let program = "/usr/bin/berth step --clean --boot --containers=/var/lib/berth/20001";
        user.shell(program).ok();
    } else {
        // As if the last start had been before a boot.
        node.shell("for mark in /var/lib/berth/.boot-*; do echo other >$mark; done").ok();
        world.cluster.root().run(&["scontrol", "reconfigure"]).ok();
        world.cluster.wait_until("the job's is gone", || !node.run(&["ls", place]).stdout.contains("job77"));
    }
    assert_eq!(node.run(&["ls", place]).stdout, "global\n");
    world.forget_containers();
    node.shell("rm -f /var/lib/berth/.boot-*").ok();
}

fn a_file_says_what_the_environment_is(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let conf =
        "image = 'small'\nmounts = ['/etc/slurm:/conf:ro']\nworkdir = '/bin'\n[env]\nCOLOUR = 'red'\nLANG = ''\n";
    world.user().write(&format!("{HOME}/environment.toml"), conf);
    let line = "pwd; echo $COLOUR; ls /conf/slurm.conf; echo ${LANG-unset}";
    let wanted = "/bin\nred\n/conf/slurm.conf\nunset\n";
    rows.prints(&world.shell(&["--container-conf=./environment.toml"], line), wanted);
    world.user().shell(&format!("mkdir -p .edf && cp {HOME}/environment.toml .edf/mine.toml")).ok();
    rows.prints(&world.shell(&["--container-conf=mine"], line), wanted);
    // Options win.
    rows.prints(&world.srun(&["--container-conf=mine", "--container-workdir=/etc"], &["pwd"]), "/etc\n");
    world.user().write(&format!("{HOME}/wrong.toml"), "image = 'small'\nmuonts = []\n");
    let said = world.srun(&["--container-conf=./wrong.toml"], &["true"]);
    rows.fails(&said, 1, &["wrong.toml", "line 2", "muonts"]);
    let said = world.srun(&["--container-conf=./missing.toml"], &["true"]);
    rows.fails(&said, 1, &["missing.toml"]);
    rows.holds(report(&said), !said.stderr.contains("panic"));
    rows.end();
    world.assert_clean();
}
