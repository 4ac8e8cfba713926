//! What a request body says, whole and split at every byte.

use super::*;

fn scan_pieces(kind: RequestKind, pieces: &[&[u8]]) -> Result<ScannedRequest, ScanError> {
    feed(RequestScan::new(kind), pieces)
}

fn feed(mut scan: RequestScan, pieces: &[&[u8]]) -> Result<ScannedRequest, ScanError> {
    for piece in pieces {
        scan.feed(piece)?;
    }
    scan.finish(&pieces.concat())
}

/// Scans whole and split at every byte, and returns what all of them said.
fn scan_as(kind: RequestKind, body: &str) -> Result<ScannedRequest, ScanError> {
    fuzz(body.as_bytes());
    let whole = scan_pieces(kind, &[body.as_bytes()]);
    for cut in 0..=body.len() {
        let (head, tail) = body.as_bytes().split_at(cut);
        assert_eq!(scan_pieces(kind, &[head, tail]), whole, "cut at {cut}");
    }
    whole
}

fn scan(body: &str) -> Result<ScannedRequest, ScanError> {
    scan_as(RequestKind::Streamable, body)
}

#[test]
fn the_model_is_found_and_unescaped() {
    for (body, model, value) in [
        (r#"{"model":"gpt-4o","messages":[]}"#, "gpt-4o", r#""gpt-4o""#),
        (r#"{"messages":[{"model":"other"}], "model" : "a\u002fb" }"#, "a/b", r#""a\u002fb""#),
        (r#"{"\u006dodel":"\ud83d\ude00流通"}"#, "😀流通", r#""\ud83d\ude00流通""#),
        (r#"{"model":""}"#, "", r#""""#),
    ] {
        let scanned = scan(body).unwrap();
        assert_eq!(scanned.model(body.as_bytes()), Some(model));
        assert_eq!(&body[scanned.model_value.clone()], value);
        assert_eq!(&body[scanned.object_end..].trim_end(), &"}");
        assert!(!scanned.stream && scanned.stream_options.is_none());
    }
}

#[test]
fn a_model_name_too_long_is_an_unknown_alias() {
    for (len, known) in [(MODEL_BYTES_MAX, MODEL_BYTES_MAX), (MODEL_BYTES_MAX + 1, 0), (100_000, 0)] {
        let body = format!("{{\"model\":\"{}\"}}", "m".repeat(len));
        let scanned = scan_pieces(RequestKind::Streamable, &[body.as_bytes()]).unwrap();
        assert_eq!(scanned.model(body.as_bytes()).unwrap().len(), known);
        assert_eq!(scanned.model_value.len(), len + 2);
    }
}

#[test]
fn where_the_path_names_the_model_the_body_need_not() {
    for (body, expected) in [
        (r#"{"messages":[]}"#, Ok((None, 1..1))),
        (r#" { }"#, Ok((None, 2..2))),
        (r#"{"a":{"model":"m"}, "model" : null }"#, Ok((None, 30..34))),
        (r#"{"\u006dodel":null}"#, Ok((None, 14..18))),
        (r#"{"model":"m"}"#, Ok((Some("m"), 9..12))),
        (r#"{"model":""}"#, Ok((Some(""), 9..11))),
        (r#"{"model":nulL}"#, Err(ScanError::InvalidModel)),
        (r#"{"model":0}"#, Err(ScanError::InvalidModel)),
        (r#"{"model":null,"model":null}"#, Err(ScanError::DuplicateMember("model"))),
        (r#"{"Model":"m"}"#, Err(ScanError::OtherCase("model"))),
        (r#"{"stream":1}"#, Err(ScanError::InvalidStream)),
        ("{", Err(ScanError::InvalidJson { at: 1 })),
    ] {
        fuzz(body.as_bytes());
        for cut in 0..=body.len() {
            let (head, tail) = body.as_bytes().split_at(cut);
            let scanned =
                feed(RequestScan::new(RequestKind::Streamable).with_model_in_path(true), &[head, tail]);
            let found = scanned.as_ref().map(|scanned| {
                assert_eq!(scanned.names_model(), scanned.model(body.as_bytes()).is_some());
                (scanned.model(body.as_bytes()), scanned.model_value.clone())
            });
            assert_eq!(found.map_err(|error| *error), expected, "{body} cut at {cut}");
        }
    }
}

#[test]
fn a_bad_member_is_refused_by_its_own_error() {
    for (body, error) in [
        (r#"{"messages":[]}"#, ScanError::MissingModel),
        (r#"{"messages":[{"model":"m"}]}"#, ScanError::MissingModel),
        (r#"{"model":null}"#, ScanError::InvalidModel),
        (r#"{"model":["m"]}"#, ScanError::InvalidModel),
        (r#"{"model":"\m"}"#, ScanError::InvalidModel),
        (r#"{"model":"\ud800"}"#, ScanError::InvalidModel),
        (r#"{"model":"a","model":"a"}"#, ScanError::DuplicateMember("model")),
        (r#"{"model":"a","x":1,"\u006dodel":"b"}"#, ScanError::DuplicateMember("model")),
        (r#"{"stream":true,"model":"a","stream":false}"#, ScanError::DuplicateMember("stream")),
        (
            r#"{"model":"a","stream_options":{},"stream_options":{}}"#,
            ScanError::DuplicateMember("stream_options"),
        ),
        (r#"{"model":"a","stream":1}"#, ScanError::InvalidStream),
        (r#"{"model":"a","stream":"true"}"#, ScanError::InvalidStream),
        (r#"{"model":"a","stream":True}"#, ScanError::InvalidStream),
        (r#"{"model":"a","stream":true,"stream_options":[]}"#, ScanError::InvalidStreamOptions),
        (r#"{"model":"a","stream":true,"stream_options":true}"#, ScanError::InvalidStreamOptions),
        (
            r#"{"model":"a","stream":true,"stream_options":{"include_usage":1}}"#,
            ScanError::InvalidStreamOptions,
        ),
        (r#"{"model":"a","stream":true,"stream_options":{"a" 1}}"#, ScanError::InvalidStreamOptions),
        (
            r#"{"stream":true,"model":"","stream_options":{"include_usage":null,"include\u005fusage":1}}"#,
            ScanError::DuplicateMember("include_usage"),
        ),
        (r#"{"model":"a","Model":"b"}"#, ScanError::OtherCase("model")),
        (r#"{"MODEL":"b"}"#, ScanError::OtherCase("model")),
        (r#"{"model":"a","mode\u004c":"b"}"#, ScanError::OtherCase("model")),
        (r#"{"model":"a","Stream":true}"#, ScanError::OtherCase("stream")),
        (r#"{"model":"a","\u017ftream":true}"#, ScanError::OtherCase("stream")),
        ("{\"model\":\"a\",\"\u{17f}tream\":true}", ScanError::OtherCase("stream")),
        (r#"{"model":"a","STREAM_OPTIONS":{}}"#, ScanError::OtherCase("stream_options")),
        (
            r#"{"stream":true,"model":"a","stream_options":{"include_usage":true,"Include_usage":false}}"#,
            ScanError::OtherCase("include_usage"),
        ),
        (
            r#"{"stream":true,"model":"a","stream_options":{"continuou\u017f_usage_stats":false}}"#,
            ScanError::OtherCase("continuous_usage_stats"),
        ),
        (r#"{"model":"a""#, ScanError::InvalidJson { at: 12 }),
        (r#"{"model":"a",}"#, ScanError::InvalidJson { at: 13 }),
        (r#"[{"model":"a"}]"#, ScanError::InvalidJson { at: 0 }),
        (r#"{"model":"a"}{"model":"b"}"#, ScanError::InvalidJson { at: 13 }),
        ("", ScanError::InvalidJson { at: 0 }),
    ] {
        assert_eq!(scan(body), Err(error), "{body}");
    }
    assert_eq!(scan_pieces(RequestKind::Whole, &[b"{\"model\":\"\xff\"}"]), Err(ScanError::InvalidModel));
    let deep = format!("{{\"model\":\"a\",\"x\":{}", "[".repeat(600));
    assert!(matches!(scan_pieces(RequestKind::Whole, &[deep.as_bytes()]), Err(ScanError::TooDeep { .. })));
}

#[test]
fn a_key_of_any_length_hides_no_member_behind_it() {
    // What is hidden from us and not from the upstream would be served without having been allowed.
    for len in 0..100 {
        let key = "k".repeat(len);
        for (members, name) in [
            (r#""model":"a","model":"b""#, "model"),
            (r#""stream":true,"model":"a","stream":false"#, "stream"),
        ] {
            let body = format!(r#"{{"{key}":0,{members}}}"#);
            assert_eq!(scan(&body), Err(ScanError::DuplicateMember(name)), "key of {len}");
        }
    }
}

#[test]
fn of_two_faults_the_first_is_told_however_the_body_is_split() {
    for (body, error) in [
        (r#"{"model":"a","model":"b",?}"#, ScanError::DuplicateMember("model")),
        (r#"{"model":"a",?,"model":"b"}"#, ScanError::InvalidJson { at: 13 }),
        (r#"{"model":"a","Model":"b","model":"c"}"#, ScanError::OtherCase("model")),
        (r#"{"model":"a","model":"b","Model":"c"}"#, ScanError::DuplicateMember("model")),
        (r#"{"model":"a","Model":?}"#, ScanError::InvalidJson { at: 21 }),
    ] {
        assert_eq!(scan(body), Err(error), "{body}");
    }
}

#[test]
fn stream_options_are_looked_at_only_where_the_answer_is_streamed() {
    for (stream, options, streamed) in
        [("true", "{}", true), ("false", "[1]", false), ("null", "\"x\"", false), ("false", "{}", false)]
    {
        let body = format!(r#"{{"stream_options":{options},"model":"m","stream":{stream}}}"#);
        let scanned = scan(&body).unwrap();
        assert_eq!((scanned.stream, scanned.stream_options.is_some()), (streamed, streamed));
    }
    let scanned =
        scan_as(RequestKind::Whole, r#"{"model":"m","stream":1,"stream":2,"STREAM":3,"stream_options":4}"#)
            .unwrap();
    assert!(!scanned.stream && scanned.stream_options.is_none());
}

#[test]
fn what_the_client_asked_for_is_known() {
    for (options, usage, continuous) in [
        ("null", false, false),
        ("{}", false, false),
        (r#"{"include_usage":true}"#, true, false),
        (r#"{"include_usage":null}"#, false, false),
        (r#"{ "x" : {"include_usage":true} }"#, false, false),
        (r#"{"continuous_usage_stats":true}"#, false, false),
        (r#"{"continuous_usage_stats":true, "include_usage" :true }"#, true, true),
        (r#"{"continuous_usage_stats":false,"include_usage":true}"#, true, false),
    ] {
        let body = format!(r#"{{"model":"m","stream":true,"stream_options":{options}}}"#);
        let scanned = scan(&body).unwrap();
        assert_eq!((scanned.asks_usage(), scanned.asks_continuous()), (usage, continuous), "{options}");
        assert_eq!(body[scanned.stream_options.unwrap().value], *options);
    }
}

#[test]
fn debug_output_shows_nothing_of_the_body() {
    let scanned = scan(r#"{"model":"secret-marker"}"#).unwrap();
    assert!(!format!("{scanned:?}").contains("secret"));
    assert!(!format!("{:?} {}", ScanError::InvalidModel, ScanError::InvalidModel).contains("secret"));
    let mut scan = RequestScan::new(RequestKind::Streamable);
    scan.feed(br#"{"model":"a","secret-marker"#).unwrap();
    // The raw key is bytes, and even those are not shown.
    let marker = format!("{:?}", b"secret-marker").trim_matches(['[', ']']).to_owned();
    assert!(!format!("{scan:?}").contains(&marker));
}
