//! A range of bytes in a head, without a borrow of it.
//!
//! A parsed head lives as long as its exchange, while the buffer that it points into is read, moved and given
//! back. Offsets say the same as slices and leave the buffer free. A span belongs to the very bytes that were
//! parsed; applied to others it yields other bytes or nothing, but never panics.
//!
//! Invariant: `start <= end <= HEAD_BYTES_MAX`

/// Offsets of some bytes in a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u16,
    /// Offset after the last byte.
    pub end: u16,
}

impl Span {
    /// From `start` to `end`, or nothing where they are not in a head.
    pub(super) fn new(start: usize, end: usize) -> Self {
        match (u16::try_from(start), u16::try_from(end)) {
            (Ok(start), Ok(end)) => Self { start, end },
            _ => Self::default(),
        }
    }

    /// The bytes in `head`, which must be the head that was parsed; empty where the span lies outside of it.
    pub fn of<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.start.into()..self.end.into()).unwrap_or_default()
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start).into()
    }

    /// True if there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where `part` lies in `whole`. A part that is not of the whole gives an empty span.
    pub(super) fn locate(whole: &[u8], part: &[u8]) -> Self {
        let offset = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        let end = offset.saturating_add(part.len());
        if end <= whole.len() { Self::new(offset, end) } else { Self::default() }
    }

    /// The span that leaves out the first `count` bytes.
    pub(super) fn skip(self, count: usize) -> Self {
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        Self { start: self.start.saturating_add(count).min(self.end), end: self.end }
    }
}

#[cfg(test)]
mod tests {
    use super::Span;

    #[test]
    fn located_part_is_read_back() {
        let whole = b"content-type: text/plain";
        let span = Span::locate(whole, &whole[14..]);
        assert_eq!(span, Span { start: 14, end: 24 });
        assert_eq!(span.of(whole), b"text/plain");
        assert_eq!(span.skip(5).of(whole), b"plain");
        assert!(span.skip(11).is_empty());
    }

    #[test]
    fn span_of_other_bytes_is_empty_and_does_not_panic() {
        let whole = [b'a'; 64];
        let other = [b'b'; 64];
        assert!(Span::locate(&whole[..8], &other[..8]).of(&whole[..8]).len() <= 8);
        assert_eq!(Span { start: 60, end: 70 }.of(&whole), b"");
        assert_eq!(Span { start: 9, end: 3 }.of(&whole), b"");
        assert_eq!(Span { start: 9, end: 3 }.len(), 0);
    }
}
