//! `liutong` as administrators run it: the real program against a small HTTP server that plays the admin API.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

/// What single commands send and show.
mod commands;
/// Forms of output, exit statuses.
mod output;
/// Where secrets are.
mod secrets;

use std::collections::VecDeque;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

const KEY: &str = "sk-ltadm-test0123456789";

/// What the server was asked.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    path: String,
    authorization: String,
    body: Value,
}

#[derive(Default)]
struct Script {
    answers: VecDeque<(u16, String)>,
    asked: Vec<Asked>,
}

/// An admin API that gives the answers it was told to, in order.
struct Api {
    url: String,
    script: Arc<Mutex<Script>>,
    _runtime: tokio::runtime::Runtime,
}

impl Api {
    fn start(answers: &[(u16, Value)]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let answers = answers.iter().map(|(status, body)| (*status, body.to_string())).collect();
        let script = Arc::new(Mutex::new(Script { answers, asked: Vec::new() }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, script, _runtime: runtime }
    }

    fn asked(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }

    fn run(&self, args: &[&str]) -> Output {
        liutong(args).env("LIUTONG_ADMIN_URL", &self.url).env("LIUTONG_ADMIN_KEY", KEY).output().unwrap()
    }
}

async fn answer(
    State(script): State<Arc<Mutex<Script>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).map(|v| v.to_str().unwrap().to_owned());
    let mut script = script.lock().unwrap();
    script.asked.push(Asked {
        method: method.to_string(),
        path: uri.to_string(),
        authorization: authorization.unwrap_or_default(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    });
    let (status, body) = script.answers.pop_front().expect("an answer for each request");
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

fn liutong(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_liutong"));
    command.args(args).stdin(Stdio::null());
    for name in ["LIUTONG_ADMIN_URL", "LIUTONG_ADMIN_KEY", "LIUTONG_ADMIN_KEY_FILE", "LIUTONG_PROFILE"] {
        command.env_remove(name);
    }
    // Whoever runs the tests may have profiles.
    command.env("LIUTONG_CONFIG", "/absent");
    command
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout_json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

fn list(rows: Value) -> Value {
    json!({"object": "list", "data": rows, "has_more": false})
}

fn created_key() -> Value {
    json!({"id": "key_7", "prefix": "sk-lt-abcdefgh", "secret": "sk-lt-abcdefgh-SECRET", "status": "active"})
}
