//! podman with berth as its runtime: as an ordinary user, and as root.

use testbed::engine::Engine;
use testbed::harness::Need;
use testbed::harness::PODMAN;

use crate::engines::engine_chapter;
use crate::engines::shown_on;

const INIT: Need = Need::Program("tini-static", "tini");

pub mod rootless {
    use super::*;

    engine_chapter!("podman_rootless", [PODMAN, INIT, Need::Namespaces, Need::SubIds], start(); placeholder);

    fn start() -> impl Engine {
        testbed::engine::Podman::rootless()
    }

    fn placeholder() {
        shown_on(start(), |engine| drop(engine.run(&[], &["true"]).ok()));
    }
}

pub mod rootful {
    use super::*;

    engine_chapter!("podman_rootful", [PODMAN, INIT, Need::Root], start(); placeholder);

    fn start() -> impl Engine {
        testbed::engine::Podman::rootful()
    }

    fn placeholder() {
        shown_on(start(), |engine| drop(engine.run(&[], &["true"]).ok()));
    }
}
