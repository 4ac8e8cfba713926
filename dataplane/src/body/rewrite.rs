//! The edits that a request body gets on its way to the upstream: at most three byte ranges, all else
//! identical.
//!
//! ```text
//! {"model":"fast", "messages":[...], "stream":true                                          }
//!           ^^^^ upstream's name                    ^ ,"stream_options":{"include_usage":true}
//! ```
//!
//! Where the path alone names the model, the member is added behind the opening brace, or its null replaced.
//! `stream_options` is added before the closing brace, or merged into the one that is there. Edits are sorted
//! and do not overlap.

use std::ops::Range;

use super::scan::{ScannedRequest, StreamOptions, Switch};
use crate::json::text::escape;

/// The model, and two switches in `stream_options`.
const EDITS_MAX: usize = 3;

const USAGE: &str = r#""include_usage":true"#;
const COMMA_USAGE: &str = r#","include_usage":true"#;
const CONTINUOUS: &str = r#""continuous_usage_stats":true"#;
const COMMA_CONTINUOUS: &str = r#","continuous_usage_stats":true"#;
const BOTH: &str = r#""include_usage":true,"continuous_usage_stats":true"#;
const COMMA_BOTH: &str = r#","include_usage":true,"continuous_usage_stats":true"#;
const OPTIONS_USAGE: &str = r#"{"include_usage":true}"#;
const OPTIONS_BOTH: &str = r#"{"include_usage":true,"continuous_usage_stats":true}"#;
const MEMBER_USAGE: &str = r#","stream_options":{"include_usage":true}"#;
const MEMBER_BOTH: &str = r#","stream_options":{"include_usage":true,"continuous_usage_stats":true}"#;

/// What usage to ask the upstream for, beyond what the client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageAsk {
    /// Nothing.
    Leave,
    /// The usage event at the end of a stream.
    Include,
    /// Usage with every event of a stream as well (vLLM and SGLang).
    IncludeContinuous,
}

/// A model's name as it is written into bodies: `"model":"NAME",`.
#[derive(Debug)]
pub struct ModelText(String);

/// What stands before the value in it.
const MODEL_KEY: &str = r#""model":"#;

impl ModelText {
    /// For the model `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(format!("{MODEL_KEY}\"{}\",", escape(name)))
    }

    fn value(&self) -> &str {
        &self.0[MODEL_KEY.len()..self.0.len() - 1]
    }

    /// The whole member, with a comma where others follow.
    fn member(&self, others: bool) -> &str {
        &self.0[..self.0.len() - usize::from(!others)]
    }
}

/// The edits of one body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splice<'m> {
    edits: [Edit<'m>; EDITS_MAX],
    count: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Edit<'m> {
    range: Range<usize>,
    text: &'m str,
}

/// Plans the edits of a scanned body. `model` is what the upstream is to read as its model; `None` leaves
/// what the client wrote.
#[must_use]
pub fn plan<'m>(scanned: &ScannedRequest, model: Option<&'m ModelText>, usage: UsageAsk) -> Splice<'m> {
    let mut splice = Splice::default();
    if let Some(model) = model {
        let absent = scanned.model_value.is_empty();
        let text = if absent { model.member(scanned.has_members) } else { model.value() };
        splice.push(scanned.model_value.clone(), text);
    }
    let continuous = usage == UsageAsk::IncludeContinuous;
    if scanned.stream && usage != UsageAsk::Leave {
        match &scanned.stream_options {
            None => {
                let member = if continuous { MEMBER_BOTH } else { MEMBER_USAGE };
                // There is a member before it in any case: `stream`.
                splice.push(scanned.object_end..scanned.object_end, member);
            }
            Some(options) if options.is_null => {
                let value = if continuous { OPTIONS_BOTH } else { OPTIONS_USAGE };
                splice.push(options.value.clone(), value);
            }
            Some(options) => splice.merge(options, continuous),
        }
    }
    splice.edits[..splice.count].sort_by_key(|edit| edit.range.start);
    splice
}

impl<'m> Splice<'m> {
    fn push(&mut self, range: Range<usize>, text: &'m str) {
        self.edits[self.count] = Edit { range, text };
        self.count += 1;
    }

    /// Turns the switches of a `stream_options` object on, and adds those that are not there before its
    /// brace.
    fn merge(&mut self, options: &StreamOptions, continuous: bool) {
        let mut absent = |switch: &Option<Switch>| {
            if let Some(switch) = switch.as_ref().filter(|switch| !switch.on) {
                self.push(switch.value.clone(), "true");
            }
            switch.is_none()
        };
        let add_usage = absent(&options.include_usage);
        let add_continuous = continuous && absent(&options.continuous_usage_stats);
        let add = match (options.has_members, add_usage, add_continuous) {
            (_, false, false) => return,
            (false, true, false) => USAGE,
            (true, true, false) => COMMA_USAGE,
            (false, false, true) => CONTINUOUS,
            (true, false, true) => COMMA_CONTINUOUS,
            (false, true, true) => BOTH,
            (true, true, true) => COMMA_BOTH,
        };
        self.push(options.value.end - 1..options.value.end - 1, add);
    }

    /// Whether the body goes out as it came in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The length of a body of `body_len` bytes after the edits.
    #[must_use]
    pub fn rewritten_len(&self, body_len: usize) -> usize {
        let edits = &self.edits[..self.count];
        edits.iter().fold(body_len, |len, edit| len - edit.range.len() + edit.text.len())
    }

    /// The bytes of the edited body, as slices in order; at most `2 * 3 + 1`, some of which may be empty.
    pub fn slices<'a>(&'a self, body: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        (0..=self.count).flat_map(move |index| {
            let edits = &self.edits[..self.count];
            let from = index.checked_sub(1).map_or(0, |before| edits[before].range.end);
            let to = edits.get(index).map_or(body.len(), |edit| edit.range.start);
            let text = edits.get(index).map_or(&[][..], |edit| edit.text.as_bytes());
            [&body[from..to], text]
        })
    }

    /// Appends at most `bytes_max` bytes of the edited body to `out`, from the offset `from` of the edited
    /// body on, and returns how many; 0 at its end.
    pub fn append_piece(&self, body: &[u8], from: usize, bytes_max: usize, out: &mut Vec<u8>) -> usize {
        let (mut skip, mut room) = (from, bytes_max);
        for slice in self.slices(body) {
            let start = skip.min(slice.len());
            skip -= start;
            let taken = &slice[start..][..room.min(slice.len() - start)];
            out.extend_from_slice(taken);
            room -= taken.len();
            if room == 0 {
                break;
            }
        }
        bytes_max - room
    }
}

#[cfg(test)]
mod tests;
