use std::collections::BTreeMap;

use proptest::prelude::*;

use super::v2::{io_weight, swap_max, weight_of_shares};
use super::{Write, v1_writes, v2_writes};
use crate::oci::Resources;

fn nothing(_: &str, _: &str) -> Option<String> {
    None
}

fn lines(writes: Vec<Write>) -> Vec<String> {
    writes.into_iter().map(|it| format!("{}{} {}", it.file, if it.optional { "?" } else { "" }, it.value)).collect()
}

fn v2(json: &str) -> Result<Vec<String>, String> {
    let resources: Resources = serde_json::from_str(json).unwrap();
    v2_writes(&resources, &nothing).map(lines).map_err(|error| error.to_string())
}

fn v1(json: &str) -> Result<Vec<String>, String> {
    let resources: Resources = serde_json::from_str(json).unwrap();
    v1_writes(&resources, &nothing).map(lines).map_err(|error| error.to_string())
}

#[test]
fn shares_become_weights_on_the_curve_of_the_other_runtimes() {
    for (shares, weight) in
        [(0, 1), (2, 1), (3, 2), (1023, 100), (1024, 100), (1025, 101), (2048, 174), (262_144, 10_000)]
    {
        let found = weight_of_shares(shares);
        assert!(
            found.abs_diff(weight) <= u64::from(shares != 1024 && shares > 2 && shares < 262_144),
            "{shares}: {found}"
        );
    }
    let mut last = 0;
    for shares in 2..=262_144 {
        let weight = weight_of_shares(shares);
        assert!(weight >= last, "{shares}");
        last = weight;
    }
}

#[test]
fn weights_of_block_devices_reach_both_ends() {
    for (weight, expected) in [(0, 1), (10, 1), (100, 910), (500, 4950), (1000, 10_000), (u16::MAX, 10_000)] {
        assert_eq!(io_weight(weight), expected, "{weight}");
    }
}

#[test]
fn swap_is_what_is_left_of_memory_and_swap_together() {
    for (both, memory, now, expected) in [
        (None, None, None, Ok(None)),
        (None, Some(100), None, Ok(None)),
        (None, Some(-1), None, Ok(Some(-1))),
        (Some(-1), None, None, Ok(Some(-1))),
        (Some(-1), Some(100), None, Ok(Some(-1))),
        (Some(100), Some(100), None, Ok(Some(0))),
        (Some(300), Some(100), Some(50), Ok(Some(200))),
        (Some(300), None, Some(50), Ok(Some(250))),
        (Some(99), Some(100), None, Err(())),
        (Some(300), None, None, Err(())),
        (Some(300), Some(-1), None, Err(())),
    ] {
        assert_eq!(swap_max(both, memory, || now).map_err(drop), expected, "{both:?} {memory:?} {now:?}");
    }
}

#[test]
fn limits_are_written_into_files_of_cgroup_v2() {
    let table: &[(&str, &[&str])] = &[
        ("{}", &[]),
        (
            r#"{"memory":{"limit":100,"swap":150,"reservation":10}}"#,
            &["memory.swap.max 50", "memory.max 100", "memory.low 10"],
        ),
        (r#"{"memory":{"limit":100,"swap":100}}"#, &["memory.swap.max? 0", "memory.max 100"]),
        (r#"{"memory":{"limit":-1}}"#, &["memory.swap.max? max", "memory.max max"]),
        (r#"{"memory":{"limit":0,"swap":0,"kernel":5,"swappiness":60,"disableOOMKiller":false}}"#, &[]),
        (
            r#"{"cpu":{"shares":1024,"quota":5000,"burst":7}}"#,
            &["cpu.weight 100", "cpu.max 5000 100000", "cpu.max.burst 7"],
        ),
        (r#"{"cpu":{"quota":-1,"period":2000}}"#, &["cpu.max max 2000"]),
        (r#"{"cpu":{"quota":0,"period":0,"shares":0,"cpus":"","mems":""}}"#, &[]),
        (r#"{"cpu":{"shares":5,"idle":1}}"#, &["cpu.idle 1"]),
        (r#"{"cpu":{"cpus":"0-3,7","mems":"0","realtimeRuntime":1}}"#, &["cpuset.cpus 0-3,7", "cpuset.mems 0"]),
        (r#"{"pids":{"limit":10}}"#, &["pids.max 10"]),
        (r#"{"pids":{"limit":-1}}"#, &["pids.max max"]),
        (r#"{"pids":{"limit":0}}"#, &[]),
        (
            r#"{"blockIO":{"weight":1000,"leafWeight":10,"weightDevice":[{"major":8,"minor":0,"weight":10}],
                "throttleReadBpsDevice":[{"major":8,"minor":1,"rate":5}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":0}]}}"#,
            &["io.weight 10000", "io.weight 8:0 1", "io.max 8:1 rbps=5", "io.max 8:1 wiops=max"],
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4}],"rdma":{"mlx5_1":{"hcaHandles":3},"idle":{}}}"#,
            &["hugetlb.2MB.max 4", "hugetlb.2MB.rsvd.max? 4", "rdma.max mlx5_1 hca_handle=3"],
        ),
        (
            r#"{"unified":{"io.max":"8:0 rbps=1\n8:16 wbps=2","memory.high":"5"}}"#,
            &["io.max 8:0 rbps=1", "io.max 8:16 wbps=2", "memory.high 5"],
        ),
        (r#"{"network":{"classID":1}}"#, &[]),
    ];
    for (json, expected) in table {
        assert_eq!(v2(json).unwrap(), *expected, "{json}");
    }
}

#[test]
fn what_an_update_leaves_out_stays_as_it_is() {
    let current = |_: &str, file: &str| match file {
        "cpu.max" => Some("4000 20000\n".to_owned()),
        "memory.max" => Some("100\n".to_owned()),
        _ => None,
    };
    let resources: Resources = serde_json::from_str(r#"{"cpu":{"period":9000},"memory":{"swap":160}}"#).unwrap();
    assert_eq!(lines(v2_writes(&resources, &current).unwrap()), ["memory.swap.max 60", "cpu.max 4000 9000"]);
    let resources: Resources = serde_json::from_str(r#"{"cpu":{"quota":500}}"#).unwrap();
    assert_eq!(lines(v2_writes(&resources, &current).unwrap()), ["cpu.max 500 20000"]);
}

#[test]
fn limits_are_written_into_files_of_cgroup_v1() {
    let table: &[(&str, &[&str])] = &[
        ("{}", &[]),
        (
            r#"{"memory":{"limit":100,"swap":150,"reservation":10,"kernel":4,"kernelTCP":5,"swappiness":0}}"#,
            &[
                "memory.limit_in_bytes 100",
                "memory.memsw.limit_in_bytes 150",
                "memory.soft_limit_in_bytes 10",
                "memory.kmem.tcp.limit_in_bytes? 5",
                "memory.swappiness 0",
            ],
        ),
        (r#"{"memory":{"limit":-1}}"#, &["memory.limit_in_bytes -1", "memory.memsw.limit_in_bytes? -1"]),
        (r#"{"memory":{"swappiness":18446744073709551615,"disableOOMKiller":true}}"#, &["memory.oom_control 1"]),
        (
            r#"{"cpu":{"shares":512,"quota":-1,"period":1000,"realtimePeriod":5,"realtimeRuntime":4,"cpus":"0"}}"#,
            &[
                "cpu.shares 512",
                "cpu.cfs_period_us 1000",
                "cpu.cfs_quota_us -1",
                "cpu.rt_period_us 5",
                "cpu.rt_runtime_us 4",
                "cpuset.cpus 0",
            ],
        ),
        (r#"{"pids":{"limit":-1}}"#, &["pids.max max"]),
        (
            r#"{"blockIO":{"weight":10,"leafWeight":11,"weightDevice":[{"major":8,"minor":0,"weight":5,"leafWeight":6}],
                "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":7}]}}"#,
            &[
                "blkio.weight 10",
                "blkio.leaf_weight 11",
                "blkio.weight_device 8:0 5",
                "blkio.leaf_weight_device 8:0 6",
                "blkio.throttle.read_iops_device 8:0 7",
            ],
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"1GB","limit":4}],"network":{"classID":9,"priorities":[{"name":"eth0","priority":3}]}}"#,
            &[
                "hugetlb.1GB.limit_in_bytes 4",
                "hugetlb.1GB.rsvd.limit_in_bytes? 4",
                "net_cls.classid 9",
                "net_prio.ifpriomap eth0 3",
            ],
        ),
    ];
    for (json, expected) in table {
        assert_eq!(v1(json).unwrap(), *expected, "{json}");
    }
}

#[test]
fn values_that_would_lead_elsewhere_are_refused() {
    for json in [
        r#"{"unified":{"../memory.max":"1"}}"#,
        r#"{"unified":{"memory":"1"}}"#,
        r#"{"unified":{".x":"1"}}"#,
        r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#,
        r#"{"hugepageLimits":[{"pageSize":"MB","limit":1}]}"#,
        r#"{"hugepageLimits":[{"pageSize":"2","limit":1}]}"#,
        r#"{"rdma":{"a b":{"hcaHandles":1}}}"#,
        r#"{"memory":{"limit":-2}}"#,
        r#"{"cpu":{"cpus":"0\n1"}}"#,
        r#"{"blockIO":{"throttleReadBpsDevice":[{"major":-1,"minor":0,"rate":1}]}}"#,
    ] {
        assert!(v2(json).is_err(), "{json}");
    }
    assert!(v1(r#"{"network":{"priorities":[{"name":"a b","priority":1}]}}"#).is_err());
}

#[test]
fn a_limit_below_what_is_used_is_refused_where_that_was_asked_for() {
    let used = |_: &str, file: &str| file.starts_with("memory.").then(|| "1000\n".to_owned());
    let with = |check: bool| -> Resources {
        serde_json::from_str(&format!(r#"{{"memory":{{"limit":999,"checkBeforeUpdate":{check}}}}}"#)).unwrap()
    };
    assert!(v2_writes(&with(true), &used).is_err() && v1_writes(&with(true), &used).is_err());
    assert!(v2_writes(&with(false), &used).is_ok() && v1_writes(&with(false), &used).is_ok());
}

/// Values of the kinds that JSON has, at the ends of their ranges.
fn hostile() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        (-3i64..3).prop_map(Value::from),
        "[ -~\\n\\x00]{0,12}".prop_map(Value::from),
        "[0-9,-]{0,6}".prop_map(Value::from),
        "[0-9]{1,3}[KMG]B".prop_map(Value::from),
    ];
    let object = |names: &'static [&'static str], leaf: BoxedStrategy<Value>| {
        proptest::collection::btree_map(proptest::sample::select(names), leaf, 0..4)
            .prop_map(|map: BTreeMap<&str, Value>| json!(map))
            .boxed()
    };
    let leaf = leaf.boxed();
    let entries = |it: BoxedStrategy<Value>| proptest::collection::vec(it, 0..3).prop_map(Value::from).boxed();
    let device = object(&["major", "minor", "rate", "weight", "leafWeight"], leaf.clone());
    prop_oneof![
        object(&["limit", "swap", "reservation", "kernelTCP", "swappiness", "checkBeforeUpdate"], leaf.clone())
            .prop_map(|it| json!({ "memory": it })),
        object(&["shares", "quota", "period", "burst", "cpus", "mems", "idle", "realtimeRuntime"], leaf.clone())
            .prop_map(|it| json!({ "cpu": it })),
        object(&["limit"], leaf.clone()).prop_map(|it| json!({ "pids": it })),
        (entries(device), leaf.clone()).prop_map(
            |(it, weight)| json!({ "blockIO": { "weight": weight, "weightDevice": it, "throttleReadBpsDevice": it } })
        ),
        entries(object(&["pageSize", "limit"], leaf.clone())).prop_map(|it| json!({ "hugepageLimits": it })),
        entries(object(&["allow", "type", "major", "minor", "access"], leaf.clone()))
            .prop_map(|it| json!({ "devices": it })),
        ("[ -~\\x00]{0,9}", leaf).prop_map(|(name, it)| json!({ "unified": { name: it } })),
    ]
}

proptest! {
    #[test]
    fn no_resources_make_it_panic_or_leave_the_group(json in hostile()) {
        if let Ok(resources) = serde_json::from_value::<Resources>(json) {
            for writes in [v1_writes(&resources, &nothing), v2_writes(&resources, &nothing)].into_iter().flatten() {
                for write in writes {
                    prop_assert!(!write.file.contains('/') && !write.file.contains('\0') && write.file.contains('.'));
                    prop_assert!(!write.value.contains('\n'));
                }
            }
            if let Ok(rules) = crate::cgroup::devices::rules(&resources.devices) {
                crate::cgroup::devices::bpf::program(&rules);
            }
        }
    }
}
