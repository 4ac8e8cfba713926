//! Things about a socket that only its descriptor or the kernel's tables tell.
#![allow(unsafe_code, reason = "monoio gives raw descriptors, socket2 wants borrowed ones")]

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use socket2::SockRef;

/// Shuts a connection down in both directions; whoever reads from it sees its end.
pub(crate) fn shut_down(fd: RawFd) {
    // SAFETY: the caller's table holds only descriptors that are still open (see `Shared::disconnected`).
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = SockRef::from(&fd).shutdown(std::net::Shutdown::Both);
}

/// Keeps a connection from the programs that a test starts: it would not end while one of them has it too.
/// monoio accepts without that flag.
pub(crate) fn keep_from_children(fd: RawFd) {
    // SAFETY: the caller owns the stream, which stays open during the call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = SockRef::from(&fd).set_cloexec(true);
}

/// Makes the coming close an RST.
pub(crate) fn reset_on_close(fd: RawFd) {
    // SAFETY: the caller owns the stream, which stays open during the call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
}

/// Tells whether bytes written by `local` still wait for the process at `peer`: in our send queue, on their
/// way, or in its receive queue. Loopback only, where both ends are in this machine's table.
pub(crate) fn unread(local: SocketAddr, peer: SocketAddr) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/net/tcp") else { return false };
    let (local, peer) = (table_name(local), table_name(peer));
    table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (Some(from), Some(to)) = (fields.next(), fields.next()) else { return false };
        let queues = fields.nth(1).unwrap_or_default();
        let (unsent, unread) = queues.split_once(':').unwrap_or_default();
        (from == local && to == peer && unsent != "00000000")
            || (from == peer && to == local && unread != "00000000")
    })
}

/// An address as `/proc/net/tcp` writes it: the IPv4 address as a native integer, the port, both in
/// hexadecimal.
fn table_name(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(_) => String::new(),
    }
}
