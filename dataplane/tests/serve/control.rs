//! As much of a control plane as a test needs.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use sha2::{Digest, Sha256};
use wire::frame::{Frame, Role};
use wire::id::{Generation, KeyDigest, RegistryId};

use crate::plane::Plane;

/// Revokes `key`; every worker refuses it once this returns. Cuts what is under way with it, if told to.
pub(crate) fn revoke(plane: &Plane, key: &str, cut_streams: bool) {
    let digests = vec![KeyDigest(Sha256::digest(key).into())];
    let welcome =
        Frame::Welcome { registry: RegistryId(1), generation: Generation(1), takes_key_uses: false };
    let revoke = Frame::Revoke { revocation: 7, cut_streams, digests };
    let listener = UnixListener::bind(plane.control_socket()).unwrap();
    for mut link in listener.incoming().map(Result::unwrap) {
        let mut received = Vec::new();
        // The ship thread connects here too.
        if matches!(receive(&mut link, &mut received), Frame::Hello(hello) if hello.role == Role::Sync) {
            link.write_all(&[welcome.to_bytes(), revoke.to_bytes()].concat()).unwrap();
            while receive(&mut link, &mut received) != (Frame::Revoked { revocation: 7 }) {}
            return;
        }
    }
}

pub(crate) fn receive(link: &mut UnixStream, received: &mut Vec<u8>) -> Frame {
    loop {
        if let Some((frame, used)) = Frame::decode(received).unwrap() {
            received.drain(..used);
            return frame;
        }
        let mut piece = [0; 4096];
        let len = link.read(&mut piece).unwrap();
        assert!(len > 0, "the data plane has left");
        received.extend_from_slice(&piece[..len]);
    }
}
