//! Lists of hosts: `n[1-3,07-09]b,c`.

/// Most names that one list may stand for.
const MAX: usize = 1 << 16;

/// The names of a list, in its order; nothing where it makes no sense, or is longer than any cluster.
pub fn expand(list: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for part in split(list)? {
        let mut made = vec![String::new()];
        let mut rest = part;
        while let Some((before, after)) = rest.split_once('[') {
            let (ranges, behind) = after.split_once(']')?;
            let numbers = numbers(ranges)?;
            if made.len().saturating_mul(numbers.len()) > MAX {
                return None;
            }
            made = made.iter().flat_map(|name| numbers.iter().map(move |n| format!("{name}{before}{n}"))).collect();
            rest = behind;
        }
        names.extend(made.into_iter().map(|name| name + rest));
        if names.len() > MAX {
            return None;
        }
    }
    Some(names)
}

/// Splits at the commas outside of brackets.
fn split(list: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0u32);
    for (at, c) in list.char_indices() {
        match c {
            '[' if depth == 0 => depth = 1,
            ']' if depth == 1 => depth = 0,
            '[' | ']' => return None,
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    (depth == 0).then(|| parts.into_iter().filter(|part| !part.is_empty()).collect())
}

fn numbers(ranges: &str) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let is_number = |text: &str| !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(first) || !is_number(last) {
            return None;
        }
        let (from, to): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if to < from || to - from > MAX {
            return None;
        }
        let width = first.len();
        all.extend((from..=to).map(|number| format!("{number:0width$}")));
    }
    Some(all)
}

/// The shortest way to write names, in their order: neighbours that count up in one bracket.
pub fn compress(names: &[String]) -> String {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for name in names {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = &name[stem.len()..];
        match groups.last_mut() {
            Some((known, numbers)) if known == stem && !digits.is_empty() && !numbers[0].is_empty() => {
                numbers.push(digits.to_owned());
            }
            _ => groups.push((stem.to_owned(), vec![digits.to_owned()])),
        }
    }
    let texts: Vec<String> = groups.iter().map(|(stem, numbers)| group(stem, numbers)).collect();
    texts.join(",")
}

fn group(stem: &str, numbers: &[String]) -> String {
    if numbers.len() == 1 {
        return format!("{stem}{}", numbers[0]);
    }
    let mut ranges: Vec<(String, String)> = Vec::new();
    for number in numbers {
        let follows = |last: &str| {
            last.len() == number.len() && last.parse::<u64>().ok().map(|last| last + 1) == number.parse().ok()
                // 9 to 10, but not 09 to 10, has another width.
                || !last.starts_with('0') && last.parse::<u64>().ok().map(|last| last + 1) == number.parse().ok()
        };
        match ranges.last_mut() {
            Some((_, last)) if follows(last) => last.clone_from(number),
            _ => ranges.push((number.clone(), number.clone())),
        }
    }
    let texts: Vec<String> = ranges
        .iter()
        .map(|(first, last)| if first == last { first.clone() } else { format!("{first}-{last}") })
        .collect();
    format!("{stem}[{}]", texts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_expanded_in_its_order() {
        for (list, expected) in [
            ("n1", Some("n1")),
            ("a[1-3,07-09]b,c", Some("a1b a2b a3b a07b a08b a09b c")),
            ("r[1-2]n[1-2]", Some("r1n1 r1n2 r2n1 r2n2")),
            ("", Some("")),
            ("a[1", None),
            ("a]", None),
            ("a[x]", None),
            ("a[3-1]", None),
            ("a[0-999999999]", None),
            ("a[0-999]b[0-999]", None),
        ] {
            let expected = expected.map(|names| names.split_terminator(' ').map(String::from).collect::<Vec<_>>());
            assert_eq!(expand(list), expected, "{list}");
        }
    }

    #[test]
    fn names_are_compressed() {
        for (names, expected) in [
            ("a1 a2 a3 b", "a[1-3],b"),
            ("a1 a3 a4", "a[1,3-4]"),
            ("n08 n09 n10", "n[08-10]"),
            ("n9 n10", "n[9-10]"),
            ("x y", "x,y"),
            ("n1", "n1"),
        ] {
            let names: Vec<String> = names.split(' ').map(String::from).collect();
            assert_eq!(compress(&names), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_list_is_read_or_refused(list in "[a-z0-9,\\[\\]-]{0,24}") {
            expand(&list);
        }

        #[test]
        fn what_was_compressed_expands_again(numbers in proptest::collection::vec(0u32..120, 1..20)) {
            let names: Vec<String> = numbers.iter().map(|number| format!("n{number}")).collect();
            proptest::prop_assert_eq!(expand(&compress(&names)), Some(names));
        }
    }
}
