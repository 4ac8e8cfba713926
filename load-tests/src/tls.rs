//! TLS for clients: a certificate made at run time, and clients that trust it and nobody else.
//!
//! Clients offer what both sides of a comparison have, and nothing else: TLS 1.3, X25519, AES-256-GCM. It is
//! what an SDK on OpenSSL agrees on with either; which features of rustls a build has then changes nothing.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
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
        // The data plane takes no key that others may read.
        std::fs::set_permissions(&files.key, Permissions::from_mode(0o600))?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};

    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;
    use crate::client::{Amount, Connection, Plan, Template, load, request};

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";

    /// Serves so many connections, one after the other, with an exchange each.
    fn serve(certified: &Certified, connections: usize) -> SocketAddr {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.certificate.der().clone()], key)
            .unwrap();
        let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for socket in listener.incoming().take(connections) {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, socket.unwrap());
                let mut received = Vec::new();
                while !received.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    received.push(byte[0]);
                }
                stream.write_all(ANSWER).unwrap();
            }
        });
        address
    }

    fn five(resumes: bool) -> load::Report {
        let certified = Certified::new().unwrap();
        let template = Template { label: String::new(), request: request("GET", "/", &[], b"") };
        let mut plan = Plan::new(serve(&certified, 5), 1, Amount::Requests(5), vec![template]);
        plan.tls = Some(certified.client(resumes).unwrap());
        load::run(&plan).unwrap()
    }

    #[test]
    fn who_keeps_no_session_shakes_hands_in_full_each_time() {
        let report = five(false);
        assert_eq!(report.first_failure, None);
        assert_eq!((report.responses(), report.connects, report.resumed), (5, 5, 0));
    }

    #[test]
    fn who_keeps_its_sessions_resumes_all_but_the_first() {
        let report = five(true);
        assert_eq!(report.first_failure, None);
        assert_eq!((report.responses(), report.connects, report.resumed), (5, 5, 4));
    }

    #[test]
    fn a_certificate_is_trusted_by_its_own_clients_only() {
        let (own, other) = (Certified::new().unwrap(), Certified::new().unwrap());
        let ask = |clients: &Certified| {
            let client = clients.client(false).unwrap();
            Connection::open_with(serve(&own, 1), Some(client))?.exchange(&request("GET", "/", &[], b""))
        };
        assert_eq!(ask(&own).unwrap().text(), "ok");
        assert!(ask(&other).is_err());
    }
}
