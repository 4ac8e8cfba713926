//! TLS towards upstreams: rustls's connection over monoio's socket.
//!
//! Why not monoio-rustls: after a dropped read its next use panics, and it keeps 32 KiB of buffers for each
//! connection. Here ciphertext passes through one buffer that lives as long as an operation, and a dropped
//! operation leaves nothing that could be used again: by the rules of `runtime` the connection is closed.

use std::io::{self, BufRead, Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::net::{Done, read_plain, write_plain};
use crate::runtime::TcpStream;

/// A TLS record with its overhead; one read takes a whole one.
const CIPHER_BYTES: usize = 16 * 1024 + 2048;

/// Why there is no TLS towards upstreams.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The given file can't be used.
    #[error("{0}: not a PEM file with certificates")]
    CaFile(String),
    /// TLS can't be set up.
    #[error("tls: {0}")]
    Setup(#[from] rustls::Error),
}

/// The settings for all upstreams: trusts `ca_file`, or what the system trusts.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        let bad = || TlsError::CaFile(file.display().to_string());
        for certificate in CertificateDer::pem_file_iter(file).map_err(|_| bad())? {
            roots.add(certificate.map_err(|_| bad())?)?;
        }
        if roots.is_empty() {
            return Err(bad());
        }
    } else {
        // A machine without roots can still use plain upstreams; an https one then fails to connect, and says
        // why.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A TLS connection.
pub struct TlsStream {
    tcp: TcpStream,
    tls: ClientConnection,
    cipher: Vec<u8>,
}

impl TlsStream {
    /// Shakes hands as a client of `host`.
    pub async fn connect(tcp: TcpStream, config: Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = Self { tcp, tls, cipher: Vec::with_capacity(CIPHER_BYTES) };
        loop {
            stream.send().await?;
            if !stream.tls.is_handshaking() {
                return Ok(stream);
            }
            if stream.receive().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.tcp.as_raw_fd()
    }

    /// `Stream::read`.
    pub async fn read(&mut self, mut buffer: Vec<u8>, at: usize) -> Done<usize> {
        buffer.truncate(at);
        loop {
            match self.take_plain(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return (done, buffer),
            }
            // An end without close_notify shows in the next `take_plain`, as an error.
            if let Err(error) = self.receive().await {
                return (Err(error), buffer);
            }
            if let Err(error) = self.send().await {
                return (Err(error), buffer);
            }
        }
    }

    fn take_plain(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut reader = self.tls.reader();
        let plain = reader.fill_buf()?;
        let len = plain.len().min(buffer.capacity() - buffer.len());
        buffer.extend_from_slice(&plain[..len]);
        reader.consume(len);
        Ok(len)
    }

    /// `Stream::write_all`.
    pub async fn write_all(&mut self, buffer: Vec<u8>, range: Range<usize>) -> Done<()> {
        let mut at = range.start;
        while at < range.end {
            // rustls takes as much as its own limit allows.
            match self.tls.writer().write(&buffer[at..range.end]) {
                Ok(taken) => at += taken,
                Err(error) => return (Err(error), buffer),
            }
            if let Err(error) = self.send().await {
                return (Err(error), buffer);
            }
        }
        (Ok(()), buffer)
    }

    /// Writes what rustls has for the peer.
    async fn send(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out)?;
        }
        let len = out.len();
        write_plain(&mut self.tcp, out, 0..len).await.0
    }

    /// Reads ciphertext once; 0 is the peer's end.
    async fn receive(&mut self) -> io::Result<usize> {
        let cipher = std::mem::take(&mut self.cipher);
        let (result, cipher) = read_plain(&mut self.tcp, cipher, 0).await;
        let len = result?;
        let mut rest = &cipher[..len];
        loop {
            // An empty read is how rustls learns of the end.
            self.tls.read_tls(&mut rest.by_ref())?;
            if let Err(error) = self.tls.process_new_packets() {
                // The alert tells the peer why; that it may not arrive changes nothing.
                let _ = self.send().await;
                return Err(io::Error::other(error));
            }
            if rest.is_empty() {
                break;
            }
        }
        self.cipher = cipher;
        Ok(len)
    }
}
