//! The counts of a usage object, under one set of names.
//!
//! | here          | chat, text completions, embeddings         | responses                                |
//! |---------------|--------------------------------------------|------------------------------------------|
//! | `prompt`      | `prompt_tokens`                            | `input_tokens`                           |
//! | `cached`      | `prompt_tokens_details.cached_tokens`      | `input_tokens_details.cached_tokens`     |
//! | `cache_write` | `prompt_tokens_details.cache_write_tokens` | `input_tokens_details.cache_write_tokens`|
//! | `completion`  | `completion_tokens`                        | `output_tokens`                          |
//! | `reasoning` | `completion_tokens_details.reasoning_tokens` | `output_tokens_details.reasoning_tokens` |
//! | `total`       | `total_tokens`, else prompt + completion   | the same                                 |
//!
//! Where an object has both names, the left one counts: some gateways send the right one as zero beside it. A
//! member that is no count (null, negative, a fraction, beyond 32 bits) is taken as absent; an explicit zero
//! stays zero.

use std::mem;

use simd_json::prelude::*;
use simd_json::tape::{Object, Value};
use simd_json::{Buffers, Tape};

/// The form that nearly every usage object has.
mod plain;

/// The longest usage object that is parsed.
pub const USAGE_BYTES_MAX: usize = 64 * 1024;

/// Parses any bytes twice with the same buffers, and holds that the first did not change the second, and that
/// what is read as plain says the same to the parser.
pub fn fuzz(data: &[u8]) {
    let mut parser = UsageParser::default();
    let usage = parser.parse(data);
    assert_eq!(parser.parse(data), usage);
    if let Some((counts, len)) = plain::read(data).filter(|(_, len)| *len <= USAGE_BYTES_MAX) {
        assert_eq!(parser.parse_any(&data[..len]), counts.usage());
        assert!(len < data.len() || usage == counts.usage());
    }
    assert_eq!(parser.parse(b"{\"total_tokens\":1}"), Some(Usage { total: 1, ..Usage::default() }));
}

/// The tokens of one exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All input, cached or not.
    pub prompt: u32,
    /// Input that was read from a cache.
    pub cached: u32,
    /// Input that was written to a cache.
    pub cache_write: u32,
    /// All output, reasoning included.
    pub completion: u32,
    /// Output that was reasoning.
    pub reasoning: u32,
    /// What the upstream calls the total.
    pub total: u32,
}

/// Parses usage objects, with buffers that it keeps. It has no `Debug` form, nor have its owners: they hold
/// text.
pub struct UsageParser {
    /// simd-json writes into its input, and what passes to the client must not change.
    copy: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl Default for UsageParser {
    fn default() -> Self {
        Self { copy: Vec::new(), buffers: Buffers::default(), tape: Tape(Vec::new()) }
    }
}

impl UsageParser {
    /// Reads one usage object; `None` if it is not an object, too long, or without any count.
    pub fn parse(&mut self, object: &[u8]) -> Option<Usage> {
        if object.len() > USAGE_BYTES_MAX || object.first() != Some(&b'{') {
            return None;
        }
        match plain::read(object) {
            Some((counts, len)) if len == object.len() => counts.usage(),
            _ => self.parse_any(object),
        }
    }

    /// Reads a usage object of any form.
    fn parse_any(&mut self, object: &[u8]) -> Option<Usage> {
        self.copy.clear();
        self.copy.extend_from_slice(object);
        let mut tape = mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let filled = simd_json::fill_tape(&mut self.copy, &mut self.buffers, &mut tape);
        let usage = filled.ok().and_then(|()| Counts::read(&tape.as_value().as_object()?).usage());
        self.tape = tape.reset();
        usage
    }
}

/// Reads the plain usage object that `bytes` begin with: its counts, if it has any, and its length. `None`
/// where it has to be found and parsed as any other.
pub(super) fn read_plain(bytes: &[u8]) -> Option<(Option<Usage>, usize)> {
    let (counts, len) = plain::read(bytes).filter(|(_, len)| *len <= USAGE_BYTES_MAX)?;
    Some((counts.usage(), len))
}

/// One direction's counts, as far as they are there.
#[derive(Default)]
struct Tokens {
    all: Option<u32>,
    cached: Option<u32>,
    cache_write: Option<u32>,
    reasoning: Option<u32>,
}

impl Tokens {
    fn read_details(&mut self, details: Value<'_, '_>) {
        let Some(details) = details.as_object() else { return };
        for (name, value) in details.iter() {
            match name {
                "cached_tokens" => self.cached = count(value),
                "cache_write_tokens" => self.cache_write = count(value),
                "reasoning_tokens" => self.reasoning = count(value),
                _ => {}
            }
        }
    }
}

#[derive(Default)]
struct Counts {
    prompt: Tokens,
    input: Tokens,
    completion: Tokens,
    output: Tokens,
    total: Option<u32>,
}

impl Counts {
    fn read(object: &Object<'_, '_>) -> Self {
        let mut counts = Self::default();
        for (name, value) in object.iter() {
            match name {
                "prompt_tokens" => counts.prompt.all = count(value),
                "input_tokens" => counts.input.all = count(value),
                "completion_tokens" => counts.completion.all = count(value),
                "output_tokens" => counts.output.all = count(value),
                "total_tokens" => counts.total = count(value),
                "prompt_tokens_details" => counts.prompt.read_details(value),
                "input_tokens_details" => counts.input.read_details(value),
                "completion_tokens_details" => counts.completion.read_details(value),
                "output_tokens_details" => counts.output.read_details(value),
                _ => {}
            }
        }
        counts
    }

    fn usage(&self) -> Option<Usage> {
        let prompt = self.prompt.all.or(self.input.all);
        let cached = self.prompt.cached.or(self.input.cached);
        let cache_write = self.prompt.cache_write.or(self.input.cache_write);
        let completion = self.completion.all.or(self.output.all);
        let reasoning = self.completion.reasoning.or(self.output.reasoning);
        let sum = || prompt.unwrap_or(0).saturating_add(completion.unwrap_or(0));
        [prompt, cached, cache_write, completion, reasoning, self.total].iter().any(Option::is_some).then(
            || Usage {
                prompt: prompt.unwrap_or(0),
                cached: cached.unwrap_or(0),
                cache_write: cache_write.unwrap_or(0),
                completion: completion.unwrap_or(0),
                reasoning: reasoning.unwrap_or(0),
                total: self.total.unwrap_or_else(sum),
            },
        )
    }
}

/// A number of tokens: a whole number of 32 bits, also where it is written as `12.0`.
fn count(value: Value<'_, '_>) -> Option<u32> {
    if let Some(whole) = value.as_u64() {
        return u32::try_from(whole).ok();
    }
    let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked, and there is no TryFrom<f64>")]
    (0.0..=f64::from(u32::MAX)).contains(&number).then_some(number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(object: &str) -> Option<[u32; 6]> {
        fuzz(object.as_bytes());
        UsageParser::default().parse(object.as_bytes()).map(|usage| {
            [usage.prompt, usage.cached, usage.cache_write, usage.completion, usage.reasoning, usage.total]
        })
    }

    #[test]
    fn counts_are_read_under_either_set_of_names() {
        for (object, counts) in [
            (r#"{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}"#, [3, 0, 0, 4, 0, 7]),
            (
                r#"{"prompt_tokens":30,"completion_tokens":9,"total_tokens":39,
                    "prompt_tokens_details":{"cached_tokens":10,"cache_write_tokens":5,"audio_tokens":1},
                    "completion_tokens_details":{"reasoning_tokens":6,"accepted_prediction_tokens":2}}"#,
                [30, 10, 5, 9, 6, 39],
            ),
            (
                r#"{"input_tokens":30,"input_tokens_details":{"cached_tokens":10,"cache_write_tokens":5},
                    "output_tokens":9,"output_tokens_details":{"reasoning_tokens":6},"total_tokens":39}"#,
                [30, 10, 5, 9, 6, 39],
            ),
            (r#"{"prompt_tokens":5,"total_tokens":5}"#, [5, 0, 0, 0, 0, 5]),
            (r#"{"prompt_tokens":5,"completion_tokens":6}"#, [5, 0, 0, 6, 0, 11]),
            (
                r#"{"prompt_tokens":8,"input_tokens":0,"output_tokens":0,"completion_tokens":2}"#,
                [8, 0, 0, 2, 0, 10],
            ),
            (r#"{"total_tokens":12}"#, [0, 0, 0, 0, 0, 12]),
        ] {
            assert_eq!(parse(object), Some(counts), "{object}");
        }
    }

    #[test]
    fn explicit_zeros_stay_zero() {
        assert_eq!(parse(r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#), Some([0; 6]));
        assert_eq!(
            parse(r#"{"prompt_tokens":2,"completion_tokens":3,"total_tokens":0}"#),
            Some([2, 0, 0, 3, 0, 0])
        );
    }

    #[test]
    fn members_that_are_no_counts_are_taken_as_absent() {
        for (object, counts) in [
            (
                r#"{"prompt_tokens":12.0,"completion_tokens":3.5,"total_tokens":1e1}"#,
                Some([12, 0, 0, 0, 0, 10]),
            ),
            (r#"{"prompt_tokens":-1,"completion_tokens":2}"#, Some([0, 0, 0, 2, 0, 2])),
            (r#"{"prompt_tokens":4294967296,"completion_tokens":1}"#, Some([0, 0, 0, 1, 0, 1])),
            (r#"{"prompt_tokens":4294967295,"completion_tokens":9}"#, Some([u32::MAX, 0, 0, 9, 0, u32::MAX])),
            (
                r#"{"prompt_tokens":1,"prompt_tokens_details":null,"completion_tokens":null}"#,
                Some([1, 0, 0, 0, 0, 1]),
            ),
            (r#"{"prompt_tokens":"7","total_tokens":true,"completion_tokens":1}"#, Some([0, 0, 0, 1, 0, 1])),
            (
                r#"{"prompt_tokens":1,"x":{"prompt_tokens":9,"y":[{"total_tokens":9}]}}"#,
                Some([1, 0, 0, 0, 0, 1]),
            ),
            (r#"{"prompt_tokens":1,"prompt_tokens":2}"#, Some([2, 0, 0, 0, 0, 2])),
        ] {
            assert_eq!(parse(object), counts, "{object}");
        }
    }

    #[test]
    fn unknown_members_are_tolerated_however_deep() {
        for depth in [1, 400, 2000] {
            let object = format!("{{\"total_tokens\":1,\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
            // simd-json follows 1024 brackets; a scan that found the object has refused 512 of them before.
            assert_eq!(parse(&object).is_some(), depth < crate::json::DEPTH_MAX);
        }
    }

    #[test]
    fn an_object_without_a_count_is_no_usage() {
        let long = format!("{{\"total_tokens\":1{}}}", " ".repeat(USAGE_BYTES_MAX));
        for object in [
            "",
            "null",
            "{}",
            "[]",
            "3",
            "{\"seconds\":3}",
            "{\"prompt_tokens\":null}",
            "{\"prompt_tokens\":3",
            "{\"a\" 1}",
            "{\"prompt_tokens\":3}}",
            "{\"prompt_tokens\":03}",
            &long,
        ] {
            assert_eq!(parse(object), None, "{object:.40}");
        }
    }
}
