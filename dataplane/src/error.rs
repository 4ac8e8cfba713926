//! Why a request is not served, and what its client is told: the one place where an error becomes a reply.
//!
//! `Display` is for the operator, in counters and tests; `reply` is for the client. They are two different
//! texts: a client never learns which of unknown, malformed, revoked and expired its key was.

use crate::body::scan::ScanError;
use crate::http::head_error::HeadError;

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The head breaks a rule.
    #[error("malformed head: {0}")]
    Head(#[from] HeadError),
    /// The body's framing breaks a rule.
    #[error("malformed framing of the body")]
    BodyFraming,
    /// The head or the body came too slowly.
    #[error("the request came too slowly")]
    Slow,
    /// No snapshot yet.
    #[error("no snapshot of the registry yet")]
    NotReady,
    /// Cut off from the control plane for longer than the configuration allows.
    #[error("the tables are older than control.stale_limit_seconds allows")]
    Stale,
    /// Usage could not be recorded, or there are too many exchanges or bytes under way.
    #[error("overloaded: {0}")]
    Overloaded(Overload),
    /// No credential.
    #[error("no key")]
    NoKey,
    /// Malformed, unknown, revoked or expired.
    #[error("refused key")]
    BadKey,
    /// Nothing is served at this path.
    #[error("unsupported endpoint")]
    Endpoint,
    /// The path is served, but not with this method.
    #[error("unsupported method, {0} is")]
    Method(&'static str),
    /// The body is longer than the limit.
    #[error("body over the limit of {0} bytes")]
    BodyTooLarge(usize),
    /// The body can't be routed.
    #[error("body: {0}")]
    Body(#[from] ScanError),
    /// No such alias, or not for this caller.
    #[error("unknown or forbidden alias")]
    Model,
    /// The path names another model than the body.
    #[error("path and body name different models")]
    ModelMismatch,
    /// No deployment could be connected to, or none would take the request.
    #[error("no deployment available")]
    Unavailable,
    /// An upstream refused our credential.
    #[error("upstream refused our credential")]
    UpstreamCredential,
    /// The upstream's answer broke off before a byte of it had gone to the client, or broke the rules.
    #[error("upstream broke")]
    UpstreamBroken,
    /// The upstream took too long.
    #[error("upstream too slow")]
    UpstreamSlow,
    /// The process ends, and the request took longer than it waits for.
    #[error("cut at the end of the process")]
    Ending,
    /// What served it panicked.
    #[error("a fault of our own")]
    Internal,
}

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overload {
    /// The spool can't be written.
    #[error("spool full")]
    Spool,
    /// Every slot is taken.
    #[error("no free slot")]
    Slots,
    /// Bodies being held take all of their budget.
    #[error("bodies over their budget")]
    Bodies,
}

/// How the serving of a request can end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing of an answer has gone out: the client can be told.
    Refused(RequestError),
    /// The client is not there any more.
    ClientLeft,
    /// An answer that had begun broke off: its connection must end so that the client can't take it for
    /// whole.
    Cut,
}

impl<E: Into<RequestError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.code`; empty is null.
    pub code: &'static str,
    /// `error.param`; empty is null.
    pub param: &'static str,
    /// `error.message`.
    pub message: &'static str,
    /// Header lines of this case, each with its line end.
    pub headers: &'static str,
    /// Whether the connection can't be used after it.
    pub close: bool,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";
const NO_RETRY: &str = "x-should-retry: false\r\n";
const RETRY_SOON: &str = "retry-after: 1\r\n";

impl Reply {
    const fn new(status: u16, kind: &'static str, code: &'static str, message: &'static str) -> Self {
        Self { status, kind, code, param: "", message, headers: "", close: false }
    }

    const fn with(mut self, headers: &'static str) -> Self {
        self.headers = headers;
        self
    }

    const fn about(mut self, param: &'static str) -> Self {
        self.param = param;
        self
    }

    const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Appends the body: OpenAI's error object, with all four members.
    pub fn append_body(&self, out: &mut Vec<u8>) {
        let quoted = |out: &mut Vec<u8>, text: &str| {
            if text.is_empty() {
                out.extend_from_slice(b"null");
            } else {
                // The texts here have nothing to escape; a test holds them to it.
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
            }
        };
        out.extend_from_slice(b"{\"error\":{\"message\":");
        quoted(out, self.message);
        out.extend_from_slice(b",\"type\":");
        quoted(out, self.kind);
        out.extend_from_slice(b",\"param\":");
        quoted(out, self.param);
        out.extend_from_slice(b",\"code\":");
        quoted(out, self.code);
        out.extend_from_slice(b"}}");
    }
}

impl RequestError {
    /// What the client is told.
    #[must_use]
    pub fn reply(&self) -> Reply {
        match self {
            Self::Head(error) => head_reply(*error),
            Self::BodyFraming => {
                Reply::new(400, INVALID, "invalid_request", "The framing of the request body is malformed.")
                    .closing()
            }
            Self::Slow => {
                Reply::new(408, INVALID, "request_timeout", "The request was not received in time.").closing()
            }
            Self::NoKey => Reply::new(
                401,
                INVALID,
                "",
                "No API key was given. Send it as Authorization: Bearer KEY, or as api-key.",
            )
            .with("www-authenticate: Bearer\r\n"),
            Self::BadKey => Reply::new(
                401,
                INVALID,
                "invalid_api_key",
                "The API key is not valid. Ask your administrator for a new one.",
            ),
            Self::Endpoint => Reply::new(
                404,
                INVALID,
                "unsupported_endpoint",
                "This endpoint is not served by the gateway.",
            ),
            Self::Method("GET") => method_reply("allow: GET\r\n"),
            Self::Method(_) => method_reply("allow: POST\r\n"),
            Self::BodyTooLarge(_) => Reply::new(
                413,
                INVALID,
                "request_too_large",
                "The request body is larger than the gateway's limit.",
            )
            .closing(),
            Self::Body(error) => body_reply(*error),
            Self::Model => Reply::new(
                404,
                INVALID,
                "model_not_found",
                "The model does not exist, or this API key may not use it.",
            )
            .about("model"),
            Self::ModelMismatch => Reply::new(
                400,
                INVALID,
                "model_mismatch",
                "The model in the path differs from the model in the body.",
            )
            .about("model"),
            Self::NotReady
            | Self::Stale
            | Self::Overloaded(_)
            | Self::Unavailable
            | Self::UpstreamCredential
            | Self::UpstreamBroken
            | Self::UpstreamSlow
            | Self::Ending
            | Self::Internal => self.server_reply(),
        }
    }

    /// What is told of our own trouble and of an upstream's. A request that may have been executed is not to
    /// be sent again.
    fn server_reply(&self) -> Reply {
        let server = |status, code, message| Reply::new(status, SERVER, code, message);
        match self {
            Self::NotReady | Self::Stale => {
                let message = "The gateway does not know at present which keys are good. Try again shortly.";
                server(503, "not_ready", message).with(RETRY_SOON)
            }
            Self::Overloaded(_) => {
                let message = "The gateway is overloaded. Try again shortly.";
                server(503, "gateway_overloaded", message).with(RETRY_SOON)
            }
            Self::UpstreamCredential => {
                let message = "The server for this model refused the gateway. Tell your administrator.";
                server(503, "upstream_unavailable", message).with(NO_RETRY)
            }
            Self::UpstreamBroken => {
                server(502, "upstream_error", "The server for this model failed to answer.").with(NO_RETRY)
            }
            Self::UpstreamSlow => {
                server(504, "upstream_timeout", "The server for this model did not answer in time.")
                    .with(NO_RETRY)
            }
            Self::Ending => {
                let message = "The gateway ended before the answer was complete.";
                server(503, "gateway_overloaded", message).with(NO_RETRY).closing()
            }
            Self::Internal => {
                let message = "The gateway failed to serve the request. Tell your administrator.";
                server(500, "internal_error", message).with(NO_RETRY).closing()
            }
            _ => server(503, "upstream_unavailable", "No server for this model is reachable. Try again.")
                .with(RETRY_SOON),
        }
    }
}

fn method_reply(headers: &'static str) -> Reply {
    Reply::new(405, INVALID, "method_not_supported", "This endpoint does not support this method.")
        .with(headers)
}

fn head_reply(error: HeadError) -> Reply {
    let status = error.status();
    match status {
        405 => method_reply("allow: GET, POST\r\n").closing(),
        417 => {
            Reply::new(status, INVALID, "expectation_failed", "The expectation is not supported.").closing()
        }
        400 if error == HeadError::Version => {
            let message = "This version of HTTP is not served here: HTTP/1.1 is, and HTTP/2 over TLS.";
            Reply::new(status, INVALID, "invalid_request", message).closing()
        }
        431 => Reply::new(status, INVALID, "request_too_large", "The request head is larger than the limit.")
            .closing(),
        _ => Reply::new(status, INVALID, "invalid_request", "The request head is malformed.").closing(),
    }
}

fn body_reply(error: ScanError) -> Reply {
    let invalid = |code, message| Reply::new(400, INVALID, code, message);
    match error {
        ScanError::InvalidJson { .. } => invalid("invalid_json", "The request body is not a JSON object."),
        ScanError::TooDeep { .. } => invalid("invalid_json", "The request body is nested too deep."),
        ScanError::MissingModel => invalid("missing_model", "The request names no model.").about("model"),
        ScanError::InvalidModel => {
            invalid("missing_model", "The member model is not a string.").about("model")
        }
        ScanError::DuplicateMember("model") => {
            invalid("duplicate_model", "The member model stands in the request more than once.")
                .about("model")
        }
        ScanError::DuplicateMember(name) => {
            invalid("duplicate_member", "A member stands in the request more than once.").about(name)
        }
        ScanError::OtherCase("model") => {
            invalid("duplicate_model", "A member of the request differs from model only in case.")
                .about("model")
        }
        ScanError::OtherCase(name) => {
            invalid("duplicate_member", "A member of the request differs from this one only in case.")
                .about(name)
        }
        ScanError::InvalidStream => {
            invalid("invalid_stream", "The member stream is not a boolean.").about("stream")
        }
        ScanError::InvalidStreamOptions => {
            invalid("invalid_stream_options", "The member stream_options is not an object of booleans.")
                .about("stream_options")
        }
    }
}

/// What a stream that broke ends with, where it stands between two events. The connection is cut after it.
pub const STREAM_ERROR_EVENT: &[u8] =
    b"data: {\"error\":{\"message\":\"The server for this model broke off its \
answer.\",\"type\":\"server_error\",\"param\":null,\"code\":\"upstream_error\"}}\n\n";

/// What a stream ends with whose key was revoked, where it stands between two events. The connection is cut
/// after it.
pub const STREAM_REVOKED_EVENT: &[u8] = b"data: {\"error\":{\"message\":\"The API key was revoked.\",\
\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"invalid_api_key\"}}\n\n";

/// The last event of a stream that is cut at the end of the process.
pub const STREAM_ENDING_EVENT: &[u8] =
    b"data: {\"error\":{\"message\":\"The gateway ended before the answer was complete.\",\
\"type\":\"server_error\",\"param\":null,\"code\":\"gateway_overloaded\"}}\n\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<RequestError> {
        use RequestError as E;
        vec![
            E::Head(HeadError::TooLarge),
            E::Head(HeadError::HostMissing),
            E::Head(HeadError::MethodRefused),
            E::Head(HeadError::ExpectationFailed),
            E::BodyFraming,
            E::Slow,
            E::NotReady,
            E::Stale,
            E::Overloaded(Overload::Spool),
            E::NoKey,
            E::BadKey,
            E::Endpoint,
            E::Method("GET"),
            E::Method("POST"),
            E::BodyTooLarge(1),
            E::Body(ScanError::InvalidJson { at: 1 }),
            E::Body(ScanError::TooDeep { at: 1 }),
            E::Body(ScanError::MissingModel),
            E::Body(ScanError::InvalidModel),
            E::Body(ScanError::DuplicateMember("model")),
            E::Body(ScanError::DuplicateMember("stream")),
            E::Body(ScanError::OtherCase("model")),
            E::Body(ScanError::OtherCase("stream")),
            E::Body(ScanError::InvalidStream),
            E::Body(ScanError::InvalidStreamOptions),
            E::Model,
            E::ModelMismatch,
            E::Unavailable,
            E::UpstreamCredential,
            E::UpstreamBroken,
            E::UpstreamSlow,
            E::Ending,
            E::Internal,
        ]
    }

    #[test]
    fn every_body_is_json_with_all_four_members() {
        for error in all() {
            let mut body = Vec::new();
            error.reply().append_body(&mut body);
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let members = json["error"].as_object().unwrap();
            assert_eq!(members.len(), 4, "{error}");
            assert!(members["message"].is_string() && members["type"].is_string(), "{error}");
            assert!(members.contains_key("param") && members.contains_key("code"), "{error}");
        }
    }

    #[test]
    fn our_own_trouble_is_never_the_clients_fault() {
        let overloaded = RequestError::Overloaded(Overload::Slots);
        for error in [RequestError::NotReady, RequestError::Stale, overloaded, RequestError::Unavailable] {
            let reply = error.reply();
            assert_eq!((reply.status, reply.kind), (503, "server_error"), "{error}");
            assert!(reply.headers.contains("retry-after: 1"), "{error}");
        }
    }

    #[test]
    fn what_may_have_been_executed_is_not_retried_by_sdks() {
        use RequestError as E;
        for error in [E::UpstreamBroken, E::UpstreamSlow, E::UpstreamCredential, E::Ending, E::Internal] {
            assert_eq!(error.reply().headers, NO_RETRY, "{error}");
        }
    }

    #[test]
    fn a_refused_key_says_nothing_about_why() {
        let reply = RequestError::BadKey.reply();
        assert_eq!((reply.status, reply.code), (401, "invalid_api_key"));
        assert_eq!(RequestError::NoKey.reply().code, "");
    }

    #[test]
    fn a_broken_stream_says_so_in_an_event() {
        for (event, code) in [
            (STREAM_ERROR_EVENT, "upstream_error"),
            (STREAM_REVOKED_EVENT, "invalid_api_key"),
            (STREAM_ENDING_EVENT, "gateway_overloaded"),
        ] {
            let event = std::str::from_utf8(event).unwrap();
            let json = event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
            let json: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(json["error"]["code"], code);
            assert_eq!(json["error"].as_object().unwrap().len(), 4);
        }
    }
}
