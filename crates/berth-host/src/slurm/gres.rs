//! gres.conf and the GPUs that it is about.

use super::Site;
use super::conf;
use super::hostlist;
use crate::doctor::Host;

/// GPUs of one maker on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// Device files, as one pattern.
    pub files: String,
    /// How many.
    pub count: usize,
    /// What `AutoDetect` may be told, the best first; each has a plugin of that name.
    pub detects: &'static [(&'static str, &'static str)],
}

/// With the driver's library; since 24.11 without it.
const NVIDIA: &[(&str, &str)] = &[
    (
        "nvml",
        "slurmd asks the driver's library which GPUs there are, near which cores, and how they are connected; and for MIG",
    ),
    (
        "nvidia",
        "slurmd asks the driver which GPUs there are and near which cores; MIG and connections need Slurm built with NVML",
    ),
];
const AMD: &[(&str, &str)] =
    &[("rsmi", "slurmd asks the driver's library which GPUs there are, near which cores, and how they are connected")];

/// The GPUs of this host, as far as there are device files of theirs: NVIDIA's, or those of AMD's driver for computing.
pub fn find(host: &Host) -> Option<Gpus> {
    let numbers = |dir: &str, prefix: &str| {
        let names = host.list(dir);
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    };
    let of = |prefix: &str, numbers: &[u32], detects| match numbers {
        [] => None,
        [one] => Some(Gpus { files: format!("{prefix}{one}"), count: 1, detects }),
        many => Some(Gpus { files: format!("{prefix}[{}]", hostlist::numbers(many)), count: many.len(), detects }),
    };
    of("/dev/nvidia", &numbers("/dev", "nvidia"), NVIDIA).or_else(|| {
        let render = if host.exists("/dev/kfd") { numbers("/dev/dri", "renderD") } else { Vec::new() };
        of("/dev/dri/renderD", &render, AMD)
    })
}

/// Whether Slurm here was built with a plugin for that word of `AutoDetect`.
pub fn detects(host: &Host, site: &Site, word: &str) -> bool {
    site.plugin_dirs().any(|dir| host.exists(&format!("{dir}/gpu_{}.so", word.to_ascii_lowercase())))
}

/// Whether `AutoDetect` with that word finds something here. Slurm 24.11 crashes where the driver's folders are not all there.
pub fn would_detect(host: &Host, site: &Site, word: &str) -> bool {
    let folders = ["/proc/driver/nvidia/gpus", "/sys/bus/pci/drivers/nvidia"];
    detects(host, site, word) && (word != "nvidia" || folders.iter().all(|dir| host.exists(dir)))
}

/// The name by which Slurm knows this host: by the host's own, or by `NodeHostname`.
pub fn node_name(host: &Host, site: &Site) -> String {
    let own = host.name.split('.').next().unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for entry in &site.conf {
        if entry.key.eq_ignore_ascii_case("NodeName") {
            names = hostlist::expand(&entry.value);
        } else if entry.key.eq_ignore_ascii_case("NodeHostname") {
            let hosts = hostlist::expand(&entry.value);
            if let Some(name) = hosts.iter().position(|name| name == own).and_then(|at| names.get(at)) {
                return name.clone();
            }
        }
    }
    own.to_owned()
}

/// What the lines of gres.conf that hold for a node say.
pub fn of_node(text: &str, node: &str) -> Vec<conf::Entry> {
    let mut found = Vec::new();
    let mut holds = true;
    let mut line = 0;
    for entry in conf::parse(text).0 {
        if entry.line != line {
            (holds, line) = (true, entry.line);
        }
        if entry.key.eq_ignore_ascii_case("NodeName") {
            holds = hostlist::expand(&entry.value).iter().any(|name| name == node);
        } else if holds {
            found.push(entry);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::world::World;

    #[test]
    fn gpus_are_found_by_their_device_files() {
        let mut world = World::healthy("26.05.5");
        let found = |world: &World| find(&world.host()).map(|gpus| (gpus.files, gpus.count));
        assert_eq!(found(&world), Some(("/dev/nvidia[0-1]".to_owned(), 2)));
        world.write("/dev/nvidiactl", "");
        world.write("/dev/nvidia-uvm", "");
        world.remove("/dev/nvidia1");
        world.write("/dev/nvidia3", "");
        assert_eq!(found(&world), Some(("/dev/nvidia[0,3]".to_owned(), 2)));
        world.remove("/dev/nvidia0");
        assert_eq!(found(&world), Some(("/dev/nvidia3".to_owned(), 1)));
        world.remove("/dev/nvidia3");
        // A graphics card of whatever kind is no GPU for computing.
        world.write("/dev/dri/renderD128", "");
        assert_eq!(found(&world), None);
        world.write("/dev/kfd", "");
        assert_eq!(found(&world), Some(("/dev/dri/renderD128".to_owned(), 1)));
    }

    #[test]
    fn lines_hold_for_the_nodes_that_they_name() {
        let text = "AutoDetect=off\nNodeName=n[1-2] Name=gpu File=/dev/a\nNodeName=n3 Name=gpu File=/dev/b\nName=nic File=/dev/c\n";
        let values =
            |node: &str| of_node(text, node).into_iter().map(|entry| entry.value).collect::<Vec<_>>().join(" ");
        assert_eq!(values("n2"), "off gpu /dev/a nic /dev/c");
        assert_eq!(values("n3"), "off gpu /dev/b nic /dev/c");
        assert_eq!(values("n4"), "off nic /dev/c");
    }

    #[test]
    fn a_node_may_have_another_name_than_its_host() {
        let mut world = World::healthy("26.05.5");
        let name = |world: &World| {
            let host = world.host();
            node_name(&host, host.slurm().unwrap())
        };
        assert_eq!(name(&world), "n1");
        world.append("/etc/slurm/slurm.conf", "NodeName=gpu[7-9] NodeHostname=x,n1,y");
        assert_eq!(name(&world), "gpu8");
    }
}
