//! Event streams (`text/event-stream`): where events end, and what their data is.
//!
//! A line ends with LF, CR or CRLF, mixed at will; an event ends with an empty line (HTML standard §9.2.5).
//! A CRLF may be torn between two reads: the event has ended at its CR then, and a LF that follows belongs to
//! it.
//!
//! ```text
//! : comment CRLF  data: {"a":1} LF  LF  data: [DONE] CR CR
//! +------------ event ---------------+ +----- event -----+
//! ```

use std::ops::Range;

use memchr::memchr2;

/// Finds event ends whole and split at every size, and holds that they are the same.
pub fn fuzz(data: &[u8]) {
    let whole = event_ends(data, data.len().max(1));
    for size in 1..8 {
        assert_eq!(event_ends(data, size), whole, "pieces of {size}");
    }
    assert_eq!(ends_at_boundary(data), data.is_empty() || whole.last() == Some(&data.len()));
    let mut start = 0;
    for end in whole {
        let mut joined = Vec::new();
        if let Data::Line(range) = event_data(&data[start..end], &mut joined) {
            assert!(range.end < end - start);
        }
        start = end;
    }
}

/// The ends of all events; one whose CRLF is torn between pieces ends behind its LF here.
fn event_ends(data: &[u8], size: usize) -> Vec<usize> {
    let mut scan = EventScan::default();
    let (mut ends, mut offset) = (Vec::new(), 0);
    for piece in data.chunks(size) {
        let mut at = scan.take_line_feed(piece);
        if at == 1 {
            ends.pop();
            ends.push(offset + 1);
        }
        while let Some(len) = scan.next_end(&piece[at..]) {
            at += len;
            ends.push(offset + at);
        }
        offset += piece.len();
        assert_eq!(scan.at_boundary(), ends.last().copied().unwrap_or(0) == offset);
    }
    ends
}

/// A resumable search for the ends of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventScan {
    /// Nothing of the current line was seen yet.
    line_empty: bool,
    /// The last byte was a CR, so that a LF now is the rest of a CRLF.
    after_cr: bool,
    /// Nothing of the current event was seen yet.
    at_boundary: bool,
}

impl Default for EventScan {
    fn default() -> Self {
        Self { line_empty: true, after_cr: false, at_boundary: true }
    }
}

impl EventScan {
    /// Finds the end of the current event: the offset in `bytes` just past its empty line.
    ///
    /// What was searched is not to be fed again: go on behind the offset, or with the next piece after
    /// `None`.
    pub fn next_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            at = usize::from(bytes[0] == b'\n');
        }
        while at < bytes.len() {
            let Some(len) = memchr2(b'\n', b'\r', &bytes[at..]) else {
                self.line_empty = false;
                self.at_boundary = false;
                return None;
            };
            let blank = len == 0 && self.line_empty;
            let terminator = at + len;
            at = terminator + 1;
            if bytes[terminator] == b'\r' {
                self.after_cr = at == bytes.len();
                at += usize::from(bytes.get(at) == Some(&b'\n'));
            }
            self.line_empty = true;
            self.at_boundary = blank;
            if blank {
                return Some(at);
            }
        }
        None
    }

    /// 1 if `bytes` begin with the LF of a CRLF whose CR ended the last event in the piece before, else 0.
    pub fn take_line_feed(&mut self, bytes: &[u8]) -> usize {
        let torn = self.at_boundary && self.after_cr && bytes.first() == Some(&b'\n');
        if torn {
            self.after_cr = false;
        }
        usize::from(torn)
    }

    /// Passes whole events without a search: `bytes` begin and end at a boundary.
    pub fn skip_events(&mut self, bytes: &[u8]) {
        debug_assert!(self.at_boundary && ends_at_boundary(bytes));
        if let Some(last) = bytes.last() {
            self.after_cr = *last == b'\r';
        }
    }

    /// Whether the bytes so far end with a whole event, so that another one may follow.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.at_boundary
    }
}

/// Whether bytes that begin at the start of an event end with the end of one.
#[must_use]
pub fn ends_at_boundary(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [line @ .., b'\r', b'\n'] | [line @ .., b'\n' | b'\r'] => {
            matches!(line.last(), None | Some(b'\n' | b'\r'))
        }
        _ => false,
    }
}

/// The data of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// It has no data line: a comment, for instance.
    None,
    /// One data line: the range of its value.
    Line(Range<usize>),
    /// Several data lines, joined by LF in the buffer that was given.
    Joined,
}

/// Finds the data of one event; several lines of it are copied into `joined`.
pub fn event_data(event: &[u8], joined: &mut Vec<u8>) -> Data {
    let mut data = Data::None;
    let mut at = 0;
    while at < event.len() {
        let len = memchr2(b'\n', b'\r', &event[at..]).unwrap_or(event.len() - at);
        let line = at..at + len;
        // A CRLF leaves an empty line here, which changes nothing.
        at += len + 1;
        let Some(value) = data_value(event, line) else { continue };
        match &data {
            Data::None => {
                data = Data::Line(value);
                continue;
            }
            Data::Line(first) => {
                joined.clear();
                joined.extend_from_slice(&event[first.clone()]);
            }
            Data::Joined => {}
        }
        joined.push(b'\n');
        joined.extend_from_slice(&event[value]);
        data = Data::Joined;
    }
    data
}

/// The value of a line if it is one of `data`: what follows the colon and one space.
fn data_value(event: &[u8], line: Range<usize>) -> Option<Range<usize>> {
    let after = event[line.clone()].strip_prefix(b"data")?;
    let value = match after {
        [] => after,
        [b':', b' ', value @ ..] | [b':', value @ ..] => value,
        _ => return None,
    };
    Some(line.end - value.len()..line.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_at_empty_lines_whatever_ends_a_line() {
        for (stream, ends) in [
            ("", &[][..]),
            ("data: a\n", &[]),
            ("data: a\n\n", &[9]),
            ("data: a\r\n\r\n", &[11]),
            ("data: a\r\r", &[9]),
            ("data: a\n\r", &[9]),
            ("data: a\r\n\n", &[10]),
            ("data: a\r\r\n", &[10]),
            ("data: a\n\r\ndata: b\n\n", &[10, 19]),
            ("data: a\r\rdata: b\r\r", &[9, 18]),
            (": ping\n\ndata: a\ndata: b\n\n", &[8, 25]),
            ("\n\n\r\n", &[1, 2, 4]),
            ("data: a\n \n\n", &[11]),
            ("data: a\r\ndata: b\r\n", &[]),
        ] {
            fuzz(stream.as_bytes());
            assert_eq!(event_ends(stream.as_bytes(), stream.len().max(1)), ends, "{stream:?}");
        }
    }

    #[test]
    fn every_short_mix_of_line_ends_is_read_alike_whole_and_split() {
        for number in 0..4_u32.pow(8) {
            let pick = |place: u32| b"a\n\r:"[number as usize >> (2 * place) & 3];
            fuzz(&(0..8).map(pick).collect::<Vec<_>>());
        }
    }

    #[test]
    fn data_is_what_follows_the_colon_and_one_space() {
        for (event, data) in [
            ("data: {}\n\n", Some("{}")),
            ("data:{}\r\n\r\n", Some("{}")),
            ("data:  {}\n\n", Some(" {}")),
            ("event: x\nid: 1\ndata: {}\n\n", Some("{}")),
            ("data: {\ndata: }\n\n", Some("{\n}")),
            ("data: a\rdata\rdata: b\r\r", Some("a\n\nb")),
            ("data\n\n", Some("")),
            (": data: a\n\n", None),
            ("data2: a\n\n", None),
            (" data: a\n\n", None),
            ("\n", None),
        ] {
            let mut joined = Vec::new();
            let found = match event_data(event.as_bytes(), &mut joined) {
                Data::None => None,
                Data::Line(range) => Some(event[range].to_owned()),
                Data::Joined => Some(String::from_utf8(joined).unwrap()),
            };
            assert_eq!(found.as_deref(), data, "{event:?}");
        }
    }
}
