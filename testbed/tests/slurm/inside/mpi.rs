//! Ranks of two nodes that find each other through Slurm: by PMIx, and by PMI.

use testbed::process::Output;
use testbed::slurm::Release;

use crate::plugin::world::HOME;
use crate::plugin::world::Rows;
use crate::plugin::world::World;
use crate::plugin::world::report;

on_each_release!("inside_mpi" with registry:
    ranks_of_two_nodes_meet_by_pmix,
    ranks_of_two_nodes_meet_by_pmi,
    ranks_of_openmpi_5_meet,
    ranks_prove_who_they_are_in_each_way_of_pmix,
    ranks_of_one_container_copy_from_each_other,
);

/// A ring and a sum of all ranks, by OpenMPI.
const OPENMPI: &str = r#"
import os
from mpi4py import MPI
world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
token = world.sendrecv(rank * 10, dest=(rank + 1) % size, source=(rank - 1) % size)
total = world.allreduce(rank + 1)
print("rank %d of %d on %s: %d %d" % (rank, size, os.environ["SLURMD_NODENAME"], token, total))
"#;

/// The same by MPICH, which Python knows nothing of: its library is called as its header has it.
const MPICH: &str = r#"
import ctypes, os
mpi = ctypes.CDLL("libmpich.so.12")
world, integer, total_of = 0x44000000, 0x4c000405, 0x58000003
assert mpi.MPI_Init(None, None) == 0
def ask(function):
    answer = ctypes.c_int()
    assert function(world, ctypes.byref(answer)) == 0
    return answer.value
rank, size = ask(mpi.MPI_Comm_rank), ask(mpi.MPI_Comm_size)
mine, token, total = ctypes.c_int(rank * 10), ctypes.c_int(), ctypes.c_int()
assert mpi.MPI_Sendrecv(ctypes.byref(mine), 1, integer, (rank + 1) % size, 7, ctypes.byref(token), 1, integer,
                        (rank - 1) % size, 7, world, ctypes.c_void_p(1)) == 0
mine.value = rank + 1
assert mpi.MPI_Allreduce(ctypes.byref(mine), ctypes.byref(total), 1, integer, total_of, world) == 0
print("rank %d of %d on %s: %d %d" % (rank, size, os.environ["SLURMD_NODENAME"], token.value, total.value), flush=True)
assert mpi.MPI_Barrier(world) == 0
# Now and then MPI_Finalize of MPICH 4.0 over UCX does not come back, after all messages have arrived: with the same libraries
# outside of containers, too (4 of 32 runs). So the end is left out.
os._exit(0)
"#;

/// What four ranks on two nodes say.
const SAID: [&str; 4] =
    ["rank 0 of 4 on n1: 30 10", "rank 1 of 4 on n1: 0 10", "rank 2 of 4 on n2: 10 10", "rank 3 of 4 on n2: 20 10"];

/// Debian's Slurm 26.05 has no plugin for PMIx.
fn has_pmix(world: &World) -> bool {
    let said = world.user().run(&["srun", "--mpi=list"]);
    let text = format!("{}{}", said.stdout, said.stderr);
    let has = text.contains("pmix");
    assert_eq!(has, world.cluster.release != Release::Forky, "{text}");
    has
}

fn four_ranks(world: &World, options: &[&str], variables: &[(&str, &str)], program: &str) -> Output {
    world.user().write(&format!("{HOME}/ranks.py"), program);
    let mut session = world.user();
    for (name, value) in variables {
        session = session.env(name, value);
    }
    let ranks = ["srun", "-N2", "-n4", "--ntasks-per-node=2", "--container-mount-home"];
    session.run(&[&ranks, options, &["python3", &format!("{HOME}/ranks.py")]].concat())
}

fn meet(rows: &mut Rows, what: &str, said: &Output) {
    let mut lines: Vec<&str> = said.stdout.lines().collect();
    lines.sort_unstable();
    if said.code() != 0 || lines != SAID {
        rows.holds(format!("{what}: {}", report(said)), false);
    }
}

fn ranks_of_two_nodes_meet_by_pmix(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    if has_pmix(&world) {
        meet(&mut rows, "OpenMPI", &four_ranks(&world, &["--mpi=pmix", "--container-image=mpi"], &[], OPENMPI));
    }
    rows.end();
    world.assert_clean();
}

fn ranks_of_two_nodes_meet_by_pmi(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    // The loopback of a node is its own, and UCX takes it for a way to the other.
    let variables = [("UCX_TLS", "tcp,self"), ("UCX_NET_DEVICES", "eth0")];
    meet(&mut rows, "MPICH", &four_ranks(&world, &["--mpi=pmi2", "--container-image=mpich"], &variables, MPICH));
    rows.end();
    world.assert_clean();
}

fn ranks_of_openmpi_5_meet(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    if has_pmix(&world) {
        meet(&mut rows, "OpenMPI 5", &four_ranks(&world, &["--mpi=pmix", "--container-image=mpi:5"], &[], OPENMPI));
    }
    rows.end();
    world.assert_clean();
}

fn ranks_prove_who_they_are_in_each_way_of_pmix(release: Release) {
    let world = World::nodes(release, 2);
    let mut rows = Rows::default();
    if has_pmix(&world) {
        let line = "case $PMIX_SECURITY_MODE in *munge*native*) echo both;; *) echo \"$PMIX_SECURITY_MODE\";; esac";
        rows.prints(&world.shell(&["--mpi=pmix", "--container-image=mpi"], line), "both\n");
        for mode in ["native", "munge"] {
            let variables = [("PMIX_MCA_psec", mode)];
            let said = four_ranks(&world, &["--mpi=pmix", "--container-image=mpi"], &variables, OPENMPI);
            meet(&mut rows, mode, &said);
        }
        // Without munge's socket its way is none: the test above is one of the socket.
        let hidden = ["--mpi=pmix", "--container-image=mpi", "--container-mounts=umount:/run/munge"];
        let said = four_ranks(&world, &hidden, &[("PMIX_MCA_psec", "munge")], OPENMPI);
        rows.holds(format!("munge is asked: {}", report(&said)), said.code() != 0 || !said.stdout.contains("of 4"));
    }
    rows.end();
    world.assert_clean();
}

fn ranks_of_one_container_copy_from_each_other(release: Release) {
    let world = World::new(release);
    let line = "import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
class Part(ctypes.Structure):
    _fields_ = [('at', ctypes.c_void_p), ('size', ctypes.c_size_t)]
mine = ctypes.create_string_buffer(b'of rank %s' % os.environb[b'SLURM_PROCID'])
own = '/dev/shm/' + os.environ['SLURM_PROCID']
with open(own + '.new', 'w') as file:
    file.write('%d %d' % (os.getpid(), ctypes.addressof(mine)))
os.rename(own + '.new', own)
other = '/dev/shm/%d' % (1 - int(os.environ['SLURM_PROCID']))
while not os.path.exists(other):
    os.sched_yield()
pid, address = map(int, open(other).read().split())
room = ctypes.create_string_buffer(16)
read = libc.process_vm_readv(pid, ctypes.byref(Part(ctypes.addressof(room), 9)), 1, ctypes.byref(Part(address, 9)), 1, 0)
print(read, ctypes.get_errno(), room.value.decode())
open(own + '.done', 'w')
while not os.path.exists(other + '.done'):
    os.sched_yield()
";
    let said = world.srun(&["-n2", "--container-image=mpich"], &["python3", "-c", line]);
    let text = said.ok();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["9 0 of rank 0", "9 0 of rank 1"]);
    world.cluster.node("n1").shell("rm -f /dev/shm/[01]*").ok();
    world.assert_clean();
}
