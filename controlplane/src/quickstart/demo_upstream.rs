//! The demo upstream: an OpenAI-compatible server in quickstart's own process that needs no model.
//!
//! It gives the prompt's words back as tokens, one event for each where a stream was asked for, with a usage
//! that adds up: a word is a token. Embeddings are short vectors made from a hash of the text. Nothing is
//! stored.

mod answer;
mod stream;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::QuickstartError;

const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
const MODEL: &str = "liutong-demo";

/// A running demo upstream.
pub(super) struct DemoUpstream {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl DemoUpstream {
    /// Starts on loopback: on the port of an earlier start if that is free, else on any.
    pub(super) async fn start(earlier: Option<&str>) -> Result<Self, QuickstartError> {
        let failed = |source| QuickstartError::DemoUpstream { source };
        let listener = match earlier.and_then(earlier_address) {
            Some(address) => TcpListener::bind(address).await.ok(),
            None => None,
        };
        let listener = match listener {
            Some(listener) => listener,
            None => TcpListener::bind("127.0.0.1:0").await.map_err(failed)?,
        };
        let address = listener.local_addr().map_err(failed)?;
        let task = tokio::spawn(async move {
            // Ends with the task.
            let _ = axum::serve(listener, router()).await;
        });
        Ok(Self { address, task })
    }

    /// Its base URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(super) fn stop(self) {
        self.task.abort();
    }
}

fn earlier_address(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("http://")?.strip_suffix("/v1")?.parse().ok()
}

fn router() -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/models", get(models))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn chat(body: Bytes) -> Response {
    respond(&body, answer::Chat::parse, answer::Chat::whole, stream::chat)
}

async fn completions(body: Bytes) -> Response {
    respond(&body, answer::Text::parse, answer::Text::whole, stream::text)
}

async fn embeddings(body: Bytes) -> Response {
    let request = serde_json::from_slice::<Value>(&body).map_err(|error| error.to_string());
    match request.and_then(|request| answer::embeddings(&request)) {
        Ok(answer) => Json(answer).into_response(),
        Err(reason) => refusal(&reason),
    }
}

async fn models() -> Response {
    let model = json!({"id": MODEL, "object": "model", "created": now(), "owned_by": "liutong"});
    Json(json!({"object": "list", "data": [model]})).into_response()
}

/// Parses the request, and answers it as a whole or as events.
fn respond<T>(
    body: &Bytes,
    parse: impl FnOnce(&Value) -> Result<T, String>,
    whole: impl FnOnce(&T) -> Value,
    events: impl FnOnce(&T, bool) -> Vec<Value>,
) -> Response {
    let request: Value = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return refusal(&error.to_string()),
    };
    let parsed = match parse(&request) {
        Ok(parsed) => parsed,
        Err(reason) => return refusal(&reason),
    };
    if request.get("stream") != Some(&Value::Bool(true)) {
        return Json(whole(&parsed)).into_response();
    }
    let with_usage = request.pointer("/stream_options/include_usage") == Some(&Value::Bool(true));
    let events = events(&parsed, with_usage);
    ([(header::CONTENT_TYPE, "text/event-stream")], stream::body(events)).into_response()
}

fn refusal(reason: &str) -> Response {
    let error = json!({"message": reason, "type": "invalid_request_error", "param": null, "code": null});
    (StatusCode::BAD_REQUEST, Json(json!({"error": error}))).into_response()
}

/// An id for an answer, such as `chatcmpl-demo-7`.
fn next_id(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("{prefix}-demo-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
