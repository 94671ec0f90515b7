//! `berth sbatch`.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;

use berth_job::options::script;
use berth_job::options::{Request, Verb, line};
use berth_job::sbatch::{self, Batch};
use berth_job::srun::Answer;
use berth_job::submit::Refusal;
use berth_job::time;

use crate::ExitCode;
use crate::jobs;

/// Does it, with the arguments behind the verb.
pub fn main(arguments: &[OsString]) -> ExitCode {
    jobs::answer(run(arguments))
}

fn run(arguments: &[OsString]) -> Answer {
    let (typed, rest) =
        line::parse(Verb::Sbatch, arguments).map_err(|mistake| jobs::mistaken(Verb::Sbatch, &mistake))?;
    let now = time::now();
    let wrong = |wrong| jobs::wrong_value(Verb::Sbatch, wrong);
    // Only to find out what the script is; read again in the right order below.
    let mut request = Request::default();
    request.set_all(&typed, Verb::Sbatch, now).map_err(wrong)?;
    if let Some(show) = request.show {
        jobs::print(Verb::Sbatch, show);
        return Ok(0);
    }
    jobs::one_part(Verb::Sbatch, &rest)?;
    let (script, default_name, command) = match &request.wrap {
        Some(_) if !rest.is_empty() => {
            return Err(Refusal::error(Verb::Sbatch, "Script arguments not permitted with --wrap option"));
        }
        Some(command) => (sbatch::wrap(command), "wrap".to_owned(), vec![OsString::from("wrap")]),
        None => read(rest)?,
    };
    let of_script = script::options(&script).map_err(|text| Refusal::error(Verb::Sbatch, text))?;
    let (of_script, _) =
        line::parse(Verb::Sbatch, &of_script).map_err(|mistake| jobs::mistaken(Verb::Sbatch, &mistake))?;
    let mut request = Request::default();
    request.set_all(&of_script, Verb::Sbatch, now).map_err(wrong)?;
    request.set_environment(Verb::Sbatch, now, |name| std::env::var(name).ok()).map_err(wrong)?;
    // A container option that is typed takes the place of the script's, which pyxis would call a mistake.
    let of_script = std::mem::take(&mut request.container);
    request.set_all(&typed, Verb::Sbatch, now).map_err(wrong)?;
    request.container = jobs::over(&request.container, &of_script);
    let node = jobs::node(&request);
    Batch { request, script, command, default_name, node }.submit()
}

/// The script: a file, or standard input.
fn read(rest: Vec<OsString>) -> Result<(Vec<u8>, String, Vec<OsString>), Refusal> {
    let Some(path) = rest.first() else {
        let mut script = Vec::new();
        let limit = script::MAX as u64 + 1;
        let read = std::io::stdin().lock().take(limit).read_to_end(&mut script);
        read.map_err(|e| Refusal::error(Verb::Sbatch, format!("Unable to read from stdin: {e}")))?;
        return Ok((script, "sbatch".to_owned(), vec!["sbatch".into()]));
    };
    let path = Path::new(path);
    // As Slurm does, a name without a slash is looked for here and then in PATH.
    let found = if path.exists() || path.components().count() > 1 { None } else { in_path(path) };
    let path_found = found.as_deref().unwrap_or(path);
    let script = match std::fs::read(path_found) {
        Ok(script) => script,
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => Vec::new(),
        Err(_) => return Err(Refusal::error(Verb::Sbatch, format!("Unable to open file {}", path.display()))),
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut command = rest.clone();
    command[0] = std::path::absolute(path_found).unwrap_or_else(|_| path_found.to_owned()).into();
    Ok((script, name, command))
}

fn in_path(name: &Path) -> Option<std::path::PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file())
}
