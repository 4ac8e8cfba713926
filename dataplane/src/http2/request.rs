//! An HTTP/2 request's head, written as the HTTP/1.1 head that the one parser judges.
//!
//! What comes out is one head whatever went in: names and values from the `http` crate have no line end, the
//! fields that would frame an HTTP/1.1 message or name its connection are refused, and the framing is ours.
//! The `http` crate drops a fragment behind the target, where HTTP/1.1 refuses it; no target goes further.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method};

use crate::http::head_write;

/// Stands for a target that HTTP/1.1 has no way to write; the parser refuses it as one.
const UNWRITABLE: &str = "/#";

/// The request breaks a rule of RFC 9113 §8: its stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed HTTP/2 request")]
pub struct Malformed;

/// Appends the head. A body whose length is not stated is to follow in chunks: true then.
pub fn append_head(out: &mut Vec<u8>, parts: &Parts, has_body: bool) -> Result<bool, Malformed> {
    head_write::request_line(out, parts.method.as_str(), &[target(parts)?.as_bytes()]);
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    if let Some(authority) = authority {
        head_write::header(out, "host", authority);
    }
    for (name, value) in &parts.headers {
        let value = checked(name, value)?;
        // A Host beside :authority says the same, or there are two, which the parser refuses (§8.3.1).
        if name != HOST || authority.is_none_or(|authority| !value.eq_ignore_ascii_case(authority)) {
            head_write::header(out, name.as_str(), value);
        }
    }
    let chunked = has_body && !parts.headers.contains_key(CONTENT_LENGTH);
    if chunked {
        head_write::framing(out, crate::http::framing::BodyFraming::Chunked);
    }
    head_write::end(out);
    Ok(chunked)
}

/// The path and query (§8.3.1). CONNECT has neither; the parser refuses it by its method.
fn target(parts: &Parts) -> Result<&str, Malformed> {
    if parts.method == Method::CONNECT {
        return Ok("/");
    }
    if parts.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "https" | "http")) {
        return Err(Malformed);
    }
    let target = parts.uri.path_and_query().ok_or(Malformed)?.as_str();
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(UNWRITABLE);
    }
    if target.starts_with('/') || (parts.method == Method::OPTIONS && target == "*") {
        Ok(target)
    } else {
        Err(Malformed)
    }
}

/// The value of a field that HTTP/2 may carry (§8.2.1, §8.2.2).
fn checked<'a>(name: &HeaderName, value: &'a HeaderValue) -> Result<&'a [u8], Malformed> {
    let of_a_connection = [CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection");
    let value = value.as_bytes();
    if of_a_connection || value.trim_ascii().len() != value.len() { Err(Malformed) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fields::Persist;
    use crate::http::framing::BodyFraming;
    use crate::http::head_end::HeadEnd;
    use crate::http::head_error::HeadError;
    use crate::http::request_head::{Method, RequestHead};

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn head(parts: &Parts, has_body: bool) -> Result<(Vec<u8>, Result<RequestHead, HeadError>), Malformed> {
        let mut out = Vec::new();
        append_head(&mut out, parts, has_body)?;
        let parsed = match HeadEnd::of_request().find(&out) {
            Ok(end) => {
                assert_eq!(end, Some(out.len()), "a second head");
                RequestHead::parse(&out)
            }
            Err(error) => Err(error),
        };
        Ok((out, parsed))
    }

    const URI: &str = "https://gateway.example:8443/v1/chat/completions?a=1";

    #[test]
    fn a_request_is_read_as_what_it_is() {
        let fields = [("content-length", "5"), ("authorization", "Bearer k"), ("content-type", "a/b")];
        let (bytes, parsed) = head(&parts("POST", URI, &fields), true).unwrap();
        let parsed = parsed.unwrap();
        assert_eq!((parsed.method, parsed.persist), (Method::Post, Persist::KeepAlive));
        assert_eq!(parsed.path.of(&bytes), b"/v1/chat/completions");
        assert_eq!(parsed.framing, BodyFraming::Length(5));
        assert_eq!(parsed.credential.unwrap().token.of(&bytes), b"k");
        assert_eq!(parsed.forwarded().count(), 1);
    }

    #[test]
    fn a_body_without_a_length_comes_in_chunks_and_none_has_no_framing() {
        let request = parts("POST", URI, &[]);
        assert_eq!(head(&request, true).unwrap().1.unwrap().framing, BodyFraming::Chunked);
        assert_eq!(head(&request, false).unwrap().1.unwrap().framing, BodyFraming::None);
    }

    #[test]
    fn host_is_the_authority_or_refused() {
        let with = |host| head(&parts("GET", URI, &[("host", host)]), false).unwrap().1.map(drop);
        assert_eq!(with("GATEWAY.example:8443"), Ok(()));
        assert_eq!(with("other.example"), Err(HeadError::HostRepeated));
        let without = parts("GET", "/v1/models", &[]);
        assert_eq!(head(&without, false).unwrap().1, Err(HeadError::HostMissing));
        let own = parts("GET", "/v1/models", &[("host", "a")]);
        assert!(head(&own, false).unwrap().1.is_ok());
    }

    #[test]
    fn what_http_1_1_refuses_is_refused_with_the_same_error() {
        let refused = |method, uri, fields: &[(&str, &str)]| {
            head(&parts(method, uri, fields), false).unwrap().1.unwrap_err()
        };
        assert_eq!(refused("CONNECT", "gateway.example:8443", &[]), HeadError::MethodRefused);
        assert_eq!(refused("TRACE", URI, &[]), HeadError::MethodRefused);
        assert_eq!(refused("OPTIONS", "*", &[("host", "a")]), HeadError::Target);
        assert_eq!(refused("GET", "https://u@gateway.example/", &[]), HeadError::Host);
        assert_eq!(refused("GET", "https://gateway.example/v1/\u{e4}", &[]), HeadError::Target);
        assert_eq!(refused("GET", "https://gateway.example/v1?\u{1f600}", &[]), HeadError::Target);
        let two = [("authorization", "Bearer k"), ("api-key", "k")];
        assert_eq!(refused("GET", URI, &two), HeadError::SeveralCredentials);
        let lengths = [("content-length", "5"), ("content-length", "5")];
        assert_eq!(refused("GET", URI, &lengths), HeadError::LengthRepeated);
        assert_eq!(refused("GET", URI, &vec![("a", "b"); 101]), HeadError::TooManyFields);
        let long = "n".repeat(257);
        assert_eq!(refused("GET", URI, &[(&long, "b")]), HeadError::FieldNameTooLong);
        let big = "v".repeat(33 * 1024);
        assert_eq!(refused("GET", URI, &[("a", &big)]), HeadError::TooLarge);
    }

    #[test]
    fn what_only_http_2_forbids_resets_the_stream() {
        for (name, value) in [
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("a", " b"),
            ("a", "b\t"),
        ] {
            assert_eq!(head(&parts("GET", URI, &[(name, value)]), false).unwrap_err(), Malformed, "{name}");
        }
        assert_eq!(head(&parts("GET", "ftp://a/", &[]), false).unwrap_err(), Malformed);
        assert_eq!(head(&parts("GET", "a:443", &[]), false).unwrap_err(), Malformed);
    }
}
