//! What is left of an output when numbers and times are made alike.

use std::collections::BTreeMap;

/// Where both begin to count jobs: high, so that their numbers are told from others.
pub const FIRST_JOB: u32 = 50_001;

/// Numbers of jobs, in the order in which an output has them.
#[derive(Debug, Default)]
pub struct Jobs(BTreeMap<u32, usize>);

impl Jobs {
    /// The text with `JOB1`, `JOB2`, … and `TIME`.
    pub fn normalize(&mut self, text: &str) -> String {
        let mut result = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if !c.is_ascii_digit() {
                result.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
            if is_time(rest) {
                result.push_str("TIME");
                rest = &rest["2026-11-28T22:05:30".len()..];
                continue;
            }
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number: u32 = rest[..digits].parse().unwrap_or(0);
            if (FIRST_JOB..FIRST_JOB + 5000).contains(&number) {
                let next = self.0.len() + 1;
                let known = *self.0.entry(number).or_insert(next);
                // As wide as the number was, so that columns stay.
                result.push_str(&format!("JOB{known:02}"));
            } else {
                result.push_str(&rest[..digits]);
            }
            rest = &rest[digits..];
        }
        result
    }
}

/// Whether a text begins with a time as Slurm writes them.
fn is_time(text: &str) -> bool {
    let shape = b"0000-00-00T00:00:00";
    text.len() >= shape.len()
        && text
            .bytes()
            .zip(shape)
            .all(|(byte, shape)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == *shape })
}

/// Lines that only one of two texts has, in their order: a longest common part is what they share.
pub fn difference<'a>(one: &[&'a str], other: &[&'a str]) -> (Vec<&'a str>, Vec<&'a str>) {
    let (rows, columns) = (one.len(), other.len());
    let mut longest = vec![vec![0usize; columns + 1]; rows + 1];
    for i in (0..rows).rev() {
        for j in (0..columns).rev() {
            longest[i][j] =
                if one[i] == other[j] { longest[i + 1][j + 1] + 1 } else { longest[i + 1][j].max(longest[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let (mut only_one, mut only_other) = (Vec::new(), Vec::new());
    while i < rows && j < columns {
        if one[i] == other[j] {
            (i, j) = (i + 1, j + 1);
        } else if longest[i + 1][j] >= longest[i][j + 1] {
            only_one.push(one[i]);
            i += 1;
        } else {
            only_other.push(other[j]);
            j += 1;
        }
    }
    only_one.extend(&one[i..]);
    only_other.extend(&other[j..]);
    (only_one, only_other)
}
