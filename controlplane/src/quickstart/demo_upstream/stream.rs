//! The demo upstream's streams: a token for each event, at a reader's pace.

use std::time::Duration;

use axum::body::Body;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, duplex};
use tokio_util::io::ReaderStream;

use super::answer::{Chat, Text};

// What a small model takes for a token.
const TOKEN_INTERVAL: Duration = Duration::from_millis(10);
const BUFFER_BYTES: usize = 16 * 1024;

/// The events of a chat completion.
pub(super) fn chat(chat: &Chat, with_usage: bool) -> Vec<Value> {
    let event = |choices: Value, usage: Option<Value>| {
        let mut event = json!({
            "id": chat.id, "object": "chat.completion.chunk", "created": chat.created, "model": chat.model,
            "choices": choices,
        });
        if with_usage {
            event["usage"] = usage.unwrap_or_default();
        }
        event
    };
    let choice = |delta: Value, finish_reason: Value| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
        event(Value::Array(vec![choice]), None)
    };
    let mut events = vec![choice(json!({"role": "assistant", "content": ""}), Value::Null)];
    events.extend(chat.words.tokens.iter().map(|token| choice(json!({"content": token}), Value::Null)));
    events.push(choice(json!({}), chat.words.finish_reason.into()));
    if with_usage {
        events.push(event(json!([]), Some(chat.usage())));
    }
    events
}

/// The events of a text completion, choice after choice.
pub(super) fn text(text: &Text, with_usage: bool) -> Vec<Value> {
    let event = |choices: Value, usage: Option<Value>| {
        let mut event = json!({
            "id": text.id, "object": "text_completion", "created": text.created, "model": text.model,
            "choices": choices,
        });
        if with_usage {
            event["usage"] = usage.unwrap_or_default();
        }
        event
    };
    let choice = |index: usize, text: &str, finish_reason: Value| {
        let choice = json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish_reason});
        event(Value::Array(vec![choice]), None)
    };
    let mut events = Vec::new();
    for (index, words) in text.choices.iter().enumerate() {
        events.extend(words.tokens.iter().map(|token| choice(index, token, Value::Null)));
        events.push(choice(index, "", words.finish_reason.into()));
    }
    if with_usage {
        events.push(event(json!([]), Some(text.usage())));
    }
    events
}

/// A body of these events and the end mark.
pub(super) fn body(events: Vec<Value>) -> Body {
    let (mut writer, reader) = duplex(BUFFER_BYTES);
    tokio::spawn(async move {
        for event in events {
            // An error: the client has left.
            if writer.write_all(format!("data: {event}\n\n").as_bytes()).await.is_err() {
                return;
            }
            tokio::time::sleep(TOKEN_INTERVAL).await;
        }
        let _ = writer.write_all(b"data: [DONE]\n\n").await;
    });
    Body::from_stream(ReaderStream::new(reader))
}
