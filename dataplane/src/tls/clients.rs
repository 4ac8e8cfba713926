//! How clients are served TLS: settings made of files, and made anew when the files change.
//!
//! A thread looks at the files every `LOOK_INTERVAL`, and at once on SIGHUP. Broken new files leave the old
//! settings in use, and say so in the log once. New settings come with new ticket keys: whoever was let in
//! under a former client authority shakes hands in full again.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::UnixTime;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use crate::log::{self, Entry};
use crate::tls::certificate::{Certificate, CertificateFiles, Certificates, FileError, read_authorities};

/// How often the files are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(10);

const CLIENT_CA: &str = "http.tls.client_ca_file";

/// The files that the settings are made of.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// At least one; the first is for clients that ask for a name that none is for.
    pub certificates: Vec<CertificateFiles>,
    /// Where it is given, only clients with a certificate of one of its authorities are served.
    pub client_ca: Option<PathBuf>,
}

/// What tells a file from its successor.
type Stamp = Option<(SystemTime, u64, u64)>;

/// TLS towards clients.
pub struct ClientTls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    not_after_s: AtomicU64,
}

impl ClientTls {
    /// Reads `files`.
    pub fn load(files: TlsFiles) -> Result<Self, FileError> {
        let (config, not_after_s) = files.read()?;
        Ok(Self { files, config: ArcSwap::from_pointee(config), not_after_s: not_after_s.into() })
    }

    /// The settings for a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// When the first of the certificates in use ends, in seconds since 1970.
    pub fn not_after_s(&self) -> u64 {
        self.not_after_s.load(Ordering::Relaxed)
    }

    /// Reads the files again.
    pub fn reload(&self) -> Result<(), FileError> {
        let (config, not_after_s) = self.files.read()?;
        self.config.store(Arc::new(config));
        self.not_after_s.store(not_after_s, Ordering::Relaxed);
        Ok(())
    }

    /// Reads the files again when a look at them, every `interval`, shows a change, and whenever `now` says so,
    /// until `now` is closed. Blocks.
    pub fn keep_fresh(&self, now: &Receiver<()>, interval: Duration) {
        let mut seen = self.files.stamps();
        loop {
            let asked = match now.recv_timeout(interval) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // Before reading: what changes meanwhile is read the next time.
            let stamps = self.files.stamps();
            if !asked && stamps == seen {
                continue;
            }
            seen = stamps;
            match self.reload() {
                Ok(()) => log::log(&Entry::CertificatesNew),
                Err(error) => log::log(&Entry::CertificatesKept(&error)),
            }
        }
    }
}

impl TlsFiles {
    /// The settings, and when the first certificate ends.
    fn read(&self) -> Result<(ServerConfig, u64), FileError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let now = UnixTime::now();
        let certificates: Vec<Certificate> = self
            .certificates
            .iter()
            .map(|files| Certificate::read(files, &provider, now))
            .collect::<Result<_, _>>()?;
        let not_after_s = certificates.iter().map(|certificate| certificate.not_after_s).min();
        let clients = match &self.client_ca {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(file) => {
                let roots = read_authorities(CLIENT_CA, file)?;
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
                    .build()
                    .map_err(|error| FileError::new(CLIENT_CA, file, error))?
            }
        };
        let setup = |error: rustls::Error| {
            FileError::new("http.tls.certificate_file", &self.certificates[0].certificate, error)
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(setup)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(Certificates(certificates)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Tickets, that any worker can open; a cache of sessions would be shared behind a lock. Early data
        // stays off: it can be replayed.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(setup)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok((config, not_after_s.unwrap_or(u64::MAX)))
    }

    fn stamps(&self) -> Vec<Stamp> {
        let pairs = self.certificates.iter().flat_map(|files| [&files.certificate, &files.key]);
        pairs.chain(&self.client_ca).map(|file| stamp(file)).collect()
    }
}

fn stamp(file: &Path) -> Stamp {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}
