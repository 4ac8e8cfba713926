//! The audit trail in OpenAI's form: without sessions, since neither addresses nor agents are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Cursor, page, seconds};
use crate::admin::route::{Answer, Call};
use crate::registry::audit::read::{Filter, Record};
use crate::registry::{Listed, PAGE_ROWS_MAX};

/// How many records are looked at for a page that has one already; one that has none goes on to the end,
/// since the SDKs take an empty page for the last one.
const LOOKED_AT_MAX: usize = if cfg!(test) { 50 } else { 100_000 };
/// How many are read together.
const ROWS_AT_ONCE: i64 = if cfg!(test) { 20 } else { PAGE_ROWS_MAX };

/// Our operations as OpenAI calls their events; the others keep their own names.
const EVENTS: [(&str, &str); 24] = [
    ("organization.update", "organization.updated"),
    ("team.create", "project.created"),
    ("team.update", "project.updated"),
    ("team.archive", "project.archived"),
    ("project.create", "project.created"),
    ("project.update", "project.updated"),
    ("project.archive", "project.archived"),
    ("application.create", "service_account.created"),
    ("application.update", "service_account.updated"),
    ("application.archive", "service_account.deleted"),
    ("service_account.create", "service_account.created"),
    ("service_account.update", "service_account.updated"),
    ("service_account.delete", "service_account.deleted"),
    ("service_account.create_key", "api_key.created"),
    ("key.create", "api_key.created"),
    ("key.update", "api_key.updated"),
    ("key.rotate", "api_key.updated"),
    ("key.revoke", "api_key.deleted"),
    ("key.revoke_many", "api_key.deleted"),
    ("project_api_key.delete", "api_key.deleted"),
    ("administrator.create", "tenant.admin_api_key.created"),
    ("administrator.revoke", "tenant.admin_api_key.deleted"),
    ("admin_api_key.create", "tenant.admin_api_key.created"),
    ("admin_api_key.delete", "tenant.admin_api_key.deleted"),
];

/// Several values of a parameter come as `name[]=a&name[]=b`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogParams {
    after: Option<String>,
    #[schemars(range(min = 1, max = 100))]
    limit: Option<i64>,
    #[serde(rename = "effective_at[gt]")]
    gt: Option<i64>,
    #[serde(rename = "effective_at[gte]")]
    gte: Option<i64>,
    #[serde(rename = "effective_at[lt]")]
    lt: Option<i64>,
    #[serde(rename = "effective_at[lte]")]
    lte: Option<i64>,
    #[serde(rename = "event_types[]")]
    event_types: Option<String>,
    #[serde(rename = "project_ids[]")]
    project_ids: Option<String>,
    #[serde(rename = "actor_ids[]")]
    actor_ids: Option<String>,
    #[serde(rename = "resource_ids[]")]
    resource_ids: Option<String>,
}

/// A record.
#[derive(JsonSchema, Serialize)]
pub(crate) struct Log {
    id: String,
    object: &'static str,
    effective_at: i64,
    r#type: String,
    actor: Value,
    /// The team.
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<Value>,
    /// What was done to what, under the name of the type.
    #[serde(flatten)]
    details: Map<String, Value>,
}

fn event(action: &str) -> &str {
    EVENTS.iter().find(|(ours, _)| *ours == action).map_or(action, |(_, theirs)| theirs)
}

fn show(record: &Record) -> Log {
    let kind = event(&record.action).to_owned();
    let user = json!({"id": record.by, "name": record.by_name});
    let first = record.subjects.first();
    let details = json!({
        "id": first, "ids": record.subjects, "result": record.result, "changes_requested": record.changes,
    });
    Log {
        id: record.id.clone(),
        object: "organization.audit_log",
        effective_at: seconds(record.at_ms),
        actor: json!({"type": "api_key", "api_key": {"id": record.by, "type": "user", "user": user}}),
        project: (!record.team_id.is_empty()).then(|| json!({"id": record.team_id})),
        details: Map::from_iter([(kind.clone(), details)]),
        r#type: kind,
    }
}

impl LogParams {
    fn has(list: Option<&String>, value: &str) -> bool {
        list.is_none_or(|list| list.split(',').any(|one| one == value))
    }

    /// What the registry can leave out by itself.
    fn filter(&self, after: Option<String>) -> Filter {
        let from = [self.gte, self.gt].into_iter().flatten().max();
        let to = [self.lt, self.lte].into_iter().flatten().min();
        let one = |list: &String| !list.contains(',');
        Filter {
            by: self.actor_ids.clone().filter(one),
            subject: self.resource_ids.clone().filter(one),
            from_ms: from.map(|at| at.saturating_mul(1000)),
            // Of the second that the bound names all is looked at.
            to_ms: to.map(|at| at.saturating_add(1).saturating_mul(1000)),
            is_newest_first: true,
            after,
            limit: ROWS_AT_ONCE,
            ..Filter::default()
        }
    }

    fn wants(&self, record: &Record) -> bool {
        let at = seconds(record.at_ms);
        let subjects = &record.subjects;
        Self::has(self.event_types.as_ref(), event(&record.action))
            && Self::has(self.project_ids.as_ref(), &record.team_id)
            && Self::has(self.actor_ids.as_ref(), &record.by)
            && (self.resource_ids.is_none()
                || subjects.iter().any(|one| Self::has(self.resource_ids.as_ref(), one)))
            && self.gt.is_none_or(|bound| at > bound)
            && self.gte.is_none_or(|bound| at >= bound)
            && self.lt.is_none_or(|bound| at < bound)
            && self.lte.is_none_or(|bound| at <= bound)
    }
}

/// The newest first.
pub(crate) async fn audit_logs(call: Call, params: LogParams) -> Answer<Cursor<Log>> {
    let page = page(params.after.clone(), params.limit)?;
    let limit = usize::try_from(page.limit.unwrap_or_default()).unwrap_or_default();
    let mut filter = params.filter(page.after);
    let (mut rows, mut looked_at, mut has_more) = (Vec::new(), 0, true);
    while rows.len() <= limit && has_more && (rows.is_empty() || looked_at < LOOKED_AT_MAX) {
        let listed = call.registry.audit(&filter).await?;
        looked_at += listed.rows.len();
        has_more = listed.has_more;
        filter.after = listed.rows.last().map(|one| one.id.clone());
        rows.extend(listed.rows.into_iter().filter(|one| params.wants(one)));
    }
    has_more |= rows.len() > limit;
    rows.truncate(limit);
    Ok(Cursor::new(&Listed { rows, has_more }, |one| &one.id, show).into())
}
