//! What people type behind `srun`, `sbatch` and `salloc`, where Slurm's guide itself has it wrong.

/// Says what was meant with a command that cannot be: in `srun bash -c "--container DIR cat"`, of the guide, the option is
/// within the shell's line.
pub fn misplaced(command: &[String]) -> Option<String> {
    let [shell, flag, line, ..] = command else { return None };
    let name = shell.rsplit('/').next().unwrap_or(shell);
    let is_shell = ["sh", "bash", "dash", "zsh", "ksh"].contains(&name);
    let rest = line.trim_start().strip_prefix("--container").filter(|rest| rest.starts_with([' ', '=']))?;
    if !is_shell || !flag.starts_with('-') || !flag.ends_with('c') {
        return None;
    }
    let mut words = rest[1..].trim_start().splitn(2, char::is_whitespace);
    let (bundle, program) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim());
    Some(format!(
        "--container is an option of Slurm's command, and stands before the shell: --container {bundle} {shell} {flag} '{program}'"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misplaced_in(words: &[&str]) -> Option<String> {
        misplaced(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_guides_line_is_met_by_what_was_meant() {
        // From both editions: sbatch --wrap 'srun bash -c "--container $ABS_PATH_TO_BUNDLE cat /etc/*rel*"'.
        let said = misplaced_in(&["bash", "-c", "--container /home/me/b cat /etc/*rel*"]).unwrap();
        assert!(said.ends_with("--container /home/me/b bash -c 'cat /etc/*rel*'"), "{said}");
        assert!(misplaced_in(&["/bin/sh", "-lc", "--container=/b"]).is_some());
        for fine in [&["bash", "-c", "cat --container x"][..], &["echo", "-c", "--container x"], &["bash", "-c"], &[]] {
            assert_eq!(misplaced_in(fine), None, "{fine:?}");
        }
    }
}
