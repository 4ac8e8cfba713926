//! Who a request is from.
//!
//! What is looked up is the SHA-256 of the whole key; the key itself is compared with nothing and kept
//! nowhere. Its checksum refuses typing errors and garbage before they get to the table that all workers
//! share. A worker keeps what it found for as long as the tables' revision stands still; `not_after` is
//! checked on every hit, since time passes without a change.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use wire::id::KeyDigest;
use wire::key_format::{self, KEY_BYTES};
use wire::key_use::Reason;

use crate::error::RequestError;
use crate::http::request_head::{CredentialKind, RequestHead};
use crate::prices::{Feature, without};
use crate::tables::{BuildDigestHasher, Caller, Tables};

/// How many keys a worker keeps; when they are more it forgets them all and begins anew.
const CACHED_KEYS_MAX: usize = 65_536;

/// What a worker has looked up, for one revision of the tables.
#[derive(Default)]
pub struct AuthCache {
    found: RefCell<HashMap<KeyDigest, Caller, BuildDigestHasher>>,
}

impl AuthCache {
    /// Forgets everything: the tables' revision has moved.
    pub fn clear(&self) {
        self.found.borrow_mut().clear();
    }

    /// What was looked up before.
    fn known(&self, digest: &KeyDigest) -> Option<Caller> {
        self.found.borrow().get(digest).cloned()
    }

    fn look_up(&self, tables: &Tables, digest: &KeyDigest) -> Option<Caller> {
        let caller = tables.caller(digest)?;
        let mut found = self.found.borrow_mut();
        if found.len() >= CACHED_KEYS_MAX {
            found.clear();
        }
        found.insert(*digest, caller.clone());
        Some(caller)
    }
}

/// A key that was accepted.
pub struct Admitted {
    /// Its digest, to look it up again.
    pub digest: KeyDigest,
    /// What it stands for.
    pub caller: Caller,
    /// The tables' revision in which that is so.
    revision: u64,
}

/// Who the request is from. `head_bytes` are what `head` was parsed from; `known` is the digest of the key in
/// it, where these very bytes had one before; `revision` was loaded before any look-up, and `cache` is for
/// it.
pub fn admit(
    head: &RequestHead,
    head_bytes: &[u8],
    known: Option<KeyDigest>,
    revision: u64,
    tables: &Tables,
    cache: &AuthCache,
) -> Result<Admitted, RequestError> {
    if !tables.is_ready() {
        return Err(RequestError::NotReady);
    }
    if tables.freshness.is_stale() {
        return Err(RequestError::Stale);
    }
    let credential = head.credential.ok_or(RequestError::NoKey)?;
    let key = credential.token.of(head_bytes);
    if credential.kind == CredentialKind::Malformed || key.len() != KEY_BYTES {
        return Err(RequestError::BadKey);
    }
    if without(Feature::KeyCheck) {
        return Ok(Admitted { digest: KeyDigest([0; 32]), caller: Caller::unchecked(), revision });
    }
    let digest = known.unwrap_or_else(|| KeyDigest(Sha256::digest(key).into()));
    // A key that was looked up before needs no check of its form.
    let caller = match cache.known(&digest) {
        Some(caller) => caller,
        None if key_format::check(key) => cache.look_up(tables, &digest).ok_or(RequestError::BadKey)?,
        None => return Err(RequestError::BadKey),
    };
    let admitted = Admitted { digest, caller, revision };
    admitted.check_time()?;
    Ok(admitted)
}

impl Admitted {
    /// Looks the key up again if `revision` is another one than it was accepted in.
    pub fn renew(&mut self, revision: u64, tables: &Tables, cache: &AuthCache) -> Result<(), RequestError> {
        if self.revision != revision && !without(Feature::KeyCheck) {
            let known = cache.known(&self.digest).or_else(|| cache.look_up(tables, &self.digest));
            self.caller = known.ok_or(RequestError::BadKey)?;
            self.revision = revision;
        }
        self.check_time()
    }

    /// Refuses a key whose time is over. Time passes without a change of the tables.
    fn check_time(&self) -> Result<(), RequestError> {
        let expired = self.caller.not_after_ms != 0 && self.caller.not_after_ms <= unix_ms();
        if expired { Err(RequestError::BadKey) } else { Ok(()) }
    }
}

/// Which key was refused, and why, where it is one that is known. All of it is found out again, so that a key
/// that is accepted bears nothing of it.
pub fn refused_key(
    head: &RequestHead,
    head_bytes: &[u8],
    tables: &Tables,
    now_ms: u64,
) -> Option<(KeyDigest, Reason)> {
    let credential = head.credential.filter(|credential| credential.kind != CredentialKind::Malformed)?;
    let key = credential.token.of(head_bytes);
    if key.len() != KEY_BYTES || !key_format::check(key) {
        return None;
    }
    let digest = KeyDigest(Sha256::digest(key).into());
    if tables.is_revoked(&digest) {
        return Some((digest, Reason::Revoked));
    }
    let ends_ms = tables.caller(&digest)?.not_after_ms;
    (ends_ms != 0 && ends_ms <= now_ms).then_some((digest, Reason::Expired))
}

/// The minute of a time.
#[must_use]
pub fn minute_of(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / 60_000).unwrap_or(u32::MAX)
}

/// Unix time in milliseconds.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
