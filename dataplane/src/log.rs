//! What the data plane writes to stderr: lines about itself, from a closed set.
//!
//! There is no way to log a request: an entry carries numbers, names that administrators gave, and the errors
//! of the system, never bytes of a client's or an upstream's.

use std::fmt;

/// Something worth a line.
pub enum Entry<'a> {
    /// All listeners are open.
    Started {
        /// Where clients connect.
        http: std::net::SocketAddr,
        /// Where health and metrics are.
        ops: std::net::SocketAddr,
        /// How many workers.
        workers: u16,
    },
    /// The tables on disk were read.
    Resumed {
        /// The generation that they stand for.
        generation: wire::id::Generation,
        /// How many keys they hold.
        keys: usize,
    },
    /// The control plane's tables are here.
    Synced {
        /// Their generation.
        generation: wire::id::Generation,
        /// How many keys they hold.
        keys: usize,
    },
    /// The control plane can't be reached.
    ControlAway(&'a dyn fmt::Display),
    /// The control plane has been away for longer than the configuration allows.
    Stale(std::time::Duration),
    /// The tables can't be kept on disk.
    TablesNotKept(&'a dyn fmt::Display),
    /// When the tables were last known to be current can't be kept on disk.
    FreshnessNotKept(&'a std::io::Error),
    /// The numbers that exchanges get can't be kept on disk.
    NumbersNotKept(&'a std::io::Error),
    /// A deployment can't be used as it is configured.
    Deployment {
        /// Its name.
        name: &'a str,
        /// Why.
        problem: &'a dyn fmt::Display,
    },
    /// The node has a new certificate for the control plane.
    CertificateRenewed,
    /// It has not, and is near the end of the old one.
    CertificateNotRenewed(&'a crate::identity::IdentityError),
    /// New certificates are in use.
    CertificatesNew,
    /// New certificates can't be used; the old ones are.
    CertificatesKept(&'a crate::tls::certificate::FileError),
    /// Usage can't be written: new requests are refused.
    SpoolFull(&'a std::io::Error),
    /// It can again.
    SpoolWrites,
    /// A spool is another node's.
    SpoolOfOtherNode(wire::id::BootId),
    /// What an earlier process left can't be read now.
    SpoolUnreadable {
        /// Whose spool.
        spool: wire::id::BootId,
        /// Why.
        error: &'a std::io::Error,
    },
    /// A worker's listener fails to accept.
    Accept(&'a std::io::Error),
    /// A task of a connection panicked; the connection is gone, the worker goes on.
    Panicked,
    /// A thread that the process can't do without panicked.
    ThreadPanicked(&'static str),
    /// The process was told to end.
    Draining,
    /// The process ended in order.
    Stopped,
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { http, ops, workers } => {
                write!(f, "listening on {http} with {workers} workers; health and metrics on {ops}")
            }
            Self::Resumed { generation, keys } => {
                write!(f, "read the tables kept on disk: generation {generation}, {keys} keys")
            }
            Self::Synced { generation, keys } => {
                write!(f, "the control plane's tables are here: generation {generation}, {keys} keys")
            }
            Self::ControlAway(error) => write!(f, "control plane away, serving on without it: {error}"),
            Self::Stale(limit) => write!(
                f,
                "refusing requests until the control plane is back: it was away for more than {} s \
                 (control.stale_limit_seconds)",
                limit.as_secs()
            ),
            Self::TablesNotKept(error) => write!(f, "can't keep the tables on disk: {error}"),
            Self::FreshnessNotKept(error) => write!(
                f,
                "can't note on disk that the tables are current, after a restart they will look older: {error}"
            ),
            Self::NumbersNotKept(error) => {
                write!(
                    f,
                    "can't keep the numbers of exchanges on disk, after a power cut it won't be known how many are lost: {error}"
                )
            }
            Self::Deployment { name, problem } => write!(f, "deployment {name}: {problem}"),
            Self::CertificateRenewed => write!(f, "got a new certificate for the control plane"),
            Self::CertificateNotRenewed(error) => {
                write!(
                    f,
                    "the certificate for the control plane ends soon and is not renewed, trying on: {error}"
                )
            }
            Self::CertificatesNew => write!(f, "read the certificates again: new connections get them"),
            Self::CertificatesKept(error) => {
                write!(f, "went on with the old certificates, for the new ones can't be used: {error}")
            }
            Self::SpoolFull(error) => {
                write!(
                    f,
                    "can't write usage, refusing new requests until it can be (make room, if the disk is full): {error}"
                )
            }
            Self::SpoolWrites => write!(f, "usage is written again: requests are served"),
            Self::SpoolOfOtherNode(spool) => write!(
                f,
                "leaving the usage in spool/{spool} as it is, it is another node's and is not shipped: put that \
                 node's node-id back, or move it away"
            ),
            Self::SpoolUnreadable { spool, error } => write!(
                f,
                "can't read the usage in spool/{spool}, leaving it to the next start as it is: {error}"
            ),
            Self::Accept(error) => write!(f, "can't accept connections: {error}"),
            Self::Panicked => write!(f, "a connection's task panicked; its exchange is settled"),
            Self::ThreadPanicked(name) => write!(f, "the {name} thread panicked: ending, to be started anew"),
            Self::Draining => write!(f, "draining: no new connections, streams go on"),
            Self::Stopped => write!(f, "stopped"),
        }
    }
}

/// Writes a line.
pub fn log(entry: &Entry<'_>) {
    eprintln!("liutong-dataplane: {entry}");
}
