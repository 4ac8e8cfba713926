//! The signals that mean "stop": Ctrl-C, SIGTERM, and a terminal that was closed.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::QuickstartError;

/// Catches the signals from its making on.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn install() -> Result<Self, QuickstartError> {
        let catch = |kind| signal(kind).map_err(|source| QuickstartError::Signals { source });
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them, and gives its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
