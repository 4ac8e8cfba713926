//! The head that a connection sent last. A client's SDK sends the same one again and again, but for the
//! length of the body; bytes that were judged once are compared instead of judged.
//!
//! ```text
//! POST /v1/chat/completions HTTP/1.1 .. content-length: 1024 CRLF .. CRLF | body
//! +------------- same ---------------------------------++--++--- same --+
//!                                               as many digits
//! ```
//!
//! What a head means depends on its bytes alone (`request_head::fuzz` holds it to that), so equal bytes need
//! no other judgement, and the key in them has the digest that it had. Other digits are a length like any
//! other; where their number differs, the head is parsed anew.

use wire::id::KeyDigest;

use super::fields::{Persist, decimal};
use super::framing::BodyFraming;
use super::request_head::RequestHead;

/// The longest head that is kept; SDKs send some 600 bytes.
const KEPT_BYTES_MAX: usize = 2048;

/// A head, what it says, and the digest of the key in it once that was accepted.
pub struct KnownHead {
    bytes: Vec<u8>,
    head: RequestHead,
    digest: Option<KeyDigest>,
}

/// Remembers `head`, which `bytes` were parsed to, in the place of what `known` remembers; nothing where no
/// other request follows, or where it is very long. Allocates only for a first head, or for one that is
/// longer than those before it.
pub fn remember(known: &mut Option<Box<KnownHead>>, bytes: &[u8], head: &RequestHead) {
    if bytes.len() > KEPT_BYTES_MAX || head.persist == Persist::Close {
        *known = None;
        return;
    }
    let known =
        known.get_or_insert_with(|| Box::new(KnownHead { bytes: Vec::new(), head: *head, digest: None }));
    known.bytes.clear();
    if known.bytes.capacity() < bytes.len() {
        known.bytes.reserve_exact(bytes.len());
    }
    known.bytes.extend_from_slice(bytes);
    (known.head, known.digest) = (*head, None);
}

impl KnownHead {
    /// The head that `input` begins with and its length, if it is this one. `None` says nothing about
    /// `input`.
    pub fn recognise(&self, input: &[u8]) -> Option<(RequestHead, usize)> {
        let (len, digits) = (self.bytes.len(), self.head.length_digits);
        let input = input.get(..len)?;
        let (start, end) = (usize::from(digits.start), usize::from(digits.end));
        if input[..start] != self.bytes[..start] || input[end..] != self.bytes[end..] {
            return None;
        }
        let mut head = self.head;
        if !digits.is_empty() {
            head.framing = BodyFraming::Length(decimal(&input[start..end])?);
            // Whether there is a body decides what an expectation means.
            if head.framing.is_empty() != self.head.framing.is_empty() {
                return None;
            }
        }
        Some((head, len))
    }

    /// The digest of the key in this head, if it was accepted before.
    pub fn digest(&self) -> Option<KeyDigest> {
        self.digest
    }

    /// The key in this head was accepted, and has this digest.
    pub fn accepted(&mut self, digest: KeyDigest) {
        self.digest = Some(digest);
    }
}

/// Parses two heads after each other as a connection does, and panics where remembering the first changes
/// what the second is taken for. For fuzzing.
pub fn fuzz(data: &[u8]) {
    use super::head_end::HeadEnd;
    let parse = |input: &[u8]| {
        let len = HeadEnd::of_request().find(input).ok().flatten()?;
        Some((RequestHead::parse(&input[..len]).ok()?, len))
    };
    let Some((first, len)) = parse(data) else { return };
    let mut known = None;
    remember(&mut known, &data[..len], &first);
    let Some(known) = known else { return };
    assert_eq!(known.recognise(&data[..len]), Some((first, len)), "the same head again");
    // The rest of the data says at which places the second head differs, and how.
    let mut second = data[..len].to_vec();
    for change in data[len..].chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % len;
        second[place] = change[2];
        if let Some(recognised) = known.recognise(&second) {
            assert_eq!(Some(recognised), parse(&second), "taken for another head");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head_end::HeadEnd;

    fn parse(input: &[u8]) -> Option<(RequestHead, usize)> {
        let len = HeadEnd::of_request().find(input).ok()??;
        Some((RequestHead::parse(&input[..len]).ok()?, len))
    }

    fn known(head: &str) -> KnownHead {
        let (parsed, len) = parse(head.as_bytes()).unwrap();
        let mut known = None;
        remember(&mut known, &head.as_bytes()[..len], &parsed);
        *known.unwrap()
    }

    const HEADS: [&str; 5] = [
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\nApi-Key: k\r\n\r\n",
        "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\nauthorization: Bearer k\r\ncontent-length:7\r\n\r\n",
        "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\napi-key: k\r\n\r\n",
        "\r\nGET /v1/models HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\napi-key: k\r\n\r\n",
        "POST /v1/x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
    ];

    #[test]
    fn every_byte_in_every_place_is_taken_for_what_a_parser_takes_it() {
        for head in HEADS {
            let known = known(head);
            assert_eq!(known.recognise(head.as_bytes()), parse(head.as_bytes()));
            let mut recognised = 0;
            for place in 0..head.len() {
                for byte in 0..=u8::MAX {
                    let mut other = head.as_bytes().to_vec();
                    other[place] = byte;
                    let Some(found) = known.recognise(&other) else { continue };
                    assert_eq!(Some(found), parse(&other), "{byte:#04x} at {place}");
                    recognised += 1;
                }
            }
            // The same bytes at each place, and nine other digits for each digit of the length, but for a
            // length of nothing.
            let digits = known.head.length_digits.len();
            assert_eq!(recognised, head.len() + 9 * digits - usize::from(digits == 1), "{head:?}");
        }
    }

    #[test]
    fn a_part_of_it_or_a_longer_length_is_not_it() {
        let head = HEADS[0];
        let known = known(head);
        for len in 0..head.len() {
            assert!(known.recognise(&head.as_bytes()[..len]).is_none());
        }
        let longer = head.replace("1024", "10240");
        assert!(known.recognise(longer.as_bytes()).is_none());
        let with_body = format!("{head}{{}}");
        assert_eq!(known.recognise(with_body.as_bytes()), parse(with_body.as_bytes()));
    }

    #[test]
    fn another_head_is_remembered_without_the_digest_of_the_one_before() {
        let mut known = None;
        let (head, len) = parse(HEADS[0].as_bytes()).unwrap();
        remember(&mut known, &HEADS[0].as_bytes()[..len], &head);
        let slot = known.as_mut().unwrap();
        slot.accepted(KeyDigest([7; 32]));
        assert_eq!(slot.digest(), Some(KeyDigest([7; 32])));
        let (other, len) = parse(HEADS[1].as_bytes()).unwrap();
        remember(&mut known, &HEADS[1].as_bytes()[..len], &other);
        let slot = known.as_ref().unwrap();
        assert_eq!(slot.digest(), None);
        assert!(slot.recognise(HEADS[0].as_bytes()).is_none());
        assert_eq!(slot.recognise(HEADS[1].as_bytes()), Some((other, len)));
    }

    #[test]
    fn a_head_that_is_not_kept_is_not_confused_with_the_one_before() {
        let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(KEPT_BYTES_MAX));
        let last = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned();
        for unkept in [long, last] {
            let mut known = Some(Box::new(known(HEADS[0])));
            let (head, len) = parse(unkept.as_bytes()).unwrap();
            remember(&mut known, &unkept.as_bytes()[..len], &head);
            assert!(known.is_none());
        }
    }
}
