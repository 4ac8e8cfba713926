//! What a data plane says of its usage events: which numbers it gave out, and where the events are.
//!
//! The control plane holds it against what ClickHouse has: `liutong usage verify`.
//!
//! ```text
//! at_ms u64 | totals, u64 each | boots u32, then each:
//! boot u64 | ended u8 | workers u32, then each: admitted u64, reserved u64
//! ```

use crate::codec::{DecodeError, Reader, Write};
use crate::id::BootId;

/// Where the usage events of one process and of those it took over from are.
///
/// Invariants, where nothing is on the move:
///
///   * `admitted = in_flight + appended + lost_slots`
///   * `appended + adopted + found = acked + pending + set_aside + lost`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Exchanges admitted.
    pub admitted: u64,
    /// Of those, not in the spool yet.
    pub in_flight: u64,
    /// Of those, written to the spool.
    pub appended: u64,
    /// Taken over from processes that are gone.
    pub adopted: u64,
    /// In batches that earlier processes left.
    pub found: u64,
    /// Stored.
    pub acked: u64,
    /// On the disk, or in the slots of a process that is gone, and not stored.
    pub pending: u64,
    /// Refused for ever, and kept.
    pub set_aside: u64,
    /// Were in a batch, and can't be read any more.
    pub lost: u64,
    /// Slots that could not be read.
    pub lost_slots: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Ended {
    /// It has not.
    #[default]
    Runs = 0,
    /// In order.
    Clean = 1,
    /// Killed; its slots say which numbers it gave out.
    Killed = 2,
    /// With the machine: it may have given out any number up to those reserved.
    PowerCut = 3,
}

/// The numbers that one process gave out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The process.
    pub boot: BootId,
    /// How it ended.
    pub ended: Ended,
    /// For each worker: how many exchanges it admitted, and the number that it cannot have passed.
    pub workers: Vec<(u64, u64)>,
}

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// When it was made, Unix time in milliseconds.
    pub at_ms: u64,
    /// Sums.
    pub totals: Totals,
    /// This process, and those that ended and were not noted yet.
    pub boots: Vec<Numbers>,
}

impl Totals {
    fn each(&mut self) -> [&mut u64; 10] {
        let Self {
            admitted,
            in_flight,
            appended,
            adopted,
            found,
            acked,
            pending,
            set_aside,
            lost,
            lost_slots,
        } = self;
        [admitted, in_flight, appended, adopted, found, acked, pending, set_aside, lost, lost_slots]
    }
}

impl Report {
    /// Appends the report.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.at_ms);
        let mut totals = self.totals;
        totals.each().into_iter().for_each(|total| out.put_u64(*total));
        put_count(out, self.boots.len());
        for Numbers { boot, ended, workers } in &self.boots {
            out.put_u64(boot.0);
            out.put_u8(*ended as u8);
            put_count(out, workers.len());
            for (admitted, reserved) in workers {
                out.put_u64(*admitted);
                out.put_u64(*reserved);
            }
        }
    }

    /// Reads a report.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut this = Self { at_ms: r.u64("at_ms")?, ..Self::default() };
        for total in this.totals.each() {
            *total = r.u64("totals")?;
        }
        for _ in 0..r.u32("boots")? {
            this.boots.push(Numbers {
                boot: BootId(r.u64("boot")?),
                ended: ended(r.u8("ended")?)?,
                workers: pairs(r, "workers")?,
            });
        }
        Ok(this)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u32(u32::try_from(count).expect("a report has fewer than 2^32 parts"));
}

fn ended(value: u8) -> Result<Ended, DecodeError> {
    Ok(match value {
        0 => Ended::Runs,
        1 => Ended::Clean,
        2 => Ended::Killed,
        3 => Ended::PowerCut,
        value => return Err(DecodeError::Value { field: "ended", value: value.into() }),
    })
}

fn pairs(r: &mut Reader<'_>, field: &'static str) -> Result<Vec<(u64, u64)>, DecodeError> {
    let mut pairs = Vec::new();
    for _ in 0..r.u32(field)? {
        pairs.push((r.u64(field)?, r.u64(field)?));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_as_it_was_written_and_cut_anywhere_is_an_error() {
        let numbers = |boot, ended| Numbers { boot: BootId(boot), ended, workers: vec![(7, 64), (0, 0)] };
        let report = Report {
            at_ms: 5,
            totals: Totals { admitted: 1, lost_slots: 10, pending: 7, ..Totals::default() },
            boots: vec![numbers(1, Ended::Runs), numbers(2, Ended::PowerCut)],
        };
        let mut bytes = Vec::new();
        report.encode(&mut bytes);
        assert_eq!(Report::decode(&mut Reader::new(&bytes)), Ok(report));
        for cut in 0..bytes.len() {
            assert!(Report::decode(&mut Reader::new(&bytes[..cut])).is_err(), "{cut}");
        }
    }
}
