//! A client's request head.
//!
//! `lines` finds the parts; the rules here decide. What comes out is all that the rest of the data
//! plane knows of the head: where the path, the one credential and the forwarded fields are, and how the body
//! is framed.
//!
//! Precondition of `parse`: `HeadEnd::find` has delimited the head, so no bare CR or LF and no control byte
//! is in it.

use super::fields::{
    AllowList, ConnectionOptions, Forwarded, FramingFields, Persist, check_name, is_name, set_once,
};
use super::framing::BodyFraming;
use super::head_end::{HEAD_BYTES_MAX, HeadEnd};
use super::head_error::HeadError;
use super::lines::{self, FieldLine, is_token_byte};
use super::span::Span;
use super::target::{Target, check_host};

/// The request fields that go on to the upstream as they are.
static FORWARDED_REQUEST_FIELDS: AllowList = AllowList::new(&[
    "content-type",
    "accept",
    "openai-beta",
    "anthropic-version",
    "anthropic-beta",
    "idempotency-key",
    "traceparent",
]);

/// The methods that the data plane tells apart. CONNECT and TRACE are refused before they become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
    /// HEAD: the response has no body.
    Head,
    /// OPTIONS.
    Options,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// PATCH.
    Patch,
    /// Any other token.
    Other,
}

/// The field that a credential came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// `Authorization: Bearer`.
    Bearer,
    /// `api-key`, as Azure's clients send it.
    ApiKey,
    /// `x-api-key`, as Anthropic's clients send it.
    XApiKey,
    /// There was a credential, but of another scheme, or an empty one.
    Malformed,
}

/// Where the one credential of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential {
    /// How it was sent.
    pub kind: CredentialKind,
    /// The token, without its scheme; the whole value where the kind is malformed.
    pub token: Span,
}

/// What the data plane needs to know of a request head. Spans belong to the bytes that were parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The path as sent; empty only for an absolute URI without one, where it means `/`.
    pub path: Span,
    /// What follows the question mark, if there is one.
    pub query: Option<Span>,
    /// True for HTTP/1.0, false for HTTP/1.1.
    pub http_1_0: bool,
    /// How the body is framed; never `UntilClose`.
    pub framing: BodyFraming,
    /// The value of Content-Length; empty where there is none.
    pub(super) length_digits: Span,
    /// Whether the client will send another request on this connection.
    pub persist: Persist,
    /// True if the client waits for `100 Continue` before it sends a body.
    pub expect_continue: bool,
    /// The credential, if there is one.
    pub credential: Option<Credential>,
    /// The value of Content-Type.
    pub content_type: Option<Span>,
    forwarded: Forwarded,
}

/// Parses what `HeadEnd` delimits in `data`, and panics where the result depends on what is around the head,
/// or where a span would carry a line end. For fuzzing.
pub fn fuzz(data: &[u8]) {
    super::head_end::fuzz(data);
    let Ok(Some(length)) = HeadEnd::of_request().find(data) else { return };
    let head = &data[..length];
    let parsed = RequestHead::parse(head);
    let copy = head.to_vec();
    assert_eq!(parsed, RequestHead::parse(&copy), "depends on where the head lies");
    let Ok(request) = parsed else { return };
    assert_ne!(request.framing, BodyFraming::UntilClose);
    let values =
        request.forwarded().map(|(_, value)| value).chain(request.credential.map(|found| found.token));
    for value in values.chain(request.query).chain([request.path]) {
        assert!(!value.of(head).iter().any(|byte| b"\r\n\0".contains(byte)), "a value would split a head");
        assert_eq!(value.of(head).len(), value.len());
    }
}

impl RequestHead {
    /// Parses a head with its blank line, and with any empty lines before it that `HeadEnd` has let pass.
    pub fn parse(head: &[u8]) -> Result<Self, HeadError> {
        if head.len() > HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge);
        }
        let (start, mut fields) = lines::split(head).ok_or(HeadError::RequestLine)?;
        let line = RequestLine::parse(start.of(head))?;
        let mut gathered = Gathered::new(head);
        while let Some(field) = fields.next()? {
            gathered.take(field)?;
        }
        gathered.finish(&line)
    }

    /// The field lines that go on to the upstream, in the order of the head: name in lower case, and value.
    pub fn forwarded(&self) -> impl Iterator<Item = (&'static str, Span)> + '_ {
        self.forwarded.iter()
    }
}

/// A request line's parts.
struct RequestLine<'a> {
    method: Method,
    target: &'a [u8],
    http_1_0: bool,
}

impl<'a> RequestLine<'a> {
    /// Parses `method SP target SP version` (RFC 9112 §3).
    fn parse(line: &'a [u8]) -> Result<Self, HeadError> {
        let mut parts = line.splitn(3, |&byte| byte == b' ');
        let method = method_of(parts.next().unwrap_or_default())?;
        let target = parts.next().filter(|target| !target.is_empty()).ok_or(HeadError::RequestLine)?;
        let http_1_0 = match parts.next().ok_or(HeadError::RequestLine)? {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            other if is_version(other) => return Err(HeadError::Version),
            _ => return Err(HeadError::RequestLine),
        };
        Ok(Self { method, target, http_1_0 })
    }
}

/// True for the version of any HTTP (RFC 9112 §2.3).
#[cold]
fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

/// The method of a request line's token, which is case-sensitive (RFC 9110 §9.1).
fn method_of(token: &[u8]) -> Result<Method, HeadError> {
    Ok(match token {
        b"GET" => Method::Get,
        b"POST" => Method::Post,
        b"HEAD" => Method::Head,
        b"OPTIONS" => Method::Options,
        b"PUT" => Method::Put,
        b"DELETE" => Method::Delete,
        b"PATCH" => Method::Patch,
        b"CONNECT" | b"TRACE" => return Err(HeadError::MethodRefused),
        [_, ..] if token.iter().copied().all(is_token_byte) => Method::Other,
        _ => return Err(HeadError::RequestLine),
    })
}

/// What the field lines have said so far.
struct Gathered<'a> {
    head: &'a [u8],
    host: Option<&'a [u8]>,
    framing: FramingFields,
    length_digits: Span,
    connection: ConnectionOptions,
    expect_continue: bool,
    credential: Option<Credential>,
    content_type: Option<Span>,
    idempotency_key: Option<Span>,
    forwarded: Forwarded,
}

impl<'a> Gathered<'a> {
    fn new(head: &'a [u8]) -> Self {
        Self {
            head,
            host: None,
            framing: FramingFields::default(),
            length_digits: Span::default(),
            connection: ConnectionOptions::default(),
            expect_continue: false,
            credential: None,
            content_type: None,
            idempotency_key: None,
            forwarded: Forwarded::new(&FORWARDED_REQUEST_FIELDS),
        }
    }

    /// Takes one field line. By length first: most of what clients send is not ours, and is told in one
    /// comparison.
    fn take(&mut self, FieldLine { name, value: span }: FieldLine<'_>) -> Result<(), HeadError> {
        check_name(name)?;
        let is = |known| is_name(name, known);
        let value = span.of(self.head);
        match name.len() {
            4 if is("host") => return self.host(value),
            6 if is("expect") => return self.expect(value),
            7 if is("api-key") => return self.credential(CredentialKind::ApiKey, span),
            9 if is("x-api-key") => return self.credential(CredentialKind::XApiKey, span),
            10 if is("connection") => self.connection.add(value),
            12 if is("content-type") => set_once(&mut self.content_type, span, "content-type")?,
            13 if is("authorization") => return self.authorization(span),
            14 if is("content-length") => {
                self.length_digits = span;
                return self.framing.content_length(value);
            }
            15 if is("idempotency-key") => set_once(&mut self.idempotency_key, span, "idempotency-key")?,
            17 if is("transfer-encoding") => return self.framing.transfer_encoding(value),
            _ => {}
        }
        self.forwarded.offer(name, span)
    }

    fn host(&mut self, value: &'a [u8]) -> Result<(), HeadError> {
        check_host(value)?;
        if self.host.replace(value).is_some() { Err(HeadError::HostRepeated) } else { Ok(()) }
    }

    fn expect(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.expect_continue || !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(HeadError::ExpectationFailed);
        }
        self.expect_continue = true;
        Ok(())
    }

    fn credential(&mut self, kind: CredentialKind, token: Span) -> Result<(), HeadError> {
        let kind = if token.is_empty() { CredentialKind::Malformed } else { kind };
        match self.credential.replace(Credential { kind, token }) {
            None => Ok(()),
            Some(_) => Err(HeadError::SeveralCredentials),
        }
    }

    /// Takes `Bearer SP token` (RFC 6750 §2.1; the scheme in any case, RFC 9110 §11.1).
    fn authorization(&mut self, span: Span) -> Result<(), HeadError> {
        let value = span.of(self.head);
        let scheme = b"bearer ";
        if !value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)) {
            return self.credential(CredentialKind::Malformed, span);
        }
        let spaces = value[scheme.len()..].iter().take_while(|&&byte| byte == b' ').count();
        self.credential(CredentialKind::Bearer, span.skip(scheme.len() + spaces))
    }

    /// Weighs the lines together.
    fn finish(self, line: &RequestLine<'_>) -> Result<RequestHead, HeadError> {
        let host = self.host.ok_or(HeadError::HostMissing)?;
        let target = Target::parse(self.head, line.target, host)?;
        let http_1_0 = line.http_1_0;
        let framing = self.framing.stated(http_1_0)?.unwrap_or(BodyFraming::None);
        Ok(RequestHead {
            method: line.method,
            path: target.path,
            query: target.query,
            http_1_0,
            framing,
            length_digits: self.length_digits,
            persist: self.connection.persist(http_1_0),
            // An HTTP/1.0 client cannot read a 100, and one without a body waits for nothing (RFC 9110
            // §10.1.1).
            expect_continue: self.expect_continue && !http_1_0 && !framing.is_empty(),
            credential: self.credential,
            content_type: self.content_type,
            forwarded: self.forwarded,
        })
    }
}

#[cfg(test)]
mod tests;
