//! What a host knows of Slurm: the release, where its configuration is, and how its files are read.

pub mod conf;
pub mod gres;
pub mod hostlist;
pub mod oci;
pub mod plugstack;

pub use berth_oci_conf::Release as Version;

use crate::doctor::Host;

/// Where slurm.conf is looked for, in this order. The last is where slurmd of a cluster without files keeps what the
/// controller sent.
const PLACES: [&str; 6] =
    ["/etc/slurm", "/etc/slurm-llnl", "/usr/local/etc/slurm", "/usr/local/etc", "/opt/slurm/etc", CONFIGLESS];

/// See [`PLACES`].
const CONFIGLESS: &str = "/run/slurm/conf";

/// Slurm as this host has it.
#[derive(Clone, Debug)]
pub struct Site {
    /// The release of the commands.
    pub version: Version,
    /// The folder of slurm.conf.
    pub dir: String,
    /// What slurm.conf says; empty where it cannot be read.
    pub conf: Vec<conf::Entry>,
    /// Whether the files come from the controller.
    pub configless: bool,
}

impl Site {
    /// Asks the commands and reads slurm.conf. `None` where there is no Slurm.
    pub fn find(host: &Host) -> Option<Site> {
        let said = host.run(&["scontrol", "--version"]);
        let version = Version::parse(&said.stdout)?;
        let named = host.env("SLURM_CONF").and_then(|file| Some(file.rsplit_once('/')?.0.to_owned()));
        let places = named.into_iter().chain(PLACES.iter().map(|&place| place.to_owned()));
        let dir = places.clone().find(|place| host.exists(&format!("{place}/slurm.conf")));
        let dir = dir.unwrap_or_else(|| PLACES[0].to_owned());
        let conf = conf::read(host, &format!("{dir}/slurm.conf")).unwrap_or_default();
        let mut site = Site { version, configless: dir == CONFIGLESS, dir, conf };
        site.configless |= site.value("SlurmctldParameters").is_some_and(|text| text.contains("enable_configless"));
        Some(site)
    }

    /// A value of slurm.conf; the last one counts.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.conf.iter().rev().find(|entry| entry.key.eq_ignore_ascii_case(key)).map(|entry| entry.value.as_str())
    }

    /// The file of the plugin stack.
    pub fn plugin_stack(&self) -> String {
        self.value("PlugStackConfig").map_or_else(|| self.file("plugstack.conf"), str::to_owned)
    }

    /// Folders with Slurm's own plugins.
    pub fn plugin_dirs(&self) -> impl Iterator<Item = &str> {
        let usual =
            "/usr/lib64/slurm:/usr/lib/slurm:/usr/lib/x86_64-linux-gnu/slurm-wlm:/usr/lib/aarch64-linux-gnu/slurm-wlm";
        self.value("PluginDir").unwrap_or(usual).split(':')
    }

    /// A file beside slurm.conf.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }
}
