//! A request as the upstream sees it: cut out of the bytes read so far, and what its body asks for.
//!
//! Token counts follow from the request alone, so that whoever sends it can say beforehand what it will cost:
//! `seed` gives the prompt tokens (without one, the words of the messages, prompt or input), `max_tokens` or
//! `max_completion_tokens` the completion tokens.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::script::{Delimiter, Script};
use crate::message::{self, ChunkDecoder, Framing, MessageError};

/// Completion tokens of a request that sets no limit.
const COMPLETION_TOKENS_DEFAULT: u64 = 16;

/// One whole request at the front of a buffer.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) method: &'a str,
    /// Without the query string.
    pub(crate) path: &'a str,
    pub(crate) body: Cow<'a, [u8]>,
    /// How many bytes of the buffer it took.
    pub(crate) bytes: usize,
}

/// Cuts the first request out of `buffer`; `None` while it is not complete.
pub(crate) fn parse(buffer: &[u8]) -> Result<Option<Request<'_>>, MessageError> {
    let Some(end) = message::head_end(buffer) else { return Ok(None) };
    let head = &buffer[..end];
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).map_err(|_| MessageError::StatusLine)?.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(MessageError::StatusLine);
    };
    let path = path.split('?').next().unwrap_or_default();
    let (body, bytes) = match message::framing(head)? {
        None | Some(Framing::Close) => (Cow::Borrowed(&[][..]), end),
        Some(Framing::Length(length)) => match buffer.get(end..end.saturating_add(length)) {
            Some(body) => (Cow::Borrowed(body), end + length),
            None => return Ok(None),
        },
        Some(Framing::Chunked) => {
            let (mut decoder, mut body) = (ChunkDecoder::default(), Vec::new());
            let used = decoder.feed(&buffer[end..], &mut body)?;
            if !decoder.is_done() {
                return Ok(None);
            }
            (Cow::Owned(body), end + used)
        }
    };
    Ok(Some(Request { head, method, path, body, bytes }))
}

/// Tells whether the client of this request waits for `100 Continue` before it sends the body.
pub(crate) fn expects_continue(buffer: &[u8]) -> bool {
    message::head_end(buffer)
        .and_then(|end| message::header(&buffer[..end], "expect"))
        .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
}

/// Which of OpenAI's endpoints is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
}

/// What the body of a request asks for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: String,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    /// Comes back in the answer's id, so that a client can tell whose answer it got.
    pub(crate) user: String,
    /// How many embeddings are wanted, and whether as base64.
    pub(crate) inputs: usize,
    pub(crate) base64: bool,
    /// What is to be done instead of the usual.
    pub(crate) script: Option<Box<Script>>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(default)]
    model: String,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    seed: Option<u64>,
    #[serde(default)]
    user: String,
    encoding_format: Option<String>,
    script: Option<Box<Script>>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Ask {
    /// Reads what a request asks for; `None` when the path is no endpoint or the body not such a request.
    pub(crate) fn read(path: &str, body: &[u8]) -> Option<Self> {
        let endpoint = match path {
            "/chat/completions" => Endpoint::Chat,
            "/completions" => Endpoint::Completions,
            "/embeddings" => Endpoint::Embeddings,
            _ => return None,
        };
        let body: Body<'_> = serde_json::from_slice(body).ok()?;
        let text = body.messages.or(body.prompt).or(body.input);
        let completion_tokens = match endpoint {
            Endpoint::Embeddings => 0,
            _ => body.max_completion_tokens.or(body.max_tokens).unwrap_or(COMPLETION_TOKENS_DEFAULT),
        };
        Some(Self {
            endpoint,
            stream: body.stream && endpoint != Endpoint::Embeddings,
            include_usage: body.stream_options.is_some_and(|options| options.include_usage),
            prompt_tokens: body.seed.unwrap_or_else(|| words(text)),
            completion_tokens,
            inputs: inputs(body.input),
            base64: body.encoding_format.as_deref() == Some("base64"),
            user: body.user,
            model: body.model,
            script: body.script,
        })
    }

    /// Tokens of the prompt that count as read from a cache.
    pub(crate) fn cached_tokens(&self) -> u64 {
        self.prompt_tokens / 2
    }

    /// Tokens of the completion that count as reasoning.
    pub(crate) fn reasoning_tokens(&self) -> u64 {
        self.completion_tokens / 4
    }

    /// The framing that a model server uses for this answer.
    pub(crate) fn delimiter(&self) -> Delimiter {
        if self.stream { Delimiter::Chunked } else { Delimiter::Length }
    }
}

/// Counts the words in the strings under `content`, or in the strings themselves.
fn words(text: Option<&RawValue>) -> u64 {
    fn count(value: &Value) -> u64 {
        match value {
            Value::String(text) => text.split_whitespace().count() as u64,
            Value::Array(items) => items.iter().map(count).sum(),
            Value::Object(members) => {
                ["content", "text"].iter().filter_map(|name| members.get(*name)).map(count).sum()
            }
            _ => 0,
        }
    }
    text.and_then(|text| serde_json::from_str(text.get()).ok()).map_or(0, |value| count(&value))
}

fn inputs(input: Option<&RawValue>) -> usize {
    let value = input.and_then(|input| serde_json::from_str::<Value>(input.get()).ok());
    match value {
        Some(Value::Array(items)) if items.iter().any(|item| !item.is_number()) => items.len(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_cut_out_only_when_complete() {
        let bytes = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET";
        for cut in 0..bytes.len() - 3 {
            assert!(parse(&bytes[..cut]).unwrap().is_none(), "cut at {cut}");
        }
        let request = parse(bytes).unwrap().unwrap();
        assert_eq!((request.method, request.path, &*request.body), ("POST", "/v1/x", &b"abc"[..]));
        assert_eq!(request.bytes, bytes.len() - 3);
    }

    #[test]
    fn tokens_follow_from_the_request() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"two words"}],"max_tokens":3}"#;
        let ask = Ask::read("/chat/completions", body).unwrap();
        assert_eq!((ask.prompt_tokens, ask.completion_tokens, ask.stream), (2, 3, false));
        let ask = Ask::read("/embeddings", br#"{"model":"m","input":["a b","c"],"seed":9}"#).unwrap();
        assert_eq!((ask.prompt_tokens, ask.completion_tokens, ask.inputs), (9, 0, 2));
        assert!(Ask::read("/files", b"{}").is_none());
    }
}
