//! Who this node is towards a control plane on another host: a certificate of the control plane's own
//! authority, for a key that was made here and never leaves.
//!
//! ```text
//! DATA_DIR/control.pem   the node's certificate, the authority's, the node's key; replaced by rename
//! ```
//!
//! The first certificate comes for a token (`--enroll`), which names the authority by its hash, so that
//! nobody in between can put another one in its place. Each next one comes for the one before, when a third
//! of its time is left; new connections use it, those that are open go on. One that has ended stops nothing
//! but the talk with the control plane.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use wire::frame::{Certificates, Enroll, Frame};
use wire::id::NodeId;
use zeroize::Zeroizing;

use self::pinned::Pinned;
use crate::link::{Link, LinkError};
use crate::log::{self, Entry};
use crate::tls::certificate::end_of_validity;

/// Trust in an authority by its hash.
mod pinned;

/// How long the control plane may take to make a certificate.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How often the time that is left is looked at; more often where a certificate's whole life is short.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read or written.
    #[error("{file}: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not what was written there.
    #[error("{file}: {problem}; enrol the node again")]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The node was never enrolled.
    #[error("{0}: not there: enrol the node first, by --enroll and a token of `liutong node enroll`")]
    NotEnrolled(PathBuf),
    /// What was given is no token.
    #[error("what was given is no token of `liutong node enroll`")]
    Token,
    /// The control plane can't be reached, or said no.
    #[error("{address}: {source}")]
    Control {
        /// Where it should be.
        address: String,
        /// What happened.
        source: LinkError,
    },
    /// It said something else than the protocol allows.
    #[error("the control plane's answer is of another authority, or no answer")]
    Answer,
    /// The library failed.
    #[error("making a key: {0}")]
    Key(#[from] rcgen::Error),
    /// The library failed.
    #[error("setting up tls: {0}")]
    Tls(#[from] rustls::Error),
}

/// The node's certificate, and where the control planes are.
pub struct Identity {
    /// Each `host:port`; at least one.
    pub addresses: Vec<String>,
    node: NodeId,
    file: PathBuf,
    config: ArcSwap<ClientConfig>,
    authority: CertificateDer<'static>,
    began_s: AtomicU64,
    not_after_s: AtomicU64,
}

/// What the file holds, ready for use.
struct Loaded {
    config: ClientConfig,
    authority: CertificateDer<'static>,
    began_s: u64,
    not_after_s: u64,
}

impl Identity {
    /// Reads what enrolling has written.
    pub fn open(data_dir: &Path, addresses: Vec<String>, node: NodeId) -> Result<Self, IdentityError> {
        let file = file_in(data_dir);
        let Loaded { config, authority, began_s, not_after_s } = load(&file)?;
        Ok(Self {
            addresses,
            node,
            file,
            config: ArcSwap::from_pointee(config),
            authority,
            began_s: began_s.into(),
            not_after_s: not_after_s.into(),
        })
    }

    /// How to speak TLS to the control plane, from now on.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.load_full()
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn not_after_s(&self) -> u64 {
        self.not_after_s.load(Ordering::Relaxed)
    }

    /// Renews the certificate when its time has come, until `stop` is raised.
    pub fn keep_fresh(&self, stop: &Arc<AtomicBool>) {
        let (mut told, mut waited) = (false, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let (began_s, end_s) = (self.began_s.load(Ordering::Relaxed), self.not_after_s());
            let life = Duration::from_secs(end_s.saturating_sub(began_s));
            if waited < (life / 30).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL) {
                std::thread::sleep(LOOK_INTERVAL_MIN);
                waited += LOOK_INTERVAL_MIN;
                continue;
            }
            waited = Duration::ZERO;
            if Duration::from_secs(end_s.saturating_sub(unix_s())) > life / 3 {
                continue;
            }
            match self.renew(stop) {
                Ok(()) => {
                    told = false;
                    log::log(&Entry::CertificateRenewed);
                }
                Err(error) if !told => {
                    told = true;
                    log::log(&Entry::CertificateNotRenewed(&error));
                }
                Err(_) => {}
            }
        }
    }

    fn renew(&self, stop: &Arc<AtomicBool>) -> Result<(), IdentityError> {
        let mut asked = Err(IdentityError::Answer);
        for address in &self.addresses {
            let link = Link::over_tls(address, self.config(), stop.clone());
            asked = ask(link, address, self.node, &[]);
            if asked.is_ok() {
                break;
            }
        }
        let certificates = asked?;
        if certificates.1.authority != *self.authority {
            return Err(IdentityError::Answer);
        }
        write(&self.file, &certificates.1, &certificates.0)?;
        let loaded = load(&self.file)?;
        self.config.store(Arc::new(loaded.config));
        self.began_s.store(loaded.began_s, Ordering::Relaxed);
        self.not_after_s.store(loaded.not_after_s, Ordering::Relaxed);
        Ok(())
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Gets a node its first certificate.
pub fn enroll(data_dir: &Path, address: &str, node: NodeId, token: &str) -> Result<(), IdentityError> {
    let (fingerprint, secret) = wire::identity::parse_token(token.trim()).ok_or(IdentityError::Token)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { fingerprint, provider }))
        .with_no_client_auth();
    let link = Link::over_tls(address, Arc::new(config), Arc::default());
    let (key, certificates) = ask(link, address, node, secret.as_bytes())?;
    if <[u8; 32]>::from(Sha256::digest(&certificates.authority)) != fingerprint {
        return Err(IdentityError::Answer);
    }
    write(&file_in(data_dir), &certificates, &key)
}

/// Asks for a certificate for a new key.
fn ask(
    link: Result<Link, LinkError>,
    address: &str,
    node: NodeId,
    token: &[u8],
) -> Result<(KeyPair, Certificates), IdentityError> {
    let failed = |source| IdentityError::Control { address: address.to_owned(), source };
    let mut link = link.map_err(failed)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let (token, public_key) = (token.to_vec(), key.der_bytes().to_vec());
    link.send(&Frame::Enroll(Enroll { node, token, public_key })).map_err(failed)?;
    match link.receive(ANSWER_MAX).map_err(failed)? {
        Some(Frame::Enrolled(certificates)) => Ok((key, certificates)),
        Some(_) => Err(IdentityError::Answer),
        None => Err(failed(LinkError::Stalled(ANSWER_MAX))),
    }
}

fn file_in(data_dir: &Path) -> PathBuf {
    data_dir.join("control.pem")
}

fn write(file: &Path, certificates: &Certificates, key: &KeyPair) -> Result<(), IdentityError> {
    let mut text = Zeroizing::new(String::new());
    for der in [&certificates.node, &certificates.authority] {
        text.push_str(&pem::encode(&pem::Pem::new("CERTIFICATE", der.as_slice())));
    }
    text.push_str(&Zeroizing::new(key.serialize_pem()));
    let replace = || -> io::Result<()> {
        let new = file.with_extension("new");
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&new, file)?;
        File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    replace().map_err(|source| IdentityError::File { file: file.to_owned(), source })
}

fn load(file: &Path) -> Result<Loaded, IdentityError> {
    let bad = |problem: String| IdentityError::Content { file: file.to_owned(), problem };
    let failed = |source| IdentityError::File { file: file.to_owned(), source };
    let written = match fs::metadata(file) {
        Ok(metadata) => metadata.modified().map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(IdentityError::NotEnrolled(file.to_owned()));
        }
        Err(error) => return Err(failed(error)),
    };
    let chain = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let [node, authority] = <[CertificateDer<'static>; 2]>::try_from(chain.map_err(|e| bad(e.to_string()))?)
        .map_err(|_| bad("it does not hold two certificates".to_owned()))?;
    let key = PrivateKeyDer::from_pem_file(file).map_err(|error| bad(error.to_string()))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    // One that has ended is not refused here: the control plane says so, and requests are served meanwhile.
    let not_after_s = end_of_validity(&node, &provider, UnixTime::now()).unwrap_or(0);
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![node], key)?;
    config.resumption = Resumption::disabled();
    let began_s = written.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(Loaded { config, authority, began_s, not_after_s })
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
