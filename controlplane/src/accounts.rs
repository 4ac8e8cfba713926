//! What the data planes last said of their usage events; `liutong usage verify` holds it against what
//! ClickHouse has.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// In which session it said so.
    pub session: u64,
}

/// The last report of each data plane, of this run of the control plane.
#[derive(Debug, Default)]
pub struct Accounts {
    said: Mutex<HashMap<NodeId, Said>>,
    connected: watch::Sender<u32>,
    sessions: AtomicU64,
}

/// A data plane's session; while it lives the data plane counts as connected.
pub struct Attached<'a> {
    accounts: &'a Accounts,
    node: NodeId,
    session: u64,
}

impl Accounts {
    /// Begins a session.
    pub fn attach(&self, node: NodeId) -> Attached<'_> {
        self.connected.send_modify(|connected| *connected += 1);
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        Attached { accounts: self, node, session }
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
        let said = Said { report, is_connected: true, session: self.session };
        self.accounts.lock().insert(self.node, said);
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.accounts.connected.send_modify(|connected| *connected -= 1);
        // Another session of it may have begun, and said something, before the end of this one is seen.
        if let Some(said) = self.accounts.lock().get_mut(&self.node)
            && said.session == self.session
        {
            said.is_connected = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::report::Totals;

    #[test]
    fn the_late_end_of_an_older_session_does_not_end_the_present_one() {
        let (accounts, node) = (Accounts::default(), NodeId(1));
        let report = || Report { at_ms: 1, totals: Totals::default(), boots: Vec::new() };
        let (older, present) = (accounts.attach(node), accounts.attach(node));
        older.say(report());
        present.say(report());
        drop(older);
        assert!(accounts.all()[&node].is_connected);
        drop(present);
        assert!(!accounts.all()[&node].is_connected);
    }
}
