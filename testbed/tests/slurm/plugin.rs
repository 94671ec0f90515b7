//! `srun --container-image=…`: what people type for pyxis, on real clusters, with registries that answer for public ones.

use testbed::harness::Chapter;

mod arguments;
mod environment;
mod errors;
mod images;
mod jobs;
mod mounts;
mod names;
mod registry;
mod rights;
mod seeds;
mod submit;
pub mod world;

/// All tests of the plugin.
pub const CHAPTERS: [[Chapter; 3]; 11] = [
    seeds::CHAPTERS,
    images::CHAPTERS,
    mounts::CHAPTERS,
    rights::CHAPTERS,
    names::CHAPTERS,
    environment::CHAPTERS,
    arguments::CHAPTERS,
    errors::CHAPTERS,
    submit::CHAPTERS,
    jobs::CHAPTERS,
    registry::CHAPTERS,
];
