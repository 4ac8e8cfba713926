//! `liutong audit`: who changed what, and whether the trail is as it was written.

/// An exported trail.
pub(super) mod file;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::Value;

use super::CliError;
use super::admin::Admin;
use super::output::Output;
use super::registry::query;
use super::when::When;

const COLUMNS: [&str; 6] = ["at", "by_name", "action", "subjects", "result", "id"];

const TAIL_EXAMPLES: &str = "\
Examples:
  liutong audit tail
  liutong audit tail --records 200 --action key.revoke --from 7d";

const EXPORT_EXAMPLES: &str = "\
Examples:
  liutong audit export -o jsonl > audit.jsonl
  liutong audit export --from 2026-11-01 --to 2026-12-01 -o csv > november.csv";

const VERIFY_EXAMPLES: &str = "\
Examples:
  liutong audit verify
  liutong audit verify --file audit.jsonl
  liutong audit export -o jsonl | liutong audit verify --file - --expect 9c1185a5c5e9fc54612808977ee8f548
  liutong audit verify --seq 1200 --hash 9c1185a5c5e9fc54612808977ee8f548b2258d31a3e4b6d0c7f5a1e2d3c4b5a6

A record's number and hash that were kept elsewhere also show whether the end of the trail was cut off.
A file that `audit export -o jsonl` (or json) wrote is checked as it is, without a control plane.";

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Shows the newest records
    #[command(after_help = TAIL_EXAMPLES)]
    Tail {
        /// How many
        #[arg(long, default_value = "20", value_parser = clap::value_parser!(u16).range(1..=1000))]
        records: u16,
        #[command(flatten)]
        filter: Filter,
    },
    /// Prints all records, the oldest first
    #[command(after_help = EXPORT_EXAMPLES)]
    Export {
        #[command(flatten)]
        filter: Filter,
    },
    /// Shows one record, with what was changed
    #[command(after_help = "Example:\n  liutong audit show audit_17")]
    Show {
        /// Its id
        record: String,
    },
    /// Finds what was removed from the trail or changed in it; the exit status is 1 where anything was
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// The number of a record whose hash was kept elsewhere
        #[arg(long, requires = "hash")]
        seq: Option<u64>,
        /// That hash, in hex
        #[arg(long, requires = "seq")]
        hash: Option<String>,
        /// An exported trail, instead of the control plane's; - is stdin
        #[arg(long, value_name = "FILE", conflicts_with = "seq")]
        file: Option<PathBuf>,
        /// The hash of a record that the file must have, the last one as a rule, in hex
        #[arg(long, value_name = "HASH", requires = "file")]
        expect: Option<String>,
    },
}

/// Which records.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only what this administrator did, by id
    #[arg(long)]
    by: Option<String>,
    /// Only this operation, such as key.revoke
    #[arg(long)]
    action: Option<String>,
    /// Only what touched this, by id
    #[arg(long)]
    subject: Option<String>,
    /// From when on: a time, a date, or a span back from now
    #[arg(long, value_name = "WHEN")]
    from: Option<When>,
    /// Until when, exclusive
    #[arg(long, value_name = "WHEN")]
    to: Option<When>,
}

pub(super) async fn run(admin: &Admin, out: &Output, command: AuditCommand) -> Result<(), CliError> {
    match command {
        AuditCommand::Tail { records, filter } => {
            let limit = records.to_string();
            let given = filter.given()?;
            let mut parameters = query(&given.each());
            parameters.extend([("order", "desc"), ("limit", limit.as_str())]);
            let page = admin.get("reading the audit trail".to_owned(), &["audit"], &parameters).await?;
            let mut rows = page["data"].as_array().cloned().unwrap_or_default();
            rows.reverse();
            out.list(&rows, &COLUMNS)
        }
        AuditCommand::Export { filter } => {
            let given = filter.given()?;
            let action = "exporting the audit trail".to_owned();
            out.list(&admin.list(action, &["audit"], &query(&given.each())).await?, &COLUMNS)
        }
        AuditCommand::Show { record } => {
            out.one(&admin.get(format!("showing record {record}"), &["audit", &record], &[]).await?)
        }
        AuditCommand::Verify { seq, hash, .. } => {
            let seq = seq.map(|seq| seq.to_string());
            let parameters = query(&[("seq", &seq), ("hash", &hash)]);
            let action = "verifying the audit trail".to_owned();
            let verified = admin.get(action, &["audit", "verify"], &parameters).await?;
            out.one(&verified)?;
            let faults = verified["faults"].as_array().map_or(0, Vec::len);
            if verified["is_intact"] == Value::Bool(true) {
                Ok(())
            } else {
                Err(CliError::Altered { faults })
            }
        }
    }
}

/// A filter as the API takes it.
struct Given {
    filter: Filter,
    from: Option<String>,
    to: Option<String>,
}

impl Filter {
    fn given(self) -> Result<Given, CliError> {
        let time = |flag: &str, when: Option<When>| {
            let time = when.map(|when| when.back_from(Timestamp::now())).transpose();
            time.map_err(|error| CliError::Usage(format!("{flag}: {error}")))
        };
        let (from, to) = (time("--from", self.from)?, time("--to", self.to)?);
        Ok(Given { filter: self, from, to })
    }
}

impl Given {
    fn each(&self) -> [(&str, &Option<String>); 5] {
        let Filter { by, action, subject, .. } = &self.filter;
        [("by", by), ("action", action), ("subject", subject), ("from", &self.from), ("to", &self.to)]
    }
}
