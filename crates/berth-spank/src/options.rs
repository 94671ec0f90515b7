//! The options of `srun`, `sbatch` and `salloc`.

use std::ffi::{CStr, CString, c_char, c_int};

use berth_slurm::options::{Definition, Name, OPTIONS};
use berth_slurm::request::Request;

use crate::slurm::{self, Spank, SpankOption};
use crate::{Outcome, guarded};

/// Adds them to the program that has loaded the plugin.
pub fn register(spank: &Spank) -> Outcome {
    for (index, row) in OPTIONS.iter().enumerate() {
        let text = |text: &str| CString::new(text).unwrap_or_default().into_raw().cast_const();
        // Slurm keeps the pointers until the program ends, so they are not taken back.
        let option = Box::leak(Box::new(SpankOption {
            name: text(row.name),
            argument: row.argument.map_or(std::ptr::null(), text),
            usage: text(&format!("[berth] {}", row.usage)),
            has_argument: c_int::from(row.argument.is_some()),
            value: index as c_int,
            callback: met,
        }));
        if !spank.register(option) {
            return Err(format!("berth: Slurm does not take the option --{}", row.name));
        }
    }
    Ok(())
}

/// An option was met: where it was typed, and again in slurmstepd.
extern "C" fn met(index: c_int, value: *const c_char, remote: c_int) -> c_int {
    guarded(|state| {
        let row = usize::try_from(index).ok().and_then(|index| OPTIONS.get(index));
        let row = row.ok_or("berth: Slurm met an option that there is not")?;
        // SAFETY: a C string, or none.
        let value = (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned());
        // Slurm hands an option that has no value the empty text, or the word "(null)".
        let value = value.filter(|_| row.argument.is_some());
        let outcome = set(&mut state.request, row, value.as_deref()).map_err(|e| format!("pyxis: {e}"));
        match outcome {
            // Where nobody would read it now, it is kept for the task.
            Err(message) if remote != 0 => {
                state.mistake.get_or_insert(message);
                Ok(())
            }
            other => other,
        }
    })
}

/// Sets an option. What an outer `sbatch` or `salloc` was given has been met before what was typed here, and gives way.
fn set(request: &mut Request, row: &Definition, value: Option<&str>) -> Result<(), String> {
    let Err(refused) = request.set(row.option, value) else { return Ok(()) };
    let mut other = request.clone();
    other.clear(row.option);
    // A value that is wrong by itself stays so.
    other.set(row.option, value)?;
    if row.option == Name::Mounts {
        // Slurm hands only the last one to the nodes; scripts for pyxis have two.
        slurm::error("pyxis: --container-mounts specified multiple times: the last one counts");
    } else if !inherited(row) {
        return Err(refused);
    }
    *request = other;
    Ok(())
}

/// Whether the environment has the option, or its opposite, of an outer command: Slurm's way to hand it on.
fn inherited(row: &Definition) -> bool {
    let plain = row.name.strip_prefix("no-").unwrap_or(row.name);
    let opposite = match row.option {
        Name::Writable => "container-readonly",
        Name::Readonly => "container-writable",
        _ => plain,
    };
    [row.name.to_owned(), plain.to_owned(), format!("no-{plain}"), opposite.to_owned()].iter().any(|name| {
        let name = name.replace('-', "_");
        ["_SLURM_SPANK_OPTION_berth_", "SLURM_SPANK__SLURM_SPANK_OPTION_berth_"]
            .iter()
            .any(|prefix| std::env::var_os(format!("{prefix}{name}")).is_some())
    })
}

/// Looks at all of them together, before a job is submitted or a step is started.
pub fn check(typed: &Request) -> Outcome {
    let request = typed.with_environment(|name| std::env::var(name).ok()).map_err(|e| format!("pyxis: {e}"))?;
    if !request.wants_container() {
        for name in typed.ignored() {
            slurm::error(&format!(
                "pyxis: ignoring {name} because neither --container-image nor --container-name is set"
            ));
        }
        return Ok(());
    }
    crate::step::refuse(&request)
}
