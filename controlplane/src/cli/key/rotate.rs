//! `liutong key rotate`: a key's successor.

use clap::Args;
use serde_json::json;

use super::make;
use crate::cli::CliError;
use crate::cli::admin::Admin;
use crate::cli::args::SecretPlace;
use crate::cli::output::Output;
use crate::cli::when::When;

pub(in crate::cli) const ROTATE_EXAMPLES: &str = "\
Examples:
  liutong key rotate key_17 --overlap 7d --write-secret chatbot.key
  liutong key rotate key_17 --emergency --cut-streams";

#[derive(Debug, Args)]
pub(in crate::cli) struct RotateArgs {
    /// Its id, prefix or description
    key: String,
    /// How long the old key works on: a span such as 12h or 7d, or a time; a day without this
    #[arg(long, value_name = "WHEN", conflicts_with = "emergency")]
    overlap: Option<When>,
    /// Revokes the old key at once: it has leaked
    #[arg(long)]
    emergency: bool,
    /// Also ends what is under way with the old key
    #[arg(long, requires = "emergency")]
    cut_streams: bool,
    #[command(flatten)]
    place: SecretPlace,
}

pub(super) async fn run(admin: &Admin, out: &Output, options: RotateArgs) -> Result<(), CliError> {
    let mut body = json!({"emergency": options.emergency, "cut_streams": options.cut_streams});
    if let Some(overlap) = options.overlap {
        body["overlap_seconds"] = json!(overlap.seconds_from_now("--overlap")?);
    }
    let action = format!("rotating key {}", options.key);
    make(admin, out, (action, &["keys", &options.key, "rotate"], body), &options.place).await
}
