//! Meters an answer that is one JSON document, as its pieces pass.
//!
//! Only the top-level `usage` counts, so its depth must be known: the member scan runs over all pieces. An
//! answer that comes in one piece, which its length tells, needs no scan where the bytes `"usage"` are not in
//! it.

use super::mentions_usage;
use super::usage::{USAGE_BYTES_MAX, Usage, UsageParser};
use crate::json::{Member, MemberScan};

const WATCHED: &[&str] = &["usage"];

/// Meters an answer whole and in pieces, and holds that both ways say the same.
pub fn fuzz(data: &[u8]) {
    let mut meter = WholeMeter::default();
    meter.start(Some(data.len() as u64));
    meter.observe(data);
    let whole = meter.usage();
    for size in [1, 2, 3, 7, 64] {
        meter.start(None);
        data.chunks(size).for_each(|piece| meter.observe(piece));
        assert_eq!(meter.usage(), whole, "pieces of {size}");
    }
}

/// The meter of one answer after the other.
pub struct WholeMeter {
    scan: MemberScan,
    parser: UsageParser,
    body_len: Option<u64>,
    seen: usize,
    /// The beginning of a usage object that goes on in the next piece.
    begun: Vec<u8>,
    usage: Option<Usage>,
}

impl Default for WholeMeter {
    fn default() -> Self {
        Self {
            scan: MemberScan::new(WATCHED),
            parser: UsageParser::default(),
            body_len: None,
            seen: 0,
            begun: Vec::new(),
            usage: None,
        }
    }
}

impl WholeMeter {
    /// Starts with the next answer; `body_len` is its length where that is known beforehand.
    pub fn start(&mut self, body_len: Option<u64>) {
        self.scan = MemberScan::new(WATCHED);
        self.body_len = body_len;
        self.seen = 0;
        self.usage = None;
    }

    /// Looks at the next piece of the body.
    pub fn observe(&mut self, piece: &[u8]) {
        let whole = self.seen == 0 && self.body_len == Some(piece.len() as u64);
        if self.scan.failed() || (whole && !mentions_usage(piece)) {
            return;
        }
        let Self { scan, parser, begun, usage, .. } = self;
        let base = self.seen;
        let found = |member: Member| {
            // The prefilter does not know escapes, and what it passes must not depend on how the body is
            // split.
            if member.escaped {
                return;
            }
            let end = member.value.end - base;
            let parsed = match member.value.start.checked_sub(base) {
                Some(start) => parser.parse(&piece[start..end]),
                None => {
                    extend_bounded(begun, &piece[..end]);
                    parser.parse(begun)
                }
            };
            *usage = parsed.or(*usage);
        };
        // A garbled answer has the usage that was seen before.
        let _ = scan.feed(piece, found);
        if let Some(start) = scan.open_value() {
            if start >= base {
                begun.clear();
            }
            extend_bounded(begun, &piece[start.saturating_sub(base)..]);
        }
        self.seen += piece.len();
    }

    /// Whether the answer is a JSON object of which the end has not been seen.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.seen > 0 && !self.scan.failed() && self.scan.finish().is_err()
    }

    /// The last usage that was seen.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }
}

/// Appends up to one byte more than the parser takes.
fn extend_bounded(begun: &mut Vec<u8>, bytes: &[u8]) {
    let room = (USAGE_BYTES_MAX + 1).saturating_sub(begun.len());
    begun.extend_from_slice(&bytes[..room.min(bytes.len())]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The total of an answer, the same whole and split at every byte.
    fn total(answer: &str) -> Option<u32> {
        fuzz(answer.as_bytes());
        let mut meter = WholeMeter::default();
        meter.observe(answer.as_bytes());
        let whole = meter.usage();
        for cut in 0..=answer.len() {
            meter.start(Some(answer.len() as u64));
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
            (
                r#"{"choices":[{}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#,
                Some(7),
            ),
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
            "{'a':1,\"usage\":{\"total_tokens\":9}}",
        ] {
            assert_eq!(total(answer), None, "{answer}");
        }
        assert_eq!(total(r#"{"usage":{"total_tokens":9}} trailing"#), Some(9));
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
        meter.start(None);
        meter.observe(br#"{"usage":{"total_tokens":4}"#);
        meter.start(Some(2));
        assert_eq!(meter.usage(), None);
        meter.observe(b"{}");
        assert_eq!(meter.usage(), None);
    }
}
