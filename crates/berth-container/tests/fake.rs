//! The ownership filter on real processes, as whoever runs the tests: root must be fooled as well as an ordinary user.
#![allow(unsafe_code)] // pre_exec and raw system calls of other ABIs.

use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use berth_container::fake;

/// Runs a shell script behind the filter.
fn behind_filter(script: &str) -> Output {
    let program = fake::program(fake::Abi::NATIVE);
    let mut command = Command::new("/bin/sh");
    command.args(["-euc", script]);
    // SAFETY: `install` makes two system calls and allocates nothing.
    unsafe { command.pre_exec(move || fake::install(&program)) };
    command.output().expect("sh starts")
}

/// The result of `call` made in a forked child behind the filter; the child's exit code is 0 for a result of 0.
fn child_succeeds(call: fn() -> i64) -> bool {
    let program = fake::program(fake::Abi::NATIVE);
    let mut command = Command::new("/bin/true");
    // SAFETY: two system calls and the raw one under test; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            fake::install(&program)?;
            match call() {
                0 => Ok(()),
                error => Err(std::io::Error::from_raw_os_error(-error as i32)),
            }
        })
    };
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn chown_succeeds_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
    let before = file.metadata().unwrap();

    let script = format!("cd '{}'; chown 12345:12345 file; chown -h 54321 link; chgrp 7 file", dir.path().display());
    let output = behind_filter(&script);

    assert!(output.status.success(), "{output:?}");
    let after = file.metadata().unwrap();
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
}

#[test]
fn device_nodes_are_not_made_but_fifos_are() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("cd '{}'; mknod null c 1 3; mknod loop b 7 0; mknod fifo p", dir.path().display());
    let output = behind_filter(&script);

    assert!(output.status.success(), "{output:?}");
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["fifo"]);
}

#[test]
fn other_calls_still_work_and_still_fail() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("cd '{}'; : > file; chmod 640 file; ! cat missing 2>/dev/null", dir.path().display());
    let output = behind_filter(&script);

    assert!(output.status.success(), "{output:?}");
    assert_eq!(dir.path().join("file").metadata().unwrap().permissions().mode() & 0o7777, 0o640);
}

#[test]
fn becoming_somebody_else_is_answered_with_success_and_ids_stay() {
    let output = behind_filter("grep -E '^(Uid|NoNewPrivs|Seccomp):' /proc/self/status");
    let status = String::from_utf8(output.stdout).unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");

    let calls: [fn() -> i64; 4] = [
        // SAFETY: no pointers.
        || i64::from(unsafe { libc::setuid(65534) }),
        // SAFETY: no pointers.
        || i64::from(unsafe { libc::setresgid(65534, 65534, 65534) }),
        // SAFETY: a null pointer with a count of 0.
        || i64::from(unsafe { libc::setgroups(0, std::ptr::null()) }),
        || {
            let before = rustix::process::getuid();
            // SAFETY: a call without pointers.
            unsafe { libc::syscall(libc::SYS_setuid, 65534) };
            i64::from(rustix::process::getuid() != before)
        },
    ];
    for (index, call) in calls.into_iter().enumerate() {
        assert!(child_succeeds(call), "call {index}");
    }
}

#[cfg(target_arch = "x86_64")]
mod other_abis {
    use super::child_succeeds;
    use std::arch::asm;

    /// A system call by the 32-bit entry, which a 64-bit process may use too.
    fn int80(number: u32, argument: u32) -> i64 {
        let result: i32;
        // SAFETY: the kernel reads only the registers named here for calls without pointers; rbx is saved because LLVM
        // keeps it for itself.
        unsafe {
            asm!(
                "push rbx", "mov ebx, {argument:e}", "int 0x80", "pop rbx",
                argument = in(reg) argument,
                inlateout("eax") number => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            )
        };
        i64::from(result)
    }

    fn x32(number: u64, argument: u64) -> i64 {
        let result: i64;
        // SAFETY: a call without pointers; rcx and r11 are what `syscall` overwrites.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number | 0x4000_0000 => result,
                in("rdi") argument, out("rcx") _, out("r11") _,
            )
        };
        result
    }

    #[test]
    fn a_32_bit_call_is_answered() {
        // A kernel without 32-bit support kills the caller: there is nothing to answer then.
        if !child_succeeds(|| i64::from(int80(20, 0) != i64::from(rustix::process::getpid().as_raw_pid()))) {
            return;
        }
        assert!(child_succeeds(|| int80(213, 65534)), "setuid32");
        assert!(
            child_succeeds(|| {
                let before = rustix::process::getuid();
                int80(213, 65534);
                i64::from(rustix::process::getuid() != before)
            }),
            "the uid changed"
        );
    }

    #[test]
    fn an_x32_call_is_answered_even_where_the_kernel_has_none() {
        assert!(child_succeeds(|| x32(105, 65534)), "setuid");
    }
}
