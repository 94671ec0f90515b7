//! How children and other processes ended.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A child that has ended, without waiting for it.
#[allow(unsafe_code)]
pub fn peek_child() -> Option<u32> {
    // SAFETY: room for what is told.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let rc = libc::waitid(libc::P_ALL, 0, &raw mut info, flags);
        (rc == 0 && info.si_pid() > 0).then(|| info.si_pid() as u32)
    }
}

/// How a child ended that has ended, as wait(2)'s status; it stays to be waited for.
#[allow(unsafe_code)]
pub fn peek_status(pid: u32) -> Option<i32> {
    // SAFETY: room for what is told.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let rc = libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT);
        if rc != 0 {
            return None;
        }
        Some(if info.si_code == libc::CLD_EXITED { info.si_status() << 8 } else { info.si_status() })
    }
}

/// How a process ended that another has waited for, as Linux 6.15 and later tell by a descriptor of it.
#[allow(unsafe_code)]
pub fn kernel_exit(process: &OwnedFd) -> Option<i32> {
    /// `struct pidfd_info` of linux/pidfd.h, as it was first.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const EXIT: u64 = 1 << 3;
    let mut info = Info { mask: EXIT, ..Info::default() };
    // _IOWR(0xff, 11, struct pidfd_info)
    let request = (3u64 << 30) | ((size_of::<Info>() as u64) << 16) | (0xff << 8) | 11;
    // SAFETY: the structure is as large as the request says.
    let rc = unsafe { libc::ioctl(process.as_fd().as_raw_fd(), request as _, &raw mut info) };
    (rc == 0 && info.mask & EXIT != 0).then_some(info.exit_code)
}

/// How a process ended that nobody has waited for yet, whoever's child it is: the last field of `/proc/PID/stat`.
pub fn zombie_exit(pid: u32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    // The 3rd and the 52nd.
    (fields.next()? == "Z").then(|| fields.nth(48)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_ended_tells_how_before_and_after_it_was_waited_for() {
        let mut child = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let descriptor = crate::process::open(child.id()).unwrap();
        assert_eq!(peek_status(child.id()), Some(7 << 8));
        assert_eq!(zombie_exit(child.id()), Some(7 << 8));
        assert_eq!(child.wait().unwrap().code(), Some(7));
        assert_eq!(zombie_exit(child.id()), None);
        // Only a new kernel knows, and it knows right.
        assert!(kernel_exit(&descriptor).is_none_or(|status| status == 7 << 8));
    }
}
