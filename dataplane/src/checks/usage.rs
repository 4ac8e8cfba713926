//! The usage in an answer: as one object, in a whole answer, in a stream; beside `serde_json`.

use serde_json::Value;

use crate::meter::stream::{StreamMeter, StreamMode};
use crate::meter::usage::{USAGE_BYTES_MAX, Usage, UsageParser};
use crate::meter::whole::WholeMeter;
use crate::meter::{stream, usage, whole};

/// From so many digits on a whole number may be beyond 64 bits.
const DIGITS_OF_64_BITS: usize = 19;

/// Any bytes as a usage object, as a whole answer, and as a stream.
pub fn usage(data: &[u8]) {
    usage::fuzz(data);
    whole::fuzz(data);
    stream::fuzz(data);
    let Ok(document @ Value::Object(_)) = serde_json::from_slice(data) else { return };
    // What escapes and repeated members mean is said by the meters' own tests; `serde_json` drops the latter.
    let quotes = |text: &[u8]| text.iter().filter(|byte| **byte == b'"').count();
    let repeated = quotes(document.to_string().as_bytes()) != quotes(data);
    // Whole numbers beyond 64 bits are numbers to `serde_json`; to simd-json an object with one is none.
    let beyond = data.windows(DIGITS_OF_64_BITS).any(|some| some.iter().all(u8::is_ascii_digit));
    if data.len() > USAGE_BYTES_MAX || data.contains(&b'\\') || repeated || beyond {
        return;
    }
    assert_eq!(UsageParser::default().parse(data.trim_ascii()), counts(&document));
    let told = document.get("usage").filter(|value| value.is_object()).and_then(counts);
    let mut whole = WholeMeter::default();
    whole.start(true);
    whole.observe(data);
    assert_eq!((whole.usage(), whole.is_open()), (told, false));
    if !data.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        let mut event = [b"data: ", data, b"\n\ndata: [DONE]\n\n"].concat();
        let mut stream = StreamMeter::new(StreamMode::Observe);
        stream.observe(&mut event);
        assert_eq!((stream.usage(), stream.saw_done()), (told, true));
    }
}

/// The counts of a usage object, read a second time.
fn counts(object: &Value) -> Option<Usage> {
    let either = |detail: &str, left: &str, right: &str| {
        let place = |name: &str| {
            let (all, details) = (&object[name], &object[format!("{name}_details")]);
            if detail.is_empty() { count(all) } else { count(&details[detail]) }
        };
        place(left).or(place(right))
    };
    let input = |detail| either(detail, "prompt_tokens", "input_tokens");
    let output = |detail| either(detail, "completion_tokens", "output_tokens");
    let total = count(&object["total_tokens"]);
    let found = [
        input(""),
        input("cached_tokens"),
        input("cache_write_tokens"),
        output(""),
        output("reasoning_tokens"),
        total,
    ];
    found.iter().any(Option::is_some).then(|| {
        let [prompt, cached, cache_write, completion, reasoning, _] = found.map(Option::unwrap_or_default);
        let total = total.unwrap_or(prompt.saturating_add(completion));
        Usage { prompt, cached, cache_write, completion, reasoning, total }
    })
}

/// A whole number of 32 bits, in whatever form it is written.
fn count(value: &Value) -> Option<u32> {
    if let Some(whole) = value.as_u64() {
        return u32::try_from(whole).ok();
    }
    // Printed without an exponent, a whole number has no point; -0 is 0.
    value.as_f64().filter(|number| *number >= 0.0)?.abs().to_string().parse().ok()
}
