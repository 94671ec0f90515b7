//! Fixtures for the end-to-end tests and the benchmarks: images, registries, users, and a lister of file trees.
//!
//! Nothing here uses berth's own libraries: what judges a program must not share its errors.

pub mod apt;
pub mod cover;
pub mod demo;
pub mod engine;
pub mod fault;
pub mod fixture;
pub mod fuse;
pub mod harness;
pub mod http;
pub mod image;
pub mod odd;
pub mod process;
pub mod recipes;
pub mod registry;
pub mod slurm;
pub mod tar;
pub mod terminal;
pub mod tree;
pub mod user;
