//! What the demo upstream answers, as pure functions of the request.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{next_id, now};

const DIMENSIONS_DEFAULT: usize = 8;
const DIMENSIONS_MAX: usize = 4096;
// OpenAI's own limit.
const INPUTS_MAX: usize = 2048;

/// Some words, and why they end.
pub(super) struct Words {
    /// Each with the space before it.
    pub(super) tokens: Vec<String>,
    pub(super) finish_reason: &'static str,
}

impl Words {
    /// The words of a text, at most `max` of them.
    fn echo(text: &str, max: Option<u64>) -> Self {
        let max = max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        let word = |(at, word): (usize, &str)| if at == 0 { word.to_owned() } else { format!(" {word}") };
        let mut tokens: Vec<String> = text.split_whitespace().enumerate().map(word).collect();
        let finish_reason = if tokens.len() > max { "length" } else { "stop" };
        tokens.truncate(max);
        Self { tokens, finish_reason }
    }

    fn text(&self) -> String {
        self.tokens.concat()
    }
}

/// A chat completion.
pub(super) struct Chat {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: Value,
    pub(super) words: Words,
    prompt_tokens: usize,
}

impl Chat {
    /// Gives the words of the last message of the user back.
    pub(super) fn parse(request: &Value) -> Result<Self, String> {
        let messages = request.get("messages").and_then(Value::as_array).ok_or("messages must be a list")?;
        let user = messages.iter().rev().find(|message| message["role"] == "user").or(messages.last());
        let text = content(user.ok_or("messages must not be empty")?);
        let max = number(request, "max_completion_tokens").or_else(|| number(request, "max_tokens"));
        Ok(Self {
            id: next_id("chatcmpl"),
            created: now(),
            model: model(request)?,
            words: Words::echo(&text, max),
            prompt_tokens: messages.iter().map(|message| count(&content(message))).sum(),
        })
    }

    pub(super) fn whole(&self) -> Value {
        let message = json!({"role": "assistant", "content": self.words.text(), "refusal": null});
        let finish_reason = self.words.finish_reason;
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason}],
            "usage": self.usage(),
        })
    }

    pub(super) fn usage(&self) -> Value {
        usage(self.prompt_tokens, self.words.tokens.len())
    }
}

/// A text completion: one choice for each prompt.
pub(super) struct Text {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: Value,
    pub(super) choices: Vec<Words>,
    prompt_tokens: usize,
}

impl Text {
    pub(super) fn parse(request: &Value) -> Result<Self, String> {
        let prompts = texts(request.get("prompt").ok_or("prompt is missing")?)?;
        let max = number(request, "max_tokens");
        Ok(Self {
            id: next_id("cmpl"),
            created: now(),
            model: model(request)?,
            choices: prompts.iter().map(|prompt| Words::echo(prompt, max)).collect(),
            prompt_tokens: prompts.iter().map(|prompt| count(prompt)).sum(),
        })
    }

    pub(super) fn whole(&self) -> Value {
        let choice = |(index, words): (usize, &Words)| {
            let (text, finish_reason) = (words.text(), words.finish_reason);
            json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish_reason})
        };
        let choices: Vec<Value> = self.choices.iter().enumerate().map(choice).collect();
        json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
            "choices": choices, "usage": self.usage(),
        })
    }

    pub(super) fn usage(&self) -> Value {
        usage(self.prompt_tokens, self.choices.iter().map(|words| words.tokens.len()).sum())
    }
}

/// A list of embeddings.
pub(super) fn embeddings(request: &Value) -> Result<Value, String> {
    let inputs = texts(request.get("input").ok_or("input is missing")?)?;
    let dimensions = match request.get("dimensions") {
        None | Some(Value::Null) => DIMENSIONS_DEFAULT,
        Some(value) => value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=DIMENSIONS_MAX).contains(n))
            .ok_or_else(|| format!("dimensions must be from 1 to {DIMENSIONS_MAX}"))?,
    };
    let base64 = request.get("encoding_format").is_some_and(|format| format == "base64");
    let item = |(index, input): (usize, &String)| {
        let vector = vector(input, dimensions);
        let embedding = if base64 { in_base64(&vector).into() } else { json!(vector) };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let data: Vec<Value> = inputs.iter().enumerate().map(item).collect();
    let tokens: usize = inputs.iter().map(|input| count(input)).sum();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(json!({"object": "list", "data": data, "model": model(request)?, "usage": usage}))
}

/// A vector of length 1 that depends on the text alone.
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(dimensions + 16);
    for block in 0_u32.. {
        if values.len() >= dimensions {
            break;
        }
        let hash = Sha256::new().chain_update(block.to_le_bytes()).chain_update(text).finalize();
        values.extend(hash.chunks_exact(2).map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]]))));
    }
    values.truncate(dimensions);
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    values.iter().map(|value| value / length.max(1.0)).collect()
}

/// The little-endian floats in base64, as OpenAI sends them.
fn in_base64(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4_usize {
            let sextet = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit > three.len() { '=' } else { char::from(DIGITS[sextet as usize]) });
        }
    }
    text
}

fn usage(prompt: usize, completion: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

fn count(text: &str) -> usize {
    text.split_whitespace().count()
}

fn model(request: &Value) -> Result<Value, String> {
    request.get("model").filter(|model| model.is_string()).cloned().ok_or("model must be text".to_owned())
}

fn number(request: &Value, name: &str) -> Option<u64> {
    request.get(name).and_then(Value::as_u64)
}

/// The text of a message: its content, or the text parts of it.
fn content(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    }
}

/// One text, several, or tokens by their numbers, which stand for themselves.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    let numbers = |list: &[Value]| list.iter().map(Value::to_string).collect::<Vec<_>>().join(" ");
    let texts = match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) if list.iter().all(Value::is_u64) && !list.is_empty() => vec![numbers(list)],
        Value::Array(list) => list
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                Value::Array(tokens) => Ok(numbers(tokens)),
                _ => Err("expected text or a list of texts".to_owned()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err("expected text or a list of texts".to_owned()),
    };
    if texts.is_empty() || texts.len() > INPUTS_MAX {
        return Err(format!("expected from 1 to {INPUTS_MAX} texts"));
    }
    Ok(texts)
}
