//! The command lines of published guides, word for word.

use testbed::slurm::Release;

use super::world::Rows;
use super::world::World;
use super::world::report;

on_each_release!("plugin_seeds" with registry:
    the_first_commands_of_a_guide_work,
    the_scripts_of_a_workshop_work,
    salloc_and_options_of_all_kinds_work,
);

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn the_first_commands_of_a_guide_work(release: Release) {
    let world = World::nodes(release, 2);
    let said = world.user().shell("srun -N 2 --container-image docker://rockylinux:8 hostname").ok();
    assert_eq!(sorted(&said), ["n1", "n2"]);
    // That host name was told in the image, which has no such file.
    let said = world.user().shell("srun -N 2 --container-image docker://rockylinux:8 ls /etc/slurm/slurm.conf");
    assert_ne!(said.code(), 0, "{}", report(&said));
    let submit = "sbatch --parsable -N 2 --wrap='srun --container-image docker://rockylinux:8 hostname'";
    let id = world.user().shell(submit).ok().trim().to_owned();
    world.cluster.wait_until("the job ends", || world.cluster.job_ended(&id));
    let said = world.user().run(&["cat", &format!("slurm-{id}.out")]).ok();
    assert_eq!(sorted(&said), ["n1", "n2"]);
    world.assert_clean();
}

fn the_scripts_of_a_workshop_work(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let script = "\
#!/bin/bash
#SBATCH --container-image nvcr.io\\#nvidia/pytorch:21.12-py3

python -c 'import torch ; print(torch.__version__)'
";
    // The image has no bash: the batch script's own first line says what it needs.
    let script = script.replace("/bin/bash", "/bin/sh");
    rows.holds("python of the image", world.batch(&[], &script).ends_with("1.11.0a0+b6df043\n"));
    let said = world.user().shell("srun --container-image=nvidia/cuda:11.6.2-base-ubuntu20.04 nvidia-smi");
    rows.prints(&said, "NVIDIA-SMI of the image\n");
    rows.holds(
        format!("it says that it fetches the image: {}", report(&said)),
        said.stderr.contains("pyxis: importing docker image: nvidia/cuda:11.6.2-base-ubuntu20.04\n")
            && said.stderr.contains("pyxis: imported docker image: nvidia/cuda:11.6.2-base-ubuntu20.04\n"),
    );
    let script = "#!/bin/sh\n#SBATCH --container-image=nvidia/cuda:11.6.2-base-ubuntu20.04\n\nnvidia-smi\n";
    rows.holds("nvidia-smi of the image", world.batch(&[], script).ends_with("NVIDIA-SMI of the image\n"));
    rows.end();
    world.assert_clean();
}

fn salloc_and_options_of_all_kinds_work(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    let said = world.user().shell("salloc -N2 srun --container-image=small hostname");
    rows.same("salloc srun", sorted(&said.stdout), vec!["n1", "n2"]);
    let said =
        world.user().shell("salloc -N1 --container-image=small srun sh -c 'test ! -e /etc/slurm && echo inside'");
    rows.prints(&said, "inside\n");
    // A step may say something else than its allocation.
    let said =
        world.user().shell("salloc -N1 --container-image=small srun --container-image=debian:12 ls /etc/os-release");
    rows.prints(&said, "/etc/os-release\n");
    // The shell is the user's, by its path outside.
    let shell = ["salloc", "-N1", "--container-image=debian:12"];
    let said = world.user().run_with(&shell, b"test -e /etc/slurm || echo inside\nexit 3\n");
    rows.holds(format!("salloc's shell: {}", report(&said)), said.stdout.contains("inside"));
    rows.same("its exit code", said.code(), 3);
    rows.end();
    world.assert_clean();
}
