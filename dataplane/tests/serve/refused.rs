//! Uses of keys that are known and refused are counted, and told to a control plane that takes them; a key
//! that is not known leaves nothing but the count of all that were refused.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixListener;

use sha2::{Digest, Sha256};
use wire::frame::{Frame, Role};
use wire::id::{Generation, KeyDigest, RegistryId};
use wire::key_use::Reason;

use crate::control::{receive, revoke};
use crate::plane::{EXPIRED, GOOD, Plane, UNKNOWN, deployment, key, post_as};

const ASK: &str = r#"{"model":"fast","messages":[]}"#;

/// Listens as a control plane until it was told of `count` uses; gives the sums of each key.
fn told(plane: &Plane, count: u64) -> BTreeMap<(KeyDigest, Reason), u64> {
    let _ = std::fs::remove_file(plane.control_socket());
    let listener = UnixListener::bind(plane.control_socket()).unwrap();
    let (registry, generation) = (RegistryId(1), Generation(1));
    let welcome = Frame::Welcome { registry, generation, takes_key_uses: true };
    for mut link in listener.incoming().map(Result::unwrap) {
        let mut received = Vec::new();
        let hello = receive(&mut link, &mut received);
        if !matches!(hello, Frame::Hello(hello) if hello.role == Role::Account) {
            continue;
        }
        link.write_all(&welcome.to_bytes()).unwrap();
        let mut sums = BTreeMap::new();
        loop {
            if let Frame::KeyUses(uses) = receive(&mut link, &mut received) {
                sums.extend(uses.iter().map(|one| ((one.of.digest, one.of.reason, one.of.minute), one.uses)));
                link.write_all(&Frame::KeyUsesKept.to_bytes()).unwrap();
            }
            if sums.values().sum::<u64>() == count {
                let mut by_key = BTreeMap::new();
                for ((digest, reason, _), uses) in sums {
                    *by_key.entry((digest, reason)).or_default() += uses;
                }
                return by_key;
            }
        }
    }
    unreachable!("a listener goes on")
}

#[test]
fn known_keys_that_are_refused_are_counted_and_told() {
    let plane = Plane::start(vec![deployment(1, "127.0.0.1:1".parse().unwrap())]);
    revoke(&plane, &key(GOOD), false);
    let malformed = "sk-lt-nothing".to_owned();
    for (key, times) in [(key(GOOD), 5), (key(EXPIRED), 3), (key(UNKNOWN), 4), (malformed, 2)] {
        let mut peer = plane.connect();
        for _ in 0..times {
            peer.send(&post_as(&key, "/v1/chat/completions", ASK));
            assert_eq!(peer.answer().status, 401);
        }
    }
    assert_eq!(plane.metric("liutong_refused_key_uses_total{reason=\"revoked\"}"), 5);
    assert_eq!(plane.metric("liutong_refused_key_uses_total{reason=\"expired\"}"), 3);
    assert_eq!(plane.metric("liutong_keys_refused_total"), 14);
    let digest = |number| KeyDigest(Sha256::digest(key(number)).into());
    let expected = [((digest(GOOD), Reason::Revoked), 5), ((digest(EXPIRED), Reason::Expired), 3)];
    assert_eq!(told(&plane, 8), BTreeMap::from(expected));
}
