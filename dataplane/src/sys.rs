//! The few system calls that neither std nor monoio wraps: looking at a socket without reading it, and
//! closing one.
#![allow(unsafe_code, reason = "raw system calls")]

use std::io;
use std::os::fd::RawFd;

/// A page. Where pages are larger, giving some back is refused, and they stay.
const PAGE_BYTES: usize = 4096;

/// What a look at an idle connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// Nothing has come: it can carry a request.
    Yes,
    /// Bytes, an end or an error are waiting: it can't.
    No,
}

/// Looks whether anything waits on a socket, without reading it.
#[must_use]
pub fn quiet(fd: RawFd) -> Quiet {
    // Of the calls that tell, the one that takes no lock of the socket's.
    let mut polled = libc::pollfd { fd, events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
    // SAFETY: the pointer is to one pollfd, which poll writes `revents` of.
    let ready = unsafe { libc::poll(&raw mut polled, 1, 0) };
    if ready == 0 { Quiet::Yes } else { Quiet::No }
}

/// Which of some sockets the peer has left: one system call for all of them.
#[derive(Default)]
pub struct HangupPoll {
    fds: Vec<libc::pollfd>,
    owners: Vec<usize>,
}

impl HangupPoll {
    /// Forgets what was added.
    pub fn clear(&mut self) {
        self.fds.clear();
        self.owners.clear();
    }

    /// Adds a socket; `owner` is given back.
    pub fn add(&mut self, fd: RawFd, owner: usize) {
        self.fds.push(libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 });
        self.owners.push(owner);
    }

    /// The owners of sockets whose peer has closed or reset the connection.
    pub fn gone(&mut self) -> impl Iterator<Item = usize> + '_ {
        const GONE: i16 = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;
        // A count that the kernel refuses (over RLIMIT_NOFILE) leaves revents as they are: nobody is taken
        // for gone.
        let count = self.fds.len() as libc::nfds_t;
        // SAFETY: the pointer and the count describe one vector of pollfd, which poll writes `revents` of.
        let ready = unsafe { libc::poll(self.fds.as_mut_ptr(), count, 0) };
        let looked_at = if ready > 0 { self.fds.len() } else { 0 };
        self.fds[..looked_at]
            .iter()
            .zip(&self.owners)
            .filter(|(polled, _)| polled.revents & GONE != 0)
            .map(|(_, owner)| *owner)
    }
}

/// Ends both directions of a socket, so that what waits on it returns; the descriptor stays open.
pub fn shutdown(fd: RawFd) {
    // SAFETY: takes numbers only; a descriptor that is none is an error that is of no interest here.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Ends the writing direction of a socket: the peer reads an end.
pub fn shutdown_write(fd: RawFd) {
    // SAFETY: as above.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Bounds how much of what was written to a TCP socket the kernel holds beside what is in flight; sockets
/// that a listener accepts have the listener's bound.
pub fn bound_unsent(fd: RawFd, bytes: u32) -> io::Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "4 bytes")]
    const LEN: u32 = size_of::<u32>() as u32;
    // SAFETY: the pointer and the length describe `bytes`, which outlives the call.
    let set = unsafe {
        libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, (&raw const bytes).cast(), LEN)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the close of a socket a reset, so that the peer can't take it for an orderly end.
pub fn reset_on_close(fd: RawFd) {
    #[expect(clippy::cast_possible_truncation, reason = "8 bytes")]
    const LEN: u32 = size_of::<libc::linger>() as u32;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the pointer and the length describe `linger`, which outlives the call.
    unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), LEN);
    }
}

/// Gives the pages of an empty buffer back to the system; it keeps its addresses, and finds zeros there. A
/// page that it shares with other memory stays.
pub fn give_pages_back(buffer: &mut Vec<u8>) {
    debug_assert!(buffer.is_empty(), "what it holds would be lost");
    let spare = buffer.spare_capacity_mut();
    let start = spare.as_ptr().align_offset(PAGE_BYTES);
    let len = spare.len().saturating_sub(start) / PAGE_BYTES * PAGE_BYTES;
    if len > 0 {
        // SAFETY: the range is within memory that this buffer alone owns, and that counts as uninitialised.
        unsafe { libc::madvise(spare[start..].as_mut_ptr().cast(), len, libc::MADV_DONTNEED) };
    }
}

/// Lets the other threads of this core go first: the calling thread gets a tenth of it where they want all.
pub fn give_way() {
    const NICE: i32 = 10;
    // SAFETY: takes numbers only. To a thread that asks for itself only a niceness below zero is refused.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Makes every file that this process makes from here on readable by its own user only.
pub fn make_files_private() {
    // SAFETY: takes a number only, and can't fail.
    unsafe { libc::umask(0o077) };
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// To end: SIGTERM, SIGINT.
    End,
    /// To read again what is in files: SIGHUP.
    Reload,
}

/// Keeps signals from ending the process; `wait_for_signal` takes them. Before any thread is started.
pub fn hold_signals() {
    let set = held_signals();
    // SAFETY: `set` is a set; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits for a signal.
#[must_use]
pub fn wait_for_signal() -> Signal {
    let set = held_signals();
    let mut signal = 0;
    // SAFETY: both pointers are to locals that outlive the call.
    while unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {}
    if signal == libc::SIGHUP { Signal::Reload } else { Signal::End }
}

/// Tells this process to end.
pub fn end_self() {
    // SAFETY: takes numbers only.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
}

fn held_signals() -> libc::sigset_t {
    // SAFETY: a sigset_t is plain bits, for which zeros are a value; sigemptyset makes it a set, and the
    // signals exist.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGHUP);
        set
    }
}

/// The cores that this process may run on.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    // SAFETY: a cpu_set_t is plain bits, for which zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the size describe `set`.
    let got = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    let limit = if got == 0 { libc::CPU_SETSIZE as usize } else { 0 };
    // SAFETY: `core` is below CPU_SETSIZE.
    (0..limit).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn becomes(condition: impl Fn() -> bool) -> bool {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while std::time::Instant::now() < end {
            if condition() {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    #[test]
    fn bytes_or_an_end_on_an_idle_connection_are_seen() {
        let (mut client, server) = pair();
        assert_eq!(quiet(server.as_raw_fd()), Quiet::Yes);
        client.write_all(b"x").unwrap();
        assert!(becomes(|| quiet(server.as_raw_fd()) == Quiet::No));
        let (client, server) = pair();
        drop(client);
        assert!(becomes(|| quiet(server.as_raw_fd()) == Quiet::No));
    }

    #[test]
    fn a_peer_that_left_is_told_from_one_that_sent_more() {
        let (mut talker, first) = pair();
        let (leaver, second) = pair();
        talker.write_all(b"pipelined").unwrap();
        leaver.shutdown(Shutdown::Write).unwrap();
        let gone = || {
            let mut poll = HangupPoll::default();
            poll.add(first.as_raw_fd(), 1);
            poll.add(second.as_raw_fd(), 2);
            poll.gone().collect::<Vec<_>>()
        };
        assert!(becomes(|| gone() == [2]));
    }

    #[test]
    fn a_buffer_without_pages_is_one_of_zeros_but_at_its_ends() {
        let mut buffer = vec![7; 16 * PAGE_BYTES];
        buffer.clear();
        give_pages_back(&mut buffer);
        // SAFETY: all of it was written, and zeros are bytes too.
        unsafe { buffer.set_len(16 * PAGE_BYTES) };
        let zeros = buffer.iter().filter(|byte| **byte == 0).count();
        assert!(zeros >= 15 * PAGE_BYTES, "{zeros} zeros");
        assert!(buffer.iter().all(|byte| matches!(byte, 0 | 7)));
        let mut small = Vec::with_capacity(10);
        give_pages_back(&mut small);
        assert_eq!(small.capacity(), 10);
    }

    #[test]
    fn this_process_may_run_somewhere() {
        assert!(!allowed_cores().is_empty());
    }
}
