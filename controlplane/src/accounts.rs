//! What the data planes last said of their usage events; `liutong usage verify` holds it against what
//! ClickHouse has.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use wire::id::NodeId;
use wire::report::Report;

/// What one data plane last said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its report.
    pub report: Report,
    /// Whether it is connected.
    pub is_connected: bool,
}

/// The last report of each data plane, of this run of the control plane.
#[derive(Debug, Default)]
pub struct Accounts {
    said: Mutex<HashMap<NodeId, Said>>,
    connected: watch::Sender<u32>,
}

/// A data plane's session; while it lives the data plane counts as connected.
pub struct Attached<'a> {
    accounts: &'a Accounts,
    node: NodeId,
}

impl Accounts {
    /// Begins a session.
    pub fn attach(&self, node: NodeId) -> Attached<'_> {
        self.connected.send_modify(|connected| *connected += 1);
        Attached { accounts: self, node }
    }

    /// How many data planes are connected, and whenever that changes.
    pub fn connected(&self) -> watch::Receiver<u32> {
        self.connected.subscribe()
    }

    /// What each data plane last said.
    pub fn all(&self) -> HashMap<NodeId, Said> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attached<'_> {
    /// Keeps a report.
    pub fn say(&self, report: Report) {
        self.accounts.lock().insert(self.node, Said { report, is_connected: true });
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.accounts.connected.send_modify(|connected| *connected -= 1);
        if let Some(said) = self.accounts.lock().get_mut(&self.node) {
            said.is_connected = false;
        }
    }
}
