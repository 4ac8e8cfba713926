//! What goes over the wire: requests as the Python SDK sends them, answers as OpenAI and vLLM give them.

use load_tests::client;

/// One line of a prompt: with a line end and quotes in it, as prompts have them.
const LINE: &str = r#"Explain the word \"circulation\" to a reader who has never seen a mint. Be brief.\n"#;

/// A request to chat completions as the Python SDK sends it.
pub fn request(key: &str, body: &str) -> Vec<u8> {
    let bearer = format!("Bearer {key}");
    let headers = [
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate"),
        ("connection", "keep-alive"),
        ("content-type", "application/json"),
        ("user-agent", "OpenAI/Python 2.8.1"),
        ("x-stainless-arch", "x64"),
        ("x-stainless-async", "false"),
        ("x-stainless-lang", "python"),
        ("x-stainless-os", "Linux"),
        ("x-stainless-package-version", "2.8.1"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-runtime", "CPython"),
        ("x-stainless-runtime-version", "3.11.2"),
        ("authorization", bearer.as_str()),
    ];
    client::request("POST", "/v1/chat/completions", &headers, body.as_bytes())
}

/// Where a body has its member `model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelAt {
    /// Before everything else.
    First,
    /// Behind everything else, where the SDKs put it.
    Last,
}

/// A chat request's body of exactly `bytes` bytes: one long message, `members`, which may be empty, and the
/// model.
pub fn chat_body(bytes: usize, model: &str, at: ModelAt, members: &str) -> String {
    let model = format!(r#""model":"{model}""#);
    let (front, back) = match at {
        ModelAt::First => (format!("{{{model},"), String::from("}")),
        ModelAt::Last => (String::from("{"), format!(",{model}}}")),
    };
    let comma = if members.is_empty() { "" } else { "," };
    let mut body = format!(r#"{front}"messages":[{{"role":"user","content":""#);
    let end = format!(r#""}}]{comma}{members}{back}"#);
    while body.len() + LINE.len() + end.len() <= bytes {
        body.push_str(LINE);
    }
    let rest = bytes.saturating_sub(body.len() + end.len());
    body.extend(std::iter::repeat_n('.', rest));
    body + &end
}

/// The head of an answer as vLLM gives it.
pub const VLLM_HEAD: &str = "HTTP/1.1 200 OK\r\ndate: Sun, 01 Nov 2026 09:30:00 GMT\r\nserver: uvicorn\r\n\
    content-length: 600\r\ncontent-type: application/json\r\n\r\n";

/// The head of an answer as OpenAI gives it.
pub const OPENAI_HEAD: &str = "HTTP/1.1 200 OK\r\nDate: Sun, 01 Nov 2026 09:30:00 GMT\r\n\
    Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\
    access-control-expose-headers: X-Request-ID\r\nopenai-organization: org-0123456789abcdefghij\r\n\
    openai-processing-ms: 412\r\nopenai-project: proj_0123456789abcdefghij\r\nopenai-version: 2020-10-01\r\n\
    x-envoy-upstream-service-time: 430\r\nx-ratelimit-limit-requests: 10000\r\n\
    x-ratelimit-limit-tokens: 30000000\r\nx-ratelimit-remaining-requests: 9999\r\n\
    x-ratelimit-remaining-tokens: 29999985\r\nx-ratelimit-reset-requests: 6ms\r\n\
    x-ratelimit-reset-tokens: 0s\r\nx-request-id: req_0123456789abcdef0123456789abcdef\r\n\
    strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n\
    cf-cache-status: DYNAMIC\r\nX-Content-Type-Options: nosniff\r\nServer: cloudflare\r\n\
    CF-RAY: 0123456789abcdef-FRA\r\nalt-svc: h3=\":443\"; ma=86400\r\n\r\n";

/// The tokens that the answers below tell.
pub const USAGE: &str = concat!(
    r#"{"prompt_tokens":212,"completion_tokens":67,"total_tokens":279,"#,
    r#""prompt_tokens_details":{"cached_tokens":128,"audio_tokens":0},"#,
    r#""completion_tokens_details":{"reasoning_tokens":0}}"#,
);

/// The length of a stream's event.
pub const EVENT_BYTES: usize = 250;

/// An event of exactly `bytes` bytes with a token in it; `members` begin with a comma.
pub fn event(bytes: usize, members: &str) -> String {
    let front = concat!(
        r#"data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1793525400,"#,
        r#""model":"Qwen/Qwen3-8B","choices":[{"index":0,"delta":{"content":""#,
    );
    let back = format!("\"}},\"finish_reason\":null}}]{members}}}\n\n");
    let content = "circulation ".repeat(bytes);
    let room = bytes.saturating_sub(front.len() + back.len());
    format!("{front}{}{back}", &content[..room])
}

/// The event with the usage.
pub fn usage_event() -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\
         \"created\":1793525400,\"model\":\"Qwen/Qwen3-8B\",\"choices\":[],\"usage\":{USAGE}}}\n\n"
    )
}

/// The length of a whole answer.
const ANSWER_BYTES: usize = 600;

/// A whole answer.
pub fn whole_answer() -> String {
    let front = concat!(
        r#"{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1793525400,"#,
        r#""model":"Qwen/Qwen3-8B","choices":[{"index":0,"message":{"role":"assistant","content":""#,
    );
    let back = format!(r#""}},"logprobs":null,"finish_reason":"stop"}}],"usage":{USAGE}}}"#);
    let content = r"It goes round,\n".repeat(40);
    let room = ANSWER_BYTES.saturating_sub(front.len() + back.len());
    // An escape that is cut in two would not be JSON.
    let content = content[..room].trim_end_matches('\\');
    format!("{front}{content:.<room$}{back}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn bodies_are_json_of_just_that_length() {
        for (bytes, at, members) in
            [(300, ModelAt::First, ""), (1024, ModelAt::Last, r#""stream":true"#), (5000, ModelAt::Last, "")]
        {
            let body = chat_body(bytes, "fast", at, members);
            assert_eq!(body.len(), bytes);
            assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["model"], "fast");
            assert_eq!(body.ends_with(r#""model":"fast"}"#), at == ModelAt::Last);
        }
    }

    #[test]
    fn answers_are_json_of_just_that_length() {
        let data = |event: &str| event.strip_prefix("data: ").unwrap().trim_end().to_owned();
        let null = event(EVENT_BYTES, r#","usage":null"#);
        assert_eq!((null.len(), event(EVENT_BYTES, "").len(), whole_answer().len()), (250, 250, 600));
        for json in [data(&null), data(&event(EVENT_BYTES, "")), data(&usage_event()), whole_answer()] {
            serde_json::from_str::<Value>(&json).unwrap();
        }
    }
}
