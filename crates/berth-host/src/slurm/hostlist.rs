//! Lists of names as Slurm writes them: `n[1-3,07],login`.

/// Longer lists are cut off: no node has more devices, and no line names more nodes.
const MANY: usize = 65_536;

/// A list, written out. What cannot be read stands for itself.
pub fn expand(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in list.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth == 0 => {
                names.extend(brackets(&list[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names.extend(brackets(&list[start..]));
    names.retain(|name| !name.is_empty());
    names.truncate(MANY);
    names
}

/// One name with numbers in brackets, of which there may be several.
fn brackets(pattern: &str) -> Vec<String> {
    let parts = pattern.split_once('[').and_then(|(before, rest)| Some((before, rest.split_once(']')?)));
    let Some((before, (numbers, after))) = parts else { return vec![pattern.to_owned()] };
    let ends = brackets(after);
    let mut names = Vec::new();
    for part in numbers.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (from.parse::<u32>(), to.parse::<u32>()) else { continue };
        for number in (first..=last).take(MANY) {
            for end in ends.iter().take(MANY.saturating_sub(names.len())) {
                names.push(format!("{before}{number:0width$}{end}", width = from.len()));
            }
        }
    }
    names
}

/// Numbers as such a list: `0-3,5`.
pub fn numbers(sorted: &[u32]) -> String {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for &number in sorted {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => spans.push((number, number)),
        }
    }
    let text = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    spans.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_out() {
        for (list, expected) in [
            ("n1", vec!["n1"]),
            ("n[1-3],login", vec!["n1", "n2", "n3", "login"]),
            ("n[08-10,12]", vec!["n08", "n09", "n10", "n12"]),
            ("r[1-2]n[0-1]", vec!["r1n0", "r1n1", "r2n0", "r2n1"]),
            ("/dev/nvidia[0,2]", vec!["/dev/nvidia0", "/dev/nvidia2"]),
            ("n[1-x]", vec![]),
            ("n[3", vec!["n[3"]),
            ("", vec![]),
        ] {
            assert_eq!(expand(list), expected, "{list}");
        }
        assert!(expand("n[0-4294967295]").len() <= MANY);
        assert!(expand("a[0-99999]b[0-99999]").len() <= MANY);
    }

    #[test]
    fn numbers_are_written_as_spans() {
        assert_eq!(numbers(&[0, 1, 2, 3, 5]), "0-3,5");
        assert_eq!(numbers(&[7]), "7");
    }
}
