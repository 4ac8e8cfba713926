//! Meters an event stream as it passes, and takes out of it the usage that only we asked for.
//!
//! The bytes of a read go on from the buffer they came in. Where events are ours to remove, an unfinished one
//! is held back until its end is there, or until it is longer than [`HELD_BYTES_MAX`] and passes as it is:
//!
//! ```text
//! bytes before:  [ held | newly read                              ]
//! bytes after:   [ forward: to the client now  | held | left over ]
//! ```
//!
//! A read that begins and ends at a boundary and has no `"usage"` in it costs two searches and a look at its
//! last bytes. Invariant: what passes does not depend on how the stream is split, but for events longer than
//! the limits.

use std::mem;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::mentions_usage;
use super::usage::{Usage, UsageParser};
use crate::json::{Member, MemberScan};
use crate::sse::{Data, EventScan, ends_at_boundary, event_data};

/// The longest unfinished event that is held back.
pub const HELD_BYTES_MAX: usize = 4 * 1024;

/// The longest event that is metered where it comes in several reads and was not held back.
pub const ASIDE_BYTES_MAX: usize = 64 * 1024;

const WATCHED: &[&str] = &["usage", "choices"];
const USAGE: usize = 0;

static DONE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"[DONE]"));

/// Meters a stream whole and in pieces, and holds that both ways pass and count the same.
pub fn fuzz(data: &[u8]) {
    let data = &data[..data.len().min(HELD_BYTES_MAX)];
    for mode in [StreamMode::Observe, StreamMode::Remove, StreamMode::Cut, StreamMode::CutMembers] {
        let mut meter = StreamMeter::new(mode);
        let whole = pass(&mut meter, [data]);
        let seen = (meter.usage(), meter.saw_done());
        assert!(mode != StreamMode::Observe || whole == data);
        for size in [1, 2, 3, 7, 64] {
            meter.restart(mode);
            assert_eq!(pass(&mut meter, data.chunks(size)), whole, "{mode:?}, pieces of {size}");
            assert_eq!((meter.usage(), meter.saw_done()), seen, "{mode:?}, pieces of {size}");
        }
    }
}

/// What a client receives of a stream that arrives in these pieces.
fn pass<'a>(meter: &mut StreamMeter, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut client, mut buffer) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let Passed { forward, held } = meter.observe(&mut buffer);
        client.extend_from_slice(&buffer[..forward]);
        buffer.copy_within(forward..forward + held, 0);
        buffer.truncate(held);
    }
    let forward = meter.finish(&mut buffer);
    client.extend_from_slice(&buffer[..forward]);
    client
}

/// What is taken out of a stream. An event is the usage event if its `usage` is an object and its `choices`
/// are empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamMode {
    /// Nothing: the client asked for the usage itself, or nobody did.
    Observe,
    /// The usage event, which we asked for.
    Remove,
    /// The usage event, and the member `usage` of events with choices; we asked for both.
    Cut,
    /// The member `usage` of events with choices, which we asked for; the client asked for the usage event.
    CutMembers,
}

/// What became of the bytes of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// This many bytes from the start go to the client now.
    pub forward: usize,
    /// This many bytes behind them are kept back, and stand before the next read's.
    pub held: usize,
}

/// The meter of one stream after the other.
pub struct StreamMeter {
    scan: EventScan,
    judge: Judge,
    /// How many bytes of the current event the caller holds back.
    held: usize,
    /// The beginning of the current event has gone to the client; `aside` has a copy.
    released: bool,
    aside: Vec<u8>,
    /// The last event was removed; if its CRLF was torn, the LF goes too.
    removed: bool,
}

impl StreamMeter {
    /// Starts the meter of a stream.
    #[must_use]
    pub fn new(mode: StreamMode) -> Self {
        let judge =
            Judge { mode, parser: UsageParser::default(), joined: Vec::new(), usage: None, done: false };
        Self {
            scan: EventScan::default(),
            judge,
            held: 0,
            released: false,
            aside: Vec::new(),
            removed: false,
        }
    }

    /// Starts with the next stream; the buffers are kept.
    pub fn restart(&mut self, mode: StreamMode) {
        self.scan = EventScan::default();
        self.judge.mode = mode;
        self.judge.usage = None;
        self.judge.done = false;
        self.held = 0;
        self.released = false;
        self.aside.clear();
        self.removed = false;
    }

    /// Looks at the next read: `bytes` are what was held back last time and what came now.
    ///
    /// What is taken out is closed up in place.
    pub fn observe(&mut self, bytes: &mut [u8]) -> Passed {
        if self.passes_whole(bytes) {
            self.scan.skip_events(bytes);
            self.removed = false;
            return Passed { forward: bytes.len(), held: 0 };
        }
        // The caller says how much is held by what it passes; never trust more than is there.
        let mut at = mem::take(&mut self.held).min(bytes.len());
        let (mut start, mut write) = (0, 0);
        if at == 0 && self.scan.take_line_feed(bytes) == 1 {
            (at, start) = (1, 1);
            write = usize::from(!self.removed);
        }
        while let Some(len) = self.scan.next_end(&bytes[at..]) {
            let event = start..at + len;
            let verdict = self.end_event(&bytes[event.clone()]);
            write = verdict.apply(bytes, write, &event);
            (start, at) = (event.end, event.end);
        }
        let rest = bytes.len() - start;
        shift(bytes, write, start..bytes.len());
        if rest > 0 && (self.released || rest > self.judge.mode.held_bytes_max()) {
            self.put_aside(&bytes[write..write + rest]);
            self.released = true;
            return Passed { forward: write + rest, held: 0 };
        }
        self.held = rest;
        Passed { forward: write, held: rest }
    }

    /// Ends the stream, and returns how many of the bytes held back go to the client after all.
    ///
    /// An event that lacks only its empty line is metered and judged like the others.
    pub fn finish(&mut self, held: &mut [u8]) -> usize {
        self.held = 0;
        if held.is_empty() && !self.released {
            return 0;
        }
        let verdict = self.end_event(held);
        let forward = verdict.apply(held, 0, &(0..held.len()));
        self.released = forward > 0 || held.is_empty();
        forward
    }

    /// The last usage that was seen.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.judge.usage
    }

    /// Whether what has been forwarded ends with a whole event, so that one of ours may follow, in place of
    /// any bytes that are held back.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        !self.released
    }

    /// Whether the event `data: [DONE]` has passed.
    #[must_use]
    pub fn saw_done(&self) -> bool {
        self.judge.done
    }

    /// Whether a read consists of whole events of which none is of interest.
    fn passes_whole(&self, bytes: &[u8]) -> bool {
        // A line feed may be the rest of a torn CRLF, and belongs to the event before.
        self.held == 0
            && self.scan.at_boundary()
            && bytes.first().is_some_and(|&first| first != b'\n')
            && ends_at_boundary(bytes)
            && !mentions_usage(bytes)
            && DONE.find(bytes).is_none()
    }

    /// Judges an event, of which `bytes` are the end, or all of it if nothing was forwarded before.
    fn end_event(&mut self, bytes: &[u8]) -> Verdict {
        let verdict = if mem::take(&mut self.released) {
            self.put_aside(bytes);
            if self.aside.len() <= ASIDE_BYTES_MAX {
                self.judge.event(&self.aside);
            }
            self.aside.clear();
            Verdict::Keep
        } else {
            self.judge.event(bytes)
        };
        self.removed = verdict == Verdict::Remove;
        verdict
    }

    /// Copies a part of the current event that is on its way to the client.
    fn put_aside(&mut self, bytes: &[u8]) {
        let room = (ASIDE_BYTES_MAX + 1).saturating_sub(self.aside.len());
        self.aside.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }
}

impl StreamMode {
    fn held_bytes_max(self) -> usize {
        if self == Self::Observe { 0 } else { HELD_BYTES_MAX }
    }
}

/// What happens to an event.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Remove,
    /// This range of it is cut out.
    Cut(Range<usize>),
}

impl Verdict {
    /// Moves what stays of an event to `write`, and returns where it ends there.
    fn apply(&self, bytes: &mut [u8], write: usize, event: &Range<usize>) -> usize {
        match self {
            Self::Keep => shift(bytes, write, event.clone()),
            Self::Remove => write,
            Self::Cut(range) => {
                let write = shift(bytes, write, event.start..event.start + range.start);
                shift(bytes, write, event.start + range.end..event.end)
            }
        }
    }
}

fn shift(bytes: &mut [u8], write: usize, range: Range<usize>) -> usize {
    let end = write + range.len();
    if write != range.start {
        bytes.copy_within(range, write);
    }
    end
}

/// Meters whole events, and decides what happens to them.
struct Judge {
    mode: StreamMode,
    parser: UsageParser,
    joined: Vec<u8>,
    usage: Option<Usage>,
    done: bool,
}

impl Judge {
    fn event(&mut self, event: &[u8]) -> Verdict {
        let usage = mentions_usage(event);
        if !usage && DONE.find(event).is_none() {
            return Verdict::Keep;
        }
        let data = event_data(event, &mut self.joined);
        let (text, offset) = match &data {
            Data::None => return Verdict::Keep,
            Data::Line(range) => (&event[range.clone()], Some(range.start)),
            Data::Joined => (&self.joined[..], None),
        };
        self.done |= text == b"[DONE]";
        let Some(found) = usage.then(|| Found::scan(text)).flatten() else { return Verdict::Keep };
        self.usage = self.parser.parse(&text[found.usage.value.clone()]).or(self.usage);
        match (self.mode, found.choices_empty) {
            (StreamMode::Remove | StreamMode::Cut, Some(true)) => Verdict::Remove,
            // Data of several lines stays as it is: no upstream sends it, and its members may span lines.
            (StreamMode::Cut | StreamMode::CutMembers, Some(false)) => {
                offset.map_or(Verdict::Keep, |offset| {
                    let range = member_with_comma(text, &found.usage);
                    Verdict::Cut(offset + range.start..offset + range.end)
                })
            }
            _ => Verdict::Keep,
        }
    }
}

/// An event's top-level members that matter, if its `usage` is an object.
struct Found {
    usage: Member,
    /// Whether `choices` is the empty array; `None` if there are no choices at all.
    choices_empty: Option<bool>,
}

impl Found {
    fn scan(text: &[u8]) -> Option<Self> {
        let (mut usage, mut choices_empty) = (None, None);
        let mut scan = MemberScan::new(WATCHED);
        let fed = scan.feed(text, |member| {
            if member.name != USAGE {
                let inside = text[member.value].strip_prefix(b"[").and_then(|value| value.strip_suffix(b"]"));
                choices_empty = Some(inside.is_some_and(|inside| inside.trim_ascii().is_empty()));
            } else if text[member.value.start] == b'{' && !member.escaped {
                usage = Some(member);
            }
        });
        fed.and_then(|()| scan.finish()).ok()?;
        Some(Self { usage: usage?, choices_empty })
    }
}

/// A member and the comma that would be one too many without it: the one before, else the one after.
fn member_with_comma(text: &[u8], member: &Member) -> Range<usize> {
    let before = text[..member.key].trim_ascii_end();
    if before.ends_with(b",") {
        return before.len() - 1..member.value.end;
    }
    let after = text[member.value.end..].trim_ascii_start();
    let rest = after.strip_prefix(b",").map_or(after, <[u8]>::trim_ascii_start);
    member.key..text.len() - rest.len()
}

#[cfg(test)]
mod tests;
