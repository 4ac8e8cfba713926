//! The demo organization, team, application, alias and key, made through the admin API like any others.
//!
//! Each step looks before it makes, so that a first start that was interrupted is finished by the next. The
//! key comes last, once everything else is ready: its secret exists only until it is printed.

use std::path::PathBuf;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::data_dir::DataDir;
use super::state::{self, State, Upstream};
use super::{QuickstartError, QuickstartOptions};
use crate::cli::{Admin, CliError};

const DEMO: &str = "demo";
const DEMO_MODEL: &str = "liutong-demo";

/// The demo key.
pub(super) struct DemoKey {
    pub(super) id: String,
    /// Only when it was made just now.
    pub(super) secret: Option<String>,
    pub(super) alias: String,
}

/// Speaks to the admin API, and notes what is done.
pub(super) struct Setup {
    admin: Admin,
    file: PathBuf,
    state: State,
}

impl Setup {
    pub(super) fn new(url: &str, key: &str, data: &DataDir, state: State) -> Result<Self, QuickstartError> {
        Ok(Self { admin: Admin::with_key(url, key)?, file: data.file(state::FILE), state })
    }

    /// Makes everything but the key, as far as it is missing.
    pub(super) async fn registry(
        &mut self,
        options: &QuickstartOptions,
        upstream: &Upstream,
    ) -> Result<(), QuickstartError> {
        self.ensure("organizations", json!({"name": DEMO})).await?;
        self.ensure("teams", json!({"name": DEMO, "organization": DEMO})).await?;
        self.ensure("applications", json!({"name": DEMO, "team": DEMO, "models": ["*"]})).await?;
        let alias = self.state.alias_for(options);
        // Only when it changed: an administrator may have added to the alias since.
        if self.state.upstream.as_ref() != Some(upstream) || self.state.alias.as_ref() != Some(&alias) {
            let body = json!({"deployments": [deployment(upstream)]});
            self.admin.put(format!("setting model {alias}"), &["models", &alias], &body).await?;
            self.state.upstream = Some(upstream.clone());
            self.state.alias = Some(alias);
            self.state.save(&self.file)?;
        }
        Ok(())
    }

    /// The key: the one of an earlier start, or a new one with its secret.
    pub(super) async fn key(mut self) -> Result<DemoKey, QuickstartError> {
        let alias = self.state.alias.clone().unwrap_or_default();
        if let Some(id) = self.state.key_id {
            return Ok(DemoKey { id, secret: None, alias });
        }
        let action = "creating the demo key".to_owned();
        let body = json!({"application": DEMO, "description": "made by quickstart"});
        let key = self.admin.post(action.clone(), &["keys"], &body).await?;
        let (Some(id), Some(secret)) = (text(&key, "id"), text(&key, "secret")) else {
            let reason = "it has no id or no secret".to_owned();
            return Err(CliError::Unexpected { action, reason }.into());
        };
        self.state.key_id = Some(id.clone());
        self.state.save(&self.file)?;
        Ok(DemoKey { id, secret: Some(secret), alias })
    }

    async fn ensure(&self, path: &str, body: Value) -> Result<(), QuickstartError> {
        match self.admin.get(format!("looking for {DEMO} in {path}"), &[path, DEMO], &[]).await {
            Ok(_) => return Ok(()),
            Err(CliError::Refused { status, .. }) if status == StatusCode::NOT_FOUND.as_u16() => {}
            Err(error) => return Err(error.into()),
        }
        self.admin.post(format!("creating {DEMO} in {path}"), &[path], &body).await?;
        Ok(())
    }
}

fn deployment(upstream: &Upstream) -> Value {
    match upstream {
        Upstream::Demo { url } => {
            json!({"upstream": url, "upstream_model": DEMO_MODEL, "dialect": "openai"})
        }
        Upstream::Url { url, model, dialect, credential_env } => {
            let mut deployment = json!({"upstream": url, "upstream_model": model, "dialect": dialect});
            if let Some(name) = credential_env {
                deployment["credential"] = name.as_str().into();
            }
            deployment
        }
    }
}

/// A member's text, also where it is a number.
fn text(value: &Value, name: &str) -> Option<String> {
    match value.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
