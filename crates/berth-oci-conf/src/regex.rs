//! Extended regular expressions of POSIX, by the C library: the same that Slurm uses, so that they mean the same.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fmt;
use std::mem::MaybeUninit;

/// Longest expression and longest subject: the C library's matcher is not made for hostile input.
const MAX_PATTERN: usize = 4096;
const MAX_SUBJECT: usize = 1 << 17;

/// Largest number in braces. `(a{255}){255}` takes gigabytes to compile.
const MAX_REPEAT: u32 = 255;

/// An expression.
pub struct Regex {
    compiled: Box<libc::regex_t>,
    text: String,
}

/// Why there is none: what the C library says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoRegex(String);

impl Regex {
    /// Compiles it as Slurm does, with `REG_EXTENDED`.
    pub fn new(text: &str) -> Result<Regex, NoRegex> {
        let refuse = |why: &str| Err(NoRegex(why.to_owned()));
        if text.len() > MAX_PATTERN {
            return refuse("it is longer than 4096 bytes");
        }
        if !modest(text) {
            return refuse("what it counts is too large to be compiled");
        }
        let Ok(pattern) = CString::new(text) else { return refuse("there is a zero byte in it") };
        let mut compiled: Box<MaybeUninit<libc::regex_t>> = Box::new(MaybeUninit::zeroed());
        // SAFETY: both pointers are valid; regcomp writes the first, and reads the second up to its zero byte.
        let code =
            unsafe { libc::regcomp(compiled.as_mut_ptr(), pattern.as_ptr(), libc::REG_EXTENDED | libc::REG_NOSUB) };
        if code != 0 {
            let mut message = [0_u8; 256];
            // SAFETY: the buffer is as long as is said; regerror ends what it writes with a zero byte, and takes the regex of
            // a failed regcomp, which it only asks for the language.
            unsafe { libc::regerror(code, compiled.as_ptr(), message.as_mut_ptr().cast(), message.len()) };
            let end = message.iter().position(|&byte| byte == 0).unwrap_or(message.len());
            return Err(NoRegex(String::from_utf8_lossy(&message[..end]).into_owned()));
        }
        // SAFETY: regcomp succeeded, so it is initialized.
        let compiled = unsafe { Box::from_raw(Box::into_raw(compiled).cast::<libc::regex_t>()) };
        Ok(Regex { compiled, text: text.to_owned() })
    }

    /// Whether it is found anywhere in a text. Not in one with a zero byte, or that is longer than 128 KiB: no environment
    /// has such.
    pub fn is_match(&self, subject: &str) -> bool {
        if subject.len() > MAX_SUBJECT {
            return false;
        }
        let Ok(subject) = CString::new(subject) else { return false };
        // SAFETY: the regex is compiled, and the text ends with a zero byte; no matches are asked for.
        unsafe { libc::regexec(&*self.compiled, subject.as_ptr(), 0, std::ptr::null_mut(), 0) == 0 }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: it was compiled, and is freed once.
        unsafe { libc::regfree(&mut *self.compiled) };
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Regex").field(&self.text).finish()
    }
}

/// Whether the product of all numbers in braces stays small: each `{n}` copies what it stands behind, one in the other.
fn modest(text: &str) -> bool {
    let numbers = text.split('{').skip(1).filter_map(|part| {
        let inner = part.split('}').next()?;
        inner.split(',').filter_map(|number| number.parse::<u32>().ok()).max()
    });
    let mut product = 1_u32;
    for number in numbers {
        product = product.saturating_mul(number.max(1));
    }
    product <= MAX_REPEAT.saturating_mul(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_is_posix_and_unanchored() {
        for (pattern, subject, expected) in [
            ("^(SLURM_CONF|SLURM_CONF_SERVER)=", "SLURM_CONF=/x", true),
            ("^(SLURM_CONF|SLURM_CONF_SERVER)=", "SLURM_CONF_SERVER=c", true),
            ("^(SLURM_CONF|SLURM_CONF_SERVER)=", "MY_SLURM_CONF=/x", false),
            ("SECRET", "A=has SECRET in it", true),
            ("^A[[:digit:]]{2}=", "A42=", true),
            ("^A[[:digit:]]{2}=", "A4=", false),
            ("a.b", "A=a\nb", true),
            ("", "X=1", true),
        ] {
            assert_eq!(Regex::new(pattern).unwrap().is_match(subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn deep_and_greedy_ones_come_to_an_end() {
        let deep = format!("{}a{}", "(".repeat(2000), ")".repeat(2000));
        for pattern in [deep.as_str(), "((((a*)*)*)*)*b", "^(.*)\\1$", "(a|aa)+$", &"a?".repeat(1000)] {
            if let Ok(regex) = Regex::new(pattern) {
                regex.is_match(&"a".repeat(30));
            }
        }
    }

    #[test]
    fn what_cannot_be_compiled_is_told() {
        for pattern in ["^(A", "[a", "a{2", "*{", "a\\", "((a{200}){200}){200}", "a\0b", &"a".repeat(5000)] {
            if let Ok(regex) = Regex::new(pattern) {
                panic!("{:?} was compiled", regex.as_str());
            }
        }
        assert!(Regex::new("^(A").unwrap_err().to_string().contains('('));
    }
}
