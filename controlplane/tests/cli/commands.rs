//! What single commands send, and what they show of the answer.

use std::path::Path;

use super::*;

#[test]
fn revoking_shows_the_receipt_and_names_data_planes_that_have_not_confirmed() {
    let receipt = json!({
        "id": "key_7", "status": "revoked",
        "nodes": [{"node": "00000000000000aa", "milliseconds": 3}], "pending": [{"node": "00000000000000bb", "last_seen": "2026-11-25T00:00:00Z"}],
    });
    let api = Api::start(&[(200, receipt.clone()), (200, receipt.clone())]);
    let output = api.run(&["key", "revoke", "key_7", "-o", "json"]);
    assert_eq!(stdout_json(&output), receipt);
    assert!(stderr(&output).contains("1 data planes have not confirmed"));
    let csv = stdout(&api.run(&["key", "revoke", "key_7", "-o", "csv"]));
    assert_eq!(
        csv,
        "id,status,node,confirmed,milliseconds,last_seen\n\
         key_7,revoked,00000000000000aa,true,3,\nkey_7,revoked,00000000000000bb,false,,2026-11-25T00:00:00Z\n"
    );
    assert_eq!(api.asked()[0].path, "/admin/v1/keys/key_7/revoke");
}

#[test]
fn a_model_is_set_from_flags_or_from_a_file_and_only_what_was_given_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("deployments.json");
    let two = json!({"deployments": [{"upstream": "http://a/v1"}, {"upstream": "http://b/v1"}]});
    std::fs::write(&file, two.to_string()).unwrap();
    let answer = json!({"alias": "org/small", "deployments": [{"name": "d1", "upstream": "http://h/v1"}]});
    let api = Api::start(&[(200, answer.clone()), (200, answer)]);
    let flags = [
        "--upstream",
        "http://h/v1",
        "--upstream-model",
        "m",
        "--dialect",
        "vllm",
        "--on-disconnect",
        "drain",
    ];
    let table = stdout(&api.run(&[&["model", "set", "org/small", "--weight", "2"], &flags[..]].concat()));
    assert!(table.contains("org/small") && table.contains("d1"), "{table}");
    stdout(&api.run(&["model", "set", "org/small", "--file", file.to_str().unwrap()]));
    let asked = api.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("PUT", "/admin/v1/models/org%2Fsmall"));
    assert_eq!(
        asked[0].body,
        json!({"deployments": [{
            "upstream": "http://h/v1", "upstream_model": "m", "dialect": "vllm",
            "weight": 2, "on_disconnect": "drain",
        }]})
    );
    assert_eq!(asked[1].body, two);
}

#[test]
fn applications_are_made_with_every_alias_with_some_or_with_none() {
    for (models, sent) in [("*", json!(["*"])), ("a, b", json!(["a", "b"])), ("", json!([]))] {
        let api = Api::start(&[(200, json!({"id": "app_1", "name": "x"}))]);
        stdout(&api.run(&["application", "create", "x", "--team", "t", "--models", models]));
        assert_eq!(api.asked()[0].body, json!({"name": "x", "team": "t", "models": sent}));
    }
}

#[test]
fn a_request_is_found_by_its_id_and_removing_a_model_needs_no_answer_body() {
    let api = Api::start(&[(200, json!({"request_id": "req_1", "total_tokens": 9})), (204, Value::Null)]);
    assert_eq!(stdout_json(&api.run(&["request", "show", "req_1", "-o", "json"]))["total_tokens"], 9);
    stdout(&api.run(&["model", "remove", "small"]));
    assert_eq!(api.asked()[0].path, "/admin/v1/requests/req_1");
    assert_eq!(
        (api.asked()[1].method.as_str(), api.asked()[1].path.as_str()),
        ("DELETE", "/admin/v1/models/small")
    );
}

#[test]
fn a_spool_is_inspected_and_verified_without_a_control_plane() {
    use wire::event::UsageEvent;
    use wire::id::{BootId, NodeId, Position};
    use wire::record::{Record, SegmentHeader, append};

    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("0000000000000001");
    std::fs::create_dir(&below).unwrap();
    let header = SegmentHeader { spool: BootId(1), node: NodeId(2), first: Position(0), created_ms: 3 };
    let mut bytes = header.encode().to_vec();
    for position in 0..3 {
        append(&mut bytes, Position(position), &Record::Event(UsageEvent::default()));
    }
    bytes.resize(4096, 0);
    let write = |bytes: &[u8]| std::fs::write(below.join("1.seg"), bytes).unwrap();
    let run = |command: &str, directory: &Path| {
        liutong(&["spool", command, directory.to_str().unwrap(), "-o", "json"]).output().unwrap()
    };
    write(&bytes);
    let inspected = stdout_json(&run("inspect", dir.path()));
    assert_eq!((&inspected[0]["events"], &inspected[0]["last_position"]), (&json!(3), &json!(2)));
    assert_eq!(stdout_json(&run("verify", dir.path()))[0]["ok"], json!(true));

    bytes[64 + 104 + 40] ^= 1;
    write(&bytes);
    assert_eq!(stdout_json(&run("inspect", dir.path()))[0]["damaged_ranges"], json!(1));
    let damaged = run("verify", dir.path());
    assert_eq!(damaged.status.code(), Some(1));
    assert!(stderr(&damaged).contains("positions 1..=1 are missing"), "{}", stderr(&damaged));
    assert_eq!(run("verify", &dir.path().join("absent")).status.code(), Some(3));
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(run("verify", empty.path()).status.code(), Some(3));
}

#[test]
fn an_update_sends_what_was_given_and_nothing_else() {
    let api = Api::start(&[(200, json!({"id": "t1"})), (200, json!({"id": "k"}))]);
    stdout(&api.run(&["team", "update", "research", "--cost-centre", "4712", "--no-plan"]));
    stdout(&api.run(&["key", "update", "key_7", "--inherit-models", "--no-expiry", "--application", "lab"]));
    let asked = api.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("PATCH", "/admin/v1/teams/research"));
    assert_eq!(asked[0].body, json!({"plan": null, "cost_centre": "4712"}));
    assert_eq!(asked[1].path, "/admin/v1/keys/key_7");
    assert_eq!(asked[1].body, json!({"models": null, "expires_at": null, "application": "lab"}));
    assert_eq!(api.run(&["team", "update", "research"]).status.code(), Some(2));
    assert_eq!(api.run(&["team", "update", "r", "--plan", "a", "--no-plan"]).status.code(), Some(2));
}

#[test]
fn a_dry_run_is_asked_for_with_every_change_and_has_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let made = json!({"id": "key_7", "secret": null});
    let api = Api::start(&[(200, list(json!([]))), (204, Value::Null), (200, made)]);
    stdout(&api.run(&["team", "list", "--dry-run"]));
    stdout(&api.run(&["node", "remove", "n", "--force", "--dry-run"]));
    let secret = file.to_str().unwrap();
    let args = ["key", "create", "--application", "a", "--write-secret", secret, "--dry-run"];
    assert!(stdout(&api.run(&args)).contains("key_7"));
    assert!(!file.exists());
    let paths: Vec<String> = api.asked().into_iter().map(|asked| asked.path).collect();
    let base = "/admin/v1";
    assert_eq!(
        paths,
        [
            format!("{base}/teams"),
            format!("{base}/nodes/n?force=true&dry_run=true"),
            format!("{base}/keys?dry_run=true"),
        ]
    );
}

#[test]
fn administrators_are_made_with_a_role_and_a_part_and_rotate_their_own_key() {
    let made = json!({"id": "adm_1", "secret": "sk-ltadm-SECRET"});
    let api = Api::start(&[(201, made.clone()), (201, made)]);
    let args =
        ["administrator", "create", "alice", "--role", "admin", "--organization", "acme", "--secret-only"];
    assert_eq!(stdout(&api.run(&args)), "sk-ltadm-SECRET\n");
    stdout(&api.run(&["administrator", "rotate", "--emergency"]));
    let asked = api.asked();
    assert_eq!(asked[0].path, "/admin/v1/administrators");
    assert_eq!(asked[0].body, json!({"name": "alice", "role": "admin", "organization": "acme"}));
    assert_eq!(asked[1].path, "/admin/v1/administrators/me/rotate");
    assert_eq!(asked[1].body, json!({"overlap_seconds": 0}));
}

#[test]
fn an_exported_trail_is_verified_without_a_control_plane_or_a_key() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text, status) in [
        ("cut.jsonl", "{\"seq\": 1}\n{\"seq", 1),
        ("cut.json", "[{\"seq\": 1}", 1),
        ("other.csv", "at,by_name\n", 2),
        ("absent", "", 3),
    ] {
        let file = dir.path().join(name);
        if status != 3 {
            std::fs::write(&file, text).unwrap();
        }
        let output = liutong(&["audit", "verify", "--file", file.to_str().unwrap()]).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{name} {}", stderr(&output));
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(told.contains("entry 1 is no whole record"), status == 1, "{name} {told}");
    }
    let output = liutong(&["audit", "verify", "--expect", "ab"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "a hash to expect is of a file");
}
