//! dockerd with berth as its default runtime.

use testbed::engine::Docker;
use testbed::harness::Need;

use crate::engines::engine_chapter;
use crate::engines::shown_on;

const DOCKERD: Need = Need::Program("dockerd", "docker.io");
const CLIENT: Need = Need::Program("/usr/bin/docker", "docker-cli, where docker.io has none");

engine_chapter!("docker", [DOCKERD, CLIENT, Need::Root], Docker::start(); placeholder);

fn placeholder() {
    shown_on(Docker::start(), |engine| drop(engine.run(&[], &["true"]).ok()));
}
