//! Processes, as the kernel tells of them: when they were started, and in whose container they are.

/// When a living process was started, in clock ticks since boot.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let mut buffer = [0; 1024];
    parse_start_time(&String::from_utf8_lossy(read_short(&format!("/proc/{pid}/stat"), &mut buffer)?))
}

/// Reads a file of /proc that fits: in one call, as its size is not known before.
fn read_short<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    use std::io::Read;
    let length = std::fs::File::open(path).ok()?.read(buffer).ok()?;
    Some(&buffer[..length])
}

/// Field 22 of proc_pid_stat(5). The second field is the command's name in parentheses, and may contain any of them.
fn parse_start_time(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    // A zombie has ended; only its parent does not know yet.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The kernel's name of the time since this machine was started.
pub(crate) fn boot_id() -> String {
    let mut buffer = [0; 64];
    let text = read_short("/proc/sys/kernel/random/boot_id", &mut buffer).unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_owned()
}

/// Own processes whose root mount has this name. What follows a comma in the mount's source is for others.
pub(super) fn rooted_in(label: &str) -> Vec<u32> {
    let is_in = |found: &Rooted| found.label.split(',').next() == Some(label);
    rooted().into_iter().filter(is_in).map(|found| found.pid).collect()
}

/// What stands in the name of a root mount before the Slurm step that the container is of: see [`step_mark`].
const STEP_MARK: &str = ",job=";

/// The part of a root mount's name ([`crate::launch::Options::label`]) by which the containers of a Slurm step (`JOB.STEP`)
/// are found.
pub fn step_mark(step: &str) -> String {
    format!("{STEP_MARK}{step}")
}

/// A process of this user's in a container of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rooted {
    /// Its number here.
    pub pid: u32,
    /// The name of its root mount.
    pub label: String,
}

impl Rooted {
    /// The Slurm step that the container was made for, as `JOB.STEP`.
    pub fn step(&self) -> Option<&str> {
        self.label.split_once(STEP_MARK)?.1.split(',').next()
    }

    /// The container's name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.label.split(',').next()?.strip_prefix("berth:")?.rsplit_once(':').map(|(name, _)| name)
    }

    /// The digest of its image, without the algorithm.
    pub fn digest(&self) -> Option<&str> {
        self.label.split(',').find_map(|part| part.strip_prefix("image="))
    }
}

/// All processes in containers of ours, as far as this user may see their mounts.
pub fn rooted() -> Vec<Rooted> {
    let mut found: Vec<Rooted> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
            let ours =
                |source: &&str| *source == "berth" || source.starts_with("berth:") || source.starts_with("berth,");
            let label = mounts.lines().filter_map(root_source).find(ours)?;
            Some(Rooted { pid, label: label.to_owned() })
        })
        .collect();
    found.sort_unstable_by_key(|found| found.pid);
    found
}

/// The source of a line of mountinfo, if that is the root mount: `ID PARENT DEV ROOT MOUNTPOINT OPTIONS… - TYPE SOURCE …`.
fn root_source(line: &str) -> Option<&str> {
    let (front, back) = line.split_once(" - ")?;
    (front.split(' ').nth(4)? == "/").then(|| back.split(' ').nth(1)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_full_of_parentheses_does_not_confuse_the_start_time() {
        let fields = (0..60).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(parse_start_time(&format!("7 (a) R (b) S {fields}")), Some(18));
        assert_eq!(parse_start_time(&format!("7 (a) Z {fields}")), None);
        assert_eq!(parse_start_time("7 (a"), None);
    }

    #[test]
    fn the_root_mounts_name_is_read_from_mountinfo() {
        let line = "36 35 0:42 / / rw,relatime shared:1 - overlay berth:one:1 rw,lowerdir=3";
        assert_eq!(root_source(line), Some("berth:one:1"));
        assert_eq!(root_source("36 35 0:42 / /proc rw - proc proc rw"), None);
        assert_eq!(root_source("garbage"), None);
    }
}
