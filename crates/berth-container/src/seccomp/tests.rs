use libc::sock_filter;
use proptest::prelude::*;

use super::*;
use crate::oci::{Seccomp, SeccompArg, SeccompRule};

const PERM: u32 = ERRNO | libc::EPERM as u32;
const NOSYS: u32 = ERRNO | libc::ENOSYS as u32;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// Runs a program over one `struct seccomp_data` as the kernel would, and panics on what the kernel would reject.
fn simulate(program: &[sock_filter], arch: u32, number: u32, arguments: &[u64]) -> u32 {
    let mut data = [0u8; 64];
    data[0..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (index, argument) in arguments.iter().enumerate() {
        data[16 + 8 * index..24 + 8 * index].copy_from_slice(&argument.to_le_bytes());
    }
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let code = u32::from(code);
        at += 1;
        let holds = match code {
            c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                let offset = k as usize;
                accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
                continue;
            }
            c if c == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => {
                accumulator &= k;
                continue;
            }
            c if c == libc::BPF_JMP | libc::BPF_JA => {
                at += k as usize;
                continue;
            }
            c if c == libc::BPF_RET | libc::BPF_K => return k,
            c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => accumulator == k,
            c if c == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => accumulator > k,
            c if c == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => accumulator >= k,
            c if c == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K => accumulator & k != 0,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if holds { jt } else { jf });
    }
}

fn profile() -> Seccomp {
    serde_json::from_str(include_str!("../../tests/data/seccomp.json")).unwrap()
}

fn rule(name: &str, action: &str, args: &[(u32, &str, u64, u64)]) -> SeccompRule {
    SeccompRule {
        names: vec![name.to_owned()],
        action: action.to_owned(),
        errno_ret: None,
        args: args
            .iter()
            .map(|&(index, op, value, value_two)| SeccompArg { index, value, value_two, op: op.to_owned() })
            .collect(),
    }
}

fn allowing(rules: Vec<SeccompRule>) -> Seccomp {
    Seccomp { default_action: "SCMP_ACT_ALLOW".to_owned(), syscalls: rules, ..Seccomp::default() }
}

fn compiled(seccomp: &Seccomp) -> Filter {
    compile(seccomp).unwrap().expect("a filter")
}

fn native(filter: &Filter, call: libc::c_long, arguments: &[u64]) -> u32 {
    simulate(&filter.program, NATIVE, call as u32, arguments)
}

#[track_caller]
fn fault(seccomp: &Seccomp) -> String {
    match compile(seccomp) {
        Err(error) => error.to_string(),
        Ok(filter) => panic!("{} instructions", filter.map_or(0, |filter| filter.program.len())),
    }
}

#[test]
fn what_allows_everything_is_no_filter() {
    assert!(compile(&Seccomp::default()).unwrap().is_none());
    assert!(compile(&allowing(Vec::new())).unwrap().is_none());
    assert!(compile(&allowing(vec![rule("mkdir", "SCMP_ACT_ALLOW", &[])])).unwrap().is_none());
}

#[test]
fn calls_get_the_actions_of_a_profile() {
    let filter = compiled(&profile());
    let table: &[(libc::c_long, &[u64], u32)] = &[
        (libc::SYS_read, &[], ALLOW),
        (libc::SYS_mount, &[], PERM),
        (libc::SYS_keyctl, &[], PERM),
        (libc::SYS_clone3, &[], NOSYS),
        (libc::SYS_mkdirat, &[], ERRNO | libc::EROFS as u32),
        (libc::SYS_kexec_load, &[], libc::SECCOMP_RET_KILL_PROCESS),
        (libc::SYS_swapoff, &[], libc::SECCOMP_RET_KILL_THREAD),
        (libc::SYS_swapon, &[], libc::SECCOMP_RET_TRAP),
        (libc::SYS_acct, &[], TRACE | 7),
        (libc::SYS_getpgid, &[], LOG),
        (libc::SYS_personality, &[0], ALLOW),
        (libc::SYS_personality, &[0xffff_ffff], ALLOW),
        (libc::SYS_personality, &[8], PERM),
        (libc::SYS_clone, &[libc::CLONE_VM as u64], ALLOW),
        (libc::SYS_clone, &[libc::CLONE_NEWUSER as u64], PERM),
        (libc::SYS_socket, &[2, 1, 9], ALLOW),
        (libc::SYS_socket, &[16, 3, 0], ALLOW),
        (libc::SYS_socket, &[16, 3, 9], ERRNO | libc::EINVAL as u32),
    ];
    for (call, arguments, expected) in table {
        let answer = native(&filter, *call, arguments);
        assert_eq!(answer, *expected, "call {call} with {arguments:?}: {answer:#x}");
    }
    assert_eq!(filter.flags, FLAG_SPEC_ALLOW);
}

#[test]
fn every_operator_compares_whole_64_bit_values() {
    const BIG: u64 = 0x1_0000_0005;
    type Values = &'static [(u64, bool)];
    let cases: &[(&str, u64, u64, Values)] = &[
        ("SCMP_CMP_EQ", BIG, 0, &[(BIG, true), (5, false), (BIG + 1, false)]),
        ("SCMP_CMP_NE", BIG, 0, &[(BIG, false), (5, true)]),
        ("SCMP_CMP_LT", BIG, 0, &[(BIG - 1, true), (BIG, false), (u64::MAX, false)]),
        ("SCMP_CMP_LE", BIG, 0, &[(BIG, true), (BIG + 1, false)]),
        ("SCMP_CMP_GT", BIG, 0, &[(BIG + 1, true), (BIG, false), (5, false)]),
        ("SCMP_CMP_GE", BIG, 0, &[(BIG, true), (BIG - 1, false)]),
        ("SCMP_CMP_MASKED_EQ", 0xf0_0000_00f0, 0x10_0000_0020, &[(0x1f_0000_002f, true), (0x2f, false)]),
    ];
    for (operator, value, value_two, values) in cases {
        let filter = compiled(&allowing(vec![rule("umask", "SCMP_ACT_ERRNO", &[(0, operator, *value, *value_two)])]));
        for (argument, refused) in *values {
            let expected = if *refused { PERM } else { ALLOW };
            assert_eq!(native(&filter, libc::SYS_umask, &[*argument]), expected, "{argument:#x} {operator} {value:#x}");
        }
    }
}

#[test]
fn conditions_on_one_argument_are_rules_of_their_own_and_on_several_hold_together() {
    let both = [(0, "SCMP_CMP_EQ", 1, 0), (1, "SCMP_CMP_EQ", 2, 0)];
    let filter = compiled(&allowing(vec![rule("setregid", "SCMP_ACT_ERRNO", &both)]));
    assert_eq!(native(&filter, libc::SYS_setregid, &[1, 2]), PERM);
    assert_eq!(native(&filter, libc::SYS_setregid, &[1, 3]), ALLOW);

    let either = [(0, "SCMP_CMP_EQ", 1, 0), (0, "SCMP_CMP_EQ", 2, 0)];
    let filter = compiled(&allowing(vec![rule("setregid", "SCMP_ACT_ERRNO", &either)]));
    for (argument, expected) in [(1, PERM), (2, PERM), (3, ALLOW)] {
        assert_eq!(native(&filter, libc::SYS_setregid, &[argument]), expected);
    }
}

#[test]
fn calls_newer_than_the_profile_do_not_exist_and_older_ones_are_refused() {
    let mut seccomp = profile();
    let filter = compiled(&seccomp);
    // The newest that it names is faccessat2, by its number.
    for (number, expected) in [(439, ALLOW), (440, NOSYS), (462, NOSYS), (100_000, NOSYS), (434, PERM)] {
        assert_eq!(simulate(&filter.program, NATIVE, number, &[]), expected, "call {number}");
    }
    for (action, errno, expected) in [
        ("SCMP_ACT_KILL", None, NOSYS),
        ("SCMP_ACT_ERRNO", Some(38), NOSYS),
        ("SCMP_ACT_TRACE", None, TRACE | 1),
        ("SCMP_ACT_LOG", None, LOG),
    ] {
        seccomp.default_action = action.to_owned();
        seccomp.default_errno_ret = errno;
        seccomp.syscalls.truncate(1);
        assert_eq!(simulate(&compiled(&seccomp).program, NATIVE, 462, &[]), expected, "{action}");
    }
    let open = compiled(&allowing(vec![rule("mkdirat", "SCMP_ACT_ERRNO", &[])]));
    assert_eq!(simulate(&open.program, NATIVE, 462, &[]), ALLOW);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn other_architectures_have_their_own_numbers_and_are_killed_where_they_are_not_listed() {
    const I386: u32 = 0x4000_0003;
    const X32: u32 = 0x4000_0000;
    let mut seccomp = profile();
    let filter = compiled(&seccomp);
    assert_eq!(simulate(&filter.program, I386, 3, &[]), libc::SECCOMP_RET_KILL_THREAD);
    assert_eq!(simulate(&filter.program, NATIVE, X32, &[]), libc::SECCOMP_RET_KILL_THREAD);

    seccomp.architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"].map(str::to_owned).to_vec();
    let filter = compiled(&seccomp);
    for (arch, number, expected) in [
        (I386, 3, ALLOW), // read
        (I386, 21, PERM), // mount
        (I386, 462, NOSYS),
        (NATIVE, X32, ALLOW),      // read
        (NATIVE, X32 | 165, PERM), // mount
        (NATIVE, X32 | 5000, NOSYS),
        (NATIVE, 462, NOSYS),
        (NATIVE, 0, ALLOW),
        (0xc000_00b7, 63, libc::SECCOMP_RET_KILL_THREAD), // read on aarch64
    ] {
        assert_eq!(simulate(&filter.program, arch, number, &[]), expected, "{arch:#x} {number:#x}");
    }
}

#[test]
fn every_architecture_of_the_specification_is_understood_or_named_as_unknown() {
    let mut one_order = 0;
    for (name, _) in ARCHITECTURES {
        let seccomp = Seccomp { architectures: vec![(*name).to_owned()], ..profile() };
        match compile(&seccomp) {
            Ok(filter) => {
                one_order += 1;
                // Whatever stands before must still end in the profile.
                assert_eq!(native(&filter.unwrap(), libc::SYS_read, &[]), ALLOW, "{name}");
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("endian") || text.contains(&format!("`{name}` is not known")), "{text}");
            }
        }
    }
    assert!(one_order >= 8, "{one_order}");
    let seccomp = Seccomp { architectures: vec!["SCMP_ARCH_PDP11".to_owned()], ..profile() };
    assert_eq!(
        fault(&seccomp),
        "invalid container configuration: linux.seccomp.architectures: unknown name `SCMP_ARCH_PDP11`"
    );
}

#[test]
fn flags_are_handed_on() {
    let flags =
        |names: &[&str], notifies| super::flags(&names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>(), notifies);
    assert_eq!(flags(&[], false).unwrap(), FLAG_SPEC_ALLOW);
    assert_eq!(flags(&["SECCOMP_FILTER_FLAG_LOG"], false).unwrap(), 2);
    assert_eq!(flags(&["SECCOMP_FILTER_FLAG_TSYNC"], true).unwrap(), 1 | 8 | 16);
    assert_eq!(flags(&["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], true).unwrap(), 8 | 32);
    assert_eq!(flags(&["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], false).unwrap(), 0);
    assert!(flags(&["SECCOMP_FILTER_FLAG_NEW_LISTENER"], false).is_err());
}

#[test]
fn a_listener_is_needed_for_notifications_and_only_for_them() {
    let mut seccomp = allowing(vec![rule("mkdirat", "SCMP_ACT_NOTIFY", &[])]);
    assert!(fault(&seccomp).contains("linux.seccomp.listenerPath: missing"));
    seccomp.listener_path = Some("/run/agent.sock".into());
    seccomp.listener_metadata = Some("x".to_owned());
    let filter = compiled(&seccomp);
    assert_eq!(native(&filter, libc::SYS_mkdirat, &[]), NOTIFY);
    assert_eq!(filter.listener.unwrap().metadata.as_deref(), Some("x"));

    seccomp.syscalls[0].names[0] = "sendmsg".to_owned();
    assert!(fault(&seccomp).contains("sendmsg"));
    seccomp.default_action = "SCMP_ACT_NOTIFY".to_owned();
    assert!(fault(&seccomp).contains("defaultAction"));

    let mut seccomp = allowing(vec![rule("mkdirat", "SCMP_ACT_ERRNO", &[])]);
    seccomp.listener_metadata = Some("x".to_owned());
    assert!(fault(&seccomp).contains("listenerMetadata"));
    seccomp.listener_path = Some("/run/agent.sock".into());
    assert!(compiled(&seccomp).listener.is_none());
}

#[test]
fn faults_are_named_with_their_place() {
    let with = |rule: SeccompRule| allowing(vec![self::rule("read", "SCMP_ACT_LOG", &[]), rule]);
    let cases = [
        (with(rule("a", "SCMP_ACT_MAYBE", &[])), "syscalls[1].action: unknown name `SCMP_ACT_MAYBE`"),
        (with(rule("umask", "SCMP_ACT_LOG", &[(6, "SCMP_CMP_EQ", 0, 0)])), "syscalls[1].args: system calls have"),
        (with(rule("umask", "SCMP_ACT_LOG", &[(0, "SCMP_CMP_IS", 0, 0)])), "syscalls[1].args: unknown name"),
        (
            with(SeccompRule { errno_ret: Some(1), ..rule("umask", "SCMP_ACT_LOG", &[]) }),
            "syscalls[1].action: `SCMP_ACT_LOG` has no error number",
        ),
        (
            with(SeccompRule { errno_ret: Some(5000), ..rule("umask", "SCMP_ACT_ERRNO", &[]) }),
            "syscalls[1].action: the error number 5000 is above 4095",
        ),
        (Seccomp { default_action: String::new(), ..with(rule("a", "SCMP_ACT_LOG", &[])) }, "defaultAction: unknown"),
    ];
    for (seccomp, words) in cases {
        let text = fault(&seccomp);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn sizes_are_bounded() {
    let mut seccomp = profile();
    seccomp.syscalls[0].names = vec!["read".to_owned(); MAX_NAMES + 1];
    assert!(fault(&seccomp).contains("more than 8192 entries"));
    let arg = SeccompArg { op: "SCMP_CMP_EQ".to_owned(), ..SeccompArg::default() };
    seccomp.syscalls[0].names.truncate(1);
    seccomp.syscalls[0].args = vec![arg; MAX_CONDITIONS + 1];
    assert!(fault(&seccomp).contains("more than 4096 entries"));
    seccomp.syscalls.clear();
    seccomp.architectures = vec!["SCMP_ARCH_X86".to_owned(); MAX_LIST + 1];
    assert!(fault(&seccomp).contains("more than 64 entries"));

    // Good rules, but too many for the kernel.
    let conditions: Vec<_> = (0..2100).map(|value| (1, "SCMP_CMP_EQ", value << 32 | value, 0)).collect();
    let text = fault(&allowing(vec![rule("ioctl", "SCMP_ACT_ERRNO", &conditions)]));
    assert!(text.contains("more than the 4096 instructions"), "{text}");
}

#[test]
fn names_that_no_call_can_have_are_passed_over() {
    let names = ["", "nul\0inside", &"x".repeat(100_000), "no_such_call"].map(str::to_owned).to_vec();
    let seccomp =
        allowing(vec![SeccompRule { names, ..rule("", "SCMP_ACT_KILL", &[]) }, rule("mkdirat", "SCMP_ACT_ERRNO", &[])]);
    assert_eq!(native(&compiled(&seccomp), libc::SYS_mkdirat, &[]), PERM);
}

fn word(known: Vec<String>) -> impl Strategy<Value = String> {
    prop_oneof![8 => proptest::sample::select(known), 1 => ".{0,12}"]
}

fn any_rule() -> impl Strategy<Value = SeccompRule> {
    let names = ["read", "write", "socket", "ipc", "clone", "openat", "mmap2", "\0"].map(str::to_owned).to_vec();
    let of = |table: &[(&str, u32)]| table.iter().map(|row| row.0.to_owned()).collect::<Vec<_>>();
    let arg = (0u32..8, any::<u64>(), any::<u64>(), word(of(OPERATORS)))
        .prop_map(|(index, value, value_two, op)| SeccompArg { index, value, value_two, op });
    (
        proptest::collection::vec(word(names), 0..6),
        word(of(ACTIONS)),
        proptest::option::of(any::<u32>()),
        proptest::collection::vec(arg, 0..5),
    )
        .prop_map(|(names, action, errno_ret, args)| SeccompRule { names, action, errno_ret, args })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_rules_give_a_program_that_ends_or_a_fault(
        default_action in word(ACTIONS.iter().map(|row| row.0.to_owned()).collect()),
        default_errno_ret in proptest::option::of(any::<u32>()),
        architectures in proptest::collection::vec(word(ARCHITECTURES.iter().map(|row| row.0.to_owned()).collect()), 0..4),
        flags in proptest::collection::vec(word(FLAGS.iter().map(|row| row.0.to_owned()).collect()), 0..3),
        listener in proptest::option::of(".{0,200}"),
        syscalls in proptest::collection::vec(any_rule(), 0..8),
        number in any::<u32>(),
        arguments in any::<[u64; 6]>(),
    ) {
        let seccomp = Seccomp {
            default_action, default_errno_ret, architectures, flags, syscalls,
            listener_path: listener.map(Into::into),
            listener_metadata: None,
        };
        if let Ok(Some(filter)) = compile(&seccomp) {
            for arch in [NATIVE, 0x4000_0003, 0x16] {
                simulate(&filter.program, arch, number % 1024, &arguments);
                simulate(&filter.program, arch, number, &arguments);
            }
        }
    }
}
