//! What must hold for any `config.json` at all. The fuzz target and a plain test share this file.

use std::path::PathBuf;

use berth_container::launch::{Identity, Options, Plan};
use berth_container::oci::{Resources, Spec};
use berth_container::{Bundle, Rootfs};

/// A configuration is understood or refused, is written so that it is read back as the same, and leads to a plan or an
/// error, without anything being done.
pub fn config(data: &[u8]) {
    let _ = serde_json::from_slice::<Resources>(data);
    let Ok(spec) = serde_json::from_slice::<Spec>(data) else { return };
    let written = serde_json::to_vec(&spec).expect("a configuration can be written");
    let again: Spec = serde_json::from_slice(&written).expect("what was written can be read");
    assert!(again == spec, "{again:?}\n{spec:?}");
    let rootfs = Rootfs::Dir(PathBuf::from("/nowhere/rootfs"));
    let bundle = Bundle { spec, rootfs };
    let identity = Identity { id: "fuzzed".to_owned(), bundle: PathBuf::from("/nowhere") };
    for identity in [None, Some(identity)] {
        let _ = Plan::new(&bundle, &Options { identity, ..Options::default() });
    }
}
