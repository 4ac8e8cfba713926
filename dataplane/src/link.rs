//! A blocking connection to the control plane that carries frames; the sync, ship and account threads have
//! one each, and enrolling has one for a moment.
//!
//! Nobody waits here for longer than a slice before looking at the stop flag, in either direction. What was
//! received and is no whole frame yet stays in a buffer that grows with the frame, at most to the longest
//! that the protocol has. While the peer takes nothing what it says is taken in, up to as much: it may be
//! waiting for that itself.

use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use thiserror::Error;
use wire::codec::DecodeError;
use wire::frame::{Frame, HEADER_BYTES, Hello, PAYLOAD_BYTES_MAX};
use wire::id::{Generation, RegistryId};

pub use self::several::Several;

use self::several::Over;
use self::stream::Stream;
use crate::identity::Identity;

/// Several control planes of one registry.
mod several;
/// What carries the frames.
mod stream;

/// How long a read or a write blocks before the stop flag is looked at.
const SLICE: Duration = Duration::from_millis(50);
/// How long the peer may take none of our bytes before the connection counts as lost.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long the peer may take to answer `Hello`.
const WELCOME_MAX: Duration = Duration::from_secs(10);
/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;
/// A buffer that grew beyond this is given back once it is empty.
const KEEP_BYTES: usize = 1024 * 1024;
/// How much is taken in while the peer takes nothing.
const HEARD_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;

/// Where the control plane is.
#[derive(Clone, Debug)]
pub enum Address {
    /// A Unix socket on this host.
    Unix(PathBuf),
    /// A host that is reached over TLS: which of the identity's addresses.
    Tls(Arc<Identity>, usize),
    /// Several, of which one is used.
    Several(Arc<Several>),
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The socket failed.
    #[error("control plane: {0}")]
    Io(#[from] io::Error),
    /// The peer closed the connection.
    #[error("control plane closed the connection")]
    Closed,
    /// The peer sent bytes that are no frame.
    #[error("control plane: {0}")]
    Decode(#[from] DecodeError),
    /// The peer said no.
    #[error("the control plane refuses this node: {0}")]
    Refused(String),
    /// The peer sent a frame that has no place there.
    #[error("control plane sent a frame that was not expected")]
    Unexpected,
    /// The peer did not answer, or took no bytes, for too long.
    #[error("control plane made no progress for {0:?}")]
    Stalled(Duration),
    /// The stop flag was raised.
    #[error("stopped")]
    Stopped,
}

/// A connection.
pub struct Link {
    stream: Stream,
    over: Option<Over>,
    stop: Arc<AtomicBool>,
    received: Vec<u8>,
    sending: Vec<u8>,
    /// What the control plane's welcome says.
    takes_key_uses: bool,
}

impl Link {
    /// Connects. Every call on the connection ends with `Stopped` soon after `stop` is raised.
    pub fn connect(address: &Address, stop: Arc<AtomicBool>) -> Result<Self, LinkError> {
        match address {
            Address::Unix(path) => Ok(Self::new(Stream::unix(path)?, stop)),
            Address::Tls(identity, at) => Self::over_tls(&identity.addresses[*at], identity.config(), stop),
            Address::Several(several) => several.connect(&stop),
        }
    }

    /// The same, to `host:port` over TLS.
    pub fn over_tls(
        address: &str,
        config: Arc<ClientConfig>,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, LinkError> {
        Ok(Self::new(Stream::tls(address, config)?, stop))
    }

    fn new(stream: Stream, stop: Arc<AtomicBool>) -> Self {
        let (received, sending) = (Vec::new(), Vec::new());
        Self { stream, over: None, stop, received, sending, takes_key_uses: false }
    }

    fn over(self, over: Over) -> Self {
        Self { over: Some(over), ..self }
    }

    /// Lets whoever connects next try another address after a failure.
    fn note<T>(&self, outcome: Result<T, LinkError>) -> Result<T, LinkError> {
        if let (Err(error), Some(over)) = (&outcome, &self.over)
            && !matches!(error, LinkError::Stopped)
        {
            over.lost();
        }
        outcome
    }

    /// Introduces this process; gives the registry and its generation as the control plane says they are.
    pub fn greet(&mut self, hello: Hello) -> Result<(RegistryId, Generation), LinkError> {
        self.send(&Frame::Hello(hello))?;
        match self.receive(WELCOME_MAX)? {
            Some(Frame::Welcome { registry, generation, takes_key_uses }) => {
                self.takes_key_uses = takes_key_uses;
                Ok((registry, generation))
            }
            Some(_) => Err(LinkError::Unexpected),
            None => self.note(Err(LinkError::Stalled(WELCOME_MAX))),
        }
    }

    /// Whether the control plane takes `KeyUses`; known once it was greeted.
    #[must_use]
    pub fn takes_key_uses(&self) -> bool {
        self.takes_key_uses
    }

    /// Sends a frame whole.
    pub fn send(&mut self, frame: &Frame) -> Result<(), LinkError> {
        let sent = self.send_whole(frame);
        self.note(sent)
    }

    fn send_whole(&mut self, frame: &Frame) -> Result<(), LinkError> {
        self.sending.clear();
        frame.encode(&mut self.sending);
        let (mut sent, mut progress) = (0, Instant::now());
        while sent < self.sending.len() {
            match self.stream.write(&self.sending[sent..]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => (sent, progress) = (sent + count, Instant::now()),
                Err(e) if is_slice_over(&e) && self.received.len() < HEARD_BYTES_MAX => self.read_more()?,
                Err(e) if is_slice_over(&e) => {}
                Err(e) => return Err(e.into()),
            }
            self.check_progress(progress)?;
        }
        self.sending.shrink_to(KEEP_BYTES);
        // TLS may have taken more than it could send.
        while let Err(e) = self.stream.flush() {
            if !is_slice_over(&e) {
                return Err(e.into());
            }
            self.check_progress(progress)?;
        }
        Ok(())
    }

    fn check_progress(&self, last: Instant) -> Result<(), LinkError> {
        self.check_stop()?;
        if last.elapsed() > STALL_MAX { Err(LinkError::Stalled(STALL_MAX)) } else { Ok(()) }
    }

    /// Waits for the next frame, at most for `timeout` (to within a slice); `None` where none came.
    pub fn receive(&mut self, timeout: Duration) -> Result<Option<Frame>, LinkError> {
        let received = self.receive_one(timeout);
        self.note(received)
    }

    fn receive_one(&mut self, timeout: Duration) -> Result<Option<Frame>, LinkError> {
        let started = Instant::now();
        loop {
            if let Some((frame, used)) = Frame::decode(&self.received)? {
                self.received.drain(..used);
                if self.received.is_empty() {
                    self.received.shrink_to(KEEP_BYTES);
                }
                return match frame {
                    Frame::Refused { why } => Err(LinkError::Refused(why)),
                    frame => Ok(Some(frame)),
                };
            }
            self.check_stop()?;
            if started.elapsed() >= timeout {
                return Ok(None);
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> Result<(), LinkError> {
        let held = self.received.len();
        let missing = Frame::len_of(&self.received)?.map_or(0, |len| len.saturating_sub(held));
        // Room grows as bytes come, not as a header claims: double what is held, at most what is missing.
        self.received.resize(held + missing.min(held).max(READ_BYTES), 0);
        let read = self.stream.read(&mut self.received[held..]);
        self.received.truncate(held + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(LinkError::Closed),
            Ok(_) => Ok(()),
            Err(e) if is_slice_over(&e) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn check_stop(&self) -> Result<(), LinkError> {
        if self.stop.load(Ordering::Relaxed) { Err(LinkError::Stopped) } else { Ok(()) }
    }
}

fn is_slice_over(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;
    use tempfile::TempDir;
    use wire::frame::Role;
    use wire::id::{BatchSeq, BootId, NodeId};

    fn pair() -> (Link, UnixStream, Arc<AtomicBool>, TempDir) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let link = Link::connect(&Address::Unix(path), Arc::clone(&stop)).unwrap();
        let (peer, _) = listener.accept().unwrap();
        (link, peer, stop, dir)
    }

    fn batch(events: usize) -> Frame {
        Frame::Batch { spool: BootId(1), batch: BatchSeq(2), resent: false, events: vec![3; events * 80] }
    }

    #[test]
    fn frames_arrive_whole_however_they_are_cut() {
        let (mut link, mut peer, _stop, _dir) = pair();
        let frames = [Frame::Ping, batch(2), Frame::Pong];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
        thread::scope(|scope| {
            scope.spawn(|| bytes.chunks(1).for_each(|chunk| peer.write_all(chunk).unwrap()));
            for frame in &frames {
                assert_eq!(link.receive(STALL_MAX).unwrap().as_ref(), Some(frame));
            }
        });
        assert!(link.receive(Duration::ZERO).unwrap().is_none());
        drop(peer);
        assert!(matches!(link.receive(STALL_MAX), Err(LinkError::Closed)));
    }

    #[test]
    fn a_full_batch_crosses_in_both_directions() {
        let (mut link, mut peer, _stop, _dir) = pair();
        let frame = batch(100_000);
        let len = frame.to_bytes().len();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut bytes = vec![0; len];
                peer.read_exact(&mut bytes).unwrap();
                peer.write_all(&bytes).unwrap();
            });
            link.send(&frame).unwrap();
            assert_eq!(link.receive(STALL_MAX).unwrap(), Some(frame.clone()));
        });
    }

    #[test]
    fn two_that_both_have_more_to_say_than_fits_between_them_do_not_wait_for_each_other() {
        let (mut link, mut peer, _stop, _dir) = pair();
        let frame = batch(100_000);
        let answer = Frame::Stored { spool: BootId(1), batch: BatchSeq(2), refused: Vec::new() };
        let answers = answer.to_bytes().repeat(50_000);
        peer.set_write_timeout(Some(WELCOME_MAX)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                peer.write_all(&answers).unwrap();
                peer.read_exact(&mut vec![0; frame.to_bytes().len()]).unwrap();
            });
            link.send(&frame).unwrap();
            assert_eq!(link.receive(STALL_MAX).unwrap(), Some(answer.clone()));
        });
    }

    #[test]
    fn a_raised_stop_flag_ends_waits_in_both_directions() {
        let (mut link, _peer, stop, _dir) = pair();
        thread::scope(|scope| {
            scope.spawn(|| stop.store(true, Ordering::Relaxed));
            assert!(matches!(link.receive(Duration::MAX), Err(LinkError::Stopped)));
        });
        assert!(matches!(link.send(&batch(100_000)), Err(LinkError::Stopped)), "nobody reads");
    }

    #[test]
    fn bytes_that_are_no_frame_end_the_connection() {
        let (mut link, mut peer, _stop, _dir) = pair();
        peer.write_all(&[0xff; 64]).unwrap();
        assert!(matches!(link.receive(STALL_MAX), Err(LinkError::Decode(_))));
    }

    #[test]
    fn a_greeting_is_answered_by_welcome_and_nothing_else() {
        let hello = Hello {
            role: Role::Ship,
            node: NodeId(1),
            boot: BootId(2),
            registry: RegistryId(0),
            generation: Generation(0),
        };
        let (mut link, mut peer, _stop, _dir) = pair();
        let welcome =
            Frame::Welcome { registry: RegistryId(3), generation: Generation(4), takes_key_uses: false };
        peer.write_all(&welcome.to_bytes()).unwrap();
        assert_eq!(link.greet(hello).unwrap(), (RegistryId(3), Generation(4)));
        peer.write_all(&Frame::Ping.to_bytes()).unwrap();
        assert!(matches!(link.greet(hello), Err(LinkError::Unexpected)));
    }
}
