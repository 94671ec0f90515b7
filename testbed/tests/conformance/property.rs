//! What a test is: the property of the specification that it is about, and the behaviour that its name tells.

use testbed::harness::Case;

/// The tests of one part of the specification.
#[derive(Debug)]
pub struct Section {
    /// Short name, as in the names of the tests.
    pub name: &'static str,
    /// Heading of its table.
    pub title: &'static str,
    /// Its tests.
    pub properties: &'static [Property],
}

/// One test.
#[derive(Debug)]
pub struct Property {
    /// The specification's own word for what is tested.
    pub of: &'static str,
    /// The test.
    pub case: Case,
}

/// Lists a section: `section!("process", "Process"; [] "process.cwd": name, name; [Need::Root] "process.user": name;)`.
#[macro_export]
macro_rules! section {
    ($name:literal, $title:literal; $($needs:tt $of:literal: $($case:ident),+;)+) => {
        /// The tests of this file.
        pub const SECTION: $crate::property::Section = $crate::property::Section {
            name: $name,
            title: $title,
            properties: &[$($($crate::property::Property {
                of: $of,
                case: testbed::harness::Case {
                    name: stringify!($case),
                    needs: &$needs,
                    limit: std::time::Duration::from_secs(60),
                    run: || $case($crate::runtime::Runtime::chosen()),
                },
            }),+),+],
        };
    };
}
