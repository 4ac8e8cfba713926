//! The demo upstream over HTTP, as the data plane meets it.

use super::*;

struct Demo {
    upstream: DemoUpstream,
    http: reqwest::Client,
}

impl Demo {
    async fn start() -> Self {
        let upstream = DemoUpstream::start(None).await.unwrap();
        Self { upstream, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    async fn post(&self, path: &str, body: Value) -> (u16, String) {
        let url = format!("{}/{path}", self.upstream.url());
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn json(&self, path: &str, body: Value) -> Value {
        let (status, text) = self.post(path, body).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn events(&self, path: &str, body: Value) -> Vec<Value> {
        let (status, text) = self.post(path, body).await;
        assert_eq!(status, 200, "{text}");
        let events = text.strip_suffix("data: [DONE]\n\n").expect("the end mark");
        let data = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        events.split_terminator("\n\n").map(data).collect()
    }
}

fn chat_request(extra: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one  two\nthree"}]},
    ]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn chat_gives_the_prompts_words_back_with_a_usage_that_adds_up() {
    let demo = Demo::start().await;
    let answer = demo.json("chat/completions", chat_request(json!({}))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "one two three");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["model"], "m");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}));
}

#[tokio::test]
async fn a_limit_on_tokens_is_kept_and_said() {
    let demo = Demo::start().await;
    for name in ["max_tokens", "max_completion_tokens"] {
        let answer = demo.json("chat/completions", chat_request(json!({ name: 2 }))).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "one two");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!(answer["usage"]["completion_tokens"], 2);
    }
}

#[tokio::test]
async fn a_chat_stream_has_an_event_for_each_word_and_usage_only_where_asked_for() {
    let demo = Demo::start().await;
    for with_usage in [false, true] {
        let extra = json!({"stream": true, "stream_options": {"include_usage": with_usage}});
        let events = demo.events("chat/completions", chat_request(extra)).await;
        let said: String =
            events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(said, "one two three");
        assert_eq!(events.len(), 5 + usize::from(with_usage));
        assert_eq!(events[4]["choices"][0]["finish_reason"], "stop");
        let usage: Vec<&Value> = events.iter().filter_map(|event| event.get("usage")).collect();
        if with_usage {
            assert_eq!(usage.len(), 6, "null in all but the last");
            assert_eq!(usage[5]["total_tokens"], 8);
            assert_eq!(events[5]["choices"], json!([]));
        } else {
            assert!(usage.is_empty());
        }
    }
}

#[tokio::test]
async fn the_first_event_comes_before_the_last_is_written() {
    let demo = Demo::start().await;
    let words = "word ".repeat(500);
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": words}]});
    let url = format!("{}/chat/completions", demo.upstream.url());
    let mut answer = demo.http.post(url).json(&body).send().await.unwrap();
    let first = answer.chunk().await.unwrap().unwrap();
    let text = String::from_utf8(first.to_vec()).unwrap();
    assert!(text.starts_with("data: ") && !text.contains("[DONE]"), "{text}");
}

#[tokio::test]
async fn text_completions_answer_each_prompt_whole_and_streamed() {
    let demo = Demo::start().await;
    let body = json!({"model": "m", "prompt": ["a b", "c"]});
    let answer = demo.json("completions", body.clone()).await;
    assert_eq!(answer["choices"][0]["text"], "a b");
    assert_eq!(answer["choices"][1]["text"], "c");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}));

    let body =
        json!({"model": "m", "prompt": "a b", "stream": true, "stream_options": {"include_usage": true}});
    let events = demo.events("completions", body).await;
    let said: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(said, "a b");
    assert_eq!(events.last().unwrap()["usage"]["total_tokens"], 4);
}

#[tokio::test]
async fn embeddings_depend_on_the_text_alone_and_base64_says_the_same() {
    let demo = Demo::start().await;
    let floats = demo.json("embeddings", json!({"model": "m", "input": ["a b", "c", "a b"]})).await;
    let vector = |index: usize| floats["data"][index]["embedding"].clone();
    assert_eq!(vector(0), vector(2));
    assert_ne!(vector(0), vector(1));
    assert_eq!(vector(0).as_array().unwrap().len(), 8);
    assert_eq!(floats["usage"], json!({"prompt_tokens": 5, "total_tokens": 5}));

    let request = json!({"model": "m", "input": "a b", "encoding_format": "base64", "dimensions": 4});
    let text = demo.json("embeddings", request).await["data"][0]["embedding"].as_str().unwrap().to_owned();
    let request = json!({"model": "m", "input": "a b", "dimensions": 4});
    let four = demo.json("embeddings", request).await["data"][0]["embedding"].clone();
    let four: Vec<f32> = serde_json::from_value(four).unwrap();
    let bytes: Vec<u8> = four.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(from_base64(&text), bytes);
}

/// Decodes base64, independently of how it was written.
fn from_base64(text: &str) -> Vec<u8> {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: String = text
        .trim_end_matches('=')
        .chars()
        .map(|c| format!("{:06b}", digits.find(c).expect("a digit of base64")))
        .collect();
    bits.as_bytes()
        .chunks_exact(8)
        .map(|b| u8::from_str_radix(std::str::from_utf8(b).unwrap(), 2).unwrap())
        .collect()
}

#[tokio::test]
async fn models_are_listed_and_what_is_no_request_is_refused() {
    let demo = Demo::start().await;
    let list = demo.http.get(format!("{}/models", demo.upstream.url())).send().await.unwrap();
    let list: Value = serde_json::from_str(&list.text().await.unwrap()).unwrap();
    assert_eq!(list["data"][0]["id"], MODEL);
    for (path, body) in [
        ("chat/completions", json!({"model": "m"})),
        ("chat/completions", json!({"model": "m", "messages": []})),
        ("chat/completions", json!({"messages": [{"role": "user", "content": "a"}]})),
        ("completions", json!({"model": "m", "prompt": 7})),
        ("embeddings", json!({"model": "m", "input": []})),
        ("embeddings", json!({"model": "m", "input": "a", "dimensions": 0})),
    ] {
        let (status, text) = demo.post(path, body).await;
        assert_eq!(status, 400, "{text}");
        assert!(text.contains("invalid_request_error"), "{text}");
    }
}

#[tokio::test]
async fn a_later_start_takes_the_same_port_where_it_is_free_and_another_where_it_is_not() {
    let first = DemoUpstream::start(None).await.unwrap();
    let url = first.url();
    let beside = DemoUpstream::start(Some(&url)).await.unwrap();
    assert_ne!(beside.url(), url);
    first.task.abort();
    assert!(first.task.await.unwrap_err().is_cancelled());
    assert_eq!(DemoUpstream::start(Some(&url)).await.unwrap().url(), url);
}
