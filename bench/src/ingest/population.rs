//! Who usage is of, as in an organization of some size: its parts, its keys, the models that it serves. Made
//! in the registry, so that ingest finds the names that it writes into rows.

use anyhow::ensure;
use load_tests::harness::System;
use serde_json::{Value, json};
use wire::id::{AliasId, AttributionId, DeploymentId};

const ORGANIZATIONS: usize = 20;
const TEAMS: usize = 100;
const APPLICATIONS: usize = 500;
const MODELS: usize = 20;
/// How many of the models a key uses.
const MODELS_OF_KEY: u64 = 3;
/// So many calls at once: each waits for the registry's disk.
const CALLS: usize = 8;

/// What is in the registry.
pub(super) struct Population {
    keys: u64,
    models: u64,
}

impl Population {
    /// Makes it, with so many keys, beside what the system has: one key and one model.
    pub(super) fn make(system: &System, keys: usize) -> anyhow::Result<Self> {
        eprintln!("making {keys} keys in {APPLICATIONS} applications");
        let name = |what: &str, number: usize| format!("{what}-{number}");
        create(system, "organizations", ORGANIZATIONS, |n| json!({ "name": name("organization", n) }))?;
        create(system, "teams", TEAMS, |n| {
            let organization = name("organization", n % ORGANIZATIONS);
            json!({ "name": name("team", n), "organization": organization,
                "cost_centre": format!("cost-centre-{}", n % 40) })
        })?;
        create(
            system,
            "applications",
            APPLICATIONS,
            |n| json!({ "name": name("application", n), "team": name("team", n % TEAMS) }),
        )?;
        create(system, "keys", keys, |n| json!({ "application": name("application", n % APPLICATIONS) }))?;
        for number in 0..MODELS {
            let upstream = json!({ "upstream": "http://127.0.0.1:9/v1", "dialect": "vllm" });
            let path = format!("/models/{}", name("model", number));
            call(system, "PUT", &path, &json!({ "deployments": [upstream] }))?;
        }
        // Numbers are given in order, from 1, which the system's own have.
        Ok(Self { keys: 1 + keys as u64, models: 1 + MODELS as u64 })
    }

    /// Whose the `n`th of many exchanges is, any of the keys being as likely, and what it asked for.
    pub(super) fn who(&self, n: u64, choice: u64) -> (AttributionId, AliasId, DeploymentId) {
        let key = n % self.keys;
        let model = 1 + (key * MODELS_OF_KEY + choice % MODELS_OF_KEY) % self.models;
        let model = u32::try_from(model).unwrap_or(1);
        (AttributionId(1 + key), AliasId(model), DeploymentId(model))
    }
}

fn create(
    system: &System,
    what: &str,
    count: usize,
    body: impl Fn(usize) -> Value + Sync,
) -> anyhow::Result<()> {
    let part = |first: usize| {
        let path = format!("/{what}");
        (first..count).step_by(CALLS).try_for_each(|number| call(system, "POST", &path, &body(number)))
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..CALLS).map(|first| scope.spawn(move || part(first))).collect();
        parts.into_iter().try_for_each(|part| part.join().expect("a call does not panic"))
    })
}

fn call(system: &System, method: &str, path: &str, body: &Value) -> anyhow::Result<()> {
    let answer = system.admin(method, path, body);
    ensure!(answer.status() < 300, "{method} {path}: {} {}", answer.status(), answer.text());
    Ok(())
}
