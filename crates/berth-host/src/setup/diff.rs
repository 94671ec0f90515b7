//! Differences of two texts, line by line.

/// Longer texts are shown as replaced altogether.
const LONGEST: usize = 2000;

/// Lines around a difference.
const AROUND: usize = 2;

/// The lines of both: `+` only in the second, `-` only in the first, a blank in both, `~` for what is left out.
pub fn lines(before: &str, after: &str) -> Vec<(char, String)> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let all = if old.len().max(new.len()) > LONGEST { replaced(&old, &new) } else { compared(&old, &new) };
    let near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        all[from..all.len().min(at + AROUND + 1)].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut result = Vec::new();
    let mut gap = false;
    for (at, (mark, text)) in all.iter().enumerate() {
        if near(at) {
            result.push((*mark, (*text).to_owned()));
            gap = false;
        } else if !gap {
            result.push(('~', String::new()));
            gap = true;
        }
    }
    result
}

fn replaced<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    old.iter().map(|line| ('-', *line)).chain(new.iter().map(|line| ('+', *line))).collect()
}

/// By the longest common part.
fn compared<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let width = new.len() + 1;
    let mut common = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut result) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            result.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1] {
            result.push(('-', old[i]));
            i += 1;
        } else {
            result.push(('+', new[j]));
            j += 1;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(before: &str, after: &str) -> String {
        lines(before, after).iter().map(|(mark, text)| format!("{mark}{text}|")).collect()
    }

    #[test]
    fn only_what_differs_and_its_surroundings_are_shown() {
        assert_eq!(shown("", "a\nb\n"), "+a|+b|");
        assert_eq!(shown("a\nb\n", "a\nc\nb\n"), " a|+c| b|");
        assert_eq!(shown("1\n2\n3\n4\n5\n6\n", "1\n2\n3\n4\n5\nsix\n"), "~| 4| 5|-6|+six|");
        assert_eq!(shown("same\n", "same\n"), "~|");
    }
}
