//! The cases with curl, unmodified: OpenAI's paths with a bearer, and Azure's with `api-key`.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::{Client, Told, check};

/// How the key and the model are given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Openai,
    Azure,
}

/// A request in the making: the command, without what a case adds.
fn curl(told: &Told<'_>, dialect: Dialect, model: &str, key: &str, extra: &Value) -> Command {
    let embeddings = model == "embeddings";
    let mut body = json!({"model": model, "max_tokens": 16});
    if embeddings {
        body["input"] = json!(["a river in Asia", "a lake"]);
    } else {
        body["messages"] = json!([{"role": "user", "content": "Name a river in Asia."}]);
    }
    let members = extra.as_object().into_iter().flatten();
    body.as_object_mut().unwrap().extend(members.map(|(name, value)| (name.clone(), value.clone())));
    let (origin, path) = (told.origin, if embeddings { "embeddings" } else { "chat/completions" });
    let (url, header) = match dialect {
        Dialect::Openai => (format!("{origin}/v1/{path}"), format!("authorization: Bearer {key}")),
        Dialect::Azure => (
            format!("{origin}/openai/deployments/{model}/{path}?api-version=2024-10-21"),
            format!("api-key: {key}"),
        ),
    };
    let mut command = Command::new("curl");
    command.args([
        "-sS",
        "-N",
        "-w",
        "\n%{http_code}",
        "-H",
        "content-type: application/json",
        "-H",
        &header,
    ]);
    command.args(["-d", &body.to_string(), &url]);
    command
}

/// Runs a case, and shows it as the scripts do.
fn shown(case: &str, mut command: Command) -> Value {
    // On its standard output an answer that it tries again after would stand before the last one.
    let (began, file) = (Instant::now(), NamedTempFile::new().unwrap());
    let output = command.args(["-w", "%{http_code}", "-o"]).arg(file.path()).output().unwrap();
    let (status, body) = (String::from_utf8(output.stdout).unwrap(), std::fs::read_to_string(&file).unwrap());
    let mut line = json!({"case": case, "told": null, "text": "", "tools": [], "failed": null});
    if !output.status.success() || status != "200" {
        let code =
            serde_json::from_str::<Value>(&body).map_or(Value::Null, |body| body["error"]["code"].clone());
        line["failed"] = json!({"status": status, "code": code, "exit": output.status.code()});
    } else if body.starts_with("data: ") {
        for event in body.split("\n\n").filter_map(|event| event.strip_prefix("data: {")) {
            add(&mut line, &serde_json::from_str(&format!("{{{event}")).unwrap(), "delta");
        }
        assert!(body.ends_with("data: [DONE]\n\n"), "{body}");
    } else {
        add(&mut line, &serde_json::from_str(&body).unwrap(), "message");
    }
    line["took_ms"] = json!(u64::try_from(began.elapsed().as_millis()).unwrap());
    line
}

/// Adds what a whole answer or an event says.
fn add(line: &mut Value, said: &Value, member: &str) {
    if said["usage"].is_object() {
        line["told"] = said["usage"].clone();
    }
    let joined = |before: &Value, more: &Value| {
        json!(before.as_str().unwrap_or_default().to_owned() + more.as_str().unwrap_or_default())
    };
    for choice in said["choices"].as_array().into_iter().flatten() {
        line["text"] = joined(&line["text"], &choice[member]["content"]);
        for call in choice[member]["tool_calls"].as_array().into_iter().flatten() {
            let (name, arguments) = (&call["function"]["name"], &call["function"]["arguments"]);
            if name.is_string() {
                line["tools"] = json!([[name, ""]]);
            }
            line["tools"][0][1] = joined(&line["tools"][0][1], arguments);
        }
    }
    if said["data"].is_array() {
        let vectors: Vec<_> =
            said["data"].as_array().unwrap().iter().map(|item| item["embedding"].clone()).collect();
        line["text"] = json!(json!(vectors).to_string());
    }
}

fn lines(told: &Told<'_>, dialect: Dialect) -> Vec<Value> {
    let ask = |model: &str, extra: &Value| curl(told, dialect, model, told.key, extra);
    let stream = json!({"stream": true});
    let mut lines: Vec<_> = ["chat", "tools", "embeddings", "unknown-model", "hopeless", "broken"]
        .map(|case| shown(case, ask(case, &Value::Null)))
        .into();
    lines.extend(["stream", "tools-stream", "broken-stream"].map(|case| shown(case, ask(case, &stream))));
    let counted = json!({"stream": true, "stream_options": {"include_usage": true}});
    lines.push(shown("stream-usage", ask("stream-usage", &counted)));
    lines.push(shown("unknown-key", curl(told, dialect, "chat", "wrong", &Value::Null)));
    for (case, more) in [("limited", "--retry"), ("busy", "--retry"), ("slow", "--max-time")] {
        let mut command = ask(case, &Value::Null);
        command.args([more, if more == "--retry" { "1" } else { "0.4" }]);
        lines.push(shown(case, command));
    }
    lines.push(cancelled(ask("cancelled", &stream)));
    lines
}

/// Ends curl once it has shown the beginning of a stream.
fn cancelled(mut command: Command) -> Value {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    assert!(child.stdout.as_mut().unwrap().read(&mut [0]).unwrap() > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    json!({"case": "cancelled", "told": null, "text": "left", "tools": [], "failed": null, "took_ms": 0})
}

#[test]
fn curl_is_served_on_openais_paths() {
    let client = Client { waits: false, ..Client::new("curl") };
    check(client, |told| lines(told, Dialect::Openai));
}

#[test]
fn curl_is_served_on_azures_paths() {
    let client = Client { waits: false, ..Client::new("curl-azure") };
    check(client, |told| lines(told, Dialect::Azure));
}
