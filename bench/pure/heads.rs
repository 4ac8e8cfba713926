//! Heads: finding, parsing, checking, writing.

use std::hint::black_box;

use dataplane::http::framing::BodyFraming;
use dataplane::http::head_end::HeadEnd;
use dataplane::http::head_write;
use dataplane::http::request_head::{Method, RequestHead};
use dataplane::http::response_head::ResponseHead;
use dataplane::route;
use wire::event::Endpoint;

use crate::keys::key;
use crate::texts::{self, OPENAI_HEAD, VLLM_HEAD};
use crate::{Case, Ready};

const GROUP: &str = "head";

pub(crate) fn cases() -> Vec<Case> {
    // All lines but the first and the last, which is empty.
    let fields = OPENAI_HEAD.lines().count() - 2;
    vec![
        Case::new(GROUP, "request of the Python SDK: found, parsed, checked, routed", request),
        Case::new(GROUP, "answer of vLLM: found, parsed, checked", || response(VLLM_HEAD, 1)),
        Case::new(GROUP, format!("answer of OpenAI, {fields} fields: found, parsed, checked"), || {
            response(OPENAI_HEAD, 1)
        }),
        Case::new(GROUP, "answer's head written for the client", written),
    ]
}

/// The head of a request, without its body.
pub(crate) fn request_head() -> Vec<u8> {
    let mut request = texts::request(&key(), "{}");
    request.truncate(request.len() - 2);
    request
}

fn request() -> Ready {
    let bytes = request_head();
    let run = |bytes: &[u8]| {
        let length = HeadEnd::of_request().find(bytes).ok()??;
        let head = RequestHead::parse(&bytes[..length]).ok()?;
        let asked = route::endpoint(head.method, head.path.of(bytes)).ok()?;
        Some((head, asked.endpoint))
    };
    let (head, endpoint) = run(&bytes).expect("the head is a good one");
    assert_eq!((head.method, endpoint), (Method::Post, Endpoint::ChatCompletions));
    assert_eq!(head.credential.map(|found| found.token.of(&bytes)), Some(key().as_bytes()));
    Ready::new(bytes.len(), move || {
        black_box(run(black_box(&bytes)));
    })
}

fn response(text: &'static str, forwarded: usize) -> Ready {
    let run = |bytes: &[u8]| {
        let length = HeadEnd::of_response().find(bytes).ok()??;
        ResponseHead::parse(&bytes[..length], false).ok()
    };
    let head = run(text.as_bytes()).expect("the head is a good one");
    assert_eq!((head.status, head.forwarded().count()), (200, forwarded));
    Ready::new(text.len(), move || {
        black_box(run(black_box(text.as_bytes())));
    })
}

fn written() -> Ready {
    let run = |out: &mut Vec<u8>| {
        out.clear();
        head_write::status_line(out, 200);
        head_write::header(out, "content-type", b"application/json");
        head_write::framing(out, BodyFraming::Length(600));
        head_write::header(out, "x-request-id", b"req_0123456789abcdef0123456789abcdef");
        head_write::end(out);
    };
    let mut out = Vec::new();
    run(&mut out);
    assert_eq!(ResponseHead::parse(&out, false).map(|head| head.framing), Ok(BodyFraming::Length(600)));
    Ready::new(out.len(), move || run(black_box(&mut out)))
}
