//! One thing that is done under both, and what of it may differ.

/// A script that both run.
#[derive(Debug)]
pub struct Row {
    /// What it shows, in a few words.
    pub name: &'static str,
    /// Lines of bash. See [`super::world::PRELUDE`] for the words that it can use.
    pub script: &'static str,
    /// What differs, and why.
    pub differs: &'static [Difference],
}

/// Lines that only one of them has.
#[derive(Debug)]
pub struct Difference {
    /// Slurm's, as the test prints them.
    pub slurm: &'static [&'static str],
    /// berth's.
    pub berth: &'static [&'static str],
    /// Why.
    pub why: &'static str,
}

/// A row without differences.
pub const fn same(name: &'static str, script: &'static str) -> Row {
    Row { name, script, differs: &[] }
}

/// A row with some.
pub const fn differing(name: &'static str, script: &'static str, differs: &'static [Difference]) -> Row {
    Row { name, script, differs }
}

/// What differs.
pub const fn but(slurm: &'static [&'static str], berth: &'static [&'static str], why: &'static str) -> Difference {
    Difference { slurm, berth, why }
}
