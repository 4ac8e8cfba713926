//! The audit trail: who changed what.

use schemars::JsonSchema;
use serde::Deserialize;

use super::ApiError;
use super::input::{List, Nothing, page, parse_time};
use super::route::{Answer, Call};
use crate::registry::PAGE_ROWS_MAX;
use crate::registry::audit::read::{Filter, Record};
use crate::registry::audit::verify::{Known, Verified};

/// In which order.
#[derive(Clone, Copy, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// The oldest first.
    #[default]
    Asc,
    /// The newest first.
    Desc,
}

/// The parameters of a list of records.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditParams {
    after: Option<String>,
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<i64>,
    #[serde(default)]
    order: Order,
    /// Only what this administrator did, by id.
    by: Option<String>,
    /// Only this operation, such as key.revoke.
    action: Option<String>,
    /// Only what touched this, by id.
    subject: Option<String>,
    /// Only with this result.
    result: Option<String>,
    /// From this time on.
    from: Option<String>,
    /// Before this time.
    to: Option<String>,
}

/// A hash that was kept elsewhere.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyParams {
    /// The number of a record.
    seq: Option<i64>,
    /// The hash that it had, in hex.
    hash: Option<String>,
}

pub(super) async fn list(call: Call, params: AuditParams) -> Answer<List<Record>> {
    let page = page(params.after, params.limit)?;
    let time = |field, text: Option<String>| text.map(|text| parse_time(field, &text)).transpose();
    let filter = Filter {
        by: params.by,
        action: params.action,
        subject: params.subject,
        result: params.result,
        from_ms: time("from", params.from)?,
        to_ms: time("to", params.to)?,
        is_newest_first: params.order == Order::Desc,
        after: page.after,
        limit: page.limit.unwrap_or(PAGE_ROWS_MAX),
    };
    let listed = call.registry.audit(&filter).await?;
    Ok(List::new(listed, |one| &one.id).into())
}

pub(super) async fn one(call: Call, _: Nothing) -> Answer<Record> {
    Ok(call.registry.audit_record(call.name()).await?.into())
}

/// Checks the whole trail, also against a hash that was kept elsewhere.
pub(super) async fn verify(call: Call, params: VerifyParams) -> Answer<Verified> {
    let known = match (params.seq, params.hash) {
        (Some(seq), Some(hash)) => Some(Known { seq, hash: hash.to_lowercase() }),
        (None, None) => None,
        _ => return Err(ApiError::Invalid("parameters: seq and hash belong together".to_owned())),
    };
    Ok(call.registry.verify_audit(known).await?.into())
}
