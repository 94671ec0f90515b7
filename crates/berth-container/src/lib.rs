//! The rootless launcher.
