//! Serves a [`Tree`](berth_imagefile::Tree) to the kernel, as a FUSE file system.
//!
//! The protocol is spoken by hand: a server that only reads needs a dozen requests. It remembers nothing about files that
//! the kernel knows; a node's number says where it is in the image, so there is nothing to forget.
//!
//! **An image never changes**, so the kernel may keep what it was told for ever: names, attributes, listings, links, pages.
//! What was asked once does not come here again until memory is short. Opening and closing files does not come here at all
//! where the kernel offers that.
//!
//! Mounting needs no privilege but that of a user namespace's owner ([`mount`]).

pub mod mount;
mod protocol;
mod server;

pub use server::Owners;
pub use server::Server;
