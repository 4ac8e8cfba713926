//! The few system calls that neither std nor monoio wraps: looking at a socket without reading it, and
//! closing one.
#![allow(unsafe_code, reason = "raw system calls")]

use std::os::fd::RawFd;

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

/// Keeps core dumps and other processes of the same user away from this process's memory: keys and prompts
/// pass it.
pub fn forbid_dumps() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
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
    fn this_process_may_run_somewhere() {
        assert!(!allowed_cores().is_empty());
    }
}
