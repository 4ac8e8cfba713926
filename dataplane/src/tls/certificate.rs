//! A certificate and its key, as they are in files, and which of several a client is shown.
//!
//! A client names the host that it wants (SNI); of the certificates for that name it gets the first whose
//! key it can check, and where none is for it, the first of all.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};
use secret::SourceError;

/// A certificate and its key, in files.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The certificate in PEM, and behind it those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
}

/// What is wrong with a file of certificates or keys.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {file}: {problem}")]
pub struct FileError {
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// The file.
    pub file: String,
    /// Why it can't be used.
    pub problem: String,
}

impl FileError {
    /// An error of the file that `key` names.
    pub fn new(key: &'static str, file: &Path, problem: impl fmt::Display) -> Self {
        Self { key, file: file.display().to_string(), problem: problem.to_string() }
    }
}

/// Reads a PEM file of authorities to trust.
pub fn read_authorities(key: &'static str, file: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(key, file)? {
        roots.add(certificate).map_err(|error| FileError::new(key, file, error))?;
    }
    Ok(roots)
}

fn read_certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let bad = |error: rustls::pki_types::pem::Error| FileError::new(key, file, PemProblem(error));
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(bad)?;
    if certificates.is_empty() {
        return Err(FileError::new(key, file, "has no certificate in PEM"));
    }
    Ok(certificates)
}

/// The parser's words as a person needs them.
struct PemProblem(rustls::pki_types::pem::Error);

impl fmt::Display for PemProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use rustls::pki_types::pem::Error;
        match &self.0 {
            Error::Io(error) => write!(f, "{error}"),
            Error::NoItemsFound => write!(f, "has nothing of the kind in PEM"),
            error => write!(f, "is not PEM: {error}"),
        }
    }
}

/// A certificate with its key, ready for use.
#[derive(Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// When it ends, in seconds since 1970.
    pub not_after_s: u64,
}

impl Certificate {
    /// Reads `files`; refuses what clients would refuse at `now`.
    pub fn read(
        files: &CertificateFiles,
        provider: &Arc<CryptoProvider>,
        now: UnixTime,
    ) -> Result<Self, FileError> {
        let chain = read_certificates("http.tls.certificate_file", &files.certificate)?;
        let not_after_s = end_of_validity(&chain[0], provider, now)
            .map_err(|problem| FileError::new("http.tls.certificate_file", &files.certificate, problem))?;
        let of_key = |problem: &dyn fmt::Display| FileError::new("http.tls.key_file", &files.key, problem);
        // By the rule for all secrets: others have no access, its group may read it.
        let pem = secret::read_private(&files.key).map_err(|error| match error {
            // The file is named already.
            SourceError::File { source, .. } => of_key(&source),
            SourceError::Exposed { mode, .. } => of_key(&format_args!(
                "others may read or change it (mode {mode:03o}): `chmod 600` it, or 640 for a group"
            )),
            error => of_key(&error),
        })?;
        let key = PrivateKeyDer::from_pem_slice(pem.reveal().as_bytes())
            .map_err(|error| of_key(&PemProblem(error)))?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                of_key(&format_args!("is not the key of {}", files.certificate.display()))
            }
            error => of_key(&error),
        })?;
        Ok(Self { key: Arc::new(key), not_after_s })
    }

    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let Some(certificate) = self.key.cert.first() else { return false };
        ParsedCertificate::try_from(certificate)
            .is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
    }
}

/// When `certificate` ends, in seconds since 1970; an error where it has ended, has not begun, or is none.
///
/// webpki looks at the times before all else, so it is asked, at two times, whether the certificate is its
/// own authority's: now, and at the end of time. What it says of the authority is of no interest.
pub(crate) fn end_of_validity(
    certificate: &CertificateDer<'_>,
    provider: &Arc<CryptoProvider>,
    now: UnixTime,
) -> Result<u64, &'static str> {
    const NONE: &str = "is not a certificate";
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned()).map_err(|_| NONE)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|_| NONE)?;
    let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let problem_at = |time| match verifier.verify_server_cert(certificate, &[], &name, &[], time) {
        Err(Error::InvalidCertificate(problem)) => Some(problem),
        _ => None,
    };
    match problem_at(now) {
        Some(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => Err("has expired"),
        Some(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            Err("is not valid yet")
        }
        Some(CertificateError::BadEncoding) => Err(NONE),
        _ => match problem_at(UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX))) {
            Some(CertificateError::ExpiredContext { not_after, .. }) => Ok(not_after.as_secs()),
            _ => Err(NONE),
        },
    }
}

/// Chooses by the name that a client asks for.
#[derive(Debug)]
pub struct Certificates(pub Vec<Certificate>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let checkable = |certificate: &&Certificate| {
            certificate.key.key.choose_scheme(hello.signature_schemes()).is_some()
        };
        // With one there is nothing to choose.
        let name =
            hello.server_name().filter(|_| self.0.len() > 1).and_then(|name| ServerName::try_from(name).ok());
        let named = name
            .and_then(|name| self.0.iter().filter(checkable).find(|certificate| certificate.is_for(&name)));
        named.or_else(|| self.0.first()).map(|certificate| certificate.key.clone())
    }
}
