//! What a good request and a refused one look like on both sides.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use wire::event::{Endpoint, UsageSource};
use wire::id::{AliasId, AttributionId, DeploymentId};
use wire::request_id::RequestIds;
use wire::table::{Deployment, Dialect};

use crate::plane::{BARRED, EXPIRED, GOOD, Plane, UNKNOWN, Upstream, deployment, key, post, post_as};

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const ASK: &str = r#"{"messages":[{"role":"user","content":"hi"}], "model" : "fast"}"#;
pub(crate) const ASK_STREAM: &str = r#"{"messages":[],"stream":true,"model":"fast"}"#;

pub(crate) fn json_answer(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nset-cookie: a=b\r\nserver: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

pub(crate) const WHOLE: &str = r#"{ "id":"x", "choices":[{"usage":{"prompt_tokens":999}}], "model":"m",
 "usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18,"prompt_tokens_details":{"cached_tokens":3}}}"#;

pub(crate) const EVENTS: [&str; 4] = [
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{}\"}}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7}}\n\n",
    "data: [DONE]\n\n",
];

pub(crate) fn stream_answer(events: &[&str]) -> Vec<u8> {
    let mut out =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for event in events {
        write!(out, "{:x}\r\n{event}\r\n", event.len()).unwrap();
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

#[test]
fn an_answer_comes_back_byte_for_byte_and_its_usage_is_recorded() {
    let (seen, requests) = mpsc::channel();
    let seen = Mutex::new(seen);
    let upstream = Upstream::start(move |request, stream| {
        seen.lock().unwrap().send(request.to_owned()).unwrap();
        stream.write_all(&json_answer(WHOLE)).is_ok()
    });
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let mut peer = plane.connect();
    for _ in 0..2 {
        peer.send(&post(CHAT, ASK));
        let answer = peer.answer();
        assert_eq!((answer.status, answer.body.as_slice()), (200, WHOLE.as_bytes()));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!((answer.header("set-cookie"), answer.header("server")), (None, None));
    }
    let request = requests.recv().unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, ASK.replace("fast", "upstream-model"));
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("accept-encoding: identity") && !head.contains("sk-lt-"), "{head}");
    let events = plane.usage(2);
    for event in events {
        assert_eq!((event.status, event.endpoint, event.stream), (200, Endpoint::ChatCompletions, false));
        assert_eq!((event.tokens.prompt, event.tokens.completion, event.tokens.cached), (11, 7, 3));
        assert_eq!((event.usage_source, event.attempts), (UsageSource::Final, 1));
        assert_eq!((event.alias, event.deployment), (AliasId(9), DeploymentId(3)));
        assert_eq!(event.attribution, AttributionId(GOOD.into()));
    }
}

#[test]
fn a_request_id_leads_to_the_usage_event() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let answer = plane.ask(&post(CHAT, ASK));
    let ids = RequestIds::new(&[7; 16]);
    let (boot, seq) = ids.event(answer.header("x-request-id").unwrap()).unwrap();
    let event = plane.usage(1)[0];
    assert_eq!((event.boot, event.seq), (boot, seq));
    let refused = plane.ask(b"GET /v1/models HTTP/1.1\r\nhost: h\r\n\r\n");
    let (_, seq) = ids.event(refused.header("x-request-id").unwrap()).unwrap();
    assert!(!seq.is_admitted());
}

#[test]
fn a_stream_without_usage_asked_shows_none_and_is_metered_all_the_same() {
    let (seen, requests) = mpsc::channel();
    let seen = Mutex::new(seen);
    let upstream = Upstream::start(move |request, stream| {
        seen.lock().unwrap().send(request.to_owned()).unwrap();
        // In pieces of every size, so that events are torn everywhere.
        let bytes = stream_answer(&EVENTS);
        bytes.chunks(7).all(|piece| stream.write_all(piece).is_ok())
    });
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let answer = plane.ask(&post(CHAT, ASK_STREAM));
    let expected = [EVENTS[0], EVENTS[1], EVENTS[3]].concat();
    assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    assert!(answer.whole);
    let request = requests.recv().unwrap();
    assert!(
        request.ends_with(r#""model":"upstream-model","stream_options":{"include_usage":true}}"#),
        "{request}"
    );
    let event = plane.usage(1)[0];
    assert_eq!((event.tokens.prompt, event.tokens.completion), (5, 2));
    assert_eq!((event.usage_source, event.stream), (UsageSource::Final, true));
}

#[test]
fn a_client_that_asked_for_usage_gets_every_byte() {
    let upstream = Upstream::fixed(stream_answer(&EVENTS));
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let ask = r#"{"stream":true,"stream_options":{"include_usage":true},"model":"fast"}"#;
    let answer = plane.ask(&post(CHAT, ask));
    assert_eq!(String::from_utf8_lossy(&answer.body), EVENTS.concat());
    assert_eq!(plane.usage(1)[0].tokens.total, 7);
}

/// An upstream whose stream's second event is sent when the test says so.
pub(crate) fn gated() -> (Upstream, mpsc::Sender<()>) {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let upstream = Upstream::start(move |_, stream| {
        let bytes = stream_answer(&EVENTS);
        let first = bytes.windows(2).position(|w| w == b"\n\n").unwrap() + 4;
        stream.write_all(&bytes[..first]).unwrap();
        gate.lock().unwrap().recv().unwrap();
        stream.write_all(&bytes[first..]).is_ok()
    });
    (upstream, open)
}

#[test]
fn an_event_reaches_the_client_before_the_next_one_is_sent() {
    let (upstream, open) = gated();
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let mut peer = plane.connect();
    peer.send(&post(CHAT, ASK_STREAM));
    peer.first_event();
    open.send(()).unwrap();
    assert!(peer.answer().whole);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start(|request, stream| {
        let body = request.split_once("\r\n\r\n").unwrap().1;
        stream.write_all(&json_answer(body)).is_ok()
    });
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let mut peer = plane.connect();
    let bodies: Vec<String> = (0..5).map(|n| format!(r#"{{"n":{n},"model":"fast"}}"#)).collect();
    peer.send(&bodies.iter().flat_map(|body| post(CHAT, body)).collect::<Vec<_>>());
    for body in bodies {
        assert_eq!(peer.answer().body, body.replace("fast", "upstream-model").into_bytes());
    }
}

#[test]
fn a_chunked_request_body_arrives_whole_however_it_is_split() {
    let upstream = Upstream::start(|request, stream| {
        let body = request.split_once("\r\n\r\n").unwrap().1;
        stream.write_all(&json_answer(body)).is_ok()
    });
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let mut request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: h\r\napi-key: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        key(GOOD)
    );
    for piece in ASK.as_bytes().chunks(5) {
        request += &format!("{:x}\r\n{}\r\n", piece.len(), std::str::from_utf8(piece).unwrap());
    }
    request += "0\r\n\r\n";
    for size in [1, 3, 4096] {
        let mut peer = plane.connect();
        request.as_bytes().chunks(size).for_each(|piece| peer.send(piece));
        assert_eq!(peer.answer().body, ASK.replace("fast", "upstream-model").into_bytes(), "{size}");
    }
}

#[test]
fn models_are_those_that_the_caller_may_use() {
    let plane = Plane::start(vec![]);
    let get = |key: &str, path: &str| {
        plane.ask(format!("GET {path} HTTP/1.1\r\nhost: h\r\nx-api-key: {key}\r\n\r\n").as_bytes())
    };
    let all = get(&key(GOOD), "/v1/models").json();
    assert_eq!(all["data"][0]["id"], "fast");
    assert_eq!(get(&key(GOOD), "/openai/v1/models/fast").json()["object"], "model");
    assert_eq!(get(&key(GOOD), "/openai/models?api-version=2024-10-21").json()["data"][0]["id"], "fast");
    assert_eq!(get(&key(GOOD), "/openai/models/fast?api-version=2024-10-21").json()["object"], "model");
    assert_eq!(get(&key(BARRED), "/v1/models").json()["data"].as_array().unwrap().len(), 0);
    assert_eq!(get(&key(BARRED), "/v1/models/fast").code(), "model_not_found");
}

#[test]
fn azures_paths_name_the_model_and_must_agree_with_the_body() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let path = |model: &str| format!("/openai/deployments/{model}/chat/completions?api-version=2024-10-21");
    assert_eq!(plane.ask(&post(&path("fast"), ASK)).status, 200);
    assert_eq!(plane.ask(&post(&path("slow"), ASK)).code(), "model_mismatch");
}

#[test]
fn where_azures_path_names_the_model_the_body_need_not() {
    let (seen, requests) = mpsc::channel();
    let seen = Mutex::new(seen);
    let upstream = Upstream::start(move |request, stream| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        seen.lock().unwrap().send((head.to_owned(), body.to_owned())).unwrap();
        stream.write_all(&json_answer(WHOLE)).is_ok()
    });
    let azure = Deployment {
        dialect: Dialect::Azure,
        api_version: "2024-10-21".into(),
        ..deployment(3, upstream.address)
    };
    let unnamed = Deployment { upstream_model: String::new(), ..deployment(3, upstream.address) };
    let path = "/openai/deployments/fast/chat/completions?api-version=2024-10-21";
    for (deployment, model) in
        [(deployment(3, upstream.address), "upstream-model"), (azure, "upstream-model"), (unnamed, "fast")]
    {
        let plane = Plane::start(vec![deployment]);
        for (body, sent) in [
            (r#"{"messages":[]}"#, r#"{"model":"MODEL","messages":[]}"#),
            (r#"{"messages":[],"model":null}"#, r#"{"messages":[],"model":"MODEL"}"#),
            (r#"{"messages":[],"model":"fast"}"#, r#"{"messages":[],"model":"MODEL"}"#),
        ] {
            assert_eq!(plane.ask(&post(path, body)).status, 200, "{body}");
            assert_eq!(requests.recv().unwrap().1, sent.replace("MODEL", model));
            assert_eq!(plane.ask(&post(&path.replace("fast", "slow"), body)).status / 100, 4);
        }
        for event in plane.usage(6).into_iter().filter(|event| event.status == 200) {
            assert_eq!((event.alias, event.tokens.total), (AliasId(9), 18));
        }
        assert_eq!(plane.ask(&post(CHAT, r#"{"model":null}"#)).code(), "missing_model");
    }
}

#[test]
fn a_member_that_differs_from_one_we_read_only_in_case_is_refused() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    for (member, code) in [
        (r#""Model":"other""#, "duplicate_model"),
        (r#""M\u004fdel":"other""#, "duplicate_model"),
        (r#""\u017ftream":true"#, "duplicate_member"),
        (r#""STREAM_OPTIONS":{}"#, "duplicate_member"),
        (r#""stream":true,"stream_options":{"Include_Usage":false}"#, "duplicate_member"),
    ] {
        let answer = plane.ask(&post(CHAT, &format!(r#"{{"model":"fast",{member}}}"#)));
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{member}");
    }
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
}

#[test]
fn refused_keys_look_all_the_same() {
    let plane = Plane::start(vec![]);
    let typo = key(GOOD).replace("kkk", "kjk");
    let mut bodies = Vec::new();
    for refused in [key(EXPIRED), key(UNKNOWN), typo, "sk-x".to_owned(), "\"><".to_owned()] {
        let answer = plane.ask(&post_as(&refused, CHAT, ASK));
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_api_key"), "{refused}");
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
    let answer =
        plane.ask(format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").as_bytes());
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("bearer")));
    assert!(answer.json()["error"]["code"].is_null());
}

#[test]
fn a_refusal_after_admission_is_an_event_with_its_status_and_no_tokens() {
    let plane = Plane::start(vec![]);
    let cases = [
        (post("/v1/files", "{}"), 404, "unsupported_endpoint", Endpoint::Other),
        (post("/v1/models", "{}"), 405, "method_not_supported", Endpoint::Other),
        (post(CHAT, "{\"model\":"), 400, "invalid_json", Endpoint::ChatCompletions),
        (post(CHAT, "{}"), 400, "missing_model", Endpoint::ChatCompletions),
        (post(CHAT, r#"{"model":"a","\u006dodel":"b"}"#), 400, "duplicate_model", Endpoint::ChatCompletions),
        (post("/v1/embeddings", r#"{"model":"MARKER"}"#), 404, "model_not_found", Endpoint::Embeddings),
        (post_as(&key(BARRED), CHAT, ASK), 404, "model_not_found", Endpoint::ChatCompletions),
        (post(CHAT, ASK), 503, "upstream_unavailable", Endpoint::ChatCompletions),
    ];
    let count = cases.len();
    let mut expected = Vec::new();
    for (request, status, code, endpoint) in cases {
        let answer = plane.ask(&request);
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        assert!(answer.header("x-request-id").unwrap().starts_with("req_"));
        expected.push((status, endpoint));
    }
    let mut found: Vec<_> = plane.usage(count).iter().map(|e| (e.status, e.endpoint)).collect();
    found.sort_by_key(|(status, endpoint)| (*status, *endpoint as u8));
    expected.sort_by_key(|(status, endpoint)| (*status, *endpoint as u8));
    assert_eq!(found, expected);
    assert!(plane.usage(count).iter().all(|event| event.tokens == Default::default()));
}

#[test]
fn an_unknown_model_is_recorded_as_none_and_kept_nowhere() {
    let plane = Plane::start(vec![]);
    plane.ask(&post(CHAT, r#"{"model":"M4RK3R-unknown"}"#));
    assert_eq!(plane.usage(1)[0].alias, AliasId(0));
    for file in plane.files() {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"M4RK3R"), "{}", file.display());
    }
}

#[test]
fn an_error_before_the_body_is_read_can_be_read_by_the_client() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let body = "x".repeat(900_000);
    let answer = plane.ask(&post_as(&key(UNKNOWN), CHAT, &body));
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
    let small = post_as(&key(UNKNOWN), CHAT, &"x".repeat(9_000));
    let mut peer = plane.connect();
    peer.send(&small);
    assert_eq!(peer.answer().status, 401);
    peer.send(&post(CHAT, ASK));
    assert_eq!(peer.answer().status, 200, "the connection goes on");
    let answer = plane.ask(&post(CHAT, &"x".repeat(1_100_000)));
    assert_eq!((answer.status, answer.code().as_str()), (413, "request_too_large"));
}

#[test]
fn a_client_that_expects_100_continue_gets_it_after_its_key_was_checked() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let expecting = |key: &str| {
        let request = String::from_utf8(post_as(key, CHAT, "")).unwrap();
        let len = format!("content-length: {}\r\nexpect: 100-continue", ASK.len());
        request.replace("content-length: 0", &len).into_bytes()
    };
    let mut peer = plane.connect();
    peer.send(&expecting(&key(GOOD)));
    assert_eq!(peer.answer().status, 100);
    peer.send(ASK.as_bytes());
    assert_eq!(peer.answer().status, 200);
    assert_eq!(plane.ask(&expecting(&key(UNKNOWN))).status, 401, "and no 100 before it");
}

#[test]
fn an_old_client_gets_an_answer_that_ends_with_the_connection() {
    let upstream = Upstream::fixed(stream_answer(&EVENTS));
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let request = String::from_utf8(post(CHAT, ASK_STREAM)).unwrap().replace("HTTP/1.1", "HTTP/1.0");
    let answer = plane.ask(request.as_bytes());
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(String::from_utf8_lossy(&answer.body), [EVENTS[0], EVENTS[1], EVENTS[3]].concat());
}

#[test]
fn ready_and_metrics_are_told_and_the_process_ends_in_order() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let mut plane = Plane::start(vec![deployment(3, upstream.address)]);
    assert_eq!(plane.ask(&post(CHAT, ASK)).status, 200);
    assert_eq!(plane.ops("/healthz").status, 200);
    assert_eq!(plane.ops("/readyz").status, 200);
    let metrics = String::from_utf8(plane.ops("/metrics").body).unwrap();
    assert!(metrics.contains("\nliutong_exchanges_admitted_total 1\n"), "{metrics}");
    assert!(metrics.contains("\nliutong_prompt_tokens_total 11\n"), "{metrics}");
    let idle = plane.connect();
    assert!(plane.stop().success());
    drop(idle);
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 1);
}

#[test]
fn each_request_of_a_connection_is_judged_by_its_own_head_and_key() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let plane = Plane::start(vec![deployment(3, upstream.address)]);
    let longer = ASK.replace("hi", "hi, and something more than before");
    let mut peer = plane.connect();
    // Heads of the same bytes but for the key, the length, or nothing.
    for (number, body, status) in [
        (GOOD, ASK, 200),
        (GOOD, ASK, 200),
        (UNKNOWN, ASK, 401),
        (UNKNOWN, ASK, 401),
        (GOOD, longer.as_str(), 200),
        (EXPIRED, ASK, 401),
        (BARRED, ASK, 404),
        (BARRED, ASK, 404),
        (GOOD, ASK, 200),
    ] {
        peer.send(&post_as(&key(number), CHAT, body));
        assert_eq!(peer.answer().status, status, "key {number}");
    }
    // Those that were refused for their key have no event.
    assert_eq!(plane.usage(6).iter().filter(|event| event.status == 200).count(), 4);
}
