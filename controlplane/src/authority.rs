//! The built-in certificate authority: how data planes on other hosts and the control plane know each other.
//!
//! Its key is made on the first start and never leaves `ca.key`. A node's certificate names the node and the
//! number of its enrolment, so that a node that was removed, or enrolled again, is not let in by an older
//! one. The control plane's own certificate is for a fixed name, wherever it is reached; it is made anew at
//! each start and well before its end. Several control planes of one registry need the same two files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use wire::frame::Certificates;
use wire::id::NodeId;

/// The name that the control plane's certificate is for.
pub const CONTROL_NAME: &str = wire::identity::CONTROL_NAME;
/// How long a node's certificate is good, unless the configuration says otherwise.
pub const NODE_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);
const SERVER_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Clocks of two hosts may differ by so much.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);
/// An uncompressed point on P-256.
const PUBLIC_KEY_BYTES: usize = 65;

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{}: {problem}; restore it, or remove both files and enrol every node anew", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The library failed.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The library failed.
    #[error("setting up tls: {0}")]
    Tls(#[from] rustls::Error),
    /// What asks for a certificate sent no public key.
    #[error("the public key is none of P-256")]
    PublicKey,
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    node_life: Duration,
    server: Mutex<Option<(Arc<ServerConfig>, Instant)>>,
}

impl Authority {
    /// Opens the authority in a directory, and makes it if it is not there.
    pub fn open(dir: &Path, node_life: Duration) -> Result<Self, AuthorityError> {
        let (certificate_file, key_file) = (dir.join("ca.pem"), dir.join("ca.key"));
        if !certificate_file.exists() {
            make(&certificate_file, &key_file)?;
        }
        let content =
            |path: &Path, problem: String| AuthorityError::Content { path: path.to_owned(), problem };
        let certificate = CertificateDer::from_pem_file(&certificate_file)
            .map_err(|error| content(&certificate_file, error.to_string()))?;
        let key = fs::read_to_string(&key_file)
            .map_err(|source| AuthorityError::File { path: key_file.clone(), source })?;
        let key = KeyPair::from_pem(&zeroize::Zeroizing::new(key))
            .map_err(|error| content(&key_file, error.to_string()))?;
        let authority = Self {
            issuer: Issuer::new(authority_params(), key),
            certificate,
            node_life,
            server: Mutex::new(None),
        };
        // A key that is not the certificate's would be noticed by the nodes, all at once.
        authority.server_config().map_err(|error| content(&key_file, error.to_string()))?;
        Ok(authority)
    }

    /// SHA-256 of its certificate: what a token carries, so that a node knows whom it speaks to.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    /// A certificate for a node's key.
    pub fn issue(
        &self,
        node: NodeId,
        enrolment: u64,
        public_key: &[u8],
    ) -> Result<Certificates, AuthorityError> {
        if public_key.len() != PUBLIC_KEY_BYTES || public_key[0] != 4 {
            return Err(AuthorityError::PublicKey);
        }
        let name = wire::identity::node_name(node, enrolment);
        let mut params = params(&name, self.node_life);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = CertificateParams::new(vec![name])?.subject_alt_names;
        let certificate = params.signed_by(&PublicKey(public_key.to_vec()), &self.issuer)?;
        Ok(Certificates { node: certificate.der().to_vec(), authority: self.certificate.to_vec() })
    }

    /// Whether a certificate, which the handshake found to be one of ours, is this node's, of this enrolment.
    #[must_use]
    pub fn is_for(certificate: &CertificateDer<'_>, node: NodeId, enrolment: u64) -> bool {
        let name = ServerName::try_from(wire::identity::node_name(node, enrolment));
        name.is_ok_and(|name| {
            ParsedCertificate::try_from(certificate)
                .is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
        })
    }

    /// How the control plane speaks TLS: with a certificate of its own that is not near its end. Who shows no
    /// certificate is let in to the handshake, and may only ask for one.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((config, made)) = &*server
            && made.elapsed() < SERVER_LIFE / 2
        {
            return Ok(config.clone());
        }
        let config = Arc::new(self.make_server_config()?);
        *server = Some((config.clone(), Instant::now()));
        Ok(config)
    }

    fn make_server_config(&self) -> Result<ServerConfig, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(CONTROL_NAME, SERVER_LIFE);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = CertificateParams::new(vec![CONTROL_NAME.to_owned()])?.subject_alt_names;
        let certificate = params.signed_by(&key, &self.issuer)?;
        // The authority's goes along: a node that is being enrolled knows its hash alone.
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|error| rustls::Error::General(error.to_owned()))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        // A resumed session would show the certificate of the first handshake.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A P-256 key whose other half is elsewhere.
struct PublicKey(Vec<u8>);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

fn params(name: &str, life: Duration) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + life).into();
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

fn authority_params() -> CertificateParams {
    let mut params = params("Liutong", AUTHORITY_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn make(certificate_file: &Path, key_file: &Path) -> Result<(), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = authority_params().self_signed(&key)?;
    // The key first: where the certificate is there, so is its key.
    for (path, text) in [(key_file, key.serialize_pem()), (certificate_file, certificate.pem())] {
        write_private(path, zeroize::Zeroizing::new(text).as_bytes())
            .map_err(|source| AuthorityError::File { path: path.to_owned(), source })?;
    }
    Ok(())
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
