//! The behaviour that users rely on, shown on the built command with real registries, images and peers.

use std::process::ExitCode;

use testbed::fixture;
use testbed::harness;

mod buildah;
mod containerd;
mod crash;
mod devices;
mod docker;
mod engines;
mod faults;
mod hostile;
mod jobs;
mod named;
mod onefile;
mod onefile_run;
mod peers;
mod podman;
mod pull;
mod run;
mod setup;
mod signals;
mod sources;
mod store;
mod subid;
mod trees;
mod users;

fn main() -> ExitCode {
    let chapters = [
        pull::CHAPTER,
        trees::CHAPTER,
        store::CHAPTER,
        onefile::CHAPTER,
        sources::CHAPTER,
        run::CHAPTER,
        signals::CHAPTER,
        users::CHAPTER,
        subid::CHAPTER,
        setup::CHAPTER,
        named::CHAPTER,
        onefile_run::CHAPTER,
        devices::CHAPTER,
        hostile::CHAPTER,
        faults::CHAPTER,
        crash::CHAPTER,
        podman::rootless::CHAPTER,
        podman::rootful::CHAPTER,
        podman::groups::CHAPTER,
        docker::CHAPTER,
        buildah::CHAPTER,
        containerd::CHAPTER,
        jobs::run::CHAPTER,
        jobs::bad::CHAPTER,
        jobs::many::CHAPTER,
        jobs::kills::CHAPTER,
    ];
    harness::main(&chapters, || fixture::prepare(env!("CARGO_BIN_EXE_testbed")))
}
