//! Heads split as `httparse` splits them, or refused by both.

use super::super::head_end::HeadEnd;
use super::*;

/// The start line, and the names and values behind it.
type Parts = (Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

fn ours(head: &[u8]) -> Option<Parts> {
    let (start, mut lines) = split(head)?;
    let mut fields = Vec::new();
    while let Some(line) = lines.next().ok()? {
        fields.push((line.name.to_vec(), line.value.of(head).to_vec()));
    }
    Some((start.of(head).to_vec(), fields))
}

/// What httparse makes of the field lines, under a start line that it takes in any case.
fn httparses(head: &[u8]) -> Option<Parts> {
    let (start, _) = split(head)?;
    let usual = b"GET / HTTP/1.1\r\n";
    let lines = [usual, &head[usize::from(start.end) + 2..]].concat();
    let mut room = [httparse::EMPTY_HEADER; FIELD_LINES_MAX];
    let mut request = httparse::Request::new(&mut room);
    let parsed = request.parse(&lines).ok()?;
    assert_eq!(parsed, httparse::Status::Complete(lines.len()));
    let fields = request.headers.iter().map(|field| (field.name.as_bytes().to_vec(), field.value.to_vec()));
    Some((start.of(head).to_vec(), fields.collect()))
}

/// Whether both accept the head; they must agree.
fn agree(head: &[u8]) -> bool {
    let Ok(Some(length)) = HeadEnd::of_request().find(head) else { return false };
    let parts = ours(&head[..length]);
    assert_eq!(parts, httparses(&head[..length]), "{:?}", String::from_utf8_lossy(head));
    parts.is_some()
}

#[test]
fn heads_with_any_byte_in_any_place_are_split_as_httparse_splits_them() {
    let fields = "host: a.b:80\r\nX-Stainless-Package-Version:  1.2 \t\r\na:\r\nb_c!: \t\r\n\
        content-length: 5\r\nauthorization:Bearer k\r\nexpect : x\r\nlast: y";
    let head = format!("POST /v1 HTTP/1.1\r\n{fields}\r\n\r\n");
    let (mut accepted, mut refused) = (0, 0);
    for colon in [":", " :"] {
        let head = head.replace(" :", colon).into_bytes();
        for place in 0..head.len() {
            for byte in 0..=255 {
                let mut mutant = head.clone();
                mutant[place] = byte;
                if agree(&mutant) { accepted += 1 } else { refused += 1 }
            }
        }
    }
    assert!(accepted > 10_000 && refused > 10_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn names_and_values_of_every_length_are_split_as_httparse_splits_them() {
    for name in 1..70 {
        for value in 0..70 {
            let head =
                format!("GET / HTTP/1.1\r\n{}: {}\r\nx:y\r\n\r\n", "n".repeat(name), "v".repeat(value));
            assert!(agree(head.as_bytes()), "name of {name}, value of {value}");
        }
    }
}

#[test]
fn what_is_no_delimited_head_gives_nothing_and_does_not_panic() {
    for head in ["", "\r\n", "\r\n\r\n", "\r\n\r\n\r\n", "GET", "GET\r\n", "GET\r\na: b\r\n", "GET\r\n\r\nx"]
    {
        assert!(split(head.as_bytes()).is_none(), "{head:?}");
    }
    for head in ["GET\r\na: b\nc\r\n\r\n", "GET\r\na\r\n\r\n", "GET\r\n\r\n\r\n", "GET\r\na:\rb\r\n\r\n"] {
        let _ = ours(head.as_bytes());
    }
}

#[test]
fn a_line_that_is_none_is_told_why() {
    for (line, error) in [
        (" folded", HeadError::FoldedLine),
        ("\tfolded", HeadError::FoldedLine),
        ("name : x", HeadError::SpaceBeforeColon),
        ("name\t: x", HeadError::SpaceBeforeColon),
        (": x", HeadError::FieldLine),
        ("name", HeadError::FieldLine),
        ("na me: x", HeadError::FieldLine),
        ("na\"me: x", HeadError::FieldLine),
        ("näme: x", HeadError::FieldLine),
    ] {
        let head = format!("GET / HTTP/1.1\r\nok: 1\r\n{line}\r\n\r\n");
        let (_, mut lines) = split(head.as_bytes()).unwrap();
        let found = lines.next().and_then(|_| lines.next());
        assert_eq!(found.err(), Some(error), "{line}");
    }
}
