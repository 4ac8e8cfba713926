//! Request bodies: the scan for `model` and `stream` as reads bring them in, and the splice as it is written
//! to an upstream.

use std::hint::black_box;

use dataplane::body::rewrite::{ModelText, UsageAsk, plan};
use dataplane::body::scan::{RequestKind, RequestScan};

use crate::texts::{ModelAt, chat_body};
use crate::{Case, Ready};

const GROUP: &str = "body";
const KIB: usize = 1024;
/// How much a client's read takes of a large body.
const READ_BYTES: usize = 64 * KIB;
/// How much is written to an upstream at once.
const WRITE_BYTES: usize = 256 * KIB;
/// The name that clients use, and the upstream's.
const NAMES: (&str, &str) = ("fast", "Qwen/Qwen3-8B");

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (bytes, size) in [(2 * KIB, "2 KiB"), (200 * KIB, "200 KiB"), (5 * KIB * KIB, "5 MiB")] {
        for (at, place) in [(ModelAt::First, "first"), (ModelAt::Last, "last")] {
            let name = format!("{size}, model {place}: scan");
            cases.push(Case::new(GROUP, name, move || scan(&chat_body(bytes, NAMES.0, at, ""))));
        }
        let name = format!("{size}, model last: splice");
        cases.push(Case::new(GROUP, name, move || splice(bytes, "", UsageAsk::Leave)));
    }
    let members = r#""stream":true"#;
    let body = move || chat_body(2 * KIB, NAMES.0, ModelAt::Last, members);
    cases.push(Case::new(GROUP, "2 KiB, streamed, model last: scan", move || scan(&body())));
    cases.push(Case::new(GROUP, "2 KiB, streamed, usage asked for: splice", move || {
        splice(2 * KIB, members, UsageAsk::Include)
    }));
    cases
}

fn scan(body: &str) -> Ready {
    let body = body.as_bytes().to_owned();
    let run = |body: &[u8]| {
        let mut scan = RequestScan::new(RequestKind::Streamable);
        body.chunks(READ_BYTES).try_for_each(|piece| scan.feed(piece)).ok()?;
        scan.finish(body).ok()
    };
    let scanned = run(&body).expect("the body is a good one");
    assert_eq!(scanned.model(&body), Some(NAMES.0));
    Ready::new(body.len(), move || {
        black_box(run(black_box(&body)));
    })
}

fn splice(bytes: usize, members: &str, ask: UsageAsk) -> Ready {
    let body = chat_body(bytes, NAMES.0, ModelAt::Last, members);
    let mut scan = RequestScan::new(RequestKind::Streamable);
    scan.feed(body.as_bytes()).expect("the body is a good one");
    let scanned = scan.finish(body.as_bytes()).expect("the body is whole");

    let mut written = Vec::new();
    let model = ModelText::new(NAMES.1);
    plan(&scanned, Some(&model), ask).append_piece(body.as_bytes(), 0, usize::MAX, &mut written);
    let mut expected =
        body.replace(&format!(r#""model":"{}""#, NAMES.0), &format!(r#""model":"{}""#, NAMES.1));
    if ask == UsageAsk::Include {
        expected.insert_str(expected.len() - 1, r#","stream_options":{"include_usage":true}"#);
    }
    assert!(written == expected.as_bytes(), "the body is not spliced as it should be");

    let mut out = Vec::with_capacity(WRITE_BYTES);
    Ready::new(bytes, move || {
        let splice = plan(black_box(&scanned), Some(&model), ask);
        let (total, mut sent) = (splice.rewritten_len(body.len()), 0);
        while sent < total {
            out.clear();
            sent += splice.append_piece(black_box(body.as_bytes()), sent, WRITE_BYTES, &mut out);
            black_box(&out);
        }
    })
}
