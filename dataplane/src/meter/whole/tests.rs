//! Tests of the meter of whole answers.

use super::*;

/// The total of an answer, the same whole and split at every byte.
fn total(answer: &str) -> Option<u32> {
    fuzz(answer.as_bytes());
    let mut meter = WholeMeter::default();
    meter.observe(answer.as_bytes());
    let whole = meter.usage();
    for cut in 0..=answer.len() {
        meter.start(false);
        let (head, tail) = answer.as_bytes().split_at(cut);
        meter.observe(head);
        meter.observe(tail);
        assert_eq!(meter.usage(), whole, "cut at {cut}");
    }
    whole.map(|usage| usage.total)
}

#[test]
fn the_last_usage_of_the_top_level_counts() {
    for (answer, expected) in [
        (r#"{"choices":[{}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#, Some(7)),
        (r#"{"usage":{"prompt_tokens":3,"total_tokens":3},"data":[{"embedding":[0.1,-2e-3]}]}"#, Some(3)),
        (r#"{ "usage" : { "prompt_tokens" : 2 } } "#, Some(2)),
        (r#"{"usage":{"total_tokens":1},"usage":{"total_tokens":2}}"#, Some(2)),
        (r#"{"usage":{"total_tokens":1},"usage":null}"#, Some(1)),
        (r#"{"usage":{"total_tokens":0}}"#, Some(0)),
        (r#"{"usage":null}"#, None),
        (r#"{"usage":{}}"#, None),
        (r#"{"choices":[{"usage":{"total_tokens":9}}]}"#, None),
        (r#"{"response":{"usage":{"total_tokens":9}},"usage":{"total_tokens":8}}"#, Some(8)),
        (r#"{"content":"\"usage\":{\"total_tokens\":9}"}"#, None),
        (r#"{"content":"\\","usage":{"total_tokens":4}}"#, Some(4)),
        (r#"{"\u0075sage":{"total_tokens":9}}"#, None),
        (r#"{"\u0075sage":{"total_tokens":9},"usage":{"total_tokens":3}}"#, Some(3)),
        (r#"{"error":{"message":"no"}}"#, None),
    ] {
        assert_eq!(total(answer), expected, "{answer}");
    }
}

#[test]
fn garbage_has_no_usage_and_does_not_fail() {
    for answer in [
        "",
        "\"usage\"",
        "[{\"usage\":{\"total_tokens\":9}}]",
        "<html>\"usage\"</html>",
        "{\"usage\":{\"total_tokens\":9",
        "{\"usage\":{\"total_tokens\":}}",
        "{\"usage\":{\"total_tokens\":9}} trailing",
        "{\"usage\":{\"total_tokens\":9}},{}",
        "{\"usage\":{\"total_tokens\":9},}",
    ] {
        assert_eq!(total(answer), None, "{answer}");
    }
}

#[test]
fn what_follows_a_usage_tells_how_deep_it_lay() {
    for (answer, expected) in [
        (
            r#"{"a":{"usage":{"total_tokens":9}},"b":[{"usage":{"total_tokens":8}}],"usage":{"total_tokens":7}}"#,
            Some(7),
        ),
        (r#"{"a":{"usage":{"total_tokens":9},"usage":{"total_tokens":8}},"b":"}"}"#, None),
        (r#"{"usage":{"total_tokens":9},"a":{"usage":{"total_tokens":8}}}"#, Some(9)),
        (r#"{"usage":{"total_tokens":9},"a":[1,2,{"b":"\"}"}],"c":null}"#, Some(9)),
        (r#"{"usage" :	{"total_tokens":9} , "a" : "x\\" }"#, Some(9)),
        (r#"{"a":"usage","usage":{"total_tokens":9}}"#, Some(9)),
        (r#"{"a":"x\"usage","usage":{"total_tokens":9}}"#, Some(9)),
        (r#"{"x\"usage":{"total_tokens":9}}"#, None),
        (r#"{"usage":{"usage":{"total_tokens":9},"total_tokens":5}}"#, Some(5)),
        (r#"{"usage":{"total_tokens":1.0}}"#, Some(1)),
    ] {
        assert_eq!(total(answer), expected, "{answer}");
    }
}

#[test]
fn a_usage_is_taken_back_where_it_turns_out_to_lie_deeper() {
    let mut meter = WholeMeter::default();
    meter.observe(br#"{"choices":[{"usage":{"total_tokens":9}"#);
    assert_eq!(meter.usage().map(|usage| usage.total), Some(9));
    meter.observe(b"}]}");
    assert_eq!(meter.usage(), None);
}

#[test]
fn only_an_answer_that_lasts_until_the_close_can_be_open() {
    let mut meter = WholeMeter::default();
    for (until_close, answer, open) in [
        (true, r#"{"usage":{"total_tokens":9}"#, true),
        (true, r#"{"usage":{"total_tokens":9}}"#, false),
        (true, "<html>", false),
        (true, "", false),
        (false, r#"{"usage":{"total_tokens":9}"#, false),
    ] {
        meter.start(until_close);
        meter.observe(answer.as_bytes());
        assert_eq!(meter.is_open(), open, "{answer}");
    }
}

#[test]
fn a_usage_object_beyond_the_bound_is_no_usage_however_it_comes() {
    let answer = format!("{{\"usage\":{{\"total_tokens\":1{}}}}}", " ".repeat(USAGE_BYTES_MAX));
    fuzz(answer.as_bytes());
    let mut meter = WholeMeter::default();
    answer.as_bytes().chunks(1000).for_each(|piece| meter.observe(piece));
    assert_eq!(meter.usage(), None);
}

#[test]
fn a_meter_forgets_the_answer_before() {
    let mut meter = WholeMeter::default();
    meter.observe(br#"{"usage":{"total_tokens":9"#);
    meter.start(false);
    meter.observe(br#"{"usage":{"total_tokens":4}"#);
    meter.start(false);
    assert_eq!(meter.usage(), None);
    meter.observe(b"{}");
    assert_eq!(meter.usage(), None);
}

/// A random value, with keys and texts that look like what is searched for.
fn random_value(random: &mut u64, depth: u32) -> serde_json::Value {
    const TEXTS: [&str; 8] =
        ["usage", "total_tokens", "a", "\"usage\":{", "\\", "}\"", "流", "\",\"usage\":{\"total_tokens\":1}"];
    let mut below = |bound: u64| {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) % bound
    };
    match below(if depth == 0 { 3 } else { 9 }) {
        0 => below(1000).into(),
        1 => TEXTS[usize::try_from(below(8)).unwrap()].into(),
        2 => serde_json::Value::Null,
        3 => {
            let count = below(4);
            (0..count).map(|_| random_value(random, depth - 1)).collect()
        }
        _ => {
            let count = below(5);
            let keys: Vec<_> = (0..count).map(|_| TEXTS[usize::try_from(below(4)).unwrap()]).collect();
            keys.into_iter().map(|key| (key.to_owned(), random_value(random, depth - 1))).collect()
        }
    }
}

#[test]
fn the_usage_of_any_document_is_the_one_that_a_parser_of_all_of_it_finds() {
    let (mut random, mut found) = (7, 0);
    for _ in 0..40_000 {
        let document = random_value(&mut random, 4);
        let expected = document.as_object().and_then(|object| {
            let usage = serde_json::to_vec(object.get("usage")?).unwrap();
            UsageParser::default().parse(&usage).map(|usage| usage.total)
        });
        found += u32::from(expected.is_some());
        for text in [document.to_string(), serde_json::to_string_pretty(&document).unwrap()] {
            let mut meter = WholeMeter::default();
            meter.observe(text.as_bytes());
            assert_eq!(meter.usage().map(|usage| usage.total), expected, "{text}");
            fuzz(text.as_bytes());
        }
    }
    assert!(found > 100, "only {found} documents had a usage");
}
