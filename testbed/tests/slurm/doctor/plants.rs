//! Faults on a node, each a line of a shell.

use testbed::slurm::Release;

/// A fault.
pub struct Plant {
    /// The kind that has to be found, and no other.
    pub kind: &'static str,
    /// Plants it.
    pub plant: &'static str,
    /// What comes of it, and is found, too.
    pub also: &'static [&'static str],
    /// Takes away what restoring `/etc` does not.
    pub clean: &'static str,
    /// Whether `--fix` mends it.
    pub mended: bool,
    /// Where it is one.
    pub releases: &'static [Release],
}

const fn found(kind: &'static str, plant: &'static str, clean: &'static str) -> Plant {
    Plant { kind, plant, also: &[], clean, mended: false, releases: &Release::ALL }
}

const fn mended(kind: &'static str, plant: &'static str, clean: &'static str) -> Plant {
    Plant { kind, plant, also: &[], clean, mended: true, releases: &Release::ALL }
}

/// All of them.
pub const PLANTS: &[Plant] = &[
    found("oci-unknown-key", "echo Nonsense=1 >>/etc/slurm/oci.conf", ""),
    found("oci-syntax", "echo nonsense >>/etc/slurm/oci.conf", ""),
    found("oci-unknown-pattern", "sed -i 's/%n/%N/' /etc/slurm/oci.conf", ""),
    found("oci-user-string", "sed -i 's/kill -a/kill -a %b/' /etc/slurm/oci.conf", ""),
    found("oci-no-exec", "sed -i 's/\"exec /\"/' /etc/slurm/oci.conf", ""),
    found("oci-open-root", "echo 'RunTimeKill=\"berth-runtime --root=/tmp kill x\"' >>/etc/slurm/oci.conf", ""),
    found("oci-incomplete", "sed -i /^RunTimeDelete/d /etc/slurm/oci.conf", ""),
    found("oci-runtime", "echo 'RunTimeKill=\"crun kill x\"' >>/etc/slurm/oci.conf", ""),
    found("oci-sudo", "echo 'RunTimeKill=\"sudo berth-runtime kill x\"' >>/etc/slurm/oci.conf", ""),
    mended("oci-open", "chmod 666 /etc/slurm/oci.conf", ""),
    Plant { releases: &[Release::Trixie, Release::Forky], ..found("oci-missing", "rm /etc/slurm/oci.conf", "") },
    Plant {
        releases: &[Release::Bookworm],
        ..found("oci-unknown-key", "echo 'EnvExclude=\"^SLURM_CONF=\"' >>/etc/slurm/oci.conf", "")
    },
    Plant {
        releases: &[Release::Trixie, Release::Forky],
        ..found("oci-environment", "sed -i /^EnvExclude/d /etc/slurm/oci.conf", "")
    },
    found("plugin-missing", "sed -i s,/usr/lib/berth,/nowhere, /etc/slurm/plugstack.conf", ""),
    found(
        "plugin-broken",
        "echo no object >/opt/spank_berth.so; echo optional /opt/spank_berth.so >/etc/slurm/plugstack.conf",
        "rm /opt/spank_berth.so",
    ),
    mended(
        "plugin-open",
        "cp /usr/lib/berth/spank_berth.so /opt; chmod 777 /opt/spank_berth.so; \
         echo optional /opt/spank_berth.so >/etc/slurm/plugstack.conf",
        "rm /opt/spank_berth.so",
    ),
    found(
        "plugin-pyxis",
        "cp /usr/lib/berth/spank_berth.so /opt/spank_pyxis.so; \
         echo optional /opt/spank_pyxis.so >>/etc/slurm/plugstack.conf",
        "rm /opt/spank_pyxis.so",
    ),
    // srun says so, and the check-up knows why.
    Plant {
        also: &["plugin-setting"],
        ..found("plugin-not-loaded", "sed -i 's,spank_berth.so,& nonsense=1,' /etc/slurm/plugstack.conf", "")
    },
    mended(
        "runtime-path-missing",
        "sed -i 's,spank_berth.so,& runtime_path=/srv/no/where,' /etc/slurm/plugstack.conf",
        "rm -r /srv/no",
    ),
    mended(
        "runtime-path-open",
        "mkdir /srv/r; chmod 777 /srv/r; sed -i 's,spank_berth.so,& runtime_path=/srv/r,' /etc/slurm/plugstack.conf",
        "rmdir /srv/r",
    ),
    found(
        "runtime-path-owner",
        "mkdir /srv/r; chown tuser1 /srv/r; sed -i 's,spank_berth.so,& runtime_path=/srv/r,' /etc/slurm/plugstack.conf",
        "rmdir /srv/r",
    ),
    found(
        "runtime-path-read-only",
        "mkdir -p /srv/s; mount -t tmpfs -o ro tmpfs /srv/s; \
         sed -i 's,spank_berth.so,& runtime_path=/srv/s/berth,' /etc/slurm/plugstack.conf",
        "umount /srv/s; rmdir /srv/s",
    ),
    found(
        "runtime-path-full",
        "mkdir -p /srv/s; mount -t tmpfs -o size=1m tmpfs /srv/s; \
         sed -i 's,spank_berth.so,& runtime_path=/srv/s/berth,' /etc/slurm/plugstack.conf",
        "umount /srv/s; rmdir /srv/s",
    ),
    found("plugin-unused", ">/etc/slurm/plugstack.conf", ""),
    found("plugstack-line", "echo Optional /opt/x.so >>/etc/slurm/plugstack.conf", ""),
    // The controller is asked with a credential.
    Plant {
        also: &["slurm-controller"],
        ..found(
            "munge-dead",
            "echo AuthInfo=socket=/run/munge/none >>/etc/slurm/slurm.conf; cp /dev/null /run/munge/none",
            "rm /run/munge/none",
        )
    },
    Plant {
        also: &["slurm-controller"],
        ..found("munge-socket", "echo AuthInfo=socket=/run/munge/none >>/etc/slurm/slurm.conf", "")
    },
    found("script-missing", "echo Epilog=/etc/slurm/epilog.sh >>/etc/slurm/slurm.conf", ""),
    mended(
        "script-mode",
        "echo Epilog=/etc/slurm/epilog.sh >>/etc/slurm/slurm.conf; echo '#!/bin/sh' >/etc/slurm/epilog.sh; \
         chmod 644 /etc/slurm/epilog.sh",
        "rm /etc/slurm/epilog.sh",
    ),
    mended(
        "script-open",
        "echo Prolog=/etc/slurm/prolog.sh >>/etc/slurm/slurm.conf; echo '#!/bin/sh' >/etc/slurm/prolog.sh; \
         chmod 777 /etc/slurm/prolog.sh",
        "rm /etc/slurm/prolog.sh",
    ),
    found(
        "script-interpreter",
        "echo Epilog=/etc/slurm/epilog.sh >>/etc/slurm/slurm.conf; printf '#!/bin/sh\\r\\n' >/etc/slurm/epilog.sh; \
         chmod 755 /etc/slurm/epilog.sh",
        "rm /etc/slurm/epilog.sh",
    ),
    found("slurm-proctrack", "echo ProctrackType=proctrack/linuxproc >>/etc/slurm/slurm.conf", ""),
    found("slurm-interactive", "sed -i /^LaunchParameters/d /etc/slurm/slurm.conf", ""),
    found("slurm-cgroup-plugin", "echo CgroupPlugin=cgroup/v2 >/etc/slurm/cgroup.conf", ""),
    found("mpi-default", "echo MpiDefault=pmix_v9 >>/etc/slurm/slurm.conf", ""),
    found("gres-autodetect", "echo AutoDetect=nvml >/etc/slurm/gres.conf", "rm /etc/slurm/gres.conf"),
    found("gres-device", "echo Name=gpu File=/dev/none0 >/etc/slurm/gres.conf", "rm /etc/slurm/gres.conf"),
    found("config-broken", "mkdir -p /etc/berth; echo nonsense = 1 >/etc/berth/berth.toml", ""),
    found("store-unwritable", "mkdir -p /home/tuser1/.local/share/berth/store", "rm -r /home/tuser1/.local"),
    mended(
        "store-open",
        "mkdir -p /srv/store /etc/berth; chmod 777 /srv/store; echo 'stores = [\"/srv/store\"]' >/etc/berth/berth.toml",
        "rmdir /srv/store",
    ),
    found(
        "store-noexec",
        "mkdir -p /srv/s /etc/berth; mount -t tmpfs -o noexec,mode=1777 tmpfs /srv/s; \
         echo 'store = \"/srv/s/$USER\"' >/etc/berth/berth.toml",
        "umount /srv/s; rmdir /srv/s",
    ),
    found(
        "store-full",
        "mkdir -p /srv/s /etc/berth; mount -t tmpfs -o size=1m,mode=1777 tmpfs /srv/s; \
         echo 'store = \"/srv/s/$USER\"' >/etc/berth/berth.toml",
        "umount /srv/s; rmdir /srv/s",
    ),
    mended(
        "userns-few",
        "echo 5 >/tmp/few; mount --bind /tmp/few /proc/sys/user/max_user_namespaces",
        "umount /proc/sys/user/max_user_namespaces; rm -f /tmp/few /etc/sysctl.d/60-berth.conf",
    ),
    mended(
        "namespaces-few",
        "echo 5 >/tmp/few; mount --bind /tmp/few /proc/sys/user/max_net_namespaces",
        "umount /proc/sys/user/max_net_namespaces; rm -f /tmp/few /etc/sysctl.d/60-berth.conf",
    ),
    mended("fuse-closed", "chmod 600 /dev/fuse", "chmod 666 /dev/fuse"),
    mended(
        "newuidmap-powerless",
        "cp /bin/true /usr/bin/newuidmap; cp /bin/true /usr/bin/newgidmap; chmod 4755 /usr/bin/newgidmap",
        "rm /usr/bin/newuidmap /usr/bin/newgidmap",
    ),
    found(
        "subid-overlap",
        "printf 'tuser1:100000:65536\\ntuser2:110000:65536\\n' | tee /etc/subuid >/etc/subgid",
        "rm /etc/subuid /etc/subgid",
    ),
    found(
        "subid-sequential",
        "printf 'tuser1:65536:65536\\ntuser2:131072:65536\\n' | tee /etc/subuid >/etc/subgid",
        "rm /etc/subuid /etc/subgid",
    ),
    found("podman-storage-conf", "echo '[storage' >/etc/containers/storage.conf", "rm /etc/containers/storage.conf"),
    found(
        "podman-runtime",
        "printf '[engine]\\nruntime = \"kata\"\\n' >/etc/containers/containers.conf",
        "rm /etc/containers/containers.conf",
    ),
    found("docker-json", "mkdir -p /etc/docker; echo '{' >/etc/docker/daemon.json", ""),
    found(
        "docker-variable",
        "mkdir -p /etc/docker; echo '{\"data-root\": \"/var/tmp/${USER}/x\"}' >/etc/docker/daemon.json",
        "",
    ),
    mended(
        "enroot-missing",
        "mkdir -p /etc/enroot; echo 'ENROOT_DATA_PATH /srv/enroot/data-$(id -u)' >/etc/enroot/enroot.conf",
        "rm -r /srv/enroot",
    ),
    found(
        "certificate-broken",
        "mkdir -p /etc/containers/certs.d/r; echo DER >/etc/containers/certs.d/r/ca.crt",
        "rm -r /etc/containers/certs.d",
    ),
];
