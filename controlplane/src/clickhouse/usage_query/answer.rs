//! Answers: rows as ClickHouse sends them, and as they are handed on, with what their ids are called.

use clickhouse::Row;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DIMENSIONS, Dimension, UsageQuery};

/// The answer: rows by time, then by total tokens, the most first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    /// The sums.
    pub rows: Vec<UsageSum>,
    /// Whether there would have been more than [`REPORT_ROWS_MAX`](super::REPORT_ROWS_MAX) rows.
    pub truncated: bool,
}

/// One row of a report. Dimensions that it is not grouped by are absent.
#[derive(Debug, Clone, Default, JsonSchema, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it: an id, and what it is called")]
pub struct UsageSum {
    /// The beginning of the row's hour, day or month (RFC 3339); absent for the whole span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_centre: Option<String>,
    /// Exchanges admitted.
    pub requests: u64,
    /// Those of them with a status of 400 or above; 499 is a client that left.
    pub errors: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub cache_write_tokens: u64,
    pub completion_tokens: u64,
    pub reasoning_tokens: u64,
    pub total_tokens: u64,
}

/// A row as ClickHouse sends it: dimensions in the order of [`DIMENSIONS`], empty where not grouped by.
#[derive(Row, Deserialize)]
pub(super) struct SumRow {
    pub(super) start: String,
    pub(super) dimensions: Vec<String>,
    pub(super) names: Vec<String>,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) cache_write_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) reasoning_tokens: u64,
    pub(super) total_tokens: u64,
}

/// One usage event, with what its ids are called.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Row, Serialize, Deserialize)]
#[allow(missing_docs, reason = "columns of usage_events, described at UsageRow")]
pub struct StoredEvent {
    /// RFC 3339.
    pub ts: String,
    pub node: String,
    pub boot: String,
    pub seq: u64,
    pub spool_id: String,
    pub batch_seq: u64,
    pub organization_id: String,
    pub organization: String,
    pub team_id: String,
    pub team: String,
    pub application_id: String,
    pub application: String,
    pub key_id: String,
    pub key: String,
    pub plan: String,
    pub cost_centre: String,
    pub model: String,
    pub deployment: String,
    pub endpoint: String,
    pub stream: bool,
    pub status: u16,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub cache_write_tokens: u32,
    pub completion_tokens: u32,
    pub reasoning_tokens: u32,
    pub total_tokens: u32,
    /// `none`, `partial` or `final`.
    pub usage_source: String,
    pub latency_ms: u32,
    pub ttft_ms: u32,
    pub attempts: u8,
}

/// The sums as people read them; an id without a name stands for itself.
pub(super) fn named(row: SumRow, query: &UsageQuery) -> UsageSum {
    let value = |dimension: Dimension| -> Option<String> {
        let index = DIMENSIONS.iter().position(|other| *other == dimension)?;
        query.group_by.contains(&dimension).then(|| row.dimensions.get(index).cloned().unwrap_or_default())
    };
    let name = |dimension: Dimension, index: usize| -> Option<String> {
        let id = value(dimension)?;
        Some(row.names.get(index).filter(|name| !name.is_empty()).cloned().unwrap_or(id))
    };
    UsageSum {
        start: (!row.start.is_empty()).then(|| row.start.clone()),
        organization_id: value(Dimension::Organization),
        organization: name(Dimension::Organization, 0),
        team_id: value(Dimension::Team),
        team: name(Dimension::Team, 1),
        application_id: value(Dimension::Application),
        application: name(Dimension::Application, 2),
        key_id: value(Dimension::Key),
        key: name(Dimension::Key, 3),
        model: value(Dimension::Model),
        endpoint: value(Dimension::Endpoint),
        deployment: value(Dimension::Deployment),
        status: value(Dimension::Status),
        plan: value(Dimension::Plan),
        cost_centre: value(Dimension::CostCentre),
        requests: row.requests,
        errors: row.errors,
        prompt_tokens: row.prompt_tokens,
        cached_tokens: row.cached_tokens,
        cache_write_tokens: row.cache_write_tokens,
        completion_tokens: row.completion_tokens,
        reasoning_tokens: row.reasoning_tokens,
        total_tokens: row.total_tokens,
    }
}
