//! Does what the OCI runtime specification 1.2 says happen? One small test for each property, run alike against berth, crun
//! and runc; judged from inside the container or by what the kernel tells of it, never by the runtimes' own libraries.
//!
//! berth must pass all. What the peers are known to fail is in `known-failures`; the table of who passes what,
//! `docs/conformance.md`, is made here: `cargo test -p testbed --test conformance -- --write`.

use std::env;
use std::process::ExitCode;
use std::sync::Mutex;

use testbed::harness;
use testbed::harness::Case;
use testbed::harness::Chapter;
use testbed::harness::Need;

mod cgroups;
mod commands;
mod devices;
mod exec;
mod hooks;
mod hostile;
mod ids;
mod known;
mod life;
mod linux;
mod mounts;
mod namespaces;
mod process;
mod property;
mod runtime;
mod seccomp;
mod streams;
mod table;
mod terminal;
mod world;

use known::Known;
use property::Section;
use runtime::Runtime;

const SECTIONS: [Section; 15] = [
    process::SECTION,
    mounts::SECTION,
    namespaces::SECTION,
    ids::SECTION,
    devices::SECTION,
    linux::SECTION,
    cgroups::SECTION,
    seccomp::SECTION,
    hooks::SECTION,
    life::SECTION,
    streams::SECTION,
    terminal::SECTION,
    exec::SECTION,
    commands::SECTION,
    hostile::SECTION,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, name] = &arguments[..]
        && flag == "--one"
    {
        runtime::choose(name);
        return harness::main(&chapters(), world::prepare);
    }
    let known = Known::read();
    let outcomes = Mutex::new(table::Outcomes::new());
    let result = harness::judged(&chapters(), world::prepare, |name, outcome| {
        let outcome = known.judge(name, outcome);
        outcomes.lock().expect("no panic while locked").insert(name.to_owned(), table::Cell::of(&outcome));
        outcome
    });
    if arguments.iter().any(|word| word == "--list") {
        return result;
    }
    let outcomes = outcomes.into_inner().expect("no panic while locked");
    let all = runtime::NAMES.len() * SECTIONS.iter().map(|section| section.properties.len()).sum::<usize>();
    if outcomes.len() < all {
        return result;
    }
    let write = arguments.iter().any(|word| word == "--write");
    match table::write_or_check(&SECTIONS, &outcomes, &known, write) {
        Ok(()) => result,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// One chapter for each runtime and section.
fn chapters() -> Vec<Chapter> {
    let mut chapters = Vec::new();
    for section in &SECTIONS {
        for name in runtime::NAMES {
            let cases: Vec<Case> = section
                .properties
                .iter()
                .map(|property| {
                    let mut needs = property.case.needs.to_vec();
                    needs.extend(Runtime::needs(name));
                    // The list of tests lives as long as the program.
                    Case { needs: Vec::<Need>::leak(needs), ..property.case }
                })
                .collect();
            let name = String::leak(format!("{name}::{}", section.name));
            chapters.push(Chapter { name, cases: Vec::leak(cases) });
        }
    }
    chapters
}
