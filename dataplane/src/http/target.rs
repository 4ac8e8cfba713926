//! Request targets and the Host field.
//!
//! Two forms of target are served: a path (`/v1/models?limit=1`), and an absolute URI, which proxies' clients
//! send, where its authority is the one that Host names. Authority form and asterisk form belong to proxies
//! and to methods that are not served. A fragment never goes over the wire.

use super::head_error::HeadError;
use super::span::Span;
use crate::step;

/// The parts of a target that routing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Begins with `/`; empty only in absolute form, where empty means `/`.
    pub(super) path: Span,
    /// Without the question mark.
    pub(super) query: Option<Span>,
}

impl Target {
    /// Splits `target`, which lies in `head` (RFC 9112 §3.2). `host` must have passed `check_host`.
    pub(super) fn parse(head: &[u8], target: &[u8], host: &[u8]) -> Result<Self, HeadError> {
        if step::position(target, step::target_stops, |byte| !step::is_target_byte(byte)).is_some() {
            return Err(HeadError::Target);
        }
        let origin = if target.starts_with(b"/") { target } else { origin_of_absolute(target, host)? };
        let (path, query) = match memchr::memchr(b'?', origin) {
            Some(mark) => (&origin[..mark], Some(&origin[mark + 1..])),
            None => (origin, None),
        };
        Ok(Self { path: Span::locate(head, path), query: query.map(|query| Span::locate(head, query)) })
    }
}

/// Path and query of a URI in absolute form, if it names `host`.
fn origin_of_absolute<'a>(target: &'a [u8], host: &[u8]) -> Result<&'a [u8], HeadError> {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .ok_or(HeadError::Target)?;
    let rest = &target[scheme.len()..];
    let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
    let (authority, origin) = rest.split_at(end);
    if authority.eq_ignore_ascii_case(host) { Ok(origin) } else { Err(HeadError::TargetNotOfHost) }
}

/// Refuses a Host that is not `name[:port]` or `[address][:port]` (RFC 9112 §3.2, RFC 3986 §3.2.2).
/// Stricter than the RFC: neither an empty name, nor percent-encoding, nor the delimiters that only lists or
/// user names need.
pub(super) fn check_host(host: &[u8]) -> Result<(), HeadError> {
    let (name_length, valid) = if host.starts_with(b"[") {
        let end = memchr::memchr(b']', host).ok_or(HeadError::Host)?;
        let address = &host[1..end];
        (
            end + 1,
            !address.is_empty()
                && address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte)),
        )
    } else {
        let end = memchr::memchr(b':', host).unwrap_or(host.len());
        let name = &host[..end];
        (
            end,
            !name.is_empty()
                && name
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')),
        )
    };
    if valid && is_port(&host[name_length..]) { Ok(()) } else { Err(HeadError::Host) }
}

/// True for nothing, and for a colon with a number below 65536.
fn is_port(bytes: &[u8]) -> bool {
    let Some((colon, digits)) = bytes.split_first() else { return true };
    // Judged before it is read: a longer number would not fit.
    *colon == b':'
        && (1..=5).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')) <= u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Target, check_host};
    use crate::http::head_error::HeadError;

    fn split(target: &str) -> Result<(String, Option<String>), HeadError> {
        let head = target.as_bytes();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Target::parse(head, head, b"api.example:8080")
            .map(|target| (text(target.path.of(head)), target.query.map(|query| text(query.of(head)))))
    }

    #[test]
    fn paths_and_own_absolute_targets_are_split() {
        let cases = [
            ("/", "/", None),
            ("/v1/models", "/v1/models", None),
            ("/v1/models?", "/v1/models", Some("")),
            ("/v1/models?a=1&b=/?", "/v1/models", Some("a=1&b=/?")),
            ("//v1", "//v1", None),
            ("http://api.example:8080/v1/models?a=1", "/v1/models", Some("a=1")),
            ("HTTPS://API.example:8080/", "/", None),
            ("http://api.example:8080", "", None),
            ("http://api.example:8080?a", "", Some("a")),
        ];
        for (target, path, query) in cases {
            assert_eq!(split(target), Ok((path.to_owned(), query.map(str::to_owned))), "{target}");
        }
    }

    #[test]
    fn other_forms_fragments_and_foreign_authorities_are_refused() {
        for target in [
            "*",
            "api.example:443",
            "v1/models",
            "ftp://api.example:8080/",
            "http:/v1",
            "?a",
            "/a#b",
            "/\u{e4}",
        ] {
            assert_eq!(split(target), Err(HeadError::Target), "{target}");
        }
        for target in ["http://api.example/", "http://other/", "http:///v1", "http://user@api.example:8080/"]
        {
            assert_eq!(split(target), Err(HeadError::TargetNotOfHost), "{target}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_an_optional_port() {
        for host in [
            "a",
            "api.example",
            "api.example:8080",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:65535",
            "under_score",
            "a:0",
        ] {
            assert_eq!(check_host(host.as_bytes()), Ok(()), "{host}");
        }
        let refused = [
            "",
            ":80",
            "a:",
            "a:b",
            "a:65536",
            "a:000080",
            "a b",
            "a,b",
            "a/b",
            "a@b",
            "u:p@a",
            "[::1",
            "[]",
            "[::1]80",
            "[g]",
            "a:80:80",
            "a?b",
            "a#b",
            "http://a",
            "\u{e4}",
            "a%00",
            "a:99999999999",
            "a: api.example",
        ];
        for host in refused {
            assert_eq!(check_host(host.as_bytes()), Err(HeadError::Host), "{host}");
        }
    }
}
