//! TLS towards upstreams: whom we trust.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::net::BufferPool;
use crate::tls::certificate::{FileError, read_authorities};

/// Why there is no TLS towards upstreams.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The given file can't be used.
    #[error(transparent)]
    CaFile(#[from] FileError),
    /// TLS can't be set up.
    #[error("tls: {0}")]
    Setup(#[from] rustls::Error),
}

/// What a worker needs to speak TLS to an upstream.
pub struct Connector {
    /// Settings.
    pub config: Arc<ClientConfig>,
    /// Buffers for ciphertext.
    pub buffers: Rc<BufferPool>,
}

/// The settings for all upstreams: trusts `ca_file`, or what the system trusts.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca_file {
        Some(file) => read_authorities("upstream_ca_file", file)?,
        None => {
            let mut roots = RootCertStore::empty();
            // A machine without roots can still use plain upstreams; an https one then fails to connect, and
            // says why.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
