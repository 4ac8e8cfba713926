//! Reports and single events, answered by ClickHouse.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Named, Params, parse_time};
use super::{Api, ApiError};
use crate::clickhouse::usage_query::{Dimension, Interval, UsageQuery};

const DAY_MS: i64 = 86_400_000;
/// How many days a report spans that names no beginning.
const DAYS_DEFAULT: i64 = 30;
/// 2106-01-01: no event is before 1970 or after this, and ClickHouse's types of time end soon after.
const END_MS_MAX: i64 = 4_291_747_200_000;

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

#[derive(Debug, Deserialize)]
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

pub(super) async fn report(
    State(api): State<Api>,
    Params(params): Params<UsageParams>,
) -> Result<Json<Value>, ApiError> {
    let query = question(&api, params).await?;
    let report = api.store.usage(&query).await?;
    Ok(Json(json!({"object": "list", "data": report.rows, "has_more": report.truncated})))
}

async fn question(api: &Api, params: UsageParams) -> Result<UsageQuery, ApiError> {
    let (from_ms, to_ms) = span(params.from.as_deref(), params.to.as_deref())?;
    let (from_ms, to_ms) = (from_ms.clamp(0, END_MS_MAX), to_ms.clamp(0, END_MS_MAX));
    let interval = params.interval.as_deref().map(|name| choose("interval", name, &INTERVALS)).transpose()?;
    let group_by = params.group_by.as_deref().unwrap_or_default();
    let group_by = list(group_by).map(|name| choose("group_by", name, &DIMENSIONS));
    let group_by = group_by.collect::<Result<_, _>>()?;
    let mut filters = Vec::new();
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
            values.push(id_of(api, dimension, value).await?);
        }
        filters.push((dimension, values));
    }
    Ok(UsageQuery { from_ms, to_ms, interval, group_by, filters })
}

/// Usage events carry ids where people may give names.
async fn id_of(api: &Api, dimension: Dimension, value: &str) -> Result<String, ApiError> {
    Ok(match dimension {
        Dimension::Organization => api.registry.organization(value).await?.id,
        Dimension::Team => api.registry.team(value).await?.id,
        Dimension::Application => api.registry.application(value).await?.id,
        Dimension::Key => api.registry.key(value).await?.id,
        _ => value.to_owned(),
    })
}

/// The span asked for; to the end of today where no end is named, so that it is made of whole days.
fn span(from: Option<&str>, to: Option<&str>) -> Result<(i64, i64), ApiError> {
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
pub(super) async fn request(State(api): State<Api>, Named(id): Named) -> Result<Json<Value>, ApiError> {
    let (boot, seq) = api
        .request_ids
        .event(&id)
        .ok_or_else(|| ApiError::Invalid("id: an x-request-id, req_ and 32 hex digits".to_owned()))?;
    let missing = || ApiError::NotFound("there is no usage event with this request id (yet)".to_owned());
    if !seq.is_admitted() {
        return Err(ApiError::NotFound("the request was refused before it was admitted".to_owned()));
    }
    let event = api.store.find_event(boot, seq).await?.ok_or_else(missing)?;
    let mut shown = serde_json::to_value(event).unwrap_or_default();
    shown["id"] = Value::from(id);
    shown["object"] = Value::from("request");
    Ok(Json(shown))
}
