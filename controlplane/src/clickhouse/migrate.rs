//! Numbered SQL files, applied in order and recorded in `liutong.schema_migrations`.
//!
//! Each statement is one request. Every statement can be run again (`IF NOT EXISTS`), so a start that is
//! killed between a statement and its record does no harm: the next start runs that file again. A file that
//! has been released never changes: a change is a new file.

use super::client::{ClickHouseError, Client};

const MIGRATIONS: &[(u32, &str, &str)] = &[
    (1, "usage_events", include_str!("sql/0001_usage_events.sql")),
    (2, "batches", include_str!("sql/0002_batches.sql")),
    (3, "names", include_str!("sql/0003_names.sql")),
    (4, "rollups", include_str!("sql/0004_rollups.sql")),
    (5, "views", include_str!("sql/0005_views.sql")),
    (6, "ledger_numbers", include_str!("sql/0006_ledger_numbers.sql")),
    (7, "usage_erased", include_str!("sql/0007_usage_erased.sql")),
    (8, "key_uses", include_str!("sql/0008_key_uses.sql")),
];

const PREPARATION: &str = include_str!("sql/0000_schema_migrations.sql");

/// The days for which raw usage events are kept when the config says nothing.
pub const RAW_DAYS_DEFAULT: u32 = 90;

impl Client {
    /// Brings the database up to this version's tables and sets how long raw events are kept. Returns how
    /// many files were applied.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses a statement; running it again continues where it stopped.
    pub async fn migrate(&self, raw_days: u32) -> Result<usize, ClickHouseError> {
        for statement in statements(PREPARATION) {
            self.execute(&statement).await?;
        }
        let applied: Vec<u32> =
            self.query("SELECT version FROM liutong.schema_migrations").fetch_all().await?;
        let mut count = 0;
        for (version, name, text) in MIGRATIONS {
            if applied.contains(version) {
                continue;
            }
            for statement in statements(text) {
                self.execute(&statement).await?;
            }
            self.query("INSERT INTO liutong.schema_migrations SELECT {version:UInt32}, {name:String}")
                .param("version", version)
                .param("name", name)
                .execute()
                .await?;
            tracing::info!(version, name, "clickhouse migration applied");
            count += 1;
        }
        self.keep_raw(raw_days.max(1)).await?;
        Ok(count)
    }

    async fn keep_raw(&self, days: u32) -> Result<(), ClickHouseError> {
        let table: String = self
            .query(
                "SELECT engine_full FROM system.tables WHERE database = 'liutong' AND name = 'usage_events'",
            )
            .fetch_one()
            .await?;
        // Where a legal hold has taken it away, it is not for us to bring back: see `retention`.
        if table.contains(&format!("TTL toDate(ts) + toIntervalDay({days}) ")) || !table.contains(" TTL ") {
            return Ok(());
        }
        tracing::info!(days, "keeping raw usage events");
        self.execute(&format!(
            "ALTER TABLE liutong.usage_events MODIFY TTL toDate(ts) + toIntervalDay({days}) DELETE"
        ))
        .await
    }
}

/// The statements of a file, without comments. A statement ends with a semicolon at the end of a line.
fn statements(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let whole = code.join("\n");
    whole
        .split(";\n")
        .map(|s| s.trim().trim_end_matches(';').trim_end().to_owned())
        .filter(|s| !s.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_numbered_in_order_and_every_statement_can_run_again() {
        for (index, (version, _, text)) in MIGRATIONS.iter().enumerate() {
            assert_eq!(usize::try_from(*version).unwrap(), index + 1);
            for statement in statements(text) {
                assert!(statement.contains("IF NOT EXISTS"), "{statement}");
            }
        }
    }

    #[test]
    fn comments_and_blank_statements_are_left_out() {
        let text = "-- why; and\nSELECT 1;\n\n-- more\nSELECT\n    2\n;\n";
        assert_eq!(statements(text), ["SELECT 1", "SELECT\n    2"]);
    }
}
