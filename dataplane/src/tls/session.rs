//! One TLS connection as bytes: ciphertext in, plaintext out, and the other way round. No socket.
//!
//! ```text
//! cipher  | let go | shown | a record | a record | the beginning of one |
//!                  ^ at    ^ unseen
//! ```
//!
//! rustls is shown one whole record at a time, so that it never opens more than the reader has room for, and
//! sealing never meets a record that nobody has read. What it was shown and does not let go of are pieces of
//! a handshake message; it must find them in their place each time.

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CommonState, Error};

/// A record's header: its type, version and length.
const HEADER_BYTES: usize = 5;
/// What rustls takes as a record's length at most (RFC 5246 §6.2.3); a longer one it refuses by its header.
const PAYLOAD_BYTES_MAX: usize = (1 << 14) + 2048;
/// The longest record.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;
/// A record is at least this much longer than its plaintext: header and tag.
const OVERHEAD_BYTES_MIN: usize = HEADER_BYTES + 16;
/// It is at most this much longer where we sealed it: header, nonce or type, tag.
const OVERHEAD_BYTES_MAX: usize = HEADER_BYTES + 8 + 1 + 16;
/// The types of records: change_cipher_spec to heartbeat (RFC 8446 §B.1).
const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
/// How much plaintext one record holds.
const PLAIN_BYTES_MAX: usize = 1 << 14;

/// Whose end of the connection this is.
enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// A TLS connection.
pub struct Session {
    side: Side,
    cipher: Vec<u8>,
    at: usize,
    shown: usize,
    ended: bool,
}

impl From<UnbufferedClientConnection> for Session {
    fn from(connection: UnbufferedClientConnection) -> Self {
        Self::new(Side::Client(connection))
    }
}

impl From<UnbufferedServerConnection> for Session {
    fn from(connection: UnbufferedServerConnection) -> Self {
        Self::new(Side::Server(connection))
    }
}

impl Session {
    fn new(side: Side) -> Self {
        Self { side, cipher: Vec::new(), at: 0, shown: 0, ended: false }
    }

    /// What was agreed on.
    pub fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(connection) => connection,
            Side::Server(connection) => connection,
        }
    }

    /// Whether the peer said that nothing follows; all before it has been opened.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether no ciphertext waits here.
    pub fn is_drained(&self) -> bool {
        self.at == self.cipher.len()
    }

    /// The ciphertext that has come and that rustls was not shown yet.
    pub fn unseen(&self) -> &[u8] {
        &self.cipher[self.at + self.shown..]
    }

    /// Takes the ciphertext's buffer: to read on behind what it holds, or to give it away where that is
    /// nothing.
    pub fn take_cipher(&mut self) -> Vec<u8> {
        self.cipher.drain(..std::mem::take(&mut self.at));
        std::mem::take(&mut self.cipher)
    }

    /// Puts the buffer back, with more in it.
    pub fn put_cipher(&mut self, cipher: Vec<u8>) {
        self.cipher = cipher;
    }

    /// Goes on with the handshake as far as the ciphertext allows; true once it is over. What the peer is to
    /// be sent comes behind `out`, also where it fails.
    pub fn shake(&mut self, out: &mut Vec<u8>) -> Result<bool, Error> {
        let mut work = Work { plain: &mut Vec::new(), outgoing: None, out };
        // A client has the first word.
        self.show(0, &mut work)?;
        while self.common().is_handshaking() {
            let Some(len) = self.next_record() else { return Ok(false) };
            self.show(len, &mut work)?;
        }
        Ok(true)
    }

    /// Opens whole records into `plain` while it has room for them; for the first it grows. What the peer is
    /// to be sent comes behind `out`, also where it fails.
    pub fn open(&mut self, plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), Error> {
        let start = plain.len();
        while let Some(len) = self.next_record() {
            let most = len.saturating_sub(OVERHEAD_BYTES_MIN);
            if most > plain.capacity() - plain.len() {
                if plain.len() > start {
                    break;
                }
                plain.reserve_exact(most);
            }
            self.show(len, &mut Work { plain, outgoing: None, out })?;
        }
        Ok(())
    }

    /// Seals `plain` into records behind `out`.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.write(Outgoing::Data(plain), out)
    }

    /// Tells the peer, behind `out`, that nothing follows.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.write(Outgoing::CloseNotify, out)
    }

    fn write(&mut self, outgoing: Outgoing<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        // No record is shown, so none is opened.
        let mut work = Work { plain: &mut Vec::new(), outgoing: Some(outgoing), out };
        self.show(0, &mut work)?;
        // It rests without having sealed where the handshake is not over.
        work.outgoing.map_or(Ok(()), |_| Err(Error::HandshakeNotComplete))
    }

    /// The length of the next record, once it is whole. Of one that can't be, its header, for rustls to
    /// refuse.
    fn next_record(&self) -> Option<usize> {
        let unseen = self.unseen();
        let header = unseen.get(..HEADER_BYTES).filter(|_| !self.ended)?;
        let payload = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if payload > PAYLOAD_BYTES_MAX || !CONTENT_TYPES.contains(&header[0]) {
            return Some(HEADER_BYTES);
        }
        let len = HEADER_BYTES + payload;
        (unseen.len() >= len).then_some(len)
    }

    /// Shows rustls `len` bytes more, and does what it wants until it rests.
    fn show(&mut self, len: usize, work: &mut Work<'_>) -> Result<(), Error> {
        let end = self.at + self.shown + len;
        loop {
            match self.turn(end, work) {
                Ok(Turn::More) => {}
                Ok(Turn::Ended) => self.ended = true,
                Ok(Turn::Rest) => break,
                Err(error) => {
                    // Its alert tells the peer why.
                    while self.common().wants_write() && self.turn(self.at + self.shown, work).is_ok() {}
                    return Err(error);
                }
            }
        }
        self.shown = end - self.at;
        Ok(())
    }

    fn turn(&mut self, end: usize, work: &mut Work<'_>) -> Result<Turn, Error> {
        let incoming = &mut self.cipher[self.at..end];
        let (discard, turn) = match &mut self.side {
            Side::Client(connection) => turn(connection.process_tls_records(incoming), work),
            Side::Server(connection) => turn(connection.process_tls_records(incoming), work),
        }?;
        self.at += discard;
        Ok(turn)
    }
}

/// Where what rustls gives goes.
struct Work<'a> {
    plain: &'a mut Vec<u8>,
    /// To be sealed when rustls can; taken then.
    outgoing: Option<Outgoing<'a>>,
    out: &'a mut Vec<u8>,
}

#[derive(Clone, Copy)]
enum Outgoing<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

/// What rustls wants next.
enum Turn {
    /// To be asked again.
    More,
    /// To be asked again; the peer said that nothing follows.
    Ended,
    /// Another record, or something to seal.
    Rest,
}

/// Does what one status asks for; how many bytes rustls lets go of comes with what it wants next.
fn turn<Data>(status: UnbufferedStatus<'_, '_, Data>, work: &mut Work<'_>) -> Result<(usize, Turn), Error> {
    let mut discard = status.discard;
    let turn = match status.state? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                discard += record.discard;
                work.plain.extend_from_slice(record.payload);
            }
            Turn::More
        }
        ConnectionState::EncodeTlsData(mut data) => {
            append(work.out, 0, |into| {
                data.encode(into).map_err(|error| match error {
                    EncodeError::InsufficientSize(size) => Some(size.required_size),
                    EncodeError::AlreadyEncoded => None,
                })
            })?;
            Turn::More
        }
        // It is sent before anything else is.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Turn::More
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            if let Some(outgoing) = work.outgoing.take() {
                append(work.out, outgoing.sealed_bytes_max(), |into| {
                    let written = match outgoing {
                        Outgoing::Data(plain) => traffic.encrypt(plain, into),
                        Outgoing::CloseNotify => traffic.queue_close_notify(into),
                    };
                    written.map_err(|error| match error {
                        EncryptError::InsufficientSize(size) => Some(size.required_size),
                        EncryptError::EncryptExhausted => None,
                    })
                })?;
            }
            Turn::Rest
        }
        ConnectionState::PeerClosed => Turn::Ended,
        ConnectionState::BlockedHandshake | ConnectionState::Closed => Turn::Rest,
        _ => return Err(Error::General("early data, which was never allowed".into())),
    };
    Ok((discard, turn))
}

impl Outgoing<'_> {
    fn sealed_bytes_max(self) -> usize {
        let plain = match self {
            Self::Data(plain) => plain.len(),
            Self::CloseNotify => 2,
        };
        plain + plain.div_ceil(PLAIN_BYTES_MAX) * OVERHEAD_BYTES_MAX
    }
}

/// Lets `write` fill `room` bytes behind `out`, or as many as it then says that it needs.
fn append(
    out: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    let start = out.len();
    loop {
        out.resize(start + room, 0);
        match write(&mut out[start..]) {
            Ok(len) => {
                out.truncate(start + len);
                return Ok(());
            }
            Err(Some(needed)) if needed > room => room = needed,
            Err(_) => {
                out.truncate(start);
                return Err(Error::EncryptError);
            }
        }
    }
}

#[cfg(test)]
mod tests;
