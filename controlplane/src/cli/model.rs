//! `liutong model`: aliases and the deployments that serve them.

use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::CliError;
use super::admin::Admin;
use super::args::{ModelCommand, ModelSet};
use super::output::Output;

const COLUMNS: [&str; 9] = [
    "alias",
    "deployment",
    "upstream",
    "upstream_model",
    "dialect",
    "credential",
    "weight",
    "on_disconnect",
    "replay_safe",
];

pub(super) async fn run(admin: &Admin, out: &Output, command: ModelCommand) -> Result<(), CliError> {
    match command {
        ModelCommand::Set(options) => set(admin, out, options).await,
        ModelCommand::List => {
            let models = admin.list("listing models".to_owned(), &["models"], &[]).await?;
            match out.format() {
                format if format.is_json() => out.list(&models, &[]),
                _ => out.list(&deployments(&models), &COLUMNS),
            }
        }
        ModelCommand::Show { alias } => {
            one(out, admin.get(format!("showing model {alias}"), &["models", &alias], &[]).await?)
        }
        ModelCommand::Remove { alias } => {
            let removed = admin.delete(format!("removing model {alias}"), &["models", &alias], &[]).await?;
            if removed.is_null() {
                eprintln!("liutong: model {alias} is removed");
                return Ok(());
            }
            out.one(&removed)
        }
    }
}

async fn set(admin: &Admin, out: &Output, options: ModelSet) -> Result<(), CliError> {
    let action = format!("setting model {}", options.alias);
    let body = match &options.file {
        Some(file) => from_file(file)?,
        None => json!({"deployments": [deployment(&options)]}),
    };
    one(out, admin.put(action, &["models", &options.alias], &body).await?)
}

fn from_file(path: &Path) -> Result<Value, CliError> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|source| CliError::File {
        action: "reading deployments from",
        path: path.to_owned(),
        source,
    })?;
    let body: Value = serde_json::from_str(&text)
        .map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
    if body.get("deployments").is_none_or(|list| !list.is_array()) {
        let shape = r#"expected {"deployments":[{"upstream":...,"upstream_model":...,"dialect":...}]}"#;
        return Err(CliError::Usage(format!("{}: {shape}", path.display())));
    }
    Ok(body)
}

/// The deployment that the flags describe; what was not given is the control plane's default.
fn deployment(options: &ModelSet) -> Value {
    let mut members = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            members.insert(name.to_owned(), value);
        }
    };
    let text = |value: &Option<String>| value.clone().map(Value::from);
    put("name", text(&options.name));
    put("upstream", text(&options.upstream));
    put("upstream_model", text(&options.upstream_model));
    put("dialect", Some(options.dialect.name().into()));
    put("credential", text(&options.credential));
    put("weight", options.weight.map(Value::from));
    put("on_disconnect", options.on_disconnect.map(|policy| policy.name().into()));
    put("replay_safe", options.replay_safe.then_some(Value::Bool(true)));
    put("connect_timeout_ms", options.connect_timeout_ms.map(Value::from));
    put("first_byte_timeout_ms", options.first_byte_timeout_ms.map(Value::from));
    put("idle_timeout_ms", options.idle_timeout_ms.map(Value::from));
    put("api_version", text(&options.api_version));
    Value::Object(members)
}

fn one(out: &Output, model: Value) -> Result<(), CliError> {
    match out.format() {
        format if format.is_json() => out.one(&model),
        _ => out.list(&deployments(&[model]), &COLUMNS),
    }
}

/// One row for each deployment, with its alias; one row for an alias that has none.
fn deployments(models: &[Value]) -> Vec<Value> {
    let mut rows = Vec::new();
    for model in models {
        let alias = model.get("alias").or_else(|| model.get("name")).cloned().unwrap_or_default();
        let list = model.get("deployments").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if list.is_empty() {
            rows.push(json!({"alias": alias}));
        }
        rows.extend(list.iter().map(|deployment| row(&alias, deployment)));
    }
    rows
}

fn row(alias: &Value, deployment: &Value) -> Value {
    let mut row = Map::from_iter([("alias".to_owned(), alias.clone())]);
    for (name, value) in deployment.as_object().into_iter().flatten() {
        // Beside the alias, "name" would not say whose it is.
        let name = if name == "name" { "deployment" } else { name };
        row.insert(name.to_owned(), value.clone());
    }
    Value::Object(row)
}
