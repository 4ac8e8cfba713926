//! An upstream's response head.
//!
//! An upstream is trusted to answer, not to frame: a response whose end is ambiguous would give its remainder
//! to the next exchange on the connection. So the rules are those for requests, and a breach is the
//! upstream's fault.
//!
//! Precondition of `parse`: `HeadEnd::find` has delimited the head, so no bare CR or LF and no control byte
//! is in it.

use super::fields::{
    AllowList, ConnectionOptions, Forwarded, FramingFields, Persist, check_name, is_name, set_once,
};
use super::framing::BodyFraming;
use super::head_end::{HEAD_BYTES_MAX, HeadEnd};
use super::head_error::HeadError;
use super::lines::{self, FieldLine};
use super::span::Span;

/// The response fields that go on to the client as they are; `content-encoding` only where it is not
/// `identity`.
static FORWARDED_RESPONSE_FIELDS: AllowList = AllowList::new(&[
    "content-type",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "cache-control",
    "content-disposition",
    "content-encoding",
]);

/// What the data plane needs to know of a response head. Spans belong to the bytes that were parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status code, 100 to 599, never 101.
    pub status: u16,
    /// How the body is framed; `None` for an interim response, after which another head follows.
    pub framing: BodyFraming,
    /// Whether the connection can carry another exchange, if this one is read to its end.
    pub persist: Persist,
    /// The value of Content-Type.
    pub content_type: Option<Span>,
    /// True if the body is `text/event-stream`.
    pub is_event_stream: bool,
    /// True if the body has a content coding, though none was asked for: its bytes go on, but cannot be
    /// metered.
    pub content_coded: bool,
    forwarded: Forwarded,
}

/// Parses what `HeadEnd` delimits in `data`, as an answer to HEAD and not, and panics where the result
/// depends on what is around the head, or where a span would carry a line end. For fuzzing.
pub fn fuzz(data: &[u8]) {
    super::head_end::fuzz(data);
    let Ok(Some(length)) = HeadEnd::of_response().find(data) else { return };
    let head = &data[..length];
    let copy = head.to_vec();
    for to_head in [false, true] {
        let parsed = ResponseHead::parse(head, to_head);
        assert_eq!(parsed, ResponseHead::parse(&copy, to_head), "depends on where the head lies");
        let Ok(response) = parsed else { continue };
        assert!(!to_head || response.framing == BodyFraming::None);
        assert!(response.framing != BodyFraming::UntilClose || response.persist == Persist::Close);
        for (_, value) in response.forwarded() {
            assert!(
                !value.of(head).iter().any(|byte| b"\r\n\0".contains(byte)),
                "a value would split a head"
            );
        }
    }
}

impl ResponseHead {
    /// Parses a head with its blank line; `request_method_is_head` decides whether a body follows.
    pub fn parse(head: &[u8], request_method_is_head: bool) -> Result<Self, HeadError> {
        if head.len() > HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge);
        }
        let (start, mut fields) = lines::split(head).ok_or(HeadError::StatusLine)?;
        let (status, http_1_0) = status_line(start.of(head))?;
        let mut gathered = Gathered::new(head);
        while let Some(field) = fields.next()? {
            gathered.take(field)?;
        }
        gathered.finish(status, http_1_0, request_method_is_head)
    }

    /// True for an interim response: the head of the real one is yet to come (RFC 9110 §15.2).
    pub fn is_informational(&self) -> bool {
        self.status < 200
    }

    /// The field lines that go on to the client, in the order of the head: name in lower case, and value.
    pub fn forwarded(&self) -> impl Iterator<Item = (&'static str, Span)> + '_ {
        self.forwarded.iter()
    }
}

/// Parses `version SP code [SP reason]` (RFC 9112 §4): the code, and whether it is HTTP/1.0.
fn status_line(line: &[u8]) -> Result<(u16, bool), HeadError> {
    let (version, rest) = line.split_first_chunk::<9>().ok_or(HeadError::StatusLine)?;
    let http_1_0 = match version {
        b"HTTP/1.1 " => false,
        b"HTTP/1.0 " => true,
        _ => return Err(HeadError::Version),
    };
    let (code, reason) = rest.split_first_chunk::<3>().ok_or(HeadError::StatusLine)?;
    if !code.iter().all(u8::is_ascii_digit) || !matches!(reason.first(), None | Some(b' ')) {
        return Err(HeadError::StatusLine);
    }
    let status = code.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    check_status(status)?;
    Ok((status, http_1_0))
}

/// Refuses codes that have no class (RFC 9110 §15), and a switch of protocols that nothing asked for.
fn check_status(status: u16) -> Result<(), HeadError> {
    match status {
        101 => Err(HeadError::SwitchingProtocols),
        100..=599 => Ok(()),
        _ => Err(HeadError::StatusLine),
    }
}

/// What the field lines have said so far.
struct Gathered<'a> {
    head: &'a [u8],
    framing: FramingFields,
    connection: ConnectionOptions,
    content_type: Option<Span>,
    is_event_stream: bool,
    content_coded: bool,
    forwarded: Forwarded,
}

impl<'a> Gathered<'a> {
    fn new(head: &'a [u8]) -> Self {
        Self {
            head,
            framing: FramingFields::default(),
            connection: ConnectionOptions::default(),
            content_type: None,
            is_event_stream: false,
            content_coded: false,
            forwarded: Forwarded::new(&FORWARDED_RESPONSE_FIELDS),
        }
    }

    /// Takes one field line.
    fn take(&mut self, FieldLine { name, value: span }: FieldLine<'_>) -> Result<(), HeadError> {
        check_name(name)?;
        let is = |known| is_name(name, known);
        let value = span.of(self.head);
        match name.len() {
            10 if is("connection") => self.connection.add(value),
            12 if is("content-type") => {
                set_once(&mut self.content_type, span, "content-type")?;
                self.is_event_stream = is_event_stream(value);
            }
            14 if is("content-length") => return self.framing.content_length(value),
            16 if is("content-encoding") => {
                if value.eq_ignore_ascii_case(b"identity") {
                    return Ok(());
                }
                self.content_coded = true;
            }
            17 if is("transfer-encoding") => return self.framing.transfer_encoding(value),
            _ => {}
        }
        self.forwarded.offer(name, span)
    }

    /// Weighs the lines together (RFC 9112 §6.3).
    fn finish(self, status: u16, http_1_0: bool, to_head: bool) -> Result<ResponseHead, HeadError> {
        // Asked even where there is no body: an upstream that contradicts itself is not to be trusted with
        // the next.
        let stated = self.framing.stated(http_1_0)?;
        let bodiless = to_head || status < 200 || status == 204 || status == 304;
        let framing = if bodiless { BodyFraming::None } else { stated.unwrap_or(BodyFraming::UntilClose) };
        let persist = match framing {
            BodyFraming::UntilClose => Persist::Close,
            _ => self.connection.persist(http_1_0),
        };
        Ok(ResponseHead {
            status,
            framing,
            persist,
            content_type: self.content_type,
            is_event_stream: self.is_event_stream,
            content_coded: self.content_coded,
            forwarded: self.forwarded,
        })
    }
}

/// True for the media type of server-sent events, with any parameters.
fn is_event_stream(value: &[u8]) -> bool {
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    value[..end].trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

#[cfg(test)]
mod tests;
