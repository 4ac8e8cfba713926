//! How many tokens an answer used: read from the answer itself while it passes.
//!
//! The upstream says so in an object `usage` at the top level of its answer, or of an event of its stream. A
//! prefilter finds the bytes `"usage"`; only then is anything parsed, and then a copy of that one object. In
//! a string the quotes would be escaped, so text that speaks of usage does not pass the prefilter. The last
//! non-null `usage` wins: some upstreams send two, and the second knows more. An answer that is not what it
//! should be never fails here; it has no usage.

/// The counts, and how they are read from a usage object.
pub mod usage;

/// Answers that are one JSON document.
pub mod whole;

/// Answers that are event streams, and the removal of usage that only we asked for.
pub mod stream;

/// Meters kept from one answer to the next.
pub mod pool;

use std::sync::LazyLock;

use memchr::memmem::Finder;

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// Whether a member `usage` other than null may be in `bytes`. Many upstreams send a null with every event.
fn mentions_usage(bytes: &[u8]) -> bool {
    USAGE.find_iter(bytes).any(|at| {
        let after = bytes[at + USAGE.needle().len()..].trim_ascii_start();
        let value = after.strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        !value.is_some_and(|value| value.starts_with(b"null"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_usage_that_is_not_null_is_mentioned() {
        for (bytes, mentioned) in [
            (r#"{"usage":{"total_tokens":1}}"#, true),
            (r#"{"usage":null}"#, false),
            (r#"{"usage" : null, "usage":{}}"#, true),
            (r#"{"a":{"usage":null},"usage": null}"#, false),
            (r#"{"text":"\"usage\":{}"}"#, false),
            (r#"{"usages":{}}"#, false),
            ("\"usage\"", true),
            ("\"usage\":", true),
        ] {
            assert_eq!(mentions_usage(bytes.as_bytes()), mentioned, "{bytes}");
        }
    }
}
