//! Stamps: when an event of a stream was sent, told in its content by the upstream.
//!
//! `@` and twenty digits: nanoseconds of CLOCK_MONOTONIC. The content of an event has no other `@`.

use crate::upstream::STAMP_DIGITS;

/// Finds the stamps of a body that grows.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    /// What lies before was searched.
    searched: usize,
}

impl Stamps {
    /// Calls `found` with each stamp that has come to its end since the last call.
    pub(super) fn read(&mut self, body: &[u8], mut found: impl FnMut(u64)) {
        while let Some(at) = memchr::memchr(b'@', &body[self.searched..]) {
            let digits = self.searched + at + 1;
            let Some(stamp) = body.get(digits..digits + STAMP_DIGITS) else {
                self.searched = digits - 1;
                return;
            };
            self.searched = digits;
            let value = std::str::from_utf8(stamp).ok().and_then(|text| text.parse().ok());
            if let Some(sent_ns) = value {
                found(sent_ns);
            }
        }
        self.searched = body.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b"data: {\"content\":\"@00000000000000000017 \"}\n\ndata: \"@x\"\n\n\"@00000000001234567890\"";

    #[test]
    fn each_stamp_is_found_once_wherever_the_body_is_cut() {
        for cut in 0..=BODY.len() {
            let (mut stamps, mut found) = (Stamps::default(), Vec::new());
            stamps.read(&BODY[..cut], |stamp| found.push(stamp));
            stamps.read(BODY, |stamp| found.push(stamp));
            assert_eq!(found, [17, 1_234_567_890], "cut at {cut}");
        }
    }
}
