//! Answers in OpenAI's shapes: the parts of a body, whole or as events.
//!
//! A stream has one event with content for each completion token, so that a client can count tokens without
//! being told. As at OpenAI, an event with usage comes only if `include_usage` was asked for, and then every
//! other event carries `"usage":null`.

use std::fmt::Write;

use super::request::{Ask, Endpoint};

/// Digits of a stamp: nanoseconds of CLOCK_MONOTONIC, padded with zeros.
pub const STAMP_DIGITS: usize = 20;
/// Where the content of an event will tell when it was sent.
pub(crate) const STAMP: &str = "@00000000000000000000";

/// An answer before it is framed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shaped {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) parts: Vec<Vec<u8>>,
    /// The part that tells the usage, if one does.
    pub(crate) usage_part: Option<usize>,
}

impl Shaped {
    fn json(status: u16, body: String) -> Self {
        let content_type = "application/json".to_owned();
        Self { status, content_type, parts: vec![body.into_bytes()], usage_part: None }
    }

    /// An error in OpenAI's envelope.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let members =
            format!(r#""message":"{code}","type":"invalid_request_error","param":null,"code":"{code}""#);
        Self::json(status, format!(r#"{{"error":{{{members}}}}}"#))
    }

    /// The list of models, or one of them.
    pub(crate) fn models(names: &[String]) -> Self {
        let model = |name: &String| {
            format!(r#"{{"id":"{name}","object":"model","created":1700000000,"owned_by":"scripted"}}"#)
        };
        let list: Vec<String> = names.iter().map(model).collect();
        Self::json(200, format!(r#"{{"object":"list","data":[{}]}}"#, list.join(",")))
    }

    /// What a model server answers; if `stamped`, each event has room for the time at which it is sent.
    pub(crate) fn model(ask: &Ask, stamped: bool) -> Self {
        if ask.stream {
            return stream(ask, stamped);
        }
        let mut answer = Self::json(200, whole(ask));
        answer.usage_part = Some(0);
        answer
    }
}

/// The content of completion token `index`.
fn token(index: u64) -> String {
    format!("t{index} ")
}

fn usage(ask: &Ask) -> String {
    let (prompt, completion) = (ask.prompt_tokens, ask.completion_tokens);
    let total = prompt + completion;
    if ask.endpoint == Endpoint::Embeddings {
        return format!(r#"{{"prompt_tokens":{prompt},"total_tokens":{total}}}"#);
    }
    let (cached, reasoning) = (ask.cached_tokens(), ask.reasoning_tokens());
    let sums = format!(r#""prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total}"#);
    let input = format!(r#""prompt_tokens_details":{{"cached_tokens":{cached}}}"#);
    let output = format!(r#""completion_tokens_details":{{"reasoning_tokens":{reasoning}}}"#);
    format!("{{{sums},{input},{output}}}")
}

/// The members that every object of an answer begins with.
fn envelope(ask: &Ask, object: &str) -> String {
    let id = if ask.user.is_empty() { "scripted" } else { &ask.user };
    let id = serde_json::Value::from(format!("chatcmpl-{id}"));
    let model = serde_json::Value::from(ask.model.as_str());
    format!(r#""id":{id},"object":"{object}","created":1700000000,"model":{model}"#)
}

fn whole(ask: &Ask) -> String {
    let usage = usage(ask);
    let text: String = (0..ask.completion_tokens).map(token).collect();
    match ask.endpoint {
        Endpoint::Chat => {
            let envelope = envelope(ask, "chat.completion");
            let said = format!(r#""message":{{"role":"assistant","content":"{text}"}}"#);
            let choice = format!(r#"{{"index":0,{said},"finish_reason":"stop"}}"#);
            format!(r#"{{{envelope},"choices":[{choice}],"usage":{usage}}}"#)
        }
        Endpoint::Completions => {
            let envelope = envelope(ask, "text_completion");
            let choice = format!(r#"{{"index":0,"text":"{text}","logprobs":null,"finish_reason":"stop"}}"#);
            format!(r#"{{{envelope},"choices":[{choice}],"usage":{usage}}}"#)
        }
        Endpoint::Embeddings => {
            // 1.0 and 0.5 as little-endian floats, for those who ask for base64.
            let vector = if ask.base64 { r#""AACAPwAAAD8=""# } else { "[1.0,0.5]" };
            let mut data = String::new();
            for index in 0..ask.inputs {
                let comma = if index == 0 { "" } else { "," };
                let _ =
                    write!(data, r#"{comma}{{"object":"embedding","index":{index},"embedding":{vector}}}"#);
            }
            let model = serde_json::Value::from(ask.model.as_str());
            format!(r#"{{"object":"list","data":[{data}],"model":{model},"usage":{usage}}}"#)
        }
    }
}

fn stream(ask: &Ask, stamped: bool) -> Shaped {
    let object = if ask.endpoint == Endpoint::Chat { "chat.completion.chunk" } else { "text_completion" };
    let envelope = envelope(ask, object);
    let null = if ask.include_usage { r#","usage":null"# } else { "" };
    let event =
        |choice: String| format!("data: {{{envelope},\"choices\":[{choice}]{null}}}\n\n").into_bytes();
    let choice = |content: Option<String>| {
        let finish = if content.is_some() { "null" } else { r#""stop""# };
        let text = content.unwrap_or_default();
        match ask.endpoint {
            Endpoint::Chat if finish != "null" => {
                r#"{"index":0,"delta":{},"finish_reason":"stop"}"#.to_owned()
            }
            Endpoint::Chat => {
                format!(r#"{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}"#)
            }
            _ => format!(r#"{{"index":0,"text":"{text}","logprobs":null,"finish_reason":{finish}}}"#),
        }
    };
    let content = |index| if stamped { STAMP.to_owned() } else { token(index) };
    let mut parts: Vec<Vec<u8>> =
        (0..ask.completion_tokens).map(|index| event(choice(Some(content(index))))).collect();
    parts.push(event(choice(None)));
    let mut usage_part = None;
    if ask.include_usage {
        usage_part = Some(parts.len());
        parts.push(format!("data: {{{envelope},\"choices\":[],\"usage\":{}}}\n\n", usage(ask)).into_bytes());
    }
    parts.push(b"data: [DONE]\n\n".to_vec());
    Shaped { status: 200, content_type: "text/event-stream".to_owned(), parts, usage_part }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str, body: &str) -> Ask {
        Ask::read(path, body.as_bytes()).unwrap()
    }

    #[test]
    fn every_shape_is_json() {
        for (path, body) in [
            ("/chat/completions", r#"{"model":"m\"","user":"u\\"}"#),
            ("/completions", r#"{"model":"m","prompt":"a"}"#),
            ("/embeddings", r#"{"model":"m","input":["a","b"],"encoding_format":"base64"}"#),
        ] {
            let answer = Shaped::model(&ask(path, body), false);
            let value: serde_json::Value = serde_json::from_slice(&answer.parts[0]).unwrap();
            assert!(value["usage"]["prompt_tokens"].is_u64(), "{path}");
        }
    }

    #[test]
    fn usage_is_streamed_only_when_asked_for() {
        let body = r#"{"model":"m","stream":true,"max_tokens":3}"#;
        let plain = Shaped::model(&ask("/chat/completions", body), false);
        assert_eq!((plain.parts.len(), plain.usage_part), (5, None));
        assert!(!plain.parts.concat().windows(5).any(|window| window == b"usage"));
        let body = r#"{"model":"m","stream":true,"max_tokens":3,"stream_options":{"include_usage":true}}"#;
        let counted = Shaped::model(&ask("/completions", body), false);
        assert_eq!((counted.parts.len(), counted.usage_part), (6, Some(4)));
        for part in &counted.parts[..5] {
            let value: serde_json::Value = serde_json::from_slice(&part[6..]).unwrap();
            assert!(value.get("usage").is_some());
        }
    }
}
