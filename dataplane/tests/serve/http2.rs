//! Clients that speak HTTP/2: the same answers as over HTTP/1.1, and the same usage events.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use wire::event::{Endpoint, UsageSource};

use crate::http2_peer::{ask, begin, connect, connect_with, post, post_as, read, read_body, runtime};
use crate::path::{ASK, ASK_STREAM, CHAT, EVENTS, WHOLE, gated, json_answer};
use crate::plane::{EXPIRED, PATIENCE, UNKNOWN, Upstream, key};
use crate::tls_peer::plane;

/// An upstream that answers with the request's own body.
fn echo() -> Upstream {
    Upstream::start(|request, stream| {
        stream.write_all(&json_answer(request.split_once("\r\n\r\n").unwrap().1)).is_ok()
    })
}

#[test]
fn an_answer_comes_back_byte_for_byte_and_its_usage_is_recorded() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let answers = runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        [ask(&mut client, post(CHAT), ASK).await, ask(&mut client, post(CHAT), ASK).await]
    });
    for answer in answers {
        assert_eq!((answer.status, answer.body.as_slice()), (200, WHOLE.as_bytes()));
        assert!(answer.end.is_ok());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("content-length"), Some(WHOLE.len().to_string().as_str()));
        assert!(answer.header("x-request-id").is_some_and(|id| id.starts_with("req_")), "{answer:?}");
        assert_eq!((answer.header("server"), answer.header("connection")), (None, None));
    }
    for event in plane.usage(2) {
        assert_eq!((event.status, event.endpoint, event.stream), (200, Endpoint::ChatCompletions, false));
        assert_eq!((event.tokens.prompt, event.tokens.completion), (11, 7));
        assert_eq!((event.usage_source, event.attempts), (UsageSource::Final, 1));
    }
}

#[test]
fn a_hundred_streams_at_once_each_get_their_own_answer_and_one_event() {
    let upstream = echo();
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let client = connect(&plane, &certified).await;
        let asking: Vec<_> = (0..100)
            .map(|number| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    let filling = "x".repeat(number * 700);
                    let body = format!("{{\"model\":\"fast\",\"n\":{number},\"filling\":\"{filling}\"}}");
                    (ask(&mut client, post(CHAT), &body).await, body)
                })
            })
            .collect();
        for asked in asking {
            let (answer, body) = asked.await.unwrap();
            assert_eq!(answer.status, 200);
            let sent = body.replace("fast", "upstream-model");
            assert_eq!(String::from_utf8_lossy(&answer.body), sent);
        }
    });
    assert_eq!(plane.usage(100).iter().filter(|event| event.status == 200).count(), 100);
}

#[test]
fn an_event_reaches_the_client_before_the_next_one_is_sent() {
    let (upstream, open) = gated();
    let (plane, _dir, certified) = plane(&upstream);
    let answer = runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let (answer, mut sending) = begin(&mut client, post(CHAT), false).await;
        sending.send_data(Bytes::from_static(ASK_STREAM.as_bytes()), true).unwrap();
        let (parts, mut body) = answer.await.unwrap().into_parts();
        let first = body.data().await.unwrap().unwrap();
        assert_eq!(first, EVENTS[0].as_bytes());
        open.send(()).unwrap();
        read_body(parts.status.as_u16(), parts.headers, body).await
    });
    assert!(answer.end.is_ok());
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(String::from_utf8_lossy(&answer.body), [EVENTS[1], EVENTS[3]].concat());
    let event = plane.usage(1)[0];
    assert_eq!((event.tokens.prompt, event.tokens.completion, event.stream), (5, 2, true));
}

#[test]
fn a_body_in_pieces_without_a_length_and_with_trailers_arrives_whole() {
    let upstream = echo();
    let (plane, _dir, certified) = plane(&upstream);
    let body = format!("{{\"model\":\"fast\",\"filling\":\"{}\"}}", "y".repeat(600_000));
    let answer = runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let (answer, mut sending) = begin(&mut client, post(CHAT), false).await;
        let mut rest = Bytes::copy_from_slice(body.as_bytes());
        while !rest.is_empty() {
            let wanted = rest.len().min(10_001);
            sending.reserve_capacity(wanted);
            let capacity = std::future::poll_fn(|context| sending.poll_capacity(context)).await;
            let piece = rest.split_to(capacity.unwrap().unwrap().min(wanted));
            sending.send_data(piece, false).unwrap();
        }
        let mut trailers = http::HeaderMap::new();
        trailers.insert("content-length", "7".parse().unwrap());
        trailers.insert("x-checksum", "1".parse().unwrap());
        sending.send_trailers(trailers).unwrap();
        read(answer).await
    });
    assert_eq!((answer.status, answer.end.is_ok()), (200, true));
    assert!(answer.body == body.replace("fast", "upstream-model").into_bytes());
}

#[test]
fn heads_without_a_body_are_answered_without_waiting_for_one() {
    let upstream = echo();
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let models = http::Request::get("https://localhost/v1/models").header("api-key", key(1));
        let (answer, _) = begin(&mut client, models, true).await;
        let answer = read(answer).await;
        assert!(answer.status == 200 && answer.body.starts_with(b"{\"object\":\"list\""), "{answer:?}");
        let head = http::Request::head("https://localhost/v1/models").header("api-key", key(1));
        let (answer, _) = begin(&mut client, head, true).await;
        let answer = read(answer).await;
        assert_eq!((answer.status, answer.body.len(), answer.end.is_ok()), (405, 0, true));
    });
}

#[test]
fn a_client_that_expects_100_continue_gets_it_after_its_key_was_checked() {
    let upstream = echo();
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let (mut answer, mut sending) =
            begin(&mut client, post(CHAT).header("expect", "100-continue"), false).await;
        let interim = std::future::poll_fn(|context| answer.poll_informational(context)).await;
        assert_eq!(interim.unwrap().unwrap().status(), 100);
        sending.send_data(Bytes::from_static(ASK.as_bytes()), true).unwrap();
        assert_eq!(read(answer).await.status, 200);
        let refused = post_as(&key(UNKNOWN), CHAT).header("expect", "100-continue");
        let (answer, _sending) = begin(&mut client, refused, false).await;
        assert_eq!(read(answer).await.status, 401);
    });
}

#[test]
fn what_is_refused_has_the_bytes_of_http_1_1_and_costs_no_other_stream() {
    let upstream = echo();
    let (plane, _dir, certified) = plane(&upstream);
    let json = |code: &str| format!("\"code\":\"{code}\"");
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let deep = "[".repeat(600) + &"]".repeat(600);
        let deep = format!("{{\"model\":\"fast\",\"x\":{deep}}}");
        let big = format!("{{\"model\":\"fast\",\"x\":\"{}\"}}", "z".repeat(40_000));
        let cases = [
            (post_as(&key(UNKNOWN), CHAT), ASK, 401, "invalid_api_key"),
            (post_as(&key(EXPIRED), CHAT), ASK, 401, "invalid_api_key"),
            (post("/v1/files"), ASK, 404, "unsupported_endpoint"),
            (post(CHAT), r#"{"model":"none"}"#, 404, "model_not_found"),
            (post(CHAT), r#"{"model":"fast","model":"fast"}"#, 400, "duplicate_model"),
            (post(CHAT), &deep, 400, "invalid_json"),
            (post(CHAT).header("api-key", key(1)), ASK, 400, "invalid_request"),
            (post(CHAT).header("host", "elsewhere"), ASK, 400, "invalid_request"),
            (post(CHAT).header("x-long", "v".repeat(33_000)), ASK, 431, "request_too_large"),
            (post(CHAT), &big, 200, ""),
        ];
        for (request, body, status, code) in cases {
            let answer = ask(&mut client, request, body).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!((answer.status, answer.end.is_ok()), (status, true), "{code}: {answer:?}");
            assert!(status == 200 || text.contains(&json(code)), "{code}: {text}");
            assert!(answer.header("x-request-id").is_some(), "{code}");
        }
        let huge = post(CHAT).header("x-long", "v".repeat(70_000));
        let (answer, _sending) = begin(&mut client, huge, false).await;
        let answer = read(answer).await;
        assert_eq!((answer.status, answer.body.len()), (431, 0), "the h2 crate's own");
        let no_key = http::Request::post(format!("https://localhost{CHAT}"));
        let answer = ask(&mut client, no_key, ASK).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")));
        assert_eq!(ask(&mut client, post(CHAT), ASK).await.status, 200);
    });
}

#[test]
fn a_body_that_is_too_large_is_413_and_the_answer_can_be_read() {
    let upstream = echo();
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let announced = post(CHAT).header("content-length", 9 << 20);
        let (answer, _sending) = begin(&mut client, announced, false).await;
        let answer = read(answer).await;
        assert_eq!(answer.status, 413);
        assert!(String::from_utf8_lossy(&answer.body).contains("request_too_large"));
        assert_eq!(ask(&mut client, post(CHAT), ASK).await.status, 200, "another stream");
    });
    let statuses: Vec<u16> = plane.usage(2).iter().map(|event| event.status).collect();
    assert!(statuses.contains(&413) && statuses.contains(&200), "{statuses:?}");
}

#[test]
fn a_client_of_another_table_size_and_small_frames_gets_the_same() {
    let upstream = echo();
    let (plane, _dir, certified) = plane(&upstream);
    let body = format!("{{\"model\":\"fast\",\"filling\":\"{}\"}}", "w".repeat(200_000));
    runtime().block_on(async {
        let mut client = connect_with(&plane, &certified, |builder| {
            builder.header_table_size(0).initial_window_size(1_000).initial_connection_window_size(70_000)
        })
        .await;
        let answer = ask(&mut client, post(CHAT), &body).await;
        assert!(answer.body == body.replace("fast", "upstream-model").into_bytes());
    });
}

#[test]
fn the_end_of_the_process_waits_for_streams_and_takes_no_more() {
    let (upstream, open) = gated();
    let (mut plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let (answer, mut sending) = begin(&mut client, post(CHAT), false).await;
        sending.send_data(Bytes::from_static(ASK_STREAM.as_bytes()), true).unwrap();
        let (parts, mut body) = answer.await.unwrap().into_parts();
        assert_eq!(body.data().await.unwrap().unwrap(), EVENTS[0].as_bytes());
        plane.signal("-TERM");
        // The client learns that it is to go elsewhere while its stream goes on.
        let told = async {
            while std::future::poll_fn(|context| client.poll_ready(context)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
        open.send(()).unwrap();
        let answer = read_body(parts.status.as_u16(), parts.headers, body).await;
        assert!(answer.end.is_ok());
        assert_eq!(String::from_utf8_lossy(&answer.body), [EVENTS[1], EVENTS[3]].concat());
    });
    assert!(plane.stop().success());
}
