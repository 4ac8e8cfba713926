//! Why a head is refused, one variant for each rule, and the status that tells a client.
//!
//! The same rules judge both directions: in a request the client is at fault and gets `status()`; in a
//! response the upstream is, and its connection is closed. After any of these the connection cannot be used
//! for another message, since where the next one begins is no longer agreed.

/// A rule that a head breaks. Carries no byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More than `HEAD_BYTES_MAX` bytes without the blank line (RFC 6585 §5).
    #[error("head is larger than 32 KiB")]
    TooLarge,
    /// More than `FIELD_LINES_MAX` field lines, or too many that would be forwarded (RFC 6585 §5).
    #[error("head has more than 100 field lines, or more than 16 to forward")]
    TooManyFields,
    /// A field name of more than `FIELD_NAME_BYTES_MAX` bytes (RFC 6585 §5).
    #[error("field name is longer than 256 bytes")]
    FieldNameTooLong,
    /// LF without CR before it (RFC 9112 §2.2 lets a recipient take it for a line end; that is how parsers
    /// differ).
    #[error("line feed without carriage return in the head")]
    BareLf,
    /// CR without LF after it (RFC 9112 §2.2).
    #[error("carriage return without line feed in the head")]
    BareCr,
    /// NUL or another control byte (RFC 9110 §5.5).
    #[error("control byte in the head")]
    ControlByte,
    /// More empty lines before the start line than are tolerated (RFC 9112 §2.2): two for requests, none for
    /// responses.
    #[error("empty lines before the start line")]
    EmptyLines,
    /// The request line is not `method SP target SP version` (RFC 9112 §3).
    #[error("malformed request line")]
    RequestLine,
    /// The status line is not `version SP code SP reason`, or the code is not 100 to 599 (RFC 9112 §4).
    #[error("malformed status line")]
    StatusLine,
    /// Neither HTTP/1.1 nor HTTP/1.0 (RFC 9112 §2.3).
    #[error("unsupported protocol version")]
    Version,
    /// A method that is never served: CONNECT, TRACE (RFC 9110 §9.3.6, §9.3.8).
    #[error("method refused")]
    MethodRefused,
    /// A target that is neither a path nor an absolute http(s) URI, has a fragment, or a byte no URI has (RFC
    /// 9112 §3.2).
    #[error("malformed request target")]
    Target,
    /// A target in absolute form for another authority than Host (RFC 9112 §3.2.2, §7.2 of RFC 9110).
    #[error("request target is not of the host that Host names")]
    TargetNotOfHost,
    /// No Host (RFC 9112 §3.2).
    #[error("no Host")]
    HostMissing,
    /// More than one Host (RFC 9112 §3.2).
    #[error("more than one Host")]
    HostRepeated,
    /// Host is not a host name or address with an optional port (RFC 9112 §3.2).
    #[error("malformed Host")]
    Host,
    /// A field line that is not `name: value` (RFC 9112 §5).
    #[error("malformed field line")]
    FieldLine,
    /// White space between a field's name and its colon (RFC 9112 §5.1).
    #[error("white space before the colon of a field line")]
    SpaceBeforeColon,
    /// A field line that goes on with another line (RFC 9112 §5.2).
    #[error("folded field line")]
    FoldedLine,
    /// A field of which there can be only one, twice (RFC 9110 §5.3).
    #[error("field {0} repeated")]
    FieldRepeated(&'static str),
    /// Content-Length and Transfer-Encoding in one head (RFC 9112 §6.3, item 3).
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// More than one Content-Length, even if all are equal (RFC 9112 §6.3, item 5).
    #[error("more than one Content-Length")]
    LengthRepeated,
    /// A Content-Length that is not a decimal number below 2^64 (RFC 9110 §8.6).
    #[error("malformed Content-Length")]
    Length,
    /// A Transfer-Encoding other than exactly one `chunked` (RFC 9112 §6.1).
    #[error("Transfer-Encoding is not exactly one chunked")]
    Coding,
    /// Transfer-Encoding in an HTTP/1.0 message (RFC 9112 §6.1).
    #[error("Transfer-Encoding in HTTP/1.0")]
    CodingInOldVersion,
    /// An expectation other than 100-continue (RFC 9110 §10.1.1).
    #[error("unknown expectation")]
    ExpectationFailed,
    /// More than one of Authorization, api-key and x-api-key (RFC 9110 §11.6.2 allows one Authorization).
    #[error("more than one credential")]
    SeveralCredentials,
    /// 101 although nothing asked for an upgrade (RFC 9110 §15.2.2).
    #[error("unsolicited 101 Switching Protocols")]
    SwitchingProtocols,
}

impl HeadError {
    /// The status for the client whose request head broke the rule. The connection closes after it.
    pub fn status(&self) -> u16 {
        match self {
            Self::TooLarge | Self::TooManyFields | Self::FieldNameTooLong => 431,
            Self::MethodRefused => 405,
            Self::ExpectationFailed => 417,
            _ => 400,
        }
    }
}
