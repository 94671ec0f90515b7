//! The node's devices: GPUs as far as they are the step's, and those of a fast network.

use testbed::slurm::Options;
use testbed::slurm::Release;

use crate::plugin::world::HOME;
use crate::plugin::world::Rows;
use crate::plugin::world::SMALL;
use crate::plugin::world::World;
use crate::plugin::world::report;

on_each_release!("inside_devices" with registry:
    a_step_has_its_own_gpus_and_no_others,
    steps_side_by_side_have_different_gpus,
    a_step_without_gpus_has_none,
    a_job_script_has_the_gpus_of_its_job,
    a_device_is_added_by_its_name,
    a_fast_network_is_there,
);

/// A node with two GPUs; two makers describe them.
fn with_gpus(release: Release) -> World {
    let options =
        Options { slurm_conf: "GresTypes=gpu\n".to_owned(), node_conf: "Gres=gpu:2".to_owned(), ..Options::default() };
    let device = |number: usize| {
        let node = ["/dev/zero", "/dev/full"][number];
        serde_json::json!({
            "name": number.to_string(),
            "containerEdits": {
                "env": [format!("GPU_{number}=here")],
                "deviceNodes": [{"path": node}],
                "mounts": [{
                    "hostPath": format!("/opt/maker/{number}"), "containerPath": format!("/opt/gpu/{number}"),
                    "options": ["ro", "rbind"],
                }],
            },
        })
    };
    let driver = serde_json::json!({
        "cdiVersion": "0.5.0", "kind": "nvidia.com/gpu",
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "mounts": [{"hostPath": "/opt/maker/driver", "containerPath": "/usr/lib/libcuda.so.1", "options": ["ro", "bind"]}],
        },
        "devices": [device(0), device(1), {"name": "all", "containerEdits": {"env": ["GPU_ALL=here"]}}],
    });
    let plain = serde_json::json!({
        "cdiVersion": "0.5.0", "kind": "vendor.example/gpu",
        "devices": [
            {"name": "0", "containerEdits": {"env": ["VENDOR_0=here"]}},
            {"name": "1", "containerEdits": {"env": ["VENDOR_1=here"]}},
        ],
    });
    let net = serde_json::json!({
        "cdiVersion": "0.5.0", "kind": "vendor.example/net",
        "devices": [{"name": "0", "containerEdits": {"env": ["NET_0=here"]}}],
    });
    let options = options
        .file("gres.conf", "Name=gpu File=/dev/zero\nName=gpu File=/dev/full\n")
        .file("/etc/cdi/driver.json", driver.to_string())
        .file("/etc/cdi/plain.json", plain.to_string())
        .file("/etc/cdi/net.json", net.to_string())
        .file("/opt/maker/driver", "a driver")
        .file("/opt/maker/0/serial", "number zero\n")
        .file("/opt/maker/1/serial", "number one\n");
    World::with(release, options.plugin(""))
}

/// Tells which GPUs there are, on a line.
const TELL: &str =
    "echo $(env | grep -E '^(GPU_[0-9A]|VENDOR_|NET_)' | cut -d= -f1 | sort) $(cat /opt/gpu/*/serial 2>/dev/null)";

fn a_step_has_its_own_gpus_and_no_others(release: Release) {
    let world = with_gpus(release);
    let mut rows = Rows::default();
    rows.prints(&world.shell(&["--gres=gpu:1", SMALL], TELL), "GPU_0 VENDOR_0 number zero\n");
    let both = "GPU_0 GPU_1 VENDOR_0 VENDOR_1 number zero number one\n";
    rows.prints(&world.shell(&["--gres=gpu:2", SMALL], TELL), both);
    let driver = world.shell(&["--gres=gpu:1", SMALL], "cat /usr/lib/libcuda.so.1; ls -l /dev/zero | cut -c1");
    rows.prints(&driver, "a driverc\n");
    // What Slurm says of them stays as it is.
    let line = "echo $SLURM_STEP_GPUS ${CUDA_VISIBLE_DEVICES-unset}";
    rows.prints(&world.shell(&["--gres=gpu:1", SMALL], line), "0 0\n");
    rows.end();
    world.assert_clean();
}

fn steps_side_by_side_have_different_gpus(release: Release) {
    let world = with_gpus(release);
    // Each waits until the other is there.
    let line = format!("{TELL}; touch $0; until [ -e one ] && [ -e two ]; do sleep 0.02; done");
    let step = "srun -n1 --exact --gres=gpu:1 --container-image=small --container-mount-home";
    let script = format!(
        "#!/bin/bash\ncat >line <<'END'\n{line}\nEND\n\
         {step} -D {HOME} sh -c \"$(cat line)\" one >said.1 2>errors.1 & {step} -D {HOME} sh -c \"$(cat line)\" two >said.2 2>errors.2\n\
         wait\nsort said.1 said.2; grep -v import errors.1 errors.2\nrm -f one two line said.* errors.*\n"
    );
    let said = world.batch(&["-n2", "--gres=gpu:2"], &script);
    assert_eq!(said, "GPU_0 VENDOR_0 number zero\nGPU_1 VENDOR_1 number one\n");
    world.assert_clean();
}

fn a_step_without_gpus_has_none(release: Release) {
    let world = with_gpus(release);
    let mut rows = Rows::default();
    rows.prints(&world.shell(&[SMALL], TELL), "\n");
    let script =
        format!("#!/bin/sh\nsrun --gres=none --container-image=small sh -c '{}'\n", TELL.replace('\'', "'\\''"));
    rows.same("a step without GPUs in a job with them", world.batch(&["--gres=gpu:2"], &script), "\n".to_owned());
    rows.end();
    world.assert_clean();
}

fn a_job_script_has_the_gpus_of_its_job(release: Release) {
    let world = with_gpus(release);
    let mut rows = Rows::default();
    let script = format!("#!/bin/sh\n{TELL}\n");
    let said = world.batch(&["--gres=gpu:1", SMALL], &script);
    rows.same("a job script in a container", said, "GPU_0 VENDOR_0 number zero\n".to_owned());
    rows.same("one of a job without", world.batch(&[SMALL], &script), "\n".to_owned());
    rows.end();
    world.assert_clean();
}

fn a_device_is_added_by_its_name(release: Release) {
    let world = with_gpus(release);
    let mut rows = Rows::default();
    let net = "--container-device=vendor.example/net=0";
    rows.prints(&world.shell(&[SMALL, net], TELL), "NET_0\n");
    rows.prints(&world.shell(&["--gres=gpu:1", SMALL, net], TELL), "GPU_0 NET_0 VENDOR_0 number zero\n");
    let said = world.srun(&[SMALL, "--container-device=vendor.example/net=7"], &["true"]);
    rows.fails(&said, 1, &["vendor.example/net=7", "vendor.example/net=0"]);
    rows.end();
    world.assert_clean();
}

fn a_fast_network_is_there(release: Release) {
    let world = World::new(release);
    let mut rows = Rows::default();
    let made = "mkdir /dev/infiniband && mknod -m 666 /dev/infiniband/uverbs0 c 1 3 && mknod -m 666 /dev/infiniband/rdma_cm c 1 3";
    world.cluster.root().shell(made).ok();
    let user = world.user().env("UCX_TLS", "rc,self,sm").env("UCX_NET_DEVICES", "mlx5_0:1").env("NCCL_IB_HCA", "mlx5");
    let line =
        "ls /dev/infiniband; echo x >/dev/infiniband/uverbs0 && echo $UCX_TLS $UCX_NET_DEVICES $NCCL_IB_HCA; ulimit -l";
    let locked = world.shell(&[], "ulimit -l").ok();
    let said = user.run(&["srun", SMALL, "sh", "-c", line]);
    rows.prints(&said, &format!("rdma_cm\nuverbs0\nrc,self,sm mlx5_0:1 mlx5\n{locked}"));
    let said = world.srun(&[SMALL], &["ls", "/sys/class"]);
    rows.holds(format!("what the kernel tells of devices: {}", report(&said)), said.stdout.contains("net\n"));
    world.cluster.root().shell("rm -r /dev/infiniband").ok();
    rows.end();
    world.assert_clean();
}
