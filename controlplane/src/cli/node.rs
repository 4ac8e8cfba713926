//! `liutong node`: the data planes that the control plane knows.

use super::CliError;
use super::admin::Admin;
use super::args::NodeCommand;
use super::output::Output;

const COLUMNS: [&str; 6] = ["id", "status", "generation", "behind", "first_seen", "last_seen"];

pub(super) async fn run(admin: &Admin, out: &Output, command: NodeCommand) -> Result<(), CliError> {
    let NodeCommand::List = command;
    out.list(&admin.list("listing nodes".to_owned(), &["nodes"], &[]).await?, &COLUMNS)
}
