//! Batches of usage events: one batch, one insert, one token.
//!
//! A batch is immutable: the same rows in the same order, of one UTC day, at most 100,000 of them, so that
//! ClickHouse takes it as one block into one part: all of it or nothing. Its token makes sending it again
//! harmless, and its number in every row proves that it is there. Anything but `Ok` means that it may or may
//! not be stored: the same bytes are sent again, until they are. Every insert option is sent explicitly:
//! servers' defaults differ by version (`async_insert` is on by default in 26.x, and would acknowledge rows
//! merged with others' under no token).
//!
//! After the events their row in the ledger `batches` is written, and only then is the batch stored. If
//! anything dies in between, the batch comes again, and with it the ledger's row, which replaces itself.

use std::time::{Duration, SystemTime};

use clickhouse::Row;
use serde::{Serialize, Serializer};

use super::client::{ClickHouseError, Client};
use super::ledger::LedgerRow;

/// The most rows of one batch: far below ClickHouse's block size, so that a batch is one block.
pub const BATCH_ROWS_MAX: usize = 100_000;

/// Milliseconds of a UTC day.
pub const DAY_MS: i64 = 86_400_000;

const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const END_TIMEOUT: Duration = Duration::from_mins(2);

/// A 64-bit number as ClickHouse has it: 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex16([u8; 16]);

impl Hex16 {
    /// The digits of `number`.
    #[must_use]
    pub fn new(number: u64) -> Self {
        let mut digits = [0; 16];
        for (digit, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
            digit[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            digit[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        Self(digits)
    }

    /// Reads what `as_str` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes().try_into().ok().map(Self)?;
        u64::from_str_radix(text, 16).ok().map(|_| digits)
    }

    /// The digits as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ever made of the digits above.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for Hex16 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Hex16 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Where an event's token counts come from; the values of the column's `Enum8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum UsageSource {
    /// Nobody said.
    None = 0,
    /// The last counts seen of a response that was not received whole.
    Partial = 1,
    /// The upstream's final counts.
    Final = 2,
}

impl Serialize for UsageSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i8(*self as i8)
    }
}

/// A row of `usage_events`; columns in the table's order.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize)]
pub struct UsageRow<'a> {
    /// Milliseconds since 1970, when the exchange was settled.
    pub ts: i64,
    /// The data plane's node.
    pub node: Hex16,
    /// The start of that data plane that admitted the exchange.
    pub boot: Hex16,
    /// The exchange's number in that boot.
    pub seq: u64,
    /// The spool that the event was shipped from.
    pub spool_id: Hex16,
    /// The batch it was shipped in.
    pub batch_seq: u64,
    /// `org_…`
    pub organization_id: &'a str,
    /// `team_…`
    pub team_id: &'a str,
    /// `app_…`
    pub application_id: &'a str,
    /// `key_…`
    pub key_id: &'a str,
    /// The plan billed; empty when there is none.
    pub plan: &'a str,
    /// The cost centre billed; empty when there is none.
    pub cost_centre: &'a str,
    /// The alias; empty for one that is not defined.
    pub model_alias: &'a str,
    /// The deployment that answered; empty when none was reached.
    pub deployment: &'a str,
    /// The endpoint asked.
    pub endpoint: &'a str,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The HTTP status that the client got, or 499 when it left before.
    pub status: u16,
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u32,
    /// Prompt tokens read from the upstream's cache.
    pub cached_tokens: u32,
    /// Prompt tokens written to it.
    pub cache_write_tokens: u32,
    /// Tokens of the answer, reasoning included.
    pub completion_tokens: u32,
    /// Tokens of reasoning.
    pub reasoning_tokens: u32,
    /// The upstream's total.
    pub total_tokens: u32,
    /// Where the counts come from.
    pub usage_source: UsageSource,
    /// From admission to settlement.
    pub latency_ms: u32,
    /// From admission to the first byte of the answer; 0 when none came.
    pub ttft_ms: u32,
    /// Upstream exchanges tried.
    pub attempts: u8,
}

/// Why a batch is not known to be stored.
#[derive(Debug, thiserror::Error)]
pub enum InsertError {
    /// The rows are not a batch; nothing was sent.
    #[error("not a batch: {0}")]
    Malformed(&'static str),
    /// ClickHouse refuses these rows for what they are; sending them again cannot help.
    #[error("batch refused: {0}")]
    Refused(ClickHouseError),
    /// It may be stored or not: send it again.
    #[error("batch not acknowledged: {0}")]
    Unacknowledged(ClickHouseError),
}

impl From<ClickHouseError> for InsertError {
    fn from(error: ClickHouseError) -> Self {
        if error.is_refusal() { Self::Refused(error) } else { Self::Unacknowledged(error) }
    }
}

impl From<clickhouse::error::Error> for InsertError {
    fn from(error: clickhouse::error::Error) -> Self {
        ClickHouseError::from(error).into()
    }
}

impl Client {
    /// Stores a batch's events under a token; when it returns, ClickHouse has them on disk, or believes that
    /// it had them before. `record_batch` comes next.
    ///
    /// # Errors
    /// [`InsertError::Unacknowledged`] when the same rows are to be sent again under the same token.
    pub async fn insert_events(&self, token: &str, rows: &[UsageRow<'_>]) -> Result<(), InsertError> {
        LedgerRow::of_rows(token, rows)?;
        let mut insert = self.insert_into::<UsageRow<'_>>("usage_events", token).await?;
        for row in rows {
            insert.write(row).await?;
        }
        Ok(insert.end().await?)
    }

    async fn insert_into<T: Row>(
        &self,
        table: &str,
        token: &str,
    ) -> Result<clickhouse::insert::Insert<T>, ClickHouseError> {
        let insert = self.inner().clone().with_database(super::client::DATABASE).insert::<T>(table).await?;
        Ok(with_times(insert)
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "1")
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
            .with_setting("insert_deduplication_token", token))
    }
}

/// An insert that ends in bounded time.
pub(super) fn with_times<T: Row>(insert: clickhouse::insert::Insert<T>) -> clickhouse::insert::Insert<T> {
    insert.with_timeouts(Some(SEND_TIMEOUT), Some(END_TIMEOUT))
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ts: i64, batch_seq: u64) -> UsageRow<'static> {
        UsageRow {
            ts,
            node: Hex16::new(1),
            boot: Hex16::new(2),
            seq: 3,
            spool_id: Hex16::new(2),
            batch_seq,
            organization_id: "org_1",
            team_id: "team_1",
            application_id: "app_1",
            key_id: "key_1",
            plan: "",
            cost_centre: "",
            model_alias: "m",
            deployment: "d",
            endpoint: "chat",
            stream: false,
            status: 200,
            prompt_tokens: 1,
            cached_tokens: 0,
            cache_write_tokens: 0,
            completion_tokens: 1,
            reasoning_tokens: 0,
            total_tokens: 2,
            usage_source: UsageSource::Final,
            latency_ms: 1,
            ttft_ms: 1,
            attempts: 1,
        }
    }

    #[test]
    fn hex_is_sixteen_lower_case_digits() {
        for number in [0, 1, 0xdead_beef, u64::MAX] {
            assert_eq!(Hex16::new(number).as_str(), format!("{number:016x}"));
        }
    }

    #[test]
    fn only_one_batch_of_one_day_is_sent() {
        let day = 20_000 * DAY_MS;
        let ledger =
            LedgerRow::of_rows("t", &[row(day + 5, 1), row(day + DAY_MS - 1, 1), row(day, 1)]).ok().unwrap();
        assert_eq!((ledger.day, ledger.rows), (20_000, 3));
        assert_eq!((ledger.first_ts, ledger.last_ts), (day, day + DAY_MS - 1));
        let refused = [
            LedgerRow::of_rows("t", &[]),
            LedgerRow::of_rows("", &[row(day, 1)]),
            LedgerRow::of_rows("t", &[row(day, 1), row(day, 2)]),
            LedgerRow::of_rows("t", &[row(day, 1), row(day + DAY_MS, 1)]),
            LedgerRow::of_rows("t", &[row(day - 1, 1), row(day, 1)]),
            LedgerRow::of_rows("t", &[row(-1, 1)]),
            LedgerRow::of_rows("t", &vec![row(day, 1); BATCH_ROWS_MAX + 1]),
        ];
        assert!(refused.iter().all(|ledger| matches!(ledger, Err(InsertError::Malformed(_)))));
    }
}
