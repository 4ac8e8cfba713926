//! Clients that speak TLS, and the files that a data plane serves them with.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;
use wire::table::Deployment;

use crate::plane::{PATIENCE, Peer, Plane, Upstream, deployment};

/// A certificate with its key.
pub(crate) struct Certified {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

impl Certified {
    /// One for `names`, with its own authority.
    pub(crate) fn of(names: &[&str]) -> Self {
        Self::with(names, |_| {})
    }

    /// The same, changed by `change`.
    pub(crate) fn with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    /// Writes both to `dir`; gives the lines of the configuration that name them.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> String {
        let files = [dir.join(format!("{name}.pem")), dir.join(format!("{name}.key"))];
        std::fs::write(&files[0], self.certificate.pem()).unwrap();
        write_private(&files[1], &self.key.serialize_pem());
        format!("certificate_file = '{}'\nkey_file = '{}'\n", files[0].display(), files[1].display())
    }

    /// What a client that trusts it, and nobody else, is set to.
    pub(crate) fn trusting(&self) -> ClientConfig {
        self.client(&[&rustls::version::TLS13, &rustls::version::TLS12], None)
    }

    /// The same, with versions of its choice, and a certificate of its own.
    pub(crate) fn client(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        shown: Option<&Self>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match shown {
            None => config.with_no_client_auth(),
            Some(shown) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(shown.key.serialize_der()));
                config.with_client_auth_cert(vec![shown.der()], key).unwrap()
            }
        }
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }
}

/// A data plane that speaks TLS to its clients.
pub(crate) fn start(deployments: Vec<Deployment>, tls: &str) -> Plane {
    Plane::start_edited(deployments, |text| {
        text.replace("body_mib = 1", "body_mib = 8") + "[http.tls]\n" + tls
    })
}

/// One with a certificate for `localhost`; its files are in the directory.
pub(crate) fn plane(upstream: &Upstream) -> (Plane, TempDir, Certified) {
    let (dir, certified) = (tempfile::tempdir().unwrap(), Certified::of(&["localhost"]));
    let plane = start(vec![deployment(3, upstream.address)], &certified.write(dir.path(), "server"));
    (plane, dir, certified)
}

/// A connection to a data plane; its handshake is done by the first read or write.
pub(crate) type TlsPeer<S = TcpStream> = Peer<StreamOwned<ClientConnection, S>>;

/// Connects as a client of `localhost`.
pub(crate) fn connect(plane: &Plane, config: &Arc<ClientConfig>) -> TlsPeer {
    connect_over(Peer::new(TcpStream::connect(plane.http).unwrap()).stream, config, "localhost")
}

/// The same over any stream, for any name.
pub(crate) fn connect_over<S: Read + Write>(stream: S, config: &Arc<ClientConfig>, name: &str) -> TlsPeer<S> {
    let name = name.to_owned().try_into().unwrap();
    Peer::on(StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), stream))
}

/// How a connection ends from here on: `Ok` with close_notify, an error without.
pub(crate) fn end<S: Read + Write>(peer: &mut TlsPeer<S>) -> io::Result<()> {
    while peer.stream.read(&mut [0; 65536])? > 0 {}
    Ok(())
}

/// The certificate that a new connection is shown.
pub(crate) fn shown(
    plane: &Plane,
    config: &Arc<ClientConfig>,
    name: &str,
) -> Option<CertificateDer<'static>> {
    let stream = TcpStream::connect(plane.http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut peer = connect_over(stream, config, name);
    peer.stream.conn.complete_io(&mut peer.stream.sock).ok()?;
    Some(peer.stream.conn.peer_certificates()?[0].clone().into_owned())
}

/// Sends each byte in a segment of its own.
pub(crate) struct Drip(pub(crate) TcpStream);

impl Read for Drip {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Drip {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what others may not read: the data plane takes no other keys.
pub(crate) fn write_private(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}
