//! What `usage_events` must look like for a refusal to be the rows' own fault.
//!
//! Somebody may have altered the table. Then ClickHouse refuses every batch, with the same codes as it
//! refuses a bad row: setting rows aside for that would throw good events away. So before any row is held to
//! be at fault the table is compared with this list.

use clickhouse::Row;
use serde::Deserialize;

use super::client::{ClickHouseError, Client};

const NUMBERS: [(&str, &str); 11] = [
    ("seq", "UInt64"),
    ("batch_seq", "UInt64"),
    ("stream", "Bool"),
    ("status", "UInt16"),
    ("prompt_tokens", "UInt32"),
    ("cached_tokens", "UInt32"),
    ("cache_write_tokens", "UInt32"),
    ("completion_tokens", "UInt32"),
    ("reasoning_tokens", "UInt32"),
    ("total_tokens", "UInt32"),
    ("usage_source", "Enum8('none' = 0, 'partial' = 1, 'final' = 2)"),
];

const REST: [(&str, &str); 16] = [
    ("ts", "DateTime64(3, 'UTC')"),
    ("latency_ms", "UInt32"),
    ("ttft_ms", "UInt32"),
    ("attempts", "UInt8"),
    ("node", "LowCardinality(String)"),
    ("boot", "LowCardinality(String)"),
    ("spool_id", "LowCardinality(String)"),
    ("organization_id", "LowCardinality(String)"),
    ("team_id", "LowCardinality(String)"),
    ("application_id", "LowCardinality(String)"),
    ("key_id", "LowCardinality(String)"),
    ("plan", "LowCardinality(String)"),
    ("cost_centre", "LowCardinality(String)"),
    ("model_alias", "LowCardinality(String)"),
    ("deployment", "LowCardinality(String)"),
    ("endpoint", "LowCardinality(String)"),
];

#[derive(Row, Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    default_kind: String,
}

impl Client {
    /// How `usage_events` differs from what this version writes; `None` where it does not.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn schema_drift(&self) -> Result<Option<String>, ClickHouseError> {
        let columns: Vec<Column> = self
            .query(
                "SELECT name, type, default_kind FROM system.columns
                 WHERE database = 'liutong' AND table = 'usage_events'",
            )
            .fetch_all()
            .await?;
        if self.has_constraint().await? {
            return Ok(Some(
                "a constraint was added to it, which refuses what this version writes".to_owned(),
            ));
        }
        let expected = || NUMBERS.iter().chain(&REST);
        for (name, kind) in expected() {
            match columns.iter().find(|column| column.name == *name) {
                None => return Ok(Some(format!("column {name} is missing, it was {kind}"))),
                Some(column) if column.kind != *kind => {
                    return Ok(Some(format!("column {name} is {}, it was {kind}", column.kind)));
                }
                Some(column) if !column.default_kind.is_empty() => {
                    return Ok(Some(format!("column {name} has a default of its own")));
                }
                Some(_) => {}
            }
        }
        Ok(None)
    }

    /// Whether somebody says what rows may be: this version says nothing of that.
    async fn has_constraint(&self) -> Result<bool, ClickHouseError> {
        let count: u64 = self
            .query(
                "SELECT count() FROM system.tables WHERE database = 'liutong' AND name = 'usage_events'
                 AND match(create_table_query, '\\\\bCONSTRAINT\\\\b')",
            )
            .fetch_one()
            .await?;
        Ok(count > 0)
    }
}
