//! Placeholder.
/// The tests of this file.
pub const SECTION: crate::property::Section =
    crate::property::Section { name: "cgroups", title: "cgroups", properties: &[] };
