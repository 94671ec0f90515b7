//! The configuration's system call filter: when it is put in force, and who answers for it.
//!
//! With no-new-privileges it comes last, right before the command: it then hinders nothing of ours, and a profile need not
//! allow what only we call. Without, the kernel demands a capability for it, so it comes before capabilities are given up,
//! and the profile must allow what is left to be done (as with runc): ids, capabilities, the working directory.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use super::{Identity, exec};
use crate::error::{Error, Result};
use crate::seccomp::{Agent, Container, Filter};

/// The filter of a container, where it has one.
#[derive(Debug, Default)]
pub struct Profile {
    filter: Option<Filter>,
    last: bool,
    container: Container,
    agent: OnceCell<Agent>,
}

impl Profile {
    /// `no_new_privileges`: whether the command runs with it. The rest is for agents.
    pub fn new(
        filter: Option<Filter>,
        no_new_privileges: bool,
        identity: Option<&Identity>,
        annotations: &BTreeMap<String, String>,
    ) -> Profile {
        let mut profile = Profile { filter, last: no_new_privileges, ..Profile::default() };
        if profile.filter.as_ref().is_some_and(|filter| filter.listener.is_some()) {
            let (id, bundle) = identity.map(|i| (i.id.clone(), i.bundle.clone())).unwrap_or_default();
            profile.container = Container { id, bundle, annotations: annotations.clone() };
        }
        profile
    }

    /// Connects to the agent; the path of its socket is the host's, so this comes before everything else.
    pub fn connect(&self) -> Result<()> {
        if let Some(listener) = self.filter.as_ref().and_then(|filter| filter.listener.as_ref()) {
            let _ = self.agent.set(Agent::connect(listener)?);
        }
        Ok(())
    }

    /// The connection to the agent, which must stay open until the filter is in force; nothing else of it does.
    pub fn agent(&self) -> Option<BorrowedFd<'_>> {
        self.agent.get().map(|agent| {
            agent.settle();
            agent.as_fd()
        })
    }

    /// Puts the filter in force, if this is where it must be.
    pub fn before_capabilities(&self) -> Result<()> {
        if self.last { Ok(()) } else { self.install() }
    }

    fn install(&self) -> Result<()> {
        self.filter.as_ref().map_or(Ok(()), |filter| filter.install(self.agent.get(), &self.container))
    }
}

/// A command that lacks its filter at most.
#[derive(Debug)]
pub struct Ready<'a> {
    /// The command.
    pub command: &'a exec::Command,
    /// Value for `HOME`, if its environment has none.
    pub home: Option<CString>,
    /// Its filter.
    pub profile: &'a Profile,
}

impl Ready<'_> {
    /// Becomes the command; returns only to say why not.
    pub fn exec(&self) -> Error {
        let filtered = if self.profile.last { self.profile.install() } else { Ok(()) };
        match filtered {
            Ok(()) => self.command.exec(self.home.as_deref()),
            Err(error) => error,
        }
    }
}
