use super::bpf::{self, Instruction, program};
use super::*;

/// What the kernel would answer.
fn ask(program: &[Instruction], kind: char, major: u32, minor: u32, access: u8) -> bool {
    let mut registers = [0i64; 6];
    let context = [u32::from(access) << 16 | if kind == 'b' { 1 } else { 2 }, major, minor];
    let mut at = 0;
    loop {
        let Instruction { code, registers: used, offset, immediate } = program[at];
        let to = usize::from(used & 15);
        let jump = match code {
            bpf::LOAD => {
                registers[to] = context[offset as usize / 4].into();
                false
            }
            bpf::AND => {
                registers[to] &= i64::from(immediate);
                false
            }
            bpf::SHIFT => {
                registers[to] >>= immediate;
                false
            }
            bpf::MOVE => {
                registers[to] = immediate.into();
                false
            }
            bpf::JUMP_UNEQUAL => registers[to] != i64::from(immediate),
            bpf::JUMP_SET => registers[to] & i64::from(immediate) != 0,
            bpf::JUMP => true,
            bpf::EXIT => return registers[0] != 0,
            other => panic!("{other:#x}"),
        };
        at += 1 + if jump { offset as usize } else { 0 };
    }
}

fn given(json: &str) -> Vec<DeviceRule> {
    serde_json::from_str(json).unwrap()
}

#[test]
fn of_the_rules_that_match_the_last_counts() {
    let rules = rules(&given(
        r#"[{"allow":true,"type":"a"},
            {"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":10,"minor":229,"access":"r"},
            {"allow":true,"type":"c","major":10,"minor":229,"access":"w"},
            {"allow":true,"type":"b","major":8,"access":"rw"},
            {"allow":false,"type":"b","major":8,"minor":1,"access":"w"},
            {"allow":false,"type":"c","major":1,"minor":3}]"#,
    ))
    .unwrap();
    let program = program(&rules);
    for (kind, major, minor, access, expected) in [
        ('c', 10, 229, READ | WRITE, true),
        ('c', 10, 229, READ, true),
        ('c', 10, 229, ALL, true), // nodes may always be made
        ('c', 10, 228, READ, false),
        ('b', 10, 229, READ, false),
        ('b', 8, 0, READ | WRITE, true),
        ('b', 8, 1, READ, true),
        ('b', 8, 1, READ | WRITE, false),
        ('b', 9, 1, MKNOD, true),
        ('c', 1, 3, READ | WRITE, true), // null, whatever the rules say
        ('c', 136, 77, READ | WRITE, true),
        ('c', 195, 0, READ, false),
    ] {
        assert_eq!(ask(&program, kind, major, minor, access), expected, "{kind} {major}:{minor} {access}");
    }
}

#[test]
fn without_rules_nothing_is_refused_and_with_some_what_none_names() {
    assert!(rules(&[]).unwrap().is_empty());
    let one = rules(&given(r#"[{"allow":true,"type":"c","major":10,"minor":1,"access":"rwm"}]"#)).unwrap();
    let one = program(&one);
    assert!(ask(&one, 'c', 10, 1, READ) && !ask(&one, 'c', 10, 2, READ));
    let all = program(&rules(&given(r#"[{"allow":false},{"allow":true,"type":"a","access":"rwm"}]"#)).unwrap());
    assert!(ask(&all, 'b', 200, 3, ALL));
}

#[test]
fn rules_are_lines_of_cgroup_v1() {
    let rules = rules(&given(
        r#"[{"allow":false},{"allow":true,"type":"c","major":10,"minor":-1,"access":"wr"},
            {"allow":true,"type":"a","major":7,"access":"m"}]"#,
    ))
    .unwrap();
    assert_eq!(rules[0].v1(), ("devices.deny", vec!["a".to_owned()]));
    assert_eq!(rules[1].v1(), ("devices.allow", vec!["c 10:* rw".to_owned()]));
    assert_eq!(rules[2].v1(), ("devices.allow", vec!["b 7:* m".to_owned(), "c 7:* m".to_owned()]));
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    for json in [
        r#"[{"allow":true,"type":"x"}]"#,
        r#"[{"allow":true,"type":"c","access":"rx"}]"#,
        r#"[{"allow":true,"type":"c","major":-2}]"#,
        r#"[{"allow":true,"type":"c","minor":99999999999}]"#,
    ] {
        assert!(rules(&given(json)).is_err(), "{json}");
    }
    assert!(rules(&vec![DeviceRule::default(); MAX_RULES + 1]).is_err());
}
