//! How clients are served TLS: settings made of files, and made anew when the files change.
//!
//! A thread looks at the files every `LOOK_INTERVAL`, and at once on SIGHUP. Broken new files leave the old
//! settings in use, and say so in the log once. New settings come with new ticket keys: whoever was let in
//! under a former client authority shakes hands in full again.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::UnixTime;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use crate::log::{self, Entry};
use crate::tls::certificate::{Certificate, CertificateFiles, Certificates, FileError, read_authorities};
use crate::tls::{ALPN_HTTP1, ALPN_HTTP2};

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
type Stamp = Option<(i64, i64, u64, u64)>;

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

    /// Reads the files again when a look at them, every `interval`, shows a change, and whenever `now` says
    /// so, until `now` is closed. Blocks.
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
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
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
    // Of the last change of status: who made a key private wants it taken up, too.
    Some((metadata.ctime(), metadata.ctime_nsec(), metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crossbeam_channel::bounded;
    use std::os::unix::fs::PermissionsExt as _;

    fn write(files: &CertificateFiles) {
        let certified = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
        std::fs::write(&files.certificate, certified.cert.pem()).unwrap();
        std::fs::write(&files.key, certified.signing_key.serialize_pem()).unwrap();
        set_mode(&files.key, 0o600);
    }

    fn set_mode(file: &Path, mode: u32) {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_and_taken_up_once_it_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles { certificate: dir.path().join("c.pem"), key: dir.path().join("c.key") };
        write(&files);
        let all = TlsFiles { certificates: vec![files.clone()], client_ca: None };
        for (mode, taken) in [(0o600, true), (0o640, true), (0o644, false), (0o660, false)] {
            set_mode(&files.key, mode);
            let read = all.read().map(drop).map_err(|error| error.to_string());
            assert_eq!(read.is_ok(), taken, "{mode:o} {read:?}");
            assert!(read.is_ok() || read.unwrap_err().contains("c.key: others may read or change it"));
        }
        let before = all.stamps();
        set_mode(&files.key, 0o400);
        assert_ne!(all.stamps(), before, "a change of mode alone is looked at");
    }

    fn becomes(condition: impl Fn() -> bool) -> bool {
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while std::time::Instant::now() < end {
            if condition() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    #[test]
    fn files_that_change_are_read_again_and_broken_ones_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles { certificate: dir.path().join("c"), key: dir.path().join("k") };
        write(&files);
        let tls_files = TlsFiles { certificates: vec![files.clone()], client_ca: None };
        let tls = Arc::new(ClientTls::load(tls_files).unwrap());
        let (stop, now) = bounded(1);
        let (kept, looked_at) = (tls.clone(), Duration::from_millis(5));
        let looking = std::thread::spawn(move || kept.keep_fresh(&now, looked_at));
        let first = tls.config();
        // Nothing has changed: at least one look finds that out.
        std::thread::sleep(looked_at * 10);
        assert!(Arc::ptr_eq(&first, &tls.config()));
        write(&files);
        // Between the two writes a look may meet a certificate without its key.
        assert!(becomes(|| !Arc::ptr_eq(&first, &tls.config())));
        let second = tls.config();
        std::fs::write(&files.key, "").unwrap();
        std::thread::sleep(looked_at * 10);
        assert!(Arc::ptr_eq(&second, &tls.config()));
        write(&files);
        stop.send(()).unwrap();
        assert!(becomes(|| !Arc::ptr_eq(&second, &tls.config())));
        drop(stop);
        looking.join().unwrap();
    }

    #[test]
    fn the_end_that_is_told_is_that_of_the_first_certificate_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let files = |name: &str, year| {
            let mut params = rcgen::CertificateParams::new(vec!["h".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            let files = CertificateFiles {
                certificate: dir.path().join(format!("{name}.pem")),
                key: dir.path().join(format!("{name}.key")),
            };
            std::fs::write(&files.certificate, certificate.pem()).unwrap();
            std::fs::write(&files.key, key.serialize_pem()).unwrap();
            set_mode(&files.key, 0o600);
            files
        };
        let certificates = vec![files("later", 2999), files("first", 2901), files("latest", 3000)];
        let tls = ClientTls::load(TlsFiles { certificates, client_ca: None }).unwrap();
        // The first of January 2901.
        assert_eq!(tls.not_after_s(), 29_379_542_400);
    }
}
