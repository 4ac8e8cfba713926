//! What ClickHouse has after it all, and whether `liutong usage verify` and the rollups say the same.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::ledgers::{Event, Row};
use crate::harness::System;

/// How long a backlog may take to drain beside builds on the same machine.
const DRAIN_LIMIT: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A data plane reports once a second; what was given out after its last report does not count yet.
const REPORTED: Duration = Duration::from_secs(3);

/// All rows.
pub(super) fn all(system: &System) -> anyhow::Result<Vec<Row>> {
    let text = system.try_clickhouse(
        "SELECT boot, seq, status, usage_source, prompt_tokens, completion_tokens FROM usage_events",
    )?;
    text.lines().map(|line| row(line).with_context(|| format!("a row that reads {line:?}"))).collect()
}

fn row(line: &str) -> Option<Row> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    let boot = u64::from_str_radix(next()?, 16).ok()?;
    Some(Row {
        event: Event { boot, seq: next()?.parse().ok()? },
        status: next()?.parse().ok()?,
        source: next()?.to_owned(),
        prompt: next()?.parse().ok()?,
        completion: next()?.parse().ok()?,
    })
}

/// Waits until `usage verify` finds everything stored, twice and alike; gives what it said.
pub(super) fn wait_complete(system: &System) -> anyhow::Result<Value> {
    let began = Instant::now();
    let mut complete: Option<(Instant, Value)> = None;
    loop {
        let found = system.command(&["usage", "verify", "-o", "json"])?;
        let found: Value = serde_json::from_slice(&found.stdout).unwrap_or_default();
        let is_same = |before: &Value| before["admitted"] == found["admitted"];
        match (&complete, found["verdict"].as_str()) {
            (Some((since, before)), Some("complete")) if is_same(before) => {
                if since.elapsed() > REPORTED {
                    return Ok(found);
                }
            }
            (_, Some("complete")) => complete = Some((Instant::now(), found.clone())),
            (_, Some("lost" | "doubled")) => bail!("usage verify: {found:#}"),
            _ => complete = None,
        }
        ensure!(began.elapsed() < DRAIN_LIMIT, "usage verify after {DRAIN_LIMIT:?}: {found:#}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Holds the sums of the rollups' views against raw; says what differs.
pub(super) fn rollups_differ(system: &System) -> anyhow::Result<Option<String>> {
    for (view, column, of_raw) in
        [("usage_hourly", "hour", "toStartOfHour(ts)"), ("usage_daily", "day", "toDate(ts)")]
    {
        let dimensions = "organization_id, key_id, status, usage_source";
        let tokens = "sum(prompt_tokens), sum(completion_tokens), sum(total_tokens)";
        let sums = |from: &str, time: &str, requests: &str| {
            format!(
                "SELECT {time} AS time, {dimensions}, {requests}, {tokens} FROM {from}
                 GROUP BY time, {dimensions} ORDER BY ALL"
            )
        };
        let derived = system.try_clickhouse(&sums(view, column, "sum(requests)"))?;
        let raw = system.try_clickhouse(&sums("usage_events", of_raw, "count()"))?;
        if derived != raw {
            return Ok(Some(format!("{view}:\n{derived}\nraw:\n{raw}")));
        }
    }
    Ok(None)
}
