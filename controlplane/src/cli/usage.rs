//! `liutong usage` and `liutong request show`: what ClickHouse has.

use jiff::Timestamp;
use serde_json::Value;

use super::CliError;
use super::admin::Admin;
use super::args::{GroupBy, Interval, RequestCommand, UsageArgs};
use super::output::Output;
use super::registry::query;
use super::when::When;

const MEASURES: [&str; 8] = [
    "requests",
    "errors",
    "prompt_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "total_tokens",
];

pub(super) async fn report(admin: &Admin, out: &Output, args: &UsageArgs) -> Result<(), CliError> {
    let now = Timestamp::now();
    let by: Vec<&str> = args.by.iter().copied().map(GroupBy::name).collect();
    let group_by = by.join(",");
    let (from, to) = (time("--from", args.from, now)?, time("--to", args.to, now)?);
    let mut parameters = vec![("interval", args.interval.name()), ("group_by", group_by.as_str())];
    parameters.extend(query(&[
        ("from", &from),
        ("to", &to),
        ("organization", &args.organization),
        ("team", &args.team),
        ("application", &args.application),
        ("key", &args.key),
        ("model", &args.model),
        ("endpoint", &args.endpoint),
    ]));
    let report = admin.get("reading usage".to_owned(), &["usage"], &parameters).await?;
    let Some(rows) = report.get("data").and_then(Value::as_array) else {
        let reason = "it has no data".to_owned();
        return Err(CliError::Unexpected { action: "reading usage".to_owned(), reason });
    };
    if report.get("has_more") == Some(&Value::Bool(true)) {
        eprintln!(
            "liutong: warning: there are more rows than a report has; ask for less time or fewer dimensions"
        );
    }
    let start = (args.interval != Interval::Total).then_some("start");
    let columns: Vec<&str> = start.into_iter().chain(by).chain(MEASURES).collect();
    out.list(rows, &columns)
}

/// The time of a flag; a span leads back to the beginning of a day or an hour.
pub(super) fn time(flag: &str, when: Option<When>, now: Timestamp) -> Result<Option<String>, CliError> {
    when.map(|when| when.whole_back_from(now))
        .transpose()
        .map_err(|error| CliError::Usage(format!("{flag}: {error}")))
}

pub(super) async fn request(admin: &Admin, out: &Output, command: RequestCommand) -> Result<(), CliError> {
    let RequestCommand::Show { id } = command;
    out.one(&admin.get(format!("showing request {id}"), &["requests", &id], &[]).await?)
}
