//! Our tables out of ClickHouse and into another one, in its own Native format, partition by partition.
//!
//! The order in which tables are read makes a copy that was taken while batches come in a true one:
//!
//!   1. rollups: what they were made of is in the raw rows that are read after them; hours that have more
//!      there are derived anew
//!   2. the ledger: the events of each of its batches were stored before it said so
//!   3. raw events, last: those of batches that the ledger does not know yet are found when their data plane
//!      sends them again, which it does since the ledger lacks them
//!
//! Expired hours are in the rollups alone. Each SELECT sees one state of its table.

use std::io::{self, Read, Write};

use clickhouse::Row;
use serde::Deserialize;

use super::client::{ClickHouseError, Client};

/// The tables, in the order in which they are read.
pub const TABLES: [&str; 8] = [
    "usage_hourly_rollup",
    "usage_daily_rollup",
    "batches",
    "boots",
    "names",
    "usage_erased",
    "key_uses",
    "usage_events",
];

const PIECE_BYTES: usize = 1 << 20;

/// Why a table was not transferred.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// ClickHouse failed.
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    /// The file failed.
    #[error(transparent)]
    File(#[from] io::Error),
}

impl From<clickhouse::error::Error> for TransferError {
    fn from(error: clickhouse::error::Error) -> Self {
        Self::ClickHouse(error.into())
    }
}

/// A part of a table that is transferred at once.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct Partition {
    /// Its id.
    pub id: String,
    /// How many rows it had at the moment of listing.
    pub rows: u64,
}

impl Client {
    /// The partitions of one of `TABLES`.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn partitions(&self, table: &'static str) -> Result<Vec<Partition>, ClickHouseError> {
        let sql = "SELECT partition_id AS id, sum(rows) AS rows FROM system.parts
             WHERE database = 'liutong' AND table = {table:String} AND active GROUP BY id ORDER BY id";
        Ok(self.query(sql).param("table", table).fetch_all().await?)
    }

    /// Writes all rows of a partition to `out`.
    ///
    /// # Errors
    /// When the server or the file fails; what was written until then is worth nothing.
    pub async fn read_partition(
        &self,
        table: &'static str,
        partition: &str,
        out: &mut (dyn Write + Send),
    ) -> Result<(), TransferError> {
        // Names in `FROM` can't be parameters; ours are constants.
        let sql = format!("SELECT * FROM liutong.{table} WHERE _partition_id = {{partition:String}}");
        let mut rows = self.query(&sql).param("partition", partition).fetch_bytes("Native")?;
        while let Some(piece) = rows.next().await? {
            out.write_all(&piece)?;
        }
        Ok(())
    }

    /// Inserts what `read_partition` wrote.
    ///
    /// # Errors
    /// When the server or the file fails; some of the rows may be there.
    pub async fn write_partition(
        &self,
        table: &'static str,
        input: &mut (dyn Read + Send),
    ) -> Result<(), TransferError> {
        let sql = format!("INSERT INTO liutong.{table} FORMAT Native");
        // What was deduplicated once must not count as stored here.
        let settings = [("async_insert", "0"), ("insert_deduplicate", "0")];
        let client = settings
            .into_iter()
            .fold(self.inner().clone(), |client, (name, value)| client.with_setting(name, value));
        let mut insert = client.insert_formatted_with(sql);
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            Read::take(&mut *input, PIECE_BYTES as u64).read_to_end(&mut piece)?;
            if piece.is_empty() {
                break;
            }
            insert.send(piece.into()).await?;
        }
        Ok(insert.end().await?)
    }

    /// How many rows one of `TABLES` has.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn count(&self, table: &'static str) -> Result<u64, ClickHouseError> {
        Ok(self.query(&format!("SELECT count() FROM liutong.{table}")).fetch_one().await?)
    }

    /// Empties one of `TABLES`.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn empty(&self, table: &'static str) -> Result<(), ClickHouseError> {
        self.execute(&format!("TRUNCATE TABLE liutong.{table}")).await
    }
}
