//! What a client receives of a stream and what is metered, whole and split at every byte.

use super::*;

const MODES: [StreamMode; 4] =
    [StreamMode::Observe, StreamMode::Remove, StreamMode::Cut, StreamMode::CutMembers];

const FIRST: &str =
    "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}],\"usage\":null}\n\n";
const TOKEN: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"流通 \\\"usage\\\": {}\"}}]}\n\n";
const USAGE: &str = "data: {\"id\":\"x\",\"choices\":[],\
    \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// What of `stream` reaches the client, with the total and whether `[DONE]` was seen; the same however it is
/// split.
fn relay(mode: StreamMode, stream: &str) -> (String, Option<u32>, bool) {
    fuzz(stream.as_bytes());
    let mut meter = StreamMeter::new(mode);
    let mut result = |pieces: &[&[u8]]| {
        meter.restart(mode);
        let passed = pass(&mut meter, pieces.iter().copied());
        (String::from_utf8(passed).unwrap(), meter.usage().map(|usage| usage.total), meter.saw_done())
    };
    let whole = result(&[stream.as_bytes()]);
    for cut in 0..=stream.len() {
        let (head, tail) = stream.as_bytes().split_at(cut);
        assert_eq!(result(&[head, tail]), whole, "{mode:?} cut at {cut}");
        assert_eq!(result(&[head, b"", tail]), whole, "{mode:?} cut at {cut}, with an empty read");
    }
    let bytes = stream.as_bytes().chunks(1).collect::<Vec<_>>();
    assert_eq!(result(&bytes), whole, "{mode:?} byte by byte");
    whole
}

fn crlf(stream: &str) -> String {
    stream.replace('\n', "\r\n")
}

fn cr(stream: &str) -> String {
    stream.replace('\n', "\r")
}

#[test]
fn the_usage_event_is_metered_and_removed_only_where_we_asked_for_it() {
    let stream = [FIRST, TOKEN, TOKEN, USAGE, DONE].concat();
    let without = [FIRST, TOKEN, TOKEN, DONE].concat();
    for ends in [str::to_owned, crlf, cr] {
        for (mode, expected) in [
            (StreamMode::Observe, &stream),
            (StreamMode::CutMembers, &stream),
            (StreamMode::Remove, &without),
            (StreamMode::Cut, &without),
        ] {
            assert_eq!(relay(mode, &ends(&stream)), (ends(expected), Some(7), true));
        }
    }
}

#[test]
fn a_stream_without_a_usage_event_passes_untouched_in_every_mode() {
    let azure = "data: {\"choices\":[],\"prompt_filter_results\":[{\"prompt_index\":0}]}\n\n";
    for stream in [
        String::new(),
        [FIRST, TOKEN, DONE].concat(),
        [azure, FIRST, TOKEN, DONE].concat(),
        crlf(&[azure, ": ping\n\n", TOKEN, ":\n\n", DONE].concat()),
        [TOKEN, "data: {\"choices\":[],\"usage\":null}\n\n", DONE].concat(),
        [TOKEN, "data: {\"choices\":[],\"usage\":7}\n\n", DONE].concat(),
        [TOKEN, "data: {\"choices\":[],\"nested\":{\"usage\":{\"total_tokens\":9}}}\n\n", DONE].concat(),
        [TOKEN, "data: {\"choices\":[],\"x\":\"\\\"usage\\\":{\\\"total_tokens\\\":9}\"}\n\n", DONE].concat(),
        [TOKEN, "data: {\"choices\":[],\"usage\":{\"total_tokens\":9\n\n", DONE].concat(),
        [TOKEN, ": {\"choices\":[],\"usage\":{\"total_tokens\":9}}\n\n", DONE].concat(),
        [TOKEN, "data: \"usage\" [DONE]\n\n", DONE].concat(),
        "\n\r\n\r\r\ndata: [DONE]\r\r\n\n".to_owned(),
    ] {
        let done = !stream.is_empty();
        for mode in MODES {
            assert_eq!(relay(mode, &stream), (stream.clone(), None, done), "{mode:?}");
        }
    }
}

#[test]
fn usage_without_choices_is_metered_and_passes() {
    let stream = ["data: {\"usage\":{\"total_tokens\":9}}\n\n", DONE].concat();
    for mode in MODES {
        assert_eq!(relay(mode, &stream), (stream.clone(), Some(9), true));
    }
}

#[test]
fn of_two_usage_events_the_last_counts() {
    let basic = "data: {\"choices\":[{\"finish_reason\":\"stop\"}],\
        \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n";
    let more = "data: {\"choices\":[ ],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5,\
        \"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\n";
    let stream = [TOKEN, basic, more, DONE].concat();
    assert_eq!(relay(StreamMode::Remove, &stream), ([TOKEN, basic, DONE].concat(), Some(8), true));
    assert_eq!(relay(StreamMode::Observe, &stream), (stream.clone(), Some(8), true));
    let null_last = [TOKEN, more, "data: {\"choices\":[],\"usage\":null}\n\n", DONE].concat();
    assert_eq!(relay(StreamMode::Observe, &null_last).1, Some(8));
}

#[test]
fn explicit_zeros_are_a_usage() {
    let zero = "data: {\"choices\":[],\
        \"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}}\n\n";
    assert_eq!(relay(StreamMode::Remove, &[USAGE, zero].concat()), (String::new(), Some(0), false));
}

#[test]
fn usage_members_of_events_with_choices_are_cut_with_one_comma() {
    let event = |members: &str| format!("data: {{{members}}}\n\n");
    let (choices, usage) =
        (r#""choices":[{"index":0}]"#, r#""usage":{"prompt_tokens":1,"completion_tokens":2}"#);
    for (members, expected) in [
        (format!("{choices},{usage}"), choices.to_owned()),
        (format!("{choices} , {usage} "), format!("{choices}  ")),
        (format!("{usage}, {choices}"), choices.to_owned()),
        (format!("\"a\":1,{usage},{choices}"), format!("\"a\":1,{choices}")),
        (format!("\"a\":1, {usage}, {choices}"), format!("\"a\":1, {choices}")),
        (format!("{choices},\"usage\":null"), format!("{choices},\"usage\":null")),
    ] {
        for ends in [str::to_owned, crlf] {
            let stream = ends(&[&event(&members), TOKEN, USAGE, DONE].concat());
            let cut = [&event(&expected), TOKEN, DONE].concat();
            assert_eq!(relay(StreamMode::Cut, &stream), (ends(&cut), Some(7), true));
            let with_event = [&event(&expected), TOKEN, USAGE, DONE].concat();
            assert_eq!(relay(StreamMode::CutMembers, &stream), (ends(&with_event), Some(7), true));
            assert_eq!(relay(StreamMode::Remove, &stream).0, ends(&[&event(&members), TOKEN, DONE].concat()));
        }
    }
    let aborted = event(&format!("{choices},{usage}"));
    assert_eq!(relay(StreamMode::Cut, &aborted).1, Some(3));
}

#[test]
fn data_of_several_lines_is_one_document() {
    let usage = "event: x\ndata: {\"choices\":[],\ndata: \"usage\":{\"total_tokens\":5}}\nid: 1\n\n";
    let stream = [TOKEN, usage, DONE].concat();
    assert_eq!(relay(StreamMode::Remove, &stream), ([TOKEN, DONE].concat(), Some(5), true));
    let member = "data: {\"choices\":[{}],\ndata: \"usage\":{\"total_tokens\":5}}\n\n";
    assert_eq!(relay(StreamMode::Cut, member), (member.to_owned(), Some(5), false));
}

#[test]
fn an_event_that_lacks_its_empty_line_at_the_end_is_judged_like_the_others() {
    for tail in [USAGE.trim_end(), &USAGE[..USAGE.len() - 1]] {
        let stream = [TOKEN, tail].concat();
        assert_eq!(relay(StreamMode::Remove, &stream), (TOKEN.to_owned(), Some(7), false));
        assert_eq!(relay(StreamMode::Observe, &stream), (stream.clone(), Some(7), false));
    }
    let cut = [TOKEN, &USAGE[..40]].concat();
    assert_eq!(relay(StreamMode::Remove, &cut), (cut.clone(), None, false));
    assert!(relay(StreamMode::Remove, DONE.trim_end()).2);
}

#[test]
fn whole_events_are_forwarded_at_once_and_only_an_unfinished_one_is_held() {
    let mut meter = StreamMeter::new(StreamMode::Remove);
    let mut read = [TOKEN, TOKEN, &USAGE[..30]].concat().into_bytes();
    assert_eq!(meter.observe(&mut read), Passed { forward: 2 * TOKEN.len(), held: 30 });
    assert!(meter.at_boundary());
    let mut read = [USAGE, TOKEN].concat().into_bytes();
    assert_eq!(meter.observe(&mut read), Passed { forward: TOKEN.len(), held: 0 });
    assert_eq!(&read[..TOKEN.len()], TOKEN.as_bytes());
}

#[test]
fn nothing_is_held_in_observe_mode_and_the_boundary_is_known() {
    let mut meter = StreamMeter::new(StreamMode::Observe);
    assert!(meter.at_boundary());
    for (piece, boundary) in
        [(TOKEN, true), (&TOKEN[..9], false), (&TOKEN[9..], true), ("data: x\r\n\r", true)]
    {
        let mut bytes = piece.as_bytes().to_vec();
        assert_eq!(meter.observe(&mut bytes), Passed { forward: piece.len(), held: 0 });
        assert_eq!(meter.at_boundary(), boundary);
    }
    let mut rest = b"\ndata".to_vec();
    assert_eq!(meter.observe(&mut rest), Passed { forward: 5, held: 0 });
    assert!(!meter.at_boundary());
}

#[test]
fn an_event_longer_than_the_limit_is_released_and_still_metered() {
    let long = USAGE.replace("\"x\"", &format!("\"{}\"", "x".repeat(2 * HELD_BYTES_MAX)));
    let stream = [TOKEN, &long, USAGE.replace('7', "8").as_str(), DONE].concat();
    for size in [100, 1000, HELD_BYTES_MAX + 1] {
        let mut meter = StreamMeter::new(StreamMode::Remove);
        let passed = pass(&mut meter, stream.as_bytes()[..TOKEN.len() + long.len()].chunks(size));
        assert_eq!(passed, [TOKEN, &long].concat().into_bytes());
        assert_eq!(meter.usage().unwrap().total, 7);
        meter.restart(StreamMode::Remove);
        let passed = pass(&mut meter, stream.as_bytes().chunks(size));
        assert_eq!(passed, [TOKEN, &long, DONE].concat().into_bytes(), "{size}");
        assert_eq!(meter.usage().unwrap().total, 8);
    }
    // In one read it is whole, and needs no holding.
    assert_eq!(
        pass(&mut StreamMeter::new(StreamMode::Remove), [stream.as_bytes()]),
        [TOKEN, DONE].concat().into_bytes()
    );
}

#[test]
fn an_event_beyond_what_is_put_aside_passes_and_the_next_one_counts() {
    let huge = USAGE.replace("\"x\"", &format!("\"{}\"", "x".repeat(2 * ASIDE_BYTES_MAX)));
    for mode in MODES {
        let mut meter = StreamMeter::new(mode);
        let stream = [huge.as_str(), TOKEN].concat();
        assert_eq!(pass(&mut meter, stream.as_bytes().chunks(5000)), stream.as_bytes());
        assert_eq!(meter.usage(), None);
        assert!(meter.aside.capacity() <= 4 * ASIDE_BYTES_MAX);
        meter.restart(mode);
        let stream = [huge.as_str(), USAGE].concat();
        pass(&mut meter, stream.as_bytes().chunks(5000));
        assert_eq!(meter.usage().unwrap().total, 7);
    }
}

#[test]
fn hostile_streams_pass_untouched() {
    let deep = format!("data: {{\"usage\":{}\n\n", "{\"a\":".repeat(600));
    for stream in [
        "data: {\"choices\":[],\"usage\":{\"total_tokens\":9}} trailing\n\n",
        "data: {\"choices\":[],\"usage\":{\"total_tokens\":9}}{}\n\n",
        "data: [{\"choices\":[],\"usage\":{\"total_tokens\":9}}]\n\n",
        "data {\"choices\":[],\"usage\":{\"total_tokens\":9}}\n\n",
        "<html>\"usage\"</html>",
        "data: \"usage\"\ndata\ndata:\n\n",
        "data: {\"usage\":{\"total_tokens\":}}\n\n",
        &deep,
    ] {
        for mode in MODES {
            assert_eq!(relay(mode, stream), (stream.to_owned(), None, false), "{stream:.60}");
        }
    }
    for mode in MODES {
        let mut meter = StreamMeter::new(mode);
        let bytes = b"data: \xff\xfe\"usage\"\0\n\n";
        assert_eq!(pass(&mut meter, bytes.chunks(3)), bytes);
    }
}

#[test]
fn streams_of_random_fragments_pass_and_count_alike_however_they_are_split() {
    const FRAGMENTS: [&str; 14] = [
        TOKEN,
        USAGE,
        DONE,
        "\n",
        "\r",
        "\r\n",
        "data: ",
        "{\"choices\":[],",
        "\"usage\":{\"total_tokens\":3}}",
        "\n\n",
        "{\"usage\":{\"total_tokens\":4},\"choices\":[1]}",
        "[DONE]",
        ": x",
        "\r\n\r\n",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("31 bits fit") % below
    };
    for _ in 0..3000 {
        let stream = (0..random(12)).map(|_| FRAGMENTS[random(FRAGMENTS.len())]).collect::<String>();
        fuzz(stream.as_bytes());
    }
}
