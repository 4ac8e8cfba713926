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
        ensure!(
            self.is_what_happened(connects, resumed, exchanges),
            "{connects} connections for {exchanges} exchanges, {resumed} of them resumed: that is not {self:?}"
        );
        Ok(())
    }

    fn is_what_happened(self, connects: u64, resumed: u64, exchanges: u64) -> bool {
        match self {
            Self::Off => resumed == 0,
            Self::Kept => connects == 0,
            Self::Full => connects == exchanges && resumed == 0,
            Self::Resumed => connects == exchanges && resumed == connects,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_another_kind_than_the_work_says_are_told_apart() {
        let all = [Tls::Kept, Tls::Full, Tls::Resumed];
        // Connections, those of them that resumed, exchanges; who takes that for its own.
        let cases: [(u64, u64, u64, &[Tls]); 5] = [
            (0, 0, 90, &[Tls::Kept]),
            (90, 0, 90, &[Tls::Full]),
            (90, 90, 90, &[Tls::Resumed]),
            (90, 89, 90, &[]),
            (1, 0, 90, &[]),
        ];
        for (connects, resumed, exchanges, expected) in cases {
            let who: Vec<Tls> =
                all.into_iter().filter(|tls| tls.is_what_happened(connects, resumed, exchanges)).collect();
            assert_eq!(who, expected, "{connects} {resumed} {exchanges}");
        }
    }
}
