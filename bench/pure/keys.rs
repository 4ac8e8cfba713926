//! Keys: form, digest, look-up in a table of ten thousand.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use dataplane::auth::{self, AuthCache};
use dataplane::error::RequestError;
use dataplane::http::request_head::RequestHead;
use dataplane::tables::writer::Incoming;
use dataplane::tables::{TableWriter, Tables};
use sha2::{Digest, Sha256};
use wire::id::{ApplicationId, AttributionId, Generation, KeyDigest, KeyId, RegistryId};
use wire::key_format::KEY_BYTES;
use wire::table::{Allow, Application, Change, Key};

use crate::heads::request_head;
use crate::{Case, Ready};

const GROUP: &str = "key check";
/// How many keys there are.
const KEYS: u64 = 10_000;
/// A key without its check.
const UNCHECKED: &str = "sk-lt-A1b2C3d4-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg";

/// What a look-up is to find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LookUp {
    /// The worker has looked it up before.
    Hit,
    /// The tables have it; the worker has forgotten everything.
    Miss,
    /// No key.
    Unknown,
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new(GROUP, "form and checksum", form),
        Case::new(GROUP, "worker's cache, the digest known: no SHA-256", again),
        Case::new(GROUP, "hit: form, SHA-256, worker's cache", || admit(LookUp::Hit)),
        Case::new(GROUP, "miss: form, SHA-256, shared table", || admit(LookUp::Miss)),
        Case::new(GROUP, "unknown key: form, SHA-256, not in the shared table", || admit(LookUp::Unknown)),
    ]
}

/// A well-formed key.
pub(crate) fn key() -> String {
    let check = wire::key_format::check_digits(UNCHECKED.as_bytes());
    UNCHECKED.chars().chain(check.map(char::from)).collect()
}

fn form() -> Ready {
    let key = key().into_bytes();
    assert!(wire::key_format::check(&key));
    Ready::new(KEY_BYTES, move || {
        black_box(wire::key_format::check(black_box(&key)));
    })
}

fn again() -> Ready {
    let (tables, cache, bytes) = (tables(true), AuthCache::default(), request_head());
    let head = RequestHead::parse(&bytes).expect("the head is a good one");
    let mut admitted = auth::admit(&head, &bytes, None, 1, &tables, &cache).expect("the key is a good one");
    // As if the tables had changed since: each time another revision.
    let mut revision = 1;
    Ready::new(KEY_BYTES, move || {
        revision += 1;
        black_box(admitted.renew(black_box(revision), &tables, &cache).is_ok());
    })
}

fn admit(look_up: LookUp) -> Ready {
    let (tables, cache, bytes) = (tables(look_up != LookUp::Unknown), AuthCache::default(), request_head());
    let head = RequestHead::parse(&bytes).expect("the head is a good one");
    let admitted = auth::admit(&head, &bytes, None, 1, &tables, &cache);
    match look_up {
        LookUp::Unknown => assert!(matches!(admitted, Err(RequestError::BadKey))),
        _ => assert!(admitted.is_ok_and(|admitted| admitted.caller.attribution == AttributionId(7))),
    }
    Ready::new(KEY_BYTES, move || {
        if look_up == LookUp::Miss {
            cache.clear();
        }
        black_box(auth::admit(black_box(&head), black_box(&bytes), None, 1, &tables, &cache).is_ok());
    })
}

fn digest(key: &str) -> KeyDigest {
    KeyDigest(Sha256::digest(key).into())
}

/// Tables with many keys, among them that of [`key`] or not.
fn tables(with_key: bool) -> Arc<Tables> {
    let entry = |digest: KeyDigest, attribution: u64| {
        Change::Key(Key {
            digest,
            id: KeyId(attribution),
            application: ApplicationId(1),
            attribution: AttributionId(attribution),
            not_after_ms: 0,
            allow: None,
        })
    };
    let others = (0..KEYS).map(|number| entry(digest(&format!("another key {number}")), 1000 + number));
    let mut changes: Vec<Change> = others.collect();
    changes.push(Change::Application(Application { id: ApplicationId(1), allow: Allow::All }));
    changes.extend(with_key.then(|| entry(digest(&key()), 7)));
    let mut incoming = Incoming::new(RegistryId(1), Generation(1));
    incoming.add(changes);
    let tables = Arc::new(Tables::new());
    TableWriter::new(tables.clone(), HashMap::new()).replace(incoming);
    assert_eq!(tables.key_count() as u64, KEYS + u64::from(with_key));
    tables
}
