//! TLS between clients and a proxy: how a work's connections shake hands.

use anyhow::ensure;
use load_tests::client::Report;

/// How the connections of a work begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    /// Without TLS.
    Off,
    /// They shake hands before anything counts, and stay.
    Kept,
    /// Each has one exchange, after a whole handshake.
    Full,
    /// Each has one exchange, and resumes the session of one before.
    Resumed,
}

impl Tls {
    /// Whether it is spoken.
    pub(crate) fn is_on(self) -> bool {
        self != Self::Off
    }

    /// Whether a connection ends after one exchange.
    pub(crate) fn is_once(self) -> bool {
        matches!(self, Self::Full | Self::Resumed)
    }

    /// Sees that connections shook hands as they should.
    pub(crate) fn check(self, report: &Report) -> anyhow::Result<()> {
        let (connects, resumed, exchanges) = (report.connects, report.resumed, report.responses());
        let once = connects == exchanges;
        let as_said = match self {
            Self::Off => resumed == 0,
            Self::Kept => connects == 0,
            Self::Full => once && resumed == 0,
            Self::Resumed => once && resumed == connects,
        };
        ensure!(
            as_said,
            "{connects} connections for {exchanges} exchanges, {resumed} of them resumed: that is not {self:?}"
        );
        Ok(())
    }
}
