//! Reports and single events, answered by ClickHouse.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiError;
use super::input::{Nothing, parse_time};
use super::route::{Answer, Call};
use crate::clickhouse::retention::Retention;
use crate::clickhouse::usage_query::{Dimension, Interval, StoredEvent, UsageQuery, UsageSum};
use crate::registry::admin::Admin;
use crate::registry::role::Scope;

const DAY_MS: i64 = 86_400_000;
/// How many days a report spans that names no beginning.
const DAYS_DEFAULT: i64 = 30;
/// 2106-01-01: no event is before 1970 or after this, and ClickHouse's types of time end soon after.
pub(super) const END_MS_MAX: i64 = 4_291_747_200_000;

const DIMENSIONS: [(&str, Dimension); 10] = [
    ("organization", Dimension::Organization),
    ("team", Dimension::Team),
    ("application", Dimension::Application),
    ("key", Dimension::Key),
    ("model", Dimension::Model),
    ("endpoint", Dimension::Endpoint),
    ("deployment", Dimension::Deployment),
    ("status", Dimension::Status),
    ("plan", Dimension::Plan),
    ("cost_centre", Dimension::CostCentre),
];

const INTERVALS: [(&str, Interval); 4] = [
    ("hour", Interval::Hour),
    ("day", Interval::Day),
    ("month", Interval::Month),
    ("total", Interval::Total),
];

/// Several values of a filter are separated by commas.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageParams {
    from: Option<String>,
    to: Option<String>,
    interval: Option<String>,
    group_by: Option<String>,
    organization: Option<String>,
    team: Option<String>,
    application: Option<String>,
    key: Option<String>,
    model: Option<String>,
    endpoint: Option<String>,
    deployment: Option<String>,
    status: Option<String>,
    plan: Option<String>,
    cost_centre: Option<String>,
}

/// A report.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "list")]
pub(super) struct Report {
    data: Vec<UsageSum>,
    /// Whether there are more rows than one report can have.
    has_more: bool,
}

/// The usage event of one exchange.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "request")]
pub(super) struct Exchange {
    /// Its x-request-id.
    id: String,
    #[serde(flatten)]
    event: StoredEvent,
}

pub(super) async fn report(call: Call, params: UsageParams) -> Answer<Report> {
    let query = question(&call, params).await?;
    let report = call.api.store.usage(&query).await?;
    Ok(Report { data: report.rows, has_more: report.truncated }.into())
}

/// What of the usage an administrator may see: what was billed to its organization or team.
pub(super) fn seen_by(admin: &Admin) -> Option<(Dimension, String)> {
    match admin.scope {
        Scope::Installation => None,
        Scope::Organization(_) => {
            Some((Dimension::Organization, admin.organization_id.clone().unwrap_or_default()))
        }
        Scope::Team(_) => Some((Dimension::Team, admin.team_id.clone().unwrap_or_default())),
    }
}

async fn question(call: &Call, params: UsageParams) -> Result<UsageQuery, ApiError> {
    let (from_ms, to_ms) = span(params.from.as_deref(), params.to.as_deref())?;
    let (from_ms, to_ms) = (from_ms.clamp(0, END_MS_MAX), to_ms.clamp(0, END_MS_MAX));
    let interval = params.interval.as_deref().map(|name| choose("interval", name, &INTERVALS)).transpose()?;
    let group_by = params.group_by.as_deref().unwrap_or_default();
    let group_by = list(group_by).map(|name| choose("group_by", name, &DIMENSIONS));
    let group_by = group_by.collect::<Result<_, _>>()?;
    let mut filters: Vec<_> = seen_by(&call.admin).into_iter().map(|(of, id)| (of, vec![id])).collect();
    for (dimension, given) in [
        (Dimension::Organization, params.organization),
        (Dimension::Team, params.team),
        (Dimension::Application, params.application),
        (Dimension::Key, params.key),
        (Dimension::Model, params.model),
        (Dimension::Endpoint, params.endpoint),
        (Dimension::Deployment, params.deployment),
        (Dimension::Status, params.status),
        (Dimension::Plan, params.plan),
        (Dimension::CostCentre, params.cost_centre),
    ] {
        let Some(given) = given else { continue };
        let mut values = Vec::new();
        for value in list(&given) {
            values.push(id_of(call, dimension, value).await?);
        }
        filters.push((dimension, values));
    }
    let query = UsageQuery { from_ms, to_ms, interval, group_by, filters };
    check_kept(&query, *call.api.privacy.retention(), Timestamp::now().as_millisecond())?;
    Ok(query)
}

/// Refuses a span whose beginning has expired where it is read from, while coarser sums still have it: a sum
/// of what is left would look like all.
fn check_kept(query: &UsageQuery, retention: Retention, now_ms: i64) -> Result<(), ApiError> {
    let (days, what, instead) = if query.is_of_single_events() {
        (Some(retention.raw_days), "single events", "whole hours (UTC)")
    } else if query.is_of_hours() {
        (retention.hourly_days, "sums by hour", "whole days (UTC), by day or month")
    } else {
        return Ok(());
    };
    let Some(days) = days else { return Ok(()) };
    // A day goes as a whole: the oldest that is there for certain.
    let oldest_ms = (now_ms.div_euclid(DAY_MS) + 1 - i64::from(days)) * DAY_MS;
    if query.from_ms >= oldest_ms {
        return Ok(());
    }
    Err(ApiError::Invalid(format!(
        "from: {what} are kept for {days} days; for what is older ask for {instead}"
    )))
}

/// Usage events carry ids where people may give names.
async fn id_of(call: &Call, dimension: Dimension, value: &str) -> Result<String, ApiError> {
    Ok(match dimension {
        Dimension::Organization => call.registry.organization(value).await?.id,
        Dimension::Team => call.registry.team(value).await?.id,
        Dimension::Application => call.registry.application(value).await?.id,
        Dimension::Key => call.registry.key(value).await?.id,
        _ => value.to_owned(),
    })
}

/// The span asked for; to the end of today where no end is named, so that it is made of whole days.
pub(super) fn span(from: Option<&str>, to: Option<&str>) -> Result<(i64, i64), ApiError> {
    let tomorrow = (Timestamp::now().as_millisecond().div_euclid(DAY_MS) + 1) * DAY_MS;
    let to = to.map_or(Ok(tomorrow), |text| parse_time("to", text))?;
    let from = from.map_or(Ok(to - DAYS_DEFAULT * DAY_MS), |text| parse_time("from", text))?;
    if from >= to {
        return Err(ApiError::Invalid("from: a time before to".to_owned()));
    }
    Ok((from, to))
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty())
}

fn choose<T: Copy>(field: &str, name: &str, choices: &[(&str, T)]) -> Result<T, ApiError> {
    choices.iter().find(|one| one.0 == name).map(|one| one.1).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|one| one.0).collect();
        ApiError::Invalid(format!("{field}: any of {}", names.join(", ")))
    })
}

/// The usage event of the exchange that had an `x-request-id`.
pub(super) async fn request(call: Call, _: Nothing) -> Answer<Exchange> {
    let id = call.name().to_owned();
    let (boot, seq) = call
        .api
        .request_ids
        .event(&id)
        .ok_or_else(|| ApiError::Invalid("id: an x-request-id, req_ and 32 hex digits".to_owned()))?;
    let missing = || ApiError::NotFound("there is no usage event with this request id (yet)".to_owned());
    if !seq.is_admitted() {
        return Err(ApiError::NotFound("the request was refused before it was admitted".to_owned()));
    }
    let event = call.api.store.find_event(boot, seq).await?.ok_or_else(missing)?;
    let is_seen = match seen_by(&call.admin) {
        None => true,
        Some((Dimension::Organization, id)) => event.organization_id == id,
        Some((_, id)) => event.team_id == id,
    };
    if !is_seen {
        return Err(missing());
    }
    Ok(Exchange { id, event }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_that_has_expired_where_it_is_read_from_is_refused() {
        const HOUR_MS: i64 = DAY_MS / 24;
        let now_ms = 20_000 * DAY_MS + 5 * HOUR_MS;
        let days_ago = |days: i64| (20_000 - days) * DAY_MS;
        let retention = Retention { raw_days: 7, hourly_days: Some(30), daily_days: None };
        let kept = |from_ms: i64, to_ms: i64, interval| {
            let query = UsageQuery { from_ms, to_ms, interval, group_by: vec![], filters: vec![] };
            check_kept(&query, retention, now_ms).is_ok()
        };
        let tomorrow = days_ago(-1);
        assert!(kept(days_ago(6), now_ms + 1, None), "the oldest day of single events");
        assert!(!kept(days_ago(6) - 1, tomorrow, None), "the rest of the day before has gone");
        assert!(kept(days_ago(29), now_ms, None), "the oldest day of hours");
        assert!(!kept(days_ago(29) - HOUR_MS, tomorrow, None));
        assert!(!kept(days_ago(30), tomorrow, Some(Interval::Hour)));
        assert!(kept(days_ago(3000), tomorrow, Some(Interval::Month)), "days are kept for good");
    }
}
