//! A revoked key that is used all the same is noticed, with every use; and of each key it is told when it was
//! used last.
#![allow(clippy::unwrap_used, reason = "a test")]

use load_tests::harness::ask::{number, unknown_key};
use load_tests::harness::{Setup, System, wait_until};
use load_tests::upstream::{Options, Upstream};
use serde_json::{Value, json};
use std::time::Duration;

/// Data planes tell what they count every ten seconds.
const TOLD: Duration = Duration::from_secs(60);
const CHAT: &str = r#"{"model":"small","max_tokens":1,"seed":1}"#;

fn ask(system: &System, key: &str) -> u16 {
    system.post("/chat/completions", key, CHAT).status()
}

fn uses(system: &System, key: &str) -> i64 {
    let rows = system.cli(&["key", "uses", key]);
    rows.as_array().unwrap().iter().map(|row| number(row, "uses")).sum()
}

fn of<'a>(rows: &'a Value, id: &str) -> &'a Value {
    rows.as_array().unwrap().iter().find(|row| row["id"] == id).unwrap_or(&Value::Null)
}

#[test]
fn every_use_of_a_revoked_key_is_shown_until_it_is_erased() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
    let ((leaked, secret), (idle, _)) = (system.create_key("demo"), system.create_key("demo"));
    assert_eq!(ask(&system, &secret), 200);
    let shown = wait_until("the last use", TOLD, || {
        let shown = system.cli(&["key", "show", &leaked]);
        shown["last_used_at"].is_string().then_some(shown)
    });
    let last_used = shown["last_used_at"].as_str().unwrap();
    assert!(last_used.ends_with(":00Z"), "{last_used} is to the minute");
    assert_eq!(shown["refused_uses"], 0);

    system.cli(&["key", "revoke", &leaked]);
    for _ in 0..5 {
        assert_eq!(ask(&system, &secret), 401);
    }
    assert_eq!(ask(&system, &unknown_key()), 401);
    wait_until("five uses", TOLD, || (uses(&system, &leaked) == 5).then_some(()));
    let all = system.cli(&["key", "uses"]);
    assert_eq!(all.as_array().unwrap().len(), 1, "one key alone is used though it is refused: {all}");
    let one = of(&all, &leaked);
    assert_eq!((number(one, "uses"), &one["status"]), (5, &json!("revoked")), "{all}");
    let keys = system.cli(&["key", "list"]);
    assert_eq!(of(&keys, &leaked)["refused_uses"], 5, "{keys}");
    assert_eq!(of(&keys, &leaked)["last_used_at"], last_used, "what was refused is no use of it");
    assert_eq!(
        (&of(&keys, &idle)["refused_uses"], &of(&keys, &idle)["last_used_at"]),
        (&json!(0), &Value::Null)
    );
    let metrics = String::from_utf8(system.ops("/metrics").unwrap().body().to_vec()).unwrap();
    assert!(metrics.contains("\nliutong_refused_key_uses_total{reason=\"revoked\"} 5\n"), "{metrics}");

    // OpenAI's form tells it, too.
    let team = of(&keys, &idle)["team_id"].as_str().unwrap();
    let project = |path: &str| {
        let answer = load_tests::harness::ask::http(
            "GET",
            &format!("{}/v1/organization/projects/{team}/api_keys/{path}", system.ready.admin_url),
            &[("authorization", &format!("Bearer {}", system.ready.admin_key))],
            b"",
        );
        serde_json::from_slice::<Value>(answer.unwrap().body()).unwrap()
    };
    let seconds = system.count(&format!("SELECT toUnixTimestamp(parseDateTimeBestEffort('{last_used}'))"));
    assert_eq!(project(&leaked)["last_used_at"], seconds);
    assert_eq!(project(&idle)["last_used_at"], Value::Null);

    system.cli(&["privacy", "erase", "--key", &leaked, "--yes"]);
    wait_until("the erasure", TOLD, || (system.count("SELECT count() FROM key_uses") == 0).then_some(()));
    // Nor does a use of it leave anything any more, once the data plane has told it.
    assert_eq!(ask(&system, &secret), 401);
    let other = system.create_key("demo");
    system.cli(&["key", "revoke", &other.0]);
    assert_eq!(ask(&system, &other.1), 401);
    wait_until("a use that was told with it", TOLD, || (uses(&system, &other.0) == 1).then_some(()));
    assert_eq!(system.count("SELECT uniqExact(key_id) FROM key_uses"), 1);
}
