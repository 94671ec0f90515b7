//! Fields of `/proc/PID/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// A path as it is, from a field with octal escapes.
pub(crate) fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match code {
            Some(code) if bytes[at] == b'\\' => {
                plain.push(code);
                at += 4;
            }
            _ => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_and_backslashes_come_back_and_the_rest_stays() {
        for (field, path) in [("/a\\040b\\134", "/a b\\"), ("/a\\04", "/a\\04"), ("/a\\9999", "/a\\9999"), ("/", "/")] {
            assert_eq!(unescape(field), PathBuf::from(path), "{field}");
        }
    }
}
