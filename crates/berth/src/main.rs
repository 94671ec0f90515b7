//! The berth command: parse, do, report.
//!
//! The C function `main` is ours: the set-up that `std` does before a Rust `main` (a handler and a stack for stack
//! overflows, for which it reads the process' memory map) costs a start 0.1 ms. What of it matters is done here.

#![no_main]
#![allow(unsafe_code)] // the entry point, and two settings of the process

use std::ffi::{c_char, c_int};

use berth::cli::{self, Invocation};
use berth::commands::runtime;
use berth::jobs;
use berth::onefile;
use berth::step;
use berth::{CommandError, Context, ExitCode, Kind};

/// Where the C library enters. `std` has the arguments from the C library by itself.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    prepare();
    let code = answer();
    // What is still in the buffer of standard output would be lost; an error there was reported by who wrote.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    c_int::from(code.number())
}

/// Sees to it that files opened later cannot become standard input, output or error, and that writing to a closed pipe is
/// an error and not the end.
fn prepare() {
    for descriptor in 0..3 {
        // SAFETY: asking after a descriptor that is not open is an error and nothing else; the path is a C string.
        unsafe {
            if libc::fcntl(descriptor, libc::F_GETFD) == -1 {
                // The lowest free descriptor is this one.
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            }
        }
    }
    // SAFETY: no handler is installed; the launcher gives the command the default again.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// The two functions of the C library's `libm` that a progress bar needs. With them here, the shared library is not
/// linked, which costs every start 0.1 ms.
mod arithmetic {
    #[unsafe(no_mangle)]
    extern "C" fn pow(base: f64, exponent: f64) -> f64 {
        libm::pow(base, exponent)
    }

    #[unsafe(no_mangle)]
    extern "C" fn log2(of: f64) -> f64 {
        libm::log2(of)
    }
}

fn answer() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if let Some((name, arguments)) = runtime::is_asked(&arguments) {
        return runtime::main(name, arguments);
    }
    if onefile::server::is_asked(&arguments) {
        return onefile::server::main(&arguments);
    }
    if let Some((verb, arguments)) = jobs::is_asked(&arguments) {
        return verb.run(arguments);
    }
    if step::is_asked(&arguments) {
        return step::main(&arguments);
    }
    arguments.drain(..arguments.len().min(1));
    // Mistakes in the line itself are reported in the form that it asks for, as far as that can be told.
    let json = arguments.iter().any(|argument| argument == "--json");
    match cli::parse(arguments) {
        Ok(invocation) => run(&invocation).unwrap_or_else(|error| {
            error.report(invocation.global.json);
            error.exit_code()
        }),
        Err(answer) if cli::is_answer(&answer) => match answer.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => CommandError::from(error).exit_code(),
        },
        Err(nothing) if cli::is_empty(&nothing) => {
            // To standard error, as the answer to a mistake; nobody is left to tell when that is gone.
            let _ = nothing.print();
            ExitCode::from(Kind::Usage.exit_code())
        }
        Err(mistake) => {
            let error = CommandError::from(mistake);
            error.report(json);
            error.exit_code()
        }
    }
}

fn run(invocation: &Invocation) -> Result<ExitCode, CommandError> {
    invocation.run(&Context::new(invocation.global.clone()))
}
