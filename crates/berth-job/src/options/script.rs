//! Batch scripts: whether it is one, and its `#SBATCH` lines.

use std::ffi::OsString;

/// Largest script, in bytes: Slurm's default of `max_script_size`.
pub const MAX: usize = 4 << 20;

/// Whether a file can be submitted, and why not, in Slurm's words.
pub fn check(script: &[u8]) -> Result<(), String> {
    if script.is_empty() {
        return Err("Batch script is empty!".to_owned());
    }
    if script.iter().all(u8::is_ascii_whitespace) {
        return Err("Batch script contains only whitespace!".to_owned());
    }
    if !script.starts_with(b"#!") {
        return Err("This does not look like a batch script.  The first\n\
                    line must start with #! followed by the path to an interpreter.\n\
                    For instance: #!/bin/sh"
            .to_owned());
    }
    if script.contains(&0) {
        return Err("The SLURM controller does not allow scripts that\ncontain a NULL character '\\0'.".to_owned());
    }
    let first = script.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if first.ends_with(b"\r") || script.windows(2).any(|pair| pair == b"\r\n") {
        return Err("Batch script contains DOS line breaks (\\r\\n)\n\
                    instead of expected UNIX line breaks (\\n)."
            .to_owned());
    }
    if script.len() > MAX {
        return Err("Batch script is larger than 4 MiB".to_owned());
    }
    Ok(())
}

/// The words of the `#SBATCH` lines, up to the first line that is neither blank nor a comment.
pub fn options(script: &[u8]) -> Result<Vec<OsString>, String> {
    let text = String::from_utf8_lossy(script);
    let mut words = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("#SBATCH") {
            if !rest.starts_with([' ', '\t']) {
                continue;
            }
            if rest.trim() == "hetjob" || rest.trim() == "packjob" {
                return Err(
                    "heterogeneous jobs need a cluster: leave `#SBATCH hetjob` out, or submit where Slurm runs"
                        .to_owned(),
                );
            }
            words.extend(split(rest).into_iter().map(OsString::from));
        } else if !line.starts_with('#') && !line.trim().is_empty() {
            break;
        }
    }
    Ok(words)
}

/// Words of one line: quotes of both kinds, `\` in front of a character, and what stands behind a `#` is a comment.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None => match c {
                '\'' | '"' => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                '\\' => word.get_or_insert_default().extend(rest.next()),
                '#' if word.is_none() => break,
                c if c.is_whitespace() => words.extend(word.take()),
                c => word.get_or_insert_default().push(c),
            },
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_count_until_the_first_command() {
        let script = b"#!/bin/sh\n#SBATCH -n 2 # tasks\n\n# note\n#SBATCH --job-name=\"a b\"\n##SBATCH -c 9\n#SBATCHX\necho\n#SBATCH -t 1\n";
        assert_eq!(options(script).unwrap(), ["-n", "2", "--job-name=a b"]);
        assert!(options(b"#!/bin/sh\n#SBATCH hetjob\n").is_err());
    }

    #[test]
    fn what_is_no_script_is_refused_in_slurms_words() {
        for (script, begin) in [
            (&b""[..], "Batch script is empty!"),
            (b" \n", "Batch script contains only whitespace!"),
            (b"echo\n", "This does not look like a batch script."),
            (b"#!/bin/sh\r\necho\r\n", "Batch script contains DOS line breaks"),
            (b"#!/bin/sh\n\0", "The SLURM controller does not allow scripts that"),
        ] {
            assert!(check(script).unwrap_err().starts_with(begin));
        }
        assert_eq!(check(b"#!/bin/sh\n"), Ok(()));
    }

    proptest! {
        #[test]
        fn any_script_is_read_or_refused(script in proptest::collection::vec(any::<u8>(), 0..80), line in ".{0,30}") {
            let _ = check(&script);
            let _ = options(&[b"#SBATCH ".as_slice(), line.as_bytes(), b"\n", &script].concat());
        }

        #[test]
        fn plain_words_come_back(words in proptest::collection::vec("[a-z0-9=-]{1,8}", 0..6)) {
            prop_assert_eq!(split(&words.join(" ")), words);
        }
    }
}
