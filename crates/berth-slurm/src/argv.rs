//! A task's command in a variable of its environment.
//!
//! Slurm pastes the command into a line of a shell that it gives to a runtime (`%@` in `oci.conf`), and not always quoted
//! right. The plugin puts it into the environment instead, where nothing is expanded: words separated by blanks, each byte
//! but letters, digits and `_./-` as `%XX`.

/// The variable.
pub const VARIABLE: &str = "BERTH_STEP_ARGV";

/// Words as the variable's value.
pub fn encode<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut text = String::new();
    for (at, word) in words.into_iter().enumerate() {
        if at > 0 {
            text.push(' ');
        }
        for &byte in word {
            if byte.is_ascii_alphanumeric() || b"_./-".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

/// The words of the variable's value; nothing where it was written by somebody else.
pub fn decode(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    text.split(|&byte| byte == b' ').map(decode_word).collect()
}

fn decode_word(text: &[u8]) -> Option<Vec<u8>> {
    let mut word = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            word.push(byte);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        word.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    Some(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_in_it_means_anything_to_a_shell_or_a_line() {
        let text = encode([b"it's".as_slice(), b"", b"$(id);\n"]);
        assert_eq!(text, "it%27s  %24%28id%29%3B%0A");
        assert_eq!(decode(b"a%2"), None);
        assert_eq!(decode(b"a%zz"), None);
    }

    proptest! {
        #[test]
        fn words_come_back_as_they_were(words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..6)) {
            let text = encode(words.iter().map(Vec::as_slice));
            prop_assert_eq!(decode(text.as_bytes()), Some(words));
        }
    }
}
