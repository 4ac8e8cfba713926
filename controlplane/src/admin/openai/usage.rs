//! Usage in OpenAI's form: pages of buckets of time, each with the sums of its groups.
//!
//! Buckets are whole minutes, hours or days of UTC: the span that is asked for is widened to them, so that it
//! can be read from the rollups (minutes from single events, for as long as these are kept). A bucket without
//! usage is there and empty. No prices are known, so an amount is null, which is not zero.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::organization;
use crate::admin::ApiError;
use crate::admin::route::{Answer, Call};
use crate::admin::usage::{END_MS_MAX, seen_by};
use crate::clickhouse::usage_query::{Dimension, Interval, UsageQuery, UsageSum};
use crate::registry::now_ms;

/// How wide a bucket is: its word, seconds, how it is read, and how many a page has, by default and at most.
type Width = (&'static str, i64, Interval, i64, i64);

const WIDTHS: [Width; 3] = [
    ("1m", 60, Interval::Minute, 60, 1440),
    ("1h", 3600, Interval::Hour, 24, 168),
    ("1d", 86_400, Interval::Day, 7, 31),
];
const COST_WIDTHS: [Width; 1] = [("1d", 86_400, Interval::Day, 7, 180)];
const GROUPS: [(&str, Dimension); 3] =
    [("project_id", Dimension::Team), ("api_key_id", Dimension::Key), ("model", Dimension::Model)];
const COST_GROUPS: [(&str, Dimension); 3] =
    [("project_id", Dimension::Team), ("api_key_id", Dimension::Key), ("line_item", Dimension::Model)];
const PAGE_PREFIX: &str = "page_";

/// Several values of a parameter come as `name[]=a&name[]=b`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageParams {
    /// Unix seconds.
    start_time: i64,
    /// Unix seconds, exclusive; now where it is not given.
    end_time: Option<i64>,
    /// `1m`, `1h` or `1d`.
    bucket_width: Option<String>,
    #[serde(rename = "project_ids[]", alias = "project_ids")]
    project_ids: Option<String>,
    #[serde(rename = "api_key_ids[]", alias = "api_key_ids")]
    api_key_ids: Option<String>,
    #[serde(rename = "models[]", alias = "models")]
    models: Option<String>,
    /// Of `project_id`, `api_key_id` and `model`.
    #[serde(rename = "group_by[]", alias = "group_by")]
    group_by: Option<String>,
    /// How many buckets.
    #[schemars(range(min = 1, max = 1440))]
    limit: Option<i64>,
    /// `next_page` of the page before.
    page: Option<String>,
}

/// Several values of a parameter come as `name[]=a&name[]=b`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CostParams {
    /// Unix seconds.
    start_time: i64,
    /// Unix seconds, exclusive; now where it is not given.
    end_time: Option<i64>,
    /// `1d`.
    bucket_width: Option<String>,
    #[serde(rename = "project_ids[]", alias = "project_ids")]
    project_ids: Option<String>,
    #[serde(rename = "api_key_ids[]", alias = "api_key_ids")]
    api_key_ids: Option<String>,
    /// Aliases.
    #[serde(rename = "line_items[]", alias = "line_items")]
    line_items: Option<String>,
    /// Of `project_id`, `api_key_id` and `line_item`.
    #[serde(rename = "group_by[]", alias = "group_by")]
    group_by: Option<String>,
    /// How many buckets.
    #[schemars(range(min = 1, max = 180))]
    limit: Option<i64>,
    /// `next_page` of the page before.
    page: Option<String>,
}

/// A page of buckets.
#[derive(Debug, JsonSchema, Serialize)]
#[schemars(rename = "{T}_buckets")]
pub(crate) struct Buckets<T> {
    object: &'static str,
    data: Vec<Bucket<T>>,
    has_more: bool,
    next_page: Option<String>,
}

/// A span of time.
#[derive(Debug, JsonSchema, Serialize)]
#[schemars(rename = "{T}_bucket")]
struct Bucket<T> {
    object: &'static str,
    start_time: i64,
    end_time: i64,
    results: Vec<T>,
}

/// Generated text.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Completions {
    object: &'static str,
    input_tokens: u64,
    input_cached_tokens: u64,
    input_cache_write_tokens: u64,
    output_tokens: u64,
    num_model_requests: u64,
    project_id: Option<String>,
    user_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    batch: Option<bool>,
    service_tier: Option<String>,
}

/// Embeddings.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Embeddings {
    object: &'static str,
    input_tokens: u64,
    num_model_requests: u64,
    project_id: Option<String>,
    user_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
}

/// What it cost.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Costs {
    object: &'static str,
    /// `value` and `currency`; null, since no prices are known.
    amount: Option<Value>,
    line_item: Option<String>,
    project_id: Option<String>,
    api_key_id: Option<String>,
}

/// What is asked for, once it is known to be right.
struct Asked {
    width: Width,
    /// Unix seconds, on bounds of buckets.
    from: i64,
    to: i64,
    /// How many buckets.
    limit: i64,
    groups: Vec<Dimension>,
    filters: Vec<(Dimension, Vec<String>)>,
}

pub(crate) async fn completions(call: Call, params: UsageParams) -> Answer<Buckets<Completions>> {
    let mut asked = params.asked()?;
    asked.filters.push((Dimension::Endpoint, vec!["chat.completions".into(), "completions".into()]));
    let show = |sum: UsageSum| Completions {
        object: "organization.usage.completions.result",
        input_tokens: sum.prompt_tokens,
        input_cached_tokens: sum.cached_tokens,
        input_cache_write_tokens: sum.cache_write_tokens,
        output_tokens: sum.completion_tokens,
        num_model_requests: sum.requests,
        project_id: sum.team_id,
        user_id: None,
        api_key_id: sum.key_id,
        model: sum.model,
        batch: None,
        service_tier: None,
    };
    Ok(asked.page(&call, show).await?.into())
}

pub(crate) async fn embeddings(call: Call, params: UsageParams) -> Answer<Buckets<Embeddings>> {
    let mut asked = params.asked()?;
    asked.filters.push((Dimension::Endpoint, vec!["embeddings".into()]));
    let show = |sum: UsageSum| Embeddings {
        object: "organization.usage.embeddings.result",
        input_tokens: sum.prompt_tokens,
        num_model_requests: sum.requests,
        project_id: sum.team_id,
        user_id: None,
        api_key_id: sum.key_id,
        model: sum.model,
    };
    Ok(asked.page(&call, show).await?.into())
}

pub(crate) async fn costs(call: Call, params: CostParams) -> Answer<Buckets<Costs>> {
    let span = (params.start_time, params.end_time, params.page.as_deref());
    let mut asked = Asked::new(&COST_WIDTHS, params.bucket_width.as_deref(), span, params.limit)?;
    asked.groups = groups(&COST_GROUPS, params.group_by.as_deref())?;
    asked.only(Dimension::Team, params.project_ids.as_deref());
    asked.only(Dimension::Key, params.api_key_ids.as_deref());
    asked.only(Dimension::Model, params.line_items.as_deref());
    let show = |sum: UsageSum| Costs {
        object: "organization.costs.result",
        amount: None,
        line_item: sum.model,
        project_id: sum.team_id,
        api_key_id: sum.key_id,
    };
    Ok(asked.page(&call, show).await?.into())
}

impl UsageParams {
    fn asked(&self) -> Result<Asked, ApiError> {
        let span = (self.start_time, self.end_time, self.page.as_deref());
        let width = Some(self.bucket_width.as_deref().unwrap_or("1d"));
        let mut asked = Asked::new(&WIDTHS, width, span, self.limit)?;
        asked.groups = groups(&GROUPS, self.group_by.as_deref())?;
        asked.only(Dimension::Team, self.project_ids.as_deref());
        asked.only(Dimension::Key, self.api_key_ids.as_deref());
        asked.only(Dimension::Model, self.models.as_deref());
        Ok(asked)
    }
}

impl Asked {
    fn new(
        widths: &[Width],
        width: Option<&str>,
        (start, end, page): (i64, Option<i64>, Option<&str>),
        limit: Option<i64>,
    ) -> Result<Self, ApiError> {
        let wanted = width.unwrap_or("1d");
        let found = widths.iter().find(|one| one.0 == wanted).ok_or_else(|| {
            let words: Vec<&str> = widths.iter().map(|one| one.0).collect();
            ApiError::Invalid(format!("bucket_width: any of {}", words.join(", ")))
        })?;
        let (_, seconds, _, limit_default, limit_max) = *found;
        let limit = limit.unwrap_or(limit_default);
        if !(1..=limit_max).contains(&limit) {
            return Err(ApiError::Invalid(format!("limit: 1 to {limit_max} with bucket_width {wanted}")));
        }
        let end = end.unwrap_or_else(|| now_ms().div_euclid(1000) + 1).clamp(0, END_MS_MAX / 1000);
        if !(0..end).contains(&start) {
            return Err(ApiError::Invalid("start_time: Unix seconds, before end_time".to_owned()));
        }
        let page = page.map(|page| page.strip_prefix(PAGE_PREFIX).and_then(|at| at.parse::<i64>().ok()));
        let from = match page {
            None => start.div_euclid(seconds) * seconds,
            Some(Some(at)) if (start..end).contains(&at) && at % seconds == 0 => at,
            Some(_) => return Err(ApiError::Invalid("page: next_page of the page before".to_owned())),
        };
        let to = (end + seconds - 1).div_euclid(seconds) * seconds;
        Ok(Self { width: *found, from, to, limit, groups: Vec::new(), filters: Vec::new() })
    }

    /// Asks for these ids alone.
    fn only(&mut self, dimension: Dimension, ids: Option<&str>) {
        if let Some(ids) = ids {
            self.filters.push((dimension, ids.split(',').map(str::to_owned).collect()));
        }
    }

    /// Where the page ends.
    fn end(&self) -> i64 {
        self.to.min(self.from + self.limit * self.width.1)
    }

    async fn page<T>(
        mut self,
        call: &Call,
        show: impl Fn(UsageSum) -> T + Send,
    ) -> Result<Buckets<T>, ApiError> {
        self.filters.push((Dimension::Organization, vec![organization(call).await?]));
        self.filters.extend(seen_by(&call.admin).map(|(of, id)| (of, vec![id])));
        let query = UsageQuery {
            from_ms: self.from * 1000,
            to_ms: self.end() * 1000,
            interval: Some(self.width.2),
            group_by: self.groups.clone(),
            filters: std::mem::take(&mut self.filters),
        };
        let report = call.api.store.usage(&query).await?;
        if report.truncated {
            return Err(ApiError::Invalid("limit: these buckets have too many groups, ask for fewer".into()));
        }
        Ok(self.buckets(report.rows, show))
    }

    fn buckets<T>(&self, rows: Vec<UsageSum>, show: impl Fn(UsageSum) -> T) -> Buckets<T> {
        let mut of: HashMap<i64, Vec<T>> = HashMap::new();
        for row in rows {
            let start = row.start.as_deref().and_then(|start| start.parse::<jiff::Timestamp>().ok());
            of.entry(start.map_or(0, jiff::Timestamp::as_second)).or_default().push(show(row));
        }
        let (seconds, end) = (self.width.1, self.end());
        let mut data = Vec::new();
        let mut at = self.from;
        while at < end {
            let results = of.remove(&at).unwrap_or_default();
            data.push(Bucket { object: "bucket", start_time: at, end_time: at + seconds, results });
            at += seconds;
        }
        let has_more = end < self.to;
        Buckets { object: "page", data, has_more, next_page: has_more.then(|| format!("{PAGE_PREFIX}{end}")) }
    }
}

fn groups(known: &[(&str, Dimension)], given: Option<&str>) -> Result<Vec<Dimension>, ApiError> {
    let each = given.unwrap_or_default().split(',').filter(|one| !one.is_empty());
    let found = each.map(|name| known.iter().find(|one| one.0 == name).map(|one| one.1));
    found.collect::<Option<_>>().ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|one| one.0).collect();
        ApiError::Invalid(format!("group_by: any of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(width: &str, start: i64, end: i64, (page, limit): (Option<&str>, Option<i64>)) -> Option<Asked> {
        Asked::new(&WIDTHS, Some(width), (start, Some(end), page), limit).ok()
    }

    #[test]
    fn a_span_is_widened_to_buckets_and_goes_on_page_by_page_without_gaps() {
        let (start, end) = (1_730_419_200 + 7, 1_730_419_200 + 9 * 3600 + 1);
        let (mut seen, mut page) = (Vec::new(), None::<String>);
        loop {
            let one = asked("1h", start, end, (page.as_deref(), Some(4))).unwrap();
            let buckets = one.buckets(Vec::new(), |_| ());
            seen.extend(buckets.data.iter().map(|one| (one.start_time, one.end_time)));
            assert_eq!(buckets.has_more, buckets.next_page.is_some());
            page = buckets.next_page;
            if page.is_none() {
                break;
            }
        }
        let expected: Vec<_> = (0..10).map(|n| 1_730_419_200 + n * 3600).map(|at| (at, at + 3600)).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_asked_for_wrongly_is_refused() {
        for (width, start, end, page, limit) in [
            ("1w", 0, 10, None, None),
            ("1d", 10, 10, None, None),
            ("1d", -1, 10, None, None),
            ("1d", 0, 10, None, Some(32)),
            ("1m", 0, 10, None, Some(1441)),
            ("1h", 0, 10, None, Some(0)),
            ("1d", 0, 864_000, Some("page_7"), None),
            ("1d", 0, 864_000, Some("page_864000"), None),
            ("1d", 0, 864_000, Some("86400"), None),
        ] {
            assert!(
                asked(width, start, end, (page, limit)).is_none(),
                "{width} {start} {end} {page:?} {limit:?}"
            );
        }
        assert!(groups(&GROUPS, Some("project_id,user_id")).is_err());
        assert_eq!(groups(&GROUPS, Some("model")).unwrap(), [Dimension::Model]);
    }

    #[test]
    fn sums_are_in_their_buckets_and_an_amount_without_a_price_is_null() {
        let one = asked("1d", 1_730_419_200, 1_730_419_200 + 2 * 86_400, (None, None)).unwrap();
        let sum = UsageSum {
            start: Some("2024-11-02T00:00:00Z".into()),
            team_id: Some("team_1".into()),
            requests: 5,
            ..UsageSum::default()
        };
        let show = |sum: UsageSum| Costs {
            object: "organization.costs.result",
            amount: None,
            line_item: sum.model,
            project_id: sum.team_id,
            api_key_id: None,
        };
        let shown = serde_json::to_value(one.buckets(vec![sum], show)).unwrap();
        let result = json!({"object": "organization.costs.result", "amount": null, "line_item": null,
            "project_id": "team_1", "api_key_id": null});
        let bucket = |start: i64, results| {
            let end = start + 86_400;
            json!({"object": "bucket", "start_time": start, "end_time": end, "results": results})
        };
        let data = json!([bucket(1_730_419_200, json!([])), bucket(1_730_505_600, json!([result]))]);
        assert_eq!(shown, json!({"object": "page", "data": data, "has_more": false, "next_page": null}));
    }
}
