//! Everything that is stored about a team or a key, page by page: what it is, what the registry has about it,
//! then its usage.
//!
//! A page has rows of one part alone; `next` names the part and the position in it where the next one begins.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::one;
use crate::admin::ApiError;
use crate::admin::route::{Answer, Call};
use crate::clickhouse::export::{is_cursor, is_day};
use crate::registry::hold::SubjectKind;
use crate::registry::{Listed, Page};

/// The parts, in their order.
const PARTS: [&str; 10] = [
    "subject",
    "applications",
    "keys",
    "attributions",
    "holds",
    "audit",
    "answers",
    "days",
    "key_uses",
    "events",
];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct ExportParams {
    team: Option<String>,
    key: Option<String>,
    /// Where the page goes on: `next` of the one before.
    after: Option<String>,
}

/// A page of all that is stored about a team or a key.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "list")]
pub(in crate::admin) struct Export {
    data: Vec<Value>,
    has_more: bool,
    /// Where the next page goes on: its `after`.
    next: Option<String>,
}

type Rows = (Vec<Value>, Option<String>);

pub(in crate::admin) async fn export(call: Call, params: ExportParams) -> Answer<Export> {
    let (kind, wanted) = one([(SubjectKind::Team, params.team), (SubjectKind::Key, params.key)])?;
    let (mut at, mut after) = match params.after.as_deref() {
        None => (0, None),
        Some(cursor) => {
            begin(cursor).ok_or_else(|| ApiError::Invalid("after: next of the page before".to_owned()))?
        }
    };
    let id = match kind {
        SubjectKind::Team => call.registry.team(&wanted).await?.id,
        _ => call.registry.key(&wanted).await?.id,
    };
    loop {
        let (data, next) = rows(&call, (kind, &id), PARTS[at], after.as_deref()).await?;
        let (next_at, next_after) = if next.is_some() { (at, next) } else { (at + 1, None) };
        let next = PARTS.get(next_at).map(|part| format!("{part}:{}", next_after.as_deref().unwrap_or("")));
        if !data.is_empty() || next.is_none() {
            return Ok(Export { data, has_more: next.is_some(), next }.into());
        }
        (at, after) = (next_at, next_after);
    }
}

/// The part that a page begins in, and the position.
fn begin(cursor: &str) -> Option<(usize, Option<String>)> {
    let (part, after) = cursor.split_once(':')?;
    let at = PARTS.iter().position(|one| *one == part)?;
    let fits = match part {
        _ if after.is_empty() => true,
        "attributions" | "holds" | "audit" => after.parse::<i64>().is_ok_and(|position| position > 0),
        "applications" | "keys" => true,
        "days" | "key_uses" => is_day(after),
        "events" => is_cursor(after),
        _ => false,
    };
    fits.then(|| (at, Some(after.to_owned()).filter(|after| !after.is_empty())))
}

async fn rows(
    call: &Call,
    (kind, id): (SubjectKind, &str),
    part: &str,
    after: Option<&str>,
) -> Result<Rows, ApiError> {
    let (registry, store, is_team) = (&call.registry, &call.api.store, kind == SubjectKind::Team);
    let page = || Page { after: after.map(str::to_owned), limit: None };
    let position = after.and_then(|after| after.parse().ok()).unwrap_or(0);
    let numbered = |(rows, next): (Vec<Value>, Option<i64>)| (rows, next.map(|next| next.to_string()));
    Ok(match part {
        "subject" if is_team => (vec![value(&registry.team(id).await?)], None),
        "subject" => (vec![value(&registry.key(id).await?)], None),
        "applications" if is_team => shown(&registry.applications(Some(id), &page()).await?, |one| &one.id),
        "keys" if is_team => shown(&registry.keys(None, Some(id), &page()).await?, |one| &one.id),
        "attributions" => numbered(registry.attributions_of(kind, id, position).await?),
        "holds" => numbered(registry.holds_about(id, position).await?),
        "audit" => numbered(registry.audit_about(id, position).await?),
        "answers" => (registry.answers_about(id).await?, None),
        "days" => store.export_days(kind.column(), id, after).await?,
        "key_uses" => store.export_key_uses(kind.column(), id, after).await?,
        "events" => store.export_events(kind.column(), id, after).await?,
        _ => (Vec::new(), None),
    })
}

fn shown<T: Serialize>(listed: &Listed<T>, id: impl Fn(&T) -> &str) -> Rows {
    let next = listed.rows.last().map(|one| id(one).to_owned()).filter(|_| listed.has_more);
    (listed.rows.iter().map(value).collect(), next)
}

fn value<T: Serialize>(one: &T) -> Value {
    serde_json::to_value(one).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_page_ended_with_is_a_beginning() {
        let at = |cursor: &str| begin(cursor).map(|(at, after)| (PARTS[at], after));
        assert_eq!(at("keys:key_1"), Some(("keys", Some("key_1".into()))));
        assert_eq!(at("audit:17"), Some(("audit", Some("17".into()))));
        assert_eq!(at("days:"), Some(("days", None)));
        assert_eq!(at("days:2026-11-01"), Some(("days", Some("2026-11-01".into()))));
        for wrong in
            ["", "17", "audit:x", "audit:-1", "days:x", "events:x", "else:1", "subject:1", "answers:1"]
        {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }
}
