//! Two sessions that talk to each other, in pieces of every size.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::*;

/// Two ends that trust each other.
fn pair(version: &'static SupportedProtocolVersion, fragment: Option<usize>) -> (Session, Session) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.max_fragment_size = fragment;
    let client = UnbufferedClientConnection::new(client.into(), "localhost".try_into().unwrap()).unwrap();
    (client.into(), UnbufferedServerConnection::new(server.into()).unwrap().into())
}

/// Gives `session` more ciphertext.
fn feed(session: &mut Session, bytes: &[u8]) {
    let mut cipher = session.take_cipher();
    cipher.extend_from_slice(bytes);
    session.put_cipher(cipher);
}

/// Shakes hands, with `step` bytes at a time on their way.
fn shaken(
    version: &'static SupportedProtocolVersion,
    step: usize,
    fragment: Option<usize>,
) -> (Session, Session) {
    let (mut client, mut server) = pair(version, fragment);
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut over = (false, false);
    while over != (true, true) || !to_client.is_empty() {
        over.0 = client.shake(&mut to_server).unwrap() || over.0;
        for piece in to_server.chunks(step) {
            feed(&mut server, piece);
            over.1 = server.shake(&mut to_client).unwrap();
        }
        to_server.clear();
        for piece in to_client.chunks(step) {
            feed(&mut client, piece);
            over.0 = client.shake(&mut to_server).unwrap();
        }
        to_client.clear();
        if over.0 {
            // The tickets of TLS 1.3 come after the handshake.
            client.open(&mut Vec::new(), &mut to_server).unwrap();
        }
    }
    (client, server)
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn a_handshake_in_pieces_of_any_size_and_records_of_32_bytes_succeeds() {
    for version in VERSIONS {
        for (step, fragment) in
            [(1, None), (7, Some(32)), (1, Some(32)), (100_000, Some(32)), (100_000, None)]
        {
            let (client, server) = shaken(version, step, fragment);
            assert!(client.is_drained() && server.is_drained());
        }
    }
}

#[test]
fn what_is_sealed_is_opened_split_at_every_byte() {
    for version in VERSIONS {
        let (mut client, mut server) = shaken(version, 100_000, None);
        let mut split = 0;
        loop {
            let mut sealed = Vec::new();
            client.seal(b"one", &mut sealed).unwrap();
            client.seal(b"two", &mut sealed).unwrap();
            let (mut plain, mut out) = (Vec::with_capacity(100), Vec::new());
            for piece in [&sealed[..split], &sealed[split..]] {
                feed(&mut server, piece);
                server.open(&mut plain, &mut out).unwrap();
            }
            assert_eq!((plain.as_slice(), out.len()), (&b"onetwo"[..], 0), "split at {split}");
            assert!(server.is_drained());
            if split == sealed.len() {
                break;
            }
            split += 1;
        }
    }
}

#[test]
fn no_more_is_opened_than_there_is_room_for_but_one_record_always() {
    let (mut client, mut server) = shaken(&rustls::version::TLS13, 100_000, None);
    let mut sealed = Vec::new();
    client.seal(&[b'a'; 40_000], &mut sealed).unwrap();
    feed(&mut server, &sealed);
    let mut plain = Vec::with_capacity(10);
    let mut sizes = Vec::new();
    while !server.is_drained() {
        plain.clear();
        server.open(&mut plain, &mut Vec::new()).unwrap();
        sizes.push(plain.len());
    }
    assert_eq!(sizes, [16_384, 16_384, 40_000 - 2 * 16_384]);
    assert!(plain.capacity() < 17_000);
}

#[test]
fn sealing_leaves_what_is_unread_where_it_is() {
    for version in VERSIONS {
        let (mut client, mut server) = shaken(version, 100_000, None);
        let (mut sealed, mut answer, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        client.seal(b"request", &mut sealed).unwrap();
        feed(&mut server, &sealed);
        server.seal(b"answer", &mut answer).unwrap();
        server.open(&mut plain, &mut Vec::new()).unwrap();
        assert_eq!(plain, b"request");
        plain.clear();
        feed(&mut client, &answer);
        client.open(&mut plain, &mut Vec::new()).unwrap();
        assert_eq!(plain, b"answer");
    }
}

#[test]
fn an_end_is_seen_after_all_that_came_before_it_and_the_other_way_stays_open() {
    for version in VERSIONS {
        let (mut client, mut server) = shaken(version, 100_000, None);
        let (mut sealed, mut plain) = (Vec::new(), Vec::new());
        client.seal(b"last", &mut sealed).unwrap();
        client.close(&mut sealed).unwrap();
        feed(&mut server, &sealed);
        server.open(&mut plain, &mut Vec::new()).unwrap();
        assert_eq!(plain, b"last");
        server.open(&mut plain, &mut Vec::new()).unwrap();
        assert!(server.has_ended() && plain.len() == 4);
        let mut answer = Vec::new();
        server.seal(b"heard", &mut answer).unwrap();
        feed(&mut client, &answer);
        plain.clear();
        client.open(&mut plain, &mut Vec::new()).unwrap();
        assert_eq!(plain, b"heard");
    }
}

#[test]
fn a_changed_byte_is_refused_with_an_alert() {
    for version in VERSIONS {
        let (mut client, mut server) = shaken(version, 100_000, None);
        let (mut sealed, mut alert) = (Vec::new(), Vec::new());
        client.seal(b"request", &mut sealed).unwrap();
        *sealed.last_mut().unwrap() ^= 1;
        feed(&mut server, &sealed);
        assert_eq!(server.open(&mut Vec::new(), &mut alert), Err(Error::DecryptError));
        feed(&mut client, &alert);
        let told = client.open(&mut Vec::new(), &mut Vec::new());
        assert_eq!(told, Err(Error::AlertReceived(rustls::AlertDescription::BadRecordMac)));
    }
}

#[test]
fn a_header_that_cannot_be_is_refused_before_its_record_comes() {
    for header in [b"hello", &[22, 3, 1, 0xff, 0xff], &[19, 3, 3, 0, 9]] {
        let (_, mut server) = pair(&rustls::version::TLS13, None);
        feed(&mut server, header);
        let mut alert = Vec::new();
        assert!(server.shake(&mut alert).is_err(), "{header:?}");
        assert_eq!(alert.first(), Some(&21), "{header:?}");
    }
}

#[test]
fn nothing_is_sealed_before_the_handshake_is_over() {
    let (mut client, _) = pair(&rustls::version::TLS13, None);
    client.shake(&mut Vec::new()).unwrap();
    let mut out = Vec::new();
    assert_eq!(client.seal(b"x", &mut out), Err(Error::HandshakeNotComplete));
    assert!(out.is_empty());
}
