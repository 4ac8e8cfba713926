//! A reader of requests that takes what the data plane is meant to send, and not a byte else: written for the
//! tests alone, from RFC 9112 and the list of what is forwarded, and sharing no code with the data plane.

/// The header fields that a request to an upstream may have.
const ALLOWED: [&str; 11] = [
    "host",
    "accept-encoding",
    "user-agent",
    "content-type",
    "accept",
    "openai-beta",
    "anthropic-version",
    "anthropic-beta",
    "idempotency-key",
    "traceparent",
    "content-length",
];

/// A request as it went upstream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sent {
    /// The path.
    pub(crate) path: String,
    /// The fields that are the client's, in order.
    pub(crate) fields: Vec<(String, String)>,
    /// The body.
    pub(crate) body: String,
}

/// Takes the request at the front of `bytes`; `None` where it is not complete yet.
///
/// # Errors
/// What is there that is not to be.
pub(crate) fn take(bytes: &mut Vec<u8>) -> Result<Option<Sent>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        let partial = String::from_utf8_lossy(bytes);
        // What has come so far must be able to become a request.
        let start = &"POST /v1/"[..bytes.len().min(9)];
        return if partial.starts_with(start) { Ok(None) } else { Err(format!("no request: {partial:?}")) };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let path = line.strip_prefix("POST ").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let path = path.filter(|path| path.bytes().all(|byte| byte.is_ascii_graphic()));
    let path = path.ok_or(format!("request line {line:?}"))?.to_owned();
    let (mut fields, mut own) = (Vec::new(), Vec::new());
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or(format!("field line {line:?}"))?;
        let plain = value.bytes().all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f));
        if !ALLOWED.contains(&name) || !plain || value.trim() != value {
            return Err(format!("field line {line:?}"));
        }
        let is_own = matches!(name, "host" | "accept-encoding" | "user-agent" | "content-length");
        let kept = if is_own { &mut own } else { &mut fields };
        kept.push((name.to_owned(), value.to_owned()));
    }
    let names: Vec<&str> = own.iter().map(|(name, _)| name.as_str()).collect();
    if names != ["host", "accept-encoding", "user-agent", "content-length"] {
        return Err(format!("the fields that are the gateway's own are {names:?}"));
    }
    if (own[1].1.as_str(), own[2].1.as_str()) != ("identity", "liutong") {
        return Err(format!("{own:?}"));
    }
    let text = &own[3].1;
    let length: usize = text.parse().map_err(|_| format!("length {text:?}"))?;
    if length.to_string() != *text {
        return Err(format!("length {text:?}"));
    }
    let Some(body) = bytes.get(end + 4..end + 4 + length) else { return Ok(None) };
    let body = String::from_utf8(body.to_vec()).map_err(|_| "a body that is not UTF-8")?;
    bytes.drain(..end + 4 + length);
    Ok(Some(Sent { path, fields, body }))
}

#[test]
fn what_is_not_exactly_one_request_is_told_from_it() {
    let good = "POST /v1/x HTTP/1.1\r\nhost: h\r\naccept-encoding: identity\r\nuser-agent: liutong\r\n\
                accept: a\r\ncontent-length: 2\r\n\r\n{}";
    let read = |text: &str| take(&mut text.as_bytes().to_vec());
    assert_eq!(read(good).unwrap().unwrap().body, "{}");
    for cut in 0..good.len() {
        assert_eq!(read(&good[..cut]), Ok(None), "cut at {cut}");
    }
    for (from, to) in [
        ("POST", "post"),
        ("POST", "\r\nPOST"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("host: h\r\n", ""),
        ("host: h", "host: h\r\nhost: h"),
        ("accept: a", "accept : a"),
        ("accept: a", "accept: a\r\n b"),
        ("accept: a", "cookie: a"),
        ("accept: a", "transfer-encoding: chunked"),
        ("length: 2", "length: 02"),
        ("length: 2", "length: 2\r\ncontent-length: 2"),
        ("identity", "gzip"),
    ] {
        let text = good.replacen(from, to, 1);
        assert!(read(&text).is_err(), "{text}");
    }
}
