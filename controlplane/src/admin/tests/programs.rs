//! Programs of others against the API: the SDKs' `admin.organization`, and a search for what breaks it.

use load_tests::harness::sdk::{Sdk, schemathesis};

use super::*;

/// The events that a script must have caused in its project, the newest first.
const PROJECT_EVENTS: [&str; 4] =
    ["project.archived", "service_account.deleted", "service_account.created", "project.created"];

async fn administer(sdk: fn() -> anyhow::Result<Sdk>, script: &'static str) {
    let server = server().await;
    server.made("/organizations", json!({"name": "acme"})).await;
    let owner =
        server.made("/administrators", json!({"name": "sdk", "role": "owner", "organization": "acme"})).await;
    let (url, key) = (format!("{}/v1", server.url), owner["secret"].as_str().unwrap().to_owned());
    let run = move || sdk().unwrap().run(script, &[&url], &[("OPENAI_ADMIN_KEY", &key)]).unwrap();
    let lines = tokio::task::spawn_blocking(run).await.unwrap();
    let said = &lines[0];
    assert_eq!(said["actor"], owner["id"]);
    let types: Vec<&str> = said["types"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let mut left = types.iter();
    for event in PROJECT_EVENTS {
        assert!(left.any(|one| *one == event), "{event} is not where it should be in {types:?}");
    }
    let team = server.get(&format!("/teams/{}", said["project"].as_str().unwrap())).await;
    assert!(team["archived_at"].is_string());
    let keys = server.get(&format!("/keys?team={}", team["id"].as_str().unwrap())).await;
    assert!(keys["data"].as_array().unwrap().iter().all(|one| one["status"] == "revoked"), "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_python_administers_an_organization() {
    administer(Sdk::python_3, "admin.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_node_administers_an_organization() {
    administer(Sdk::node, "admin.cjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_failure_of_ours() {
    let server = server().await;
    server.demo().await;
    let admin = server.made("/administrators", json!({"name": "fuzz", "role": "admin"})).await;
    let (url, key) = (server.url.clone(), admin["secret"].as_str().unwrap().to_owned());
    let directory = server._dir.path().to_owned();
    let run = move || {
        let mut command = schemathesis().unwrap();
        // Where it keeps what it found.
        command.current_dir(directory);
        command.args(["run", &format!("{url}/admin/v1/openapi.json"), "--url", &url]);
        command.args(["--header", &format!("Authorization: Bearer {key}")]);
        command.args(["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing"]);
        command.args(["--max-examples", "8", "--seed", "1", "--workers", "1", "--no-color"]);
        // A machine that has much else to do is no failure of ours.
        command.args(["--request-timeout", "60"]);
        // ClickHouse is away in this test, which is 503 as it should be; and the credential is to last.
        command.args(["--exclude-path-regex", "/usage|/costs|/requests|/uses|/privacy/export|/me/rotate"]);
        command.output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let records = server.get("/audit/verify").await["records"].as_u64().unwrap();
    assert!(records > 50, "it has hardly come through to the registry: {records}\n{told}");
}
