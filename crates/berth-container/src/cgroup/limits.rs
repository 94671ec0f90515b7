//! From the limits of the specification to files of control groups and what is written into them.
//!
//! Nothing here writes. What depends on what a file says now asks for it by a function.

mod v1;
mod v2;

pub(super) use v1::writes as v1_writes;
pub(super) use v2::{io_weight, unified as v2_unified, weight_of_shares, writes as v2_writes};

use crate::error::{Error, Result};
use crate::oci::resources::{HugepageLimit, Memory, Rdma};

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// Whose file it is.
    pub(super) controller: String,
    /// The file's name.
    pub(super) file: String,
    /// The content.
    pub(super) value: String,
    /// Whether a kernel without that file does as well.
    pub(super) optional: bool,
}

/// What a file of a controller says now; `None` where there is no such file.
pub(super) type Current<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

/// A list of writes about to be made.
#[derive(Debug, Default)]
struct List(Vec<Write>);

impl List {
    fn push(&mut self, controller: &str, file: impl Into<String>, value: impl ToString) {
        self.0.push(Write {
            controller: controller.to_owned(),
            file: file.into(),
            value: value.to_string(),
            optional: false,
        });
    }

    fn push_optional(&mut self, controller: &str, file: impl Into<String>, value: impl ToString) {
        self.push(controller, file, value);
        if let Some(last) = self.0.last_mut() {
            last.optional = true;
        }
    }
}

/// Refuses what is neither -1 nor a size.
fn check_memory(memory: &Memory) -> Result<()> {
    for (field, value) in [
        ("limit", memory.limit),
        ("reservation", memory.reservation),
        ("swap", memory.swap),
        ("kernelTCP", memory.kernel_tcp),
    ] {
        if value.is_some_and(|value| value < -1) {
            let field = format!("linux.resources.memory.{field}");
            return Err(Error::bad_spec(field, "must be bytes, or -1 for no limit"));
        }
    }
    Ok(())
}

/// Refuses a limit below what is used, where that was asked for.
fn check_usage(memory: &Memory, file: &str, current: Current<'_>) -> Result<()> {
    let (true, Some(limit)) = (memory.check_before_update == Some(true), memory.limit.filter(|&limit| limit > 0))
    else {
        return Ok(());
    };
    let used = current("memory", file).and_then(|text| text.trim().parse::<i64>().ok());
    match used {
        Some(used) if used > limit => {
            let reason = format!("{limit} bytes are less than the {used} in use");
            Err(Error::bad_spec("linux.resources.memory.limit", reason))
        }
        _ => Ok(()),
    }
}

/// `MAJOR:MINOR` of a block device.
fn device(field: &str, major: i64, minor: i64) -> Result<String> {
    if !(0..1 << 12).contains(&major) || !(0..1 << 20).contains(&minor) {
        let field = format!("linux.resources.blockIO.{field}");
        return Err(Error::bad_spec(field, format!("{major}:{minor} is no device number")));
    }
    Ok(format!("{major}:{minor}"))
}

/// Refuses sizes that would lead to another file.
fn page_size(limit: &HugepageLimit) -> Result<&str> {
    let digits = limit.page_size.trim_end_matches(['K', 'M', 'G', 'B']);
    let unit = &limit.page_size[digits.len()..];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return Err(Error::bad_spec("linux.resources.hugepageLimits", format!("no page size: {}", limit.page_size)));
    }
    if !matches!(unit, "KB" | "MB" | "GB") {
        return Err(Error::bad_spec("linux.resources.hugepageLimits", format!("no page size: {}", limit.page_size)));
    }
    Ok(&limit.page_size)
}

/// The line for a device in `rdma.max`.
fn rdma_line(name: &str, limit: &Rdma) -> Result<Option<String>> {
    if name.is_empty() || name.len() > 64 || name.contains(|it: char| it.is_whitespace() || it == '\0') {
        return Err(Error::bad_spec("linux.resources.rdma", format!("no device name: {name:?}")));
    }
    let mut line = name.to_owned();
    if let Some(handles) = limit.hca_handles {
        line += &format!(" hca_handle={handles}");
    }
    if let Some(objects) = limit.hca_objects {
        line += &format!(" hca_object={objects}");
    }
    Ok((line.len() > name.len()).then_some(line))
}

/// Refuses anything but lists such as `0-3,7`.
fn cpu_list<'a>(field: &str, list: &'a str) -> Result<&'a str> {
    if list.len() > 4096 || !list.bytes().all(|it| it.is_ascii_digit() || matches!(it, b',' | b'-' | b' ')) {
        return Err(Error::bad_spec(format!("linux.resources.cpu.{field}"), format!("no list of numbers: {list:?}")));
    }
    Ok(list)
}

#[cfg(test)]
mod tests;
