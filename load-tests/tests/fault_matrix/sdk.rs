//! What an SDK makes of the faults: it raises, whatever breaks, whether it streams or not. It never takes an
//! answer that was cut for whole, and what another tenant asks next is answered.

use std::io::Write;

use load_tests::harness::ask::number;
use load_tests::harness::sdk::Sdk;
use load_tests::upstream::{After, Answer, Cut, Delimiter, Script};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::{broken_answers, raw, world};

/// A prime, so that the cuts are at other places in each event.
const EVERY: usize = 13;
/// The same where each cut takes its time.
const EVERY_STALL: usize = 61;

/// One exchange that goes wrong.
struct Fault {
    name: String,
    model: &'static str,
    stream: bool,
    usage: bool,
    script: Script,
}

fn chunk(delta: &Value, finish: &Value) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
    let chunk = json!({
        "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice],
    });
    format!("data: {chunk}\n\n")
}

fn events() -> [String; 3] {
    let said = |text: &str| chunk(&json!({ "content": text }), &Value::Null);
    [said("one"), said("two"), chunk(&json!({}), &json!("stop"))]
}

fn completion() -> String {
    let message = json!({"role": "assistant", "content": "whole"});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
        .to_string()
}

/// Answers, and up to which byte a cut takes something from them that a client needs.
fn answers() -> Vec<(&'static str, bool, Script, usize)> {
    let done = "data: [DONE]\n\n".to_owned();
    let all: Vec<String> = events().into_iter().chain([done]).collect();
    let (json, stream) = (Script::default().json(200, &completion()), Script::default().events(&all));
    let framed = |script: &Script, delimiter| Script { delimiter, ..script.clone() };
    let head = |type_: &str, framing: &str| {
        format!("HTTP/1.1 200 Scripted\r\ncontent-type: {type_}\r\n{framing}\r\n\r\n").len()
    };
    let length = format!("content-length: {}", completion().len());
    let (chunked, close) = ("transfer-encoding: chunked", "connection: close");
    let (text, object) = ("text/event-stream", "application/json");
    let in_chunks: usize = all.iter().map(|event| format!("{:x}\r\n{event}\r\n", event.len()).len()).sum();
    let whole = completion().len();
    let streamed: usize = all.iter().map(String::len).sum();
    vec![
        ("whole, length", false, json.clone(), head(object, &length) + whole),
        ("whole, chunked", false, framed(&json, Delimiter::Chunked), head(object, chunked) + whole + 8),
        ("whole, until close", false, framed(&json, Delimiter::Close), head(object, close) + whole),
        // Without the line end of the last event's chunk the event itself is whole.
        ("stream, chunked", true, stream.clone(), head(text, chunked) + in_chunks - 2),
        ("stream, until close", true, framed(&stream, Delimiter::Close), head(text, close) + streamed),
    ]
}

fn faults() -> Vec<Fault> {
    let mut faults = Vec::new();
    for (kind, stream, script, needed) in answers() {
        let cut = |at, after| Script { cut: Some(Cut { at, after }), ..script.clone() };
        for usage in if stream { vec![false, true] } else { vec![false] } {
            for after in [After::Close, After::Reset, After::Abort] {
                faults.extend((0..needed).step_by(EVERY).chain([needed - 1]).map(|at| Fault {
                    name: format!("{kind}, {after:?} at {at} of {needed}, usage asked for: {usage}"),
                    model: "small",
                    stream,
                    usage,
                    script: cut(at, after),
                }));
            }
            faults.extend((0..needed).step_by(EVERY_STALL).map(|at| Fault {
                name: format!("{kind}, stalled at {at} of {needed}"),
                model: "hasty",
                stream,
                usage,
                script: cut(at, After::Stall),
            }));
        }
    }
    for stream in [false, true] {
        let fault = |name: String, model, script| Fault { name, model, stream, usage: false, script };
        for (index, answer) in broken_answers().iter().enumerate() {
            for after in [After::Close, After::Reset] {
                let name = format!("broken answer {index}, {after:?}, stream: {stream}");
                faults.push(fault(name, "small", raw(answer, after)));
            }
        }
        faults.push(fault("silence".into(), "hasty", Script::default().answer(Answer::Never)));
        for status in [301, 401, 403, 429, 500, 503] {
            let script = Script::default().json(status, "{}").header("location", "/");
            faults.push(fault(format!("status {status}"), "small", script));
        }
    }
    faults
}

fn check(sdk: &Sdk, script: &str) {
    let (world, faults) = (world(), faults());
    let list: Vec<_> = faults
        .iter()
        .map(|fault| {
            let Fault { model, stream, usage, script, .. } = fault;
            json!({"model": model, "stream": stream, "usage": usage, "script": script})
        })
        .collect();
    let sound = Script::default().json(200, &completion());
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(json!({"faults": list, "sound": sound}).to_string().as_bytes()).unwrap();
    let environment = [
        ("OPENAI_BASE_URL", world.system.ready.base_url.as_str()),
        ("OPENAI_API_KEY", world.tenants[0].secret.as_str()),
        ("LIUTONG_OTHER_KEY", world.tenants[1].secret.as_str()),
        ("LIUTONG_FAULTS", file.path().to_str().unwrap()),
    ];
    let lines = sdk.run(script, &[], &environment).unwrap();
    assert_eq!(lines.len(), faults.len());
    assert!(lines.len() > 500, "{} faults", lines.len());
    let mut wrong = Vec::new();
    for line in &lines {
        let name = &faults[usize::try_from(number(line, "fault")).unwrap()].name;
        if line["raised"] != json!(true) || line["next"] != json!("whole") {
            wrong.push(format!("{name}: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), lines.len(), wrong.join("\n"));
}

#[test]
fn openai_python_raises_whatever_breaks() {
    check(&Sdk::python_3().unwrap(), "faults.py");
}

#[test]
fn openai_python_2_raises_whatever_breaks() {
    check(&Sdk::openai_python_2().unwrap(), "faults.py");
}

#[test]
fn openai_node_raises_whatever_breaks() {
    check(&Sdk::node().unwrap(), "faults.cjs");
}
