//! TLS whose client panics when it has opened a record with `TRAP` in it.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ConnectionTrafficSecrets, Error, RootCertStore, ServerConfig, SupportedCipherSuite,
    Tls13CipherSuite,
};

use crate::tls_peer::Certified;

/// What makes the reader of a record panic.
pub(crate) const TRAP: &str = "a trap for the reader";

/// An algorithm whose records can be trapped.
struct Trapped(&'static dyn Tls13AeadAlgorithm);

struct TrappedReader(Box<dyn MessageDecrypter>);

impl MessageDecrypter for TrappedReader {
    fn decrypt<'a>(
        &mut self,
        message: InboundOpaqueMessage<'a>,
        number: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let opened = self.0.decrypt(message, number)?;
        assert!(opened.payload != TRAP.as_bytes(), "on purpose");
        Ok(opened)
    }
}

impl Tls13AeadAlgorithm for Trapped {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(TrappedReader(self.0.decrypter(key, iv)))
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }
}

/// A client that can be trapped, and trusts `certified`.
pub(crate) fn client_config(certified: &Certified) -> Arc<ClientConfig> {
    let plain = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit, .. } = plain.common;
    // rustls holds a suite for ever.
    let trapped: &'static Tls13CipherSuite = Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { suite, hash_provider, confidentiality_limit },
        hkdf_provider: plain.hkdf_provider,
        aead_alg: Box::leak(Box::new(Trapped(plain.aead_alg))),
        quic: None,
    }));
    let provider =
        CryptoProvider { cipher_suites: vec![SupportedCipherSuite::Tls13(trapped)], ..default_provider() };
    let mut roots = RootCertStore::empty();
    roots.add(certified.der()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A server that is `certified`.
pub(crate) fn server_config(certified: &Certified) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.der()], key);
    Arc::new(config.unwrap())
}
