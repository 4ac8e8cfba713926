//! `liutong key uses`: keys that are used though they were revoked, or are over.
//!
//! Without a key it is the list of all of them: who still has a key that leaked, and who was forgotten when
//! one was replaced.

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::CliError;
use crate::cli::admin::Admin;
use crate::cli::output::Output;
use crate::cli::registry::query;
use crate::cli::usage::time;
use crate::cli::when::When;

pub(in crate::cli) const USES_EXAMPLES: &str = "\
Examples:
  liutong key uses
  liutong key uses key_Abcd1234 --from 24h -o csv";

const OF_ALL: [&str; 9] =
    ["id", "prefix", "application", "team", "description", "status", "uses", "first_use_at", "last_use_at"];
const OF_ONE: [&str; 3] = ["minute", "reason", "uses"];

#[derive(Debug, Args)]
pub(in crate::cli) struct UsesArgs {
    /// One key, by id, prefix or description: its uses by minute
    pub(in crate::cli) key: Option<String>,
    /// From when on: a time (RFC 3339), a date (UTC), or a span back from now such as 24h; 30 days otherwise
    #[arg(long, value_name = "WHEN")]
    pub(in crate::cli) from: Option<When>,
    /// Until when: likewise; the end of today otherwise
    #[arg(long, value_name = "WHEN")]
    pub(in crate::cli) to: Option<When>,
}

pub(super) async fn run(admin: &Admin, out: &Output, args: UsesArgs) -> Result<(), CliError> {
    let now = Timestamp::now();
    let (from, to) = (time("--from", args.from, now)?, time("--to", args.to, now)?);
    let span = [("from", &from), ("to", &to)];
    let action = "reading the uses of refused keys".to_owned();
    let (path, columns): (Vec<&str>, &[&str]) = match &args.key {
        Some(key) => (vec!["keys", key, "uses"], &OF_ONE),
        None => (vec!["keys", "uses"], &OF_ALL),
    };
    let answer = admin.get(action.clone(), &path, &query(&span)).await?;
    let Some(rows) = answer.get("data").and_then(Value::as_array) else {
        return Err(CliError::Unexpected { action, reason: "it has no data".to_owned() });
    };
    if answer.get("has_more") == Some(&Value::Bool(true)) {
        eprintln!("liutong: warning: there are more rows than one answer has; ask for less time");
    }
    out.list(rows, columns)
}
