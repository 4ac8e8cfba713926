//! `liutong doctor`: looks at an installation on this machine, and says how to mend what it finds.
//!
//! Each check has two halves: one gathers facts (a file of `/proc`, an answer over HTTP), the other judges
//! them and knows neither files nor sockets. A check that can't be made is skipped and says why: it is never
//! taken for passed.

/// Certificates, and who may read secrets.
mod files;
/// The kernel, io_uring, limits of processes.
mod host;
/// Where the planes' configurations are, and what places they name.
pub(super) mod installation;
/// The control plane, data planes and ClickHouse, asked over HTTP.
mod services;
/// Disks, and the tmpfs of the slots.
mod storage;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::CliError;
use super::admin::Admin;
use super::output::{Format, Output, print};
use installation::Installation;

pub(super) use services::{metrics, table_sizes};

pub(super) const DOCTOR_EXAMPLES: &str = "\
Examples:
  liutong doctor
  liutong doctor --data-dir ~/.local/share/liutong
  liutong doctor --dataplane /etc/liutong/dataplane.toml -o json

Run it as the user of the planes, or as root. The exit status is 1 where a check failed. With an administrator's
key (a profile, or the environment) it also asks the control plane how its data planes are.";

const COLUMNS: [&str; 4] = ["check", "verdict", "found", "mend"];

#[derive(Debug, Args)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    pub(super) places: Places,
}

/// Which installation is meant.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Places {
    /// The data plane's configuration [default: /etc/liutong/dataplane.toml, where it exists]
    #[arg(long, value_name = "FILE")]
    pub(super) dataplane: Option<PathBuf>,
    /// The control plane's configuration [default: /etc/liutong/controlplane.toml, where it exists]
    #[arg(long, value_name = "FILE")]
    pub(super) controlplane: Option<PathBuf>,
    /// The data directory of a quickstart, instead
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dataplane", "controlplane"])]
    pub(super) data_dir: Option<PathBuf>,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warning,
    Failed,
    Skipped,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    check: String,
    verdict: Verdict,
    found: String,
    mend: Option<String>,
}

impl Finding {
    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Ok, found: found.into(), mend: None }
    }

    fn skipped(check: impl Into<String>, why: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Skipped, found: why.into(), mend: None }
    }

    fn warning(check: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        let mend = Some(mend.into());
        Self { check: check.into(), verdict: Verdict::Warning, found: found.into(), mend }
    }

    fn failed(check: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        let mend = Some(mend.into());
        Self { check: check.into(), verdict: Verdict::Failed, found: found.into(), mend }
    }

    fn row(&self) -> Value {
        json!({
            "check": self.check, "verdict": self.verdict.name(), "found": self.found, "mend": self.mend,
        })
    }
}

/// Makes all checks; the findings in the order in which they are best read.
async fn examine(places: &Places, admin: Result<Admin, CliError>) -> Vec<Finding> {
    let installation = Installation::find(places);
    let mut findings = installation.findings.clone();
    findings.extend(host::examine(&installation));
    findings.extend(storage::examine(&installation));
    findings.extend(files::examine(&installation));
    findings.extend(services::examine(&installation, admin).await);
    findings
}

/// All findings as the rows that `-o json` prints.
pub(super) async fn rows(places: &Places, admin: Result<Admin, CliError>) -> Vec<Value> {
    examine(places, admin).await.iter().map(Finding::row).collect()
}

pub(super) async fn run(
    out: &Output,
    options: &DoctorArgs,
    admin: Result<Admin, CliError>,
) -> Result<(), CliError> {
    let findings = examine(&options.places, admin).await;
    let rows: Vec<Value> = findings.iter().map(Finding::row).collect();
    match out.format() {
        Format::Table => print(&told(&findings))?,
        _ => out.list(&rows, &COLUMNS)?,
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Failed).count() {
        0 => Ok(()),
        count => Err(CliError::Unwell { count }),
    }
}

/// The findings as text: a line each, and below it what to do.
fn told(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let line = format!("{:<8} {:<width$}  {}", finding.verdict.name(), finding.check, finding.found);
        let mend = finding.mend.iter().map(|mend| format!("{:9}-> {mend}", ""));
        for line in std::iter::once(line).chain(mend) {
            text.extend(line.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_amiss_is_told_with_what_to_do() {
        let findings =
            [Finding::ok("kernel", "6.12"), Finding::failed("disk", "2 MB free", "make room below /var")];
        let expected =
            "ok       kernel  6.12\nfailed   disk    2 MB free\n         -> make room below /var\n";
        assert_eq!(told(&findings), expected);
    }
}
