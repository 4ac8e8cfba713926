//! What the scan finds and what it refuses, whole and split at every byte.

use super::*;

const WATCHED: &[&str] = &["model", "stream"];

type Found = Result<Vec<(usize, String)>, JsonError>;

fn scan(pieces: &[&[u8]]) -> Found {
    let document = pieces.concat();
    let mut scan = MemberScan::new(WATCHED);
    let mut found = Vec::new();
    for piece in pieces {
        scan.feed(piece, |member| {
            found.push((member.name, String::from_utf8_lossy(&document[member.value]).into_owned()));
        })?;
    }
    let end = scan.finish()?;
    assert_eq!(document[end.at], b'}');
    Ok(found)
}

/// Scans whole and split at every byte, and returns what all of them found.
fn everywhere(document: &[u8]) -> Found {
    fuzz(document);
    let whole = scan(&[document]);
    for cut in 0..=document.len() {
        let (head, tail) = document.split_at(cut);
        assert_eq!(scan(&[head, tail]), whole, "cut at {cut}");
    }
    whole
}

fn found(members: &[(usize, &str)]) -> Found {
    Ok(members.iter().map(|&(name, value)| (name, value.to_owned())).collect())
}

#[test]
fn watched_members_of_the_top_level_are_found() {
    for (document, members) in [
        ("{}", &[][..]),
        (r#" { "a" : 1 } "#, &[]),
        (r#"{"model":"m"}"#, &[(0, "\"m\"")]),
        (r#"{"model" : "m" , "stream":true}"#, &[(0, "\"m\""), (1, "true")]),
        ("{\"stream\":\tfalse\r\n}\n", &[(1, "false")]),
        (r#"{"stream":{"a":[1,{"b":"]}"}]},"x":0}"#, &[(1, r#"{"a":[1,{"b":"]}"}]}"#)]),
        (r#"{"\u006dode\u006C":"m\"x\\"}"#, &[(0, r#""m\"x\\""#)]),
        (r#"{"model":1,"model":2}"#, &[(0, "1"), (0, "2")]),
        (r#"{"model":"","\u006d\u006f\u0064\u0065\u006c":[]}"#, &[(0, "\"\""), (0, "[]")]),
        (r#"{"a":{"model":"no"},"b":[{"model":"no"}],"c":"\"model\":1"}"#, &[]),
        (r#"{"Model":1,"model ":2,"mode":3,"models":4,"":5}"#, &[]),
        (r#"{"a":[-1.5e+10, 1e400,true,null , 0.0001, 123456789012345678901234567890]}"#, &[]),
        ("{\"a\":\"流通\u{7f}\",\"model\":0}", &[(0, "0")]),
    ] {
        assert_eq!(everywhere(document.as_bytes()), found(members), "{document}");
    }
}

#[test]
fn members_in_another_case_are_found_where_they_are_asked_for() {
    const NAMES: &[&str] = &["model", "stream_options", "kiosk"];
    let scan = |pieces: [&[u8]; 2]| {
        let (mut scan, mut found) = (MemberScan::in_any_case(NAMES), Vec::new());
        for piece in pieces {
            scan.feed(piece, |member| found.push((member.name, member.other_case))).unwrap();
        }
        scan.finish().unwrap();
        found
    };
    for (key, found) in [
        ("model", Some((0, false))),
        (r"\u006dodel", Some((0, false))),
        ("Model", Some((0, true))),
        ("MODEL", Some((0, true))),
        (r"mode\u004c", Some((0, true))),
        ("stream_options", Some((1, false))),
        ("\u{17f}tream_option\u{17f}", Some((1, true))),
        (r"\u017Ftream_options", Some((1, true))),
        ("STREAM_OPTION\u{17f}", Some((1, true))),
        ("\u{212a}io\u{17f}\u{212A}", Some((2, true))),
        (r"\u212aIOSK", Some((2, true))),
        ("Models", None),
        ("Mode", None),
        ("m\u{f6}del", None),
        // Not letters: what differs from them in the bit that is case.
        ("stream\u{7f}options", None),
        ("\u{4d}ode,", None),
        ("\u{17e}tream_options", None),
        ("\u{212b}iosk", None),
        ("", None),
    ] {
        let document = format!("{{\"{key}\":1, \"messages\" : 2}}");
        fuzz(document.as_bytes());
        for cut in 0..=document.len() {
            let (head, tail) = document.as_bytes().split_at(cut);
            assert_eq!(scan([head, tail]), found.into_iter().collect::<Vec<_>>(), "{document} cut at {cut}");
        }
    }
}

#[test]
fn what_another_reader_could_read_otherwise_is_refused() {
    for document in [
        "",
        " ",
        "[]",
        "null",
        "1",
        "\"a\"",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":[}",
        "{\"a\":{]}",
        "{\"a\":[1}",
        "{\"a\":\"",
        "{}{}",
        "{} x",
        "{},",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{\"a\"::1}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":'b'}",
        "{\"a\":1 2}",
        "{\"a\":}",
        "{\"a\":,}",
        "{\"a\":1 \"b\":2}",
        "{1:2}",
        "}",
        "{\"a\":1}/**/",
        "{/**/\"a\":1}",
        "{\"a\":[1/*,\"*/]}",
        "{\"a\":[//\n1]}",
        "{\"a\":1;}",
        "{\"a\":[#\n]}",
        "\u{feff}{\"a\":1}",
        "{\"a\":[\u{a0}]}",
        "{\"a\":[`b`]}",
        "{\"a\":\u{0}1}",
        "{\"a\":\u{b}1}",
        "{\"\\model\":1}",
        "{\"\\u006\":1}",
        "{\"\\ud800\":1}",
        "{\"a\":\"\\\"}",
        "{\"a\":]}",
        "{\"a\":_}",
    ] {
        assert!(everywhere(document.as_bytes()).is_err(), "{document:?}");
    }
    assert!(everywhere(b"{\0\"\0a\0\"\0:\0[\0]\0}\0").is_err());
    assert!(everywhere(b"{\"a\":[\xff]}").is_err());
}

#[test]
fn a_document_that_serde_json_reads_as_an_object_is_accepted() {
    let nested = r#"{"messages":[{"content":"say \"usage\": {}\\"},{"n":[[],{},[[[{}]]]]}],"t":-0.7E-3}"#;
    for document in [nested, "{\"a\":\"\\u0000\\ud83d\\ude00\"}", "{\"\\ud83d\\ude00\":{\"a\":[true]}}"] {
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(document).unwrap();
        assert_eq!(everywhere(document.as_bytes()), found(&[]));
    }
}

#[test]
fn nesting_beyond_the_limit_is_too_deep() {
    let deep = |open: usize| format!("{{\"a\":{}{}}}", "[".repeat(open), "]".repeat(open)).into_bytes();
    assert_eq!(scan(&[&deep(DEPTH_MAX - 1)]), found(&[]));
    assert_eq!(scan(&[&deep(DEPTH_MAX)]), Err(JsonError::TooDeep { at: 5 + DEPTH_MAX - 1 }));
    let mixed = format!("{{\"a\":{}{}}}", "[{\"b\":".repeat(200), "}]".repeat(200));
    assert_eq!(scan(&[mixed.as_bytes()]), found(&[]));
}

#[test]
fn a_key_longer_than_any_watched_one_is_skipped() {
    for len in [text::KEY_BYTES_MAX - 1, text::KEY_BYTES_MAX, text::KEY_BYTES_MAX + 1, 5000] {
        let document = format!("{{\"{}\":0,\"model\":1}}", "model".repeat(1000)[..len].to_owned());
        assert_eq!(scan(&[document.as_bytes()]), found(&[(0, "1")]));
    }
}

#[test]
fn errors_name_the_byte_and_stay() {
    let mut scan = MemberScan::new(WATCHED);
    assert_eq!(scan.feed(b"{\"a\":1,", |_| ()), Ok(()));
    assert_eq!(scan.feed(b" }", |_| ()), Err(JsonError::Unexpected { at: 8 }));
    assert!(scan.failed() && scan.feed(b"\"b\":1}", |_| ()).is_err() && scan.finish().is_err());
}

#[test]
fn a_value_that_goes_on_in_the_next_piece_is_open() {
    let mut scan = MemberScan::new(WATCHED);
    for (piece, open) in [
        (&b"{\"a\":[1"[..], None),
        (b"],\"model\":", None),
        (b"{", Some(17)),
        (b"\"b\":1", Some(17)),
        (b"}", None),
    ] {
        scan.feed(piece, |_| ()).unwrap();
        assert_eq!(scan.open_value(), open);
    }
}

/// Documents of random tokens, most of them nearly right.
fn random_documents() -> impl Iterator<Item = String> {
    const TOKENS: [&str; 24] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"model\"",
        "\"\\u006dodel\"",
        "\"a\"",
        "\"\\\\\"",
        "\"\\\"\"",
        "true",
        "null",
        "-1.5e3",
        " ",
        "\n",
        "\"model\":",
        "\"a\":1,",
        "\"stream\":[{}],",
        "{\"model\":[",
        "]}",
        "\"",
        "\\",
        "/",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("31 bits fit") % below
    };
    (0..20_000).map(move |_| {
        let count = random(9);
        format!("{{{}}}", (0..count).map(|_| TOKENS[random(TOKENS.len())]).collect::<String>())
    })
}

#[test]
fn random_documents_are_read_as_serde_json_reads_them() {
    let (mut read, mut with_model) = (0, 0);
    for document in random_documents() {
        fuzz(document.as_bytes());
        let Ok(object) = serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(&document) else {
            continue;
        };
        let members = scan(&[document.as_bytes()]).expect("serde_json reads it");
        for (name, key) in WATCHED.iter().enumerate() {
            // The last of several is what serde_json keeps.
            let last = members.iter().rfind(|member| member.0 == name).map(|member| member.1.as_str());
            let value = last.map(|value| serde_json::from_str(value).expect("the range of a value"));
            assert_eq!(value.as_ref(), object.get(*key), "{document}");
        }
        read += 1;
        with_model += usize::from(object.contains_key("model"));
    }
    assert!(read > 500 && with_model > 20, "{read} {with_model}");
}
