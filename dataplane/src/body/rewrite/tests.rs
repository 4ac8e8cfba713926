//! What a rewritten body looks like, byte for byte, in pieces of every size.

use super::super::scan::{RequestKind, RequestScan};
use super::*;

/// The body's edits; where it names no model, its path does.
fn rewrite(body: &str, upstream_model: &str, usage: UsageAsk) -> String {
    let mut scan = RequestScan::new(RequestKind::Streamable).with_model_in_path(true);
    scan.feed(body.as_bytes()).unwrap();
    let scanned = scan.finish(body.as_bytes()).unwrap();
    let text = ModelText::new(upstream_model);
    let model = (scanned.model(body.as_bytes()) != Some(upstream_model)).then_some(&text);
    let splice = plan(&scanned, model, usage);
    let whole = splice.slices(body.as_bytes()).collect::<Vec<_>>().concat();
    assert_eq!(whole.len(), splice.rewritten_len(body.len()));
    assert_eq!(splice.is_empty(), whole == body.as_bytes());
    for size in 1..=whole.len() {
        let mut out = Vec::new();
        while splice.append_piece(body.as_bytes(), out.len(), size, &mut out) > 0 {}
        assert_eq!(out, whole, "pieces of {size}");
    }
    serde_json::from_slice::<serde_json::Value>(&whole).unwrap();
    String::from_utf8(whole).unwrap()
}

#[test]
fn only_the_model_changes_where_no_usage_is_asked_for() {
    for (body, model, expected) in [
        (r#"{"model":"a"}"#, "b", r#"{"model":"b"}"#),
        (
            r#"{ "x" : 1e400 ,"model":"\u0061", "x":-0}"#,
            "org/b:7",
            r#"{ "x" : 1e400 ,"model":"org/b:7", "x":-0}"#,
        ),
        (r#"{"model":"a"}"#, "q\"\\\n", r#"{"model":"q\"\\\u000a"}"#),
        (r#"{"model":"","stream":true}"#, "b", r#"{"model":"b","stream":true}"#),
        (r#"{"\u006dodel":"\u0061","stream":true}"#, "a", r#"{"\u006dodel":"\u0061","stream":true}"#),
    ] {
        // 1e400 is no f64, so serde_json is asked about a document without it.
        let usable = body.replace("1e400", "1e40");
        assert_eq!(rewrite(&usable, model, UsageAsk::Leave), expected.replace("1e400", "1e40"));
    }
}

#[test]
fn a_model_that_only_the_path_names_is_added() {
    for (body, usage, expected) in [
        ("{}", UsageAsk::Leave, r#"{"model":"b"}"#),
        (" { }\n", UsageAsk::Leave, " {\"model\":\"b\" }\n"),
        (r#"{"messages":[]}"#, UsageAsk::Leave, r#"{"model":"b","messages":[]}"#),
        (r#"{"model":null}"#, UsageAsk::Leave, r#"{"model":"b"}"#),
        (r#"{"x":0, "model" : null }"#, UsageAsk::Leave, r#"{"x":0, "model" : "b" }"#),
        (
            r#"{"stream":true}"#,
            UsageAsk::Include,
            r#"{"model":"b","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":false},"stream":true,"model":null}"#,
            UsageAsk::IncludeContinuous,
            concat!(
                r#"{"stream_options":{"include_usage":true,"continuous_usage_stats":true},"#,
                r#""stream":true,"model":"b"}"#
            ),
        ),
    ] {
        assert_eq!(rewrite(body, "b", usage), expected);
        assert_eq!(rewrite(body, "q\"", usage), expected.replace("\"b\"", "\"q\\\"\""));
    }
}

#[test]
fn usage_is_asked_for_wherever_stream_options_stand() {
    let off = r#""include_usage":false"#;
    for (options, include, continuous) in [
        ("{}", "{U}", "{U,C}"),
        ("{ }", "{ U}", "{ U,C}"),
        (r#"{"a":1 }"#, r#"{"a":1 ,U}"#, r#"{"a":1 ,U,C}"#),
        ("null", "{U}", "{U,C}"),
        ("{U}", "{U}", "{U,C}"),
        (r#"{"continuous_usage_stats":false}"#, r#"{"continuous_usage_stats":false,U}"#, "{C,U}"),
        ("{C}", "{C,U}", "{C,U}"),
        ("{C,U}", "{C,U}", "{C,U}"),
        (&format!("{{{off}}}"), "{U}", "{U,C}"),
        (
            &format!(r#"{{"continuous_usage_stats":null,"x":{{}},{off}}}"#),
            r#"{"continuous_usage_stats":null,"x":{},U}"#,
            r#"{C,"x":{},U}"#,
        ),
    ] {
        let text = |short: &str| short.replace('U', USAGE).replace('C', CONTINUOUS);
        for (ask, expected) in [
            (UsageAsk::Leave, options),
            (UsageAsk::Include, include),
            (UsageAsk::IncludeContinuous, continuous),
        ] {
            for frame in [
                r#"{"model":"NAME","stream":true,"stream_options":OPTIONS}"#,
                r#"{"stream_options": OPTIONS , "stream":true, "model" : "NAME" } "#,
            ] {
                let body = |name: &str, options: &str| {
                    frame.replace("NAME", name).replace("OPTIONS", &text(options))
                };
                assert_eq!(
                    rewrite(&body("a", options), "longer", ask),
                    body("longer", expected),
                    "{options}"
                );
                assert_eq!(rewrite(&body("a", options), "a", ask), body("a", expected), "{options}");
            }
        }
    }
}

#[test]
fn stream_options_are_added_before_the_closing_brace() {
    let body = r#"{"stream":true, "model":"a" }"#;
    assert_eq!(
        rewrite(body, "b", UsageAsk::Include),
        r#"{"stream":true, "model":"b" ,"stream_options":{"include_usage":true}}"#
    );
    assert_eq!(
        rewrite(r#"{"stream":true,"model":"a"}"#, "", UsageAsk::IncludeContinuous),
        r#"{"stream":true,"model":"","stream_options":{"include_usage":true,"continuous_usage_stats":true}}"#
    );
}

#[test]
fn a_request_that_is_not_streamed_is_not_asked_for_a_usage_event() {
    for body in [r#"{"model":"a"}"#, r#"{"model":"a","stream":false,"stream_options":null}"#] {
        assert_eq!(rewrite(body, "a", UsageAsk::IncludeContinuous), body);
    }
}
