//! A gateway before a scripted upstream, with an alias, and an answer, for each case.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use load_tests::harness::{Setup, System};
use load_tests::upstream::{After, Answer, Cut, Options, Script, Upstream};
use serde_json::{Value, json};

use crate::CASES;

/// How long a client that is told so waits before it asks again; longer than any waits by itself at first.
pub(crate) const WAIT_MS: i64 = 700;

/// What the clients have in common.
pub(crate) struct World {
    /// The gateway.
    pub(crate) system: System,
    /// The upstream of all aliases.
    pub(crate) upstream: Upstream,
    turn: Mutex<()>,
}

/// Starts it once, with an alias for each case.
pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let upstream = Upstream::start(Options::default()).unwrap();
        let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
        for case in CASES.iter().filter(|case| case.name != "unknown-model") {
            system.set_model(case.name, &upstream.base_url(), case.name, &["--dialect", "openai"]);
        }
        World { system, upstream, turn: Mutex::new(()) }
    })
}

/// One client at a time, before an upstream whose scripts are new.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    let turn = world().turn.lock().unwrap_or_else(PoisonError::into_inner);
    let upstream = &world().upstream;
    upstream.reset();
    let refused = |model: &str, status: u16| {
        let error = json!({"message": model, "type": "scripted", "param": null, "code": model});
        Script::for_model(model)
            .json(status, &json!({ "error": error }).to_string())
            .header("retry-after", "0")
    };
    upstream.script(refused("limited", 429).header("retry-after-ms", &WAIT_MS.to_string()).times(1));
    upstream.script(refused("busy", 503).header("retry-after-ms", "1").times(1));
    upstream.script(refused("hopeless", 503).header("retry-after-ms", "1").header("x-should-retry", "false"));
    let cut = |model, at| Script { cut: Some(Cut { at, after: After::Close }), ..Script::for_model(model) };
    upstream.script(cut("broken", 20));
    upstream.script(cut("broken-stream", 700));
    upstream.script(Script::for_model("slow").answer(Answer::Never));
    upstream.script(Script::for_model("cancelled").gate(3, "never"));
    upstream.script(Script::for_model("tools").json(200, &tool_answer().to_string()).times(1));
    upstream.script(Script::for_model("tools-stream").events(tool_events()).times(1));
    turn
}

fn tool_answer() -> Value {
    let function = json!({"name": "longest_river", "arguments": "{\"place\":\"Asia\"}"});
    let call = json!({"id": "call_1", "type": "function", "function": function});
    let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
    let mut answer = tool_chunk("chat.completion", &json!([choice]));
    answer["usage"] = json!({"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30});
    answer
}

fn tool_chunk(object: &str, choices: &Value) -> Value {
    json!({"id": "chatcmpl-1", "object": object, "created": 1, "model": "scripted", "choices": choices})
}

/// The call in pieces, as OpenAI streams it, and usage, which only those see who asked for it.
fn tool_events() -> Vec<String> {
    let first = json!({"name": "longest_river", "arguments": ""});
    let first = json!({"index": 0, "id": "call_1", "type": "function", "function": first});
    let mut deltas = vec![json!({"role": "assistant", "content": null, "tool_calls": [first]})];
    for piece in ["{\"pl", "ace\":\"As", "ia\"}"] {
        deltas.push(json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}));
    }
    let choice = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    let mut choices: Vec<_> = deltas.into_iter().map(|delta| choice(delta, Value::Null)).collect();
    choices.push(choice(json!({}), json!("tool_calls")));
    let mut chunks: Vec<_> =
        choices.iter().map(|choices| tool_chunk("chat.completion.chunk", choices)).collect();
    chunks.push(tool_answer());
    chunks.last_mut().unwrap()["choices"] = json!([]);
    chunks.last_mut().unwrap()["object"] = json!("chat.completion.chunk");
    chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).chain(["data: [DONE]\n\n".to_owned()]).collect()
}
