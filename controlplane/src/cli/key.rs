//! `liutong key`: keys of applications.
//!
//! The secret exists in three places at most: the control plane's answer, this process, and where it is
//! printed or written to. With `--write-secret` the file is made before the key, so that no key is made whose
//! secret has no place.

/// Revoking keys, and showing the receipt.
pub(super) mod revoke;
/// Giving a key a successor.
pub(super) mod rotate;
/// Finding keys in text.
pub(super) mod scan;
/// Keys that are used though they are refused.
pub(super) mod uses;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use super::CliError;
use super::admin::Admin;
use super::args::{KeyCommand, KeyCreate, SecretPlace};
use super::output::{Format, Output, print};
use super::registry::{aliases, body, query};
use super::update;

const COLUMNS: [&str; 11] = [
    "id",
    "prefix",
    "application",
    "team",
    "description",
    "status",
    "last_used_at",
    "refused_uses",
    "models",
    "created_at",
    "expires_at",
];

pub(super) async fn run(admin: &Admin, out: &Output, command: KeyCommand) -> Result<(), CliError> {
    match command {
        KeyCommand::Create(options) => create(admin, out, options).await,
        KeyCommand::List { application, team } => {
            let filters = [("application", &application), ("team", &team)];
            out.list(&admin.list("listing keys".to_owned(), &["keys"], &query(&filters)).await?, &COLUMNS)
        }
        KeyCommand::Update(change) => update::key(admin, out, change).await,
        KeyCommand::Show { key } => {
            out.one(&admin.get(format!("showing key {key}"), &["keys", &key], &[]).await?)
        }
        KeyCommand::Revoke(options) => revoke::run(admin, out, options).await,
        KeyCommand::Uses(options) => uses::run(admin, out, options).await,
        KeyCommand::Rotate(options) => rotate::run(admin, out, options).await,
        // Needs no control plane, and was run without one.
        KeyCommand::Scan(_) => Ok(()),
    }
}

async fn create(admin: &Admin, out: &Output, options: KeyCreate) -> Result<(), CliError> {
    let expires_at = match options.expires_at {
        Some(when) => Some(
            when.forward_from(Timestamp::now())
                .map_err(|error| CliError::Usage(format!("--expires-at: {error}")))?,
        ),
        None => None,
    };
    let action = format!("creating a key for application {}", options.application);
    let mut body = body([
        ("application", Some(options.application)),
        ("description", options.description),
        ("expires_at", expires_at),
        ("plan", options.plan),
        ("cost_centre", options.cost_centre),
    ]);
    if let Some(models) = &options.models {
        body.insert("models".to_owned(), aliases(models));
    }
    make(admin, out, (action, &["keys"], Value::Object(body)), &options.place).await
}

/// Asks for a new key, brings its secret to where it is to go, and shows the rest.
pub(super) async fn make(
    admin: &Admin,
    out: &Output,
    (action, path, body): (String, &[&str], Value),
    place: &SecretPlace,
) -> Result<(), CliError> {
    let file = place.write_secret.as_deref().map(|path| new_private_file(path).map(|file| (path, file)));
    let file = file.transpose()?;
    let created = admin.post(action.clone(), path, &body).await;
    if admin.is_dry() {
        if let Some((path, _)) = file {
            let _ = std::fs::remove_file(path);
        }
        return out.one(&created?);
    }
    let (mut key, secret) = match created.and_then(|key| with_secret(key, action)) {
        Ok(made) => made,
        Err(error) => {
            if let Some((path, _)) = file {
                let _ = std::fs::remove_file(path);
            }
            return Err(error);
        }
    };
    revoke::warn_of_pending(key.get("replaces").unwrap_or(&Value::Null));
    if let Some((path, mut file)) = file {
        // Printed instead of lost: the key is made, and its secret cannot be had again.
        if let Err(source) = writeln!(file, "{secret}").and_then(|()| file.sync_all()) {
            out.one(&key)?;
            return Err(CliError::File { action: "writing the secret to", path: path.to_owned(), source });
        }
        if let Some(members) = key.as_object_mut() {
            members.remove("secret");
        }
        eprintln!("liutong: the secret is in {}; it cannot be had again", path.display());
    } else if place.secret_only {
        return print(&format!("{secret}\n"));
    } else if out.format() == Format::Table {
        eprintln!("liutong: the secret is shown this once; only its hash is kept");
    }
    out.one(&key)
}

fn with_secret(key: Value, action: String) -> Result<(Value, String), CliError> {
    match key.get("secret").and_then(Value::as_str).map(str::to_owned) {
        Some(secret) => Ok((key, secret)),
        None => Err(CliError::Unexpected { action, reason: "it has no secret".to_owned() }),
    }
}

fn new_private_file(path: &Path) -> Result<File, CliError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|source| CliError::File {
        action: "making",
        path: path.to_owned(),
        source,
    })
}
