//! `liutong node`: the data planes that the control plane knows.

use serde_json::json;

use super::CliError;
use super::admin::Admin;
use super::args::NodeCommand;
use super::output::{Format, Output, print};

const COLUMNS: [&str; 7] = ["id", "name", "status", "generation", "behind", "first_seen", "last_seen"];

pub(super) async fn run(admin: &Admin, out: &Output, command: NodeCommand) -> Result<(), CliError> {
    match command {
        NodeCommand::List => {
            out.list(&admin.list("listing nodes".to_owned(), &["nodes"], &[]).await?, &COLUMNS)
        }
        NodeCommand::Enroll { name, expires_at } => {
            let mut body = json!({"name": name});
            if let Some(when) = expires_at {
                body["expires_in_seconds"] = json!(when.seconds_from_now("--expires-at")?);
            }
            let made = admin.post(format!("enrolling {name}"), &["nodes", "enroll"], &body).await?;
            if out.format() != Format::Table || admin.is_dry() {
                return out.one(&made);
            }
            // The token alone, to be piped to where it is used.
            let text = |member: &str| made[member].as_str().unwrap_or_default().to_owned();
            eprintln!(
                "liutong: good once, until {}; on the node: liutong-dataplane --config FILE --enroll",
                text("expires_at")
            );
            print(&format!("{}\n", text("token")))
        }
        NodeCommand::Remove { node, force } => {
            let query: &[(&str, &str)] = if force { &[("force", "true")] } else { &[] };
            out.one(&admin.delete(format!("removing node {node}"), &["nodes", &node], query).await?)
        }
    }
}
