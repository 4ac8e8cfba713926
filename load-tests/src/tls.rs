//! TLS for clients: a certificate made at run time, and clients that trust it and nobody else.
//!
//! Clients offer what both sides of a comparison have, and nothing else: TLS 1.3, X25519, AES-256-GCM. It is
//! what an SDK on OpenSSL agrees on with either; which features of rustls a build has then changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};

/// The name that the certificate is for.
pub const SERVER_NAME: &str = "localhost";

/// A certificate for `SERVER_NAME` with its key (ECDSA P-256), signed by itself.
pub struct Certified {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// A certificate and its key as files.
pub struct CertifiedFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key; its name is the certificate's with `.key` behind it, where HAProxy looks for it.
    pub key: PathBuf,
}

impl Certified {
    /// Makes one.
    pub fn new() -> io::Result<Self> {
        let params = CertificateParams::new([SERVER_NAME.to_owned()]).map_err(io::Error::other)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        Ok(Self { certificate, key })
    }

    /// Writes both into `dir`.
    pub fn write(&self, dir: &Path) -> io::Result<CertifiedFiles> {
        let files = CertifiedFiles { certificate: dir.join("server.pem"), key: dir.join("server.pem.key") };
        std::fs::write(&files.certificate, self.certificate.pem())?;
        std::fs::write(&files.key, self.key.serialize_pem())?;
        Ok(files)
    }

    /// What a client that trusts it is set to; one that `resumes` keeps its sessions, and shows the last of
    /// them when it connects again.
    pub fn client(&self, resumes: bool) -> io::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).map_err(io::Error::other)?;
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        Ok(Arc::new(config))
    }
}
