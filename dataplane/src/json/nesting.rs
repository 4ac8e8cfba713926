//! The open brackets of a value, one bit each: set for a brace, clear for a square bracket.

use super::DEPTH_MAX;

/// Brackets below the top-level object.
const OPEN_MAX: usize = DEPTH_MAX - 1;

#[derive(Debug, Default)]
pub(super) struct Nesting {
    kinds: [u64; DEPTH_MAX / 64],
    open: usize,
}

impl Nesting {
    pub(super) fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Opens a bracket; `None` if that is too deep.
    pub(super) fn push(&mut self, bracket: u8) -> Option<()> {
        if self.open == OPEN_MAX {
            return None;
        }
        let (word, bit) = (self.open / 64, 1 << (self.open % 64));
        if bracket == b'{' {
            self.kinds[word] |= bit;
        } else {
            self.kinds[word] &= !bit;
        }
        self.open += 1;
        Some(())
    }

    /// Closes a bracket; `None` if it is not of the innermost one's kind.
    pub(super) fn pop(&mut self, bracket: u8) -> Option<()> {
        let top = self.open.checked_sub(1)?;
        let brace = self.kinds[top / 64] & (1 << (top % 64)) != 0;
        self.open = top;
        (brace == (bracket == b'}')).then_some(())
    }
}
