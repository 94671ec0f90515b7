//! Nodes that fail: a daemon that is killed, a machine that loses its power, and their return. And a place in the box for
//! registries that fail.

#![allow(unsafe_code)] // setns.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::thread;

use super::Cluster;
use super::config;

/// Stays in a node whose daemon is gone, so that there is a node to come back to. It goes by the daemon's name: it belongs
/// to the box.
const STAY: &str = "(exec -a slurmd sleep infinity) </dev/null >/dev/null 2>&1 & echo $!";

/// Kills all of this node but what stays, and removes the control groups of its steps, as a reset would.
const RESET: &str = r#"
own=$(readlink /proc/self/ns/net)
for round in 1 2 3; do
  for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    if [ "$(readlink $process/ns/net)" = "$own" ] && [ $pid != $$ ] && [ $pid != $0 ]; then kill -KILL $pid; fi
  done
done 2>/dev/null
for round in 1 2 3 4 5 6 7 8 9; do
  find /sys/fs/cgroup -depth -type d -path '*job_*' -exec rmdir {} + 2>/dev/null && break
  sleep 0.1
done
rm -rf /var/spool/slurmd/$(hostname)/*
"#;

impl Cluster {
    /// Kills a node's daemon; its steps go on.
    #[track_caller]
    pub fn stop_daemon(&mut self, node: &str) {
        self.stay(node);
        self.node(node).shell("kill -KILL $(cat /run/slurmd.pid); rm /run/slurmd.pid").ok();
    }

    /// Kills everything on a node at once.
    #[track_caller]
    pub fn stop_node(&mut self, node: &str) {
        self.stay(node);
        let stays = self.daemons[self.index(node)].to_string();
        drop(self.node(node).run(&["bash", "-c", RESET, &stays]));
    }

    /// Starts a node's daemon again.
    #[track_caller]
    pub fn start_daemon(&self, node: &str) {
        self.node(node).shell("slurmd -D </dev/null >/dev/null 2>&1 &").ok();
    }

    fn stay(&mut self, node: &str) {
        let pid = self.node(node).shell(STAY).ok();
        let at = self.index(node);
        self.daemons[at] = pid.trim().parse().expect("a number");
    }

    fn index(&self, node: &str) -> usize {
        self.node_names().iter().position(|name| name == node).expect("a node of this cluster")
    }

    /// Listens where every host of the box finds `registry.test`.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let network = File::open(format!("/proc/{}/ns/net", self.init))?;
        let listen = move || {
            // SAFETY: a descriptor that is open; only this thread changes its network.
            if unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            TcpListener::bind((format!("{}.254", config::NETWORK), port))
        };
        thread::spawn(listen).join().expect("it does not panic")
    }
}
