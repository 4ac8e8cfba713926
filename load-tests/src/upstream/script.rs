//! What a test tells the upstream to do, and to which requests.
//!
//! The gateway passes no request header on that could carry instructions, so a script finds its requests by
//! the model they name, by their path, or by nothing but their order. It answers `times` of them, then stands
//! aside. The first script in the list that matches and still has an answer left is taken; without one the
//! upstream answers as a model server would. Everything here can also be sent as JSON to `POST /script`. The
//! body does pass: a request may bring a script of its own as its member `script`, which goes before all
//! others, so that many at once can each meet their own fault.

use serde::{Deserialize, Serialize};

/// Bytes; in JSON a string, or a list of numbers when they are not UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BlobForm", into = "BlobForm")]
pub struct Blob(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum BlobForm {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<BlobForm> for Blob {
    fn from(form: BlobForm) -> Self {
        match form {
            BlobForm::Text(text) => Self(text.into_bytes()),
            BlobForm::Bytes(bytes) => Self(bytes),
        }
    }
}

impl From<Blob> for BlobForm {
    fn from(blob: Blob) -> Self {
        match String::from_utf8(blob.0) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Bytes(error.into_bytes()),
        }
    }
}

impl<T: AsRef<[u8]>> From<T> for Blob {
    fn from(bytes: T) -> Self {
        Self(bytes.as_ref().to_vec())
    }
}

/// The answer before faults are put into it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// What a model server would say.
    #[default]
    Model,
    /// A head of the upstream's making around these body parts; each part is written, and chunked, by itself.
    Fixed {
        /// The status, 200 in most tests.
        status: u16,
        /// The content type.
        content_type: String,
        /// The body, in the pieces in which it is written.
        parts: Vec<Blob>,
    },
    /// These bytes and nothing else: head, framing and all, or garbage.
    Raw(Blob),
    /// Nothing, for as long as the peer holds the connection.
    Never,
}

/// How the end of the answer's body is marked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delimiter {
    /// Content-Length for a plain answer, chunks for a stream.
    #[default]
    Usual,
    /// Content-Length.
    Length,
    /// A chunk for each part.
    Chunked,
    /// The connection closes.
    Close,
}

/// What becomes of the connection after the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// It stays open for the next request.
    #[default]
    Keep,
    /// It is closed in order (FIN).
    Close,
    /// It is broken off (RST), where the answer is cut once the peer has read what came before.
    Reset,
    /// It is broken off (RST) at once: what the peer has not read yet is lost.
    Abort,
    /// It stays open, and silent.
    Stall,
    /// It stays open, and is closed when no request has come for so many milliseconds.
    CloseIdle(u64),
}

/// The answer ends here, whatever was still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// How many bytes of the answer, head included, are still written.
    pub at: usize,
    /// What the peer then sees.
    pub after: After,
}

/// One instruction. `Script::default()` changes nothing and applies to every request, for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// The model the request must name; `None` for any.
    pub model: Option<String>,
    /// The end of the path the request must have; `None` for any.
    pub path: Option<String>,
    /// How many requests it answers; `None` for all.
    pub times: Option<u64>,
    /// The answer.
    pub answer: Answer,
    /// Headers added to the head.
    pub headers: Vec<(String, String)>,
    /// How the body is framed.
    pub delimiter: Delimiter,
    /// Raw bytes before the head, such as interim responses.
    pub before_head: Blob,
    /// Milliseconds before the first byte.
    pub head_delay_ms: u64,
    /// Milliseconds between body parts (the events of a stream).
    pub event_delay_ms: u64,
    /// Whether the content of each event tells when it was sent (`STAMP`).
    pub stamp: bool,
    /// Body parts that wait for a gate: the part with this index (from 0) is sent only once the gate is open.
    pub gates: Vec<(usize, String)>,
    /// Body parts cut into chunks of so many bytes, whatever the events are.
    pub chunk_bytes: Option<usize>,
    /// Offsets in the answer, head included, at which the upstream waits until the peer has read all before.
    pub split: Vec<usize>,
    /// The same at every multiple of so many bytes.
    pub split_every: Option<usize>,
    /// Where the answer breaks off.
    pub cut: Option<Cut>,
    /// Bytes after the answer that belong to nothing.
    pub surplus: Blob,
    /// What becomes of the connection.
    pub after: After,
}

impl Script {
    /// A script for the requests that name this model.
    pub fn for_model(model: &str) -> Self {
        Self { model: Some(model.to_owned()), ..Self::default() }
    }

    /// Limits the script to so many requests.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Sets the answer.
    #[must_use]
    pub fn answer(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }

    /// Answers with a status and a JSON body.
    #[must_use]
    pub fn json(self, status: u16, body: &str) -> Self {
        let content_type = "application/json".to_owned();
        self.answer(Answer::Fixed { status, content_type, parts: vec![body.into()] })
    }

    /// Answers 200 with these events, each a part of its own, as a stream.
    #[must_use]
    pub fn events<T: AsRef<[u8]>>(mut self, events: impl IntoIterator<Item = T>) -> Self {
        self.delimiter = Delimiter::Chunked;
        let content_type = "text/event-stream".to_owned();
        let parts = events.into_iter().map(|event| event.as_ref().into()).collect();
        self.answer(Answer::Fixed { status: 200, content_type, parts })
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Holds body part `index` back until the gate is opened.
    #[must_use]
    pub fn gate(mut self, index: usize, gate: &str) -> Self {
        self.gates.push((index, gate.to_owned()));
        self
    }

    pub(crate) fn matches(&self, model: &str, path: &str) -> bool {
        self.model.as_deref().is_none_or(|wanted| wanted == model)
            && self.path.as_deref().is_none_or(|wanted| path.ends_with(wanted))
            && self.times != Some(0)
    }
}
