//! Ten thousand requests of three teams: what ClickHouse adds up to is what the clients counted, exactly.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use load_tests::client::load::LabelTotals;
use load_tests::client::{Amount, Plan, Template, load, post};
use load_tests::harness::ask::{Tenant, number, text};
use load_tests::harness::sdk::Sdk;
use load_tests::harness::{SOON, Setup, System, wait_until};
use load_tests::upstream::{Options, Upstream};
use serde_json::json;

const REQUESTS: u64 = 10_000;
const CONNECTIONS: usize = 64;
/// Events of a stream that carry no token: the finish and the end.
const EVENTS_WITHOUT_TOKEN: u64 = 2;

/// The kinds of request that each team sends; tokens differ by team, so that a mix-up shows.
fn templates(tenant: &Tenant, team: u64) -> Vec<Template> {
    let seed = 100 * (team + 1);
    let template = |kind: &str, path: &str, members: String| Template {
        label: format!("{}/{kind}", tenant.team),
        request: post(path, &tenant.secret, &format!(r#"{{"model":"small",{members}}}"#)),
    };
    let (chat, tokens) = ("/v1/chat/completions", team + 3);
    vec![
        template("plain", chat, format!(r#""seed":{seed},"max_tokens":{tokens}"#)),
        template(
            "counted",
            chat,
            format!(
                r#""seed":{},"max_tokens":{tokens},"stream":true,"stream_options":{{"include_usage":true}}"#,
                seed + 1
            ),
        ),
        template("silent", chat, format!(r#""seed":{},"max_tokens":{tokens},"stream":true"#, seed + 2)),
        template(
            "text",
            "/v1/completions",
            format!(r#""seed":{},"max_tokens":{tokens},"prompt":"x""#, seed + 3),
        ),
        template("embedding", "/v1/embeddings", format!(r#""seed":{},"input":"x""#, seed + 4)),
    ]
}

/// What a team's clients counted: requests, prompt, completion and total tokens.
type Sums = (u64, u64, u64, u64);

fn counted(labels: &BTreeMap<String, LabelTotals>, team: u64, tenant: &Tenant) -> Sums {
    let mut sums = (0, 0, 0, 0);
    for (label, totals) in labels.iter().filter(|(label, _)| label.starts_with(&format!("{}/", tenant.team)))
    {
        assert_eq!(totals.ok, totals.responses, "{label}");
        let (mut prompt, mut completion, mut total) =
            (totals.prompt_tokens, totals.completion_tokens, totals.total_tokens);
        if label.ends_with("/silent") {
            assert_eq!(totals.with_usage, 0, "{label}: usage that was not asked for");
            // Nobody told these clients: they count the events, and know what they sent.
            prompt = totals.responses * (100 * (team + 1) + 2);
            completion = totals.events - EVENTS_WITHOUT_TOKEN * totals.responses;
            total = prompt + completion;
        } else {
            assert_eq!(totals.with_usage, totals.responses, "{label}");
        }
        sums = (sums.0 + totals.responses, sums.1 + prompt, sums.2 + completion, sums.3 + total);
    }
    sums
}

fn row(line: &str) -> Sums {
    let numbers: Vec<u64> = line.split('\t').map(|field| field.parse().unwrap()).collect();
    (numbers[0], numbers[1], numbers[2], numbers[3])
}

#[test]
fn ten_thousand_requests_add_up_exactly() {
    let upstream = Upstream::start(Options::default()).unwrap();
    let system = System::start(&Setup::for_upstream(&upstream.base_url())).unwrap();
    let tenants: Vec<Tenant> = ["alpha", "beta", "gamma"].map(|name| system.tenant(name)).into();
    let templates = tenants.iter().zip(0..).flat_map(|(tenant, team)| templates(tenant, team)).collect();
    let plan = Plan::new(system.address(), CONNECTIONS, Amount::Requests(REQUESTS), templates);
    let report = load::run(&plan).unwrap();
    assert_eq!(report.statuses, BTreeMap::from([(200, REQUESTS)]), "{} failures", report.failures);
    assert_eq!(report.failures, 0);

    let columns = "count(), sum(prompt_tokens), sum(completion_tokens), sum(total_tokens)";
    let teams = "team_id IN ('".to_owned()
        + &tenants.iter().map(|tenant| tenant.team.as_str()).collect::<Vec<_>>().join("','")
        + "')";
    system.wait_for_rows(&teams, REQUESTS);
    let mut all = (0, 0, 0, 0);
    for (tenant, team) in tenants.iter().zip(0..) {
        let expected = counted(&report.labels, team, tenant);
        let id = &tenant.team;
        let raw = system.clickhouse(&format!("SELECT {columns} FROM usage_events WHERE team_id = '{id}'"));
        assert_eq!(row(&raw), expected, "team {id} in usage_events");
        for view in ["usage_hourly", "usage_daily"] {
            let columns = columns.replace("count()", "sum(requests)");
            let sql = format!("SELECT {columns} FROM {view} WHERE team_id = '{id}'");
            assert_eq!(row(&system.clickhouse(&sql)), expected, "team {id} in {view}");
        }
        all = (all.0 + expected.0, all.1 + expected.1, all.2 + expected.2, all.3 + expected.3);
    }
    assert_eq!(all.0, REQUESTS);
    let distinct = format!("SELECT uniqExact(node, boot, seq) FROM usage_events WHERE {teams}");
    assert_eq!(system.count(&distinct), REQUESTS);
    let ledger = upstream.ledger()["scripted"];
    assert_eq!(
        (ledger.requests, ledger.reported),
        (REQUESTS, REQUESTS),
        "the gateway asks every stream for usage"
    );
    assert_eq!((ledger.prompt_tokens, ledger.completion_tokens), (all.1, all.2));
    named_by_the_command(&system, &report.labels, &tenants);
    read_by_the_sdks(&system, &report.labels, &tenants);
}

/// OpenAI's SDKs read the same, in OpenAI's form.
fn read_by_the_sdks(system: &System, labels: &BTreeMap<String, LabelTotals>, tenants: &[Tenant]) {
    let url = format!("{}/v1", system.ready.admin_url);
    // Two hours, so that there is more than one page.
    let start = system.count("SELECT toUnixTimestamp(now()) - 3600").to_string();
    for (sdk, script) in [(Sdk::python_3().unwrap(), "usage.py"), (Sdk::node().unwrap(), "usage.cjs")] {
        for ((tenant, team), name) in tenants.iter().zip(0..).zip(["alpha", "beta", "gamma"]) {
            let environment =
                [("OPENAI_ADMIN_KEY", system.ready.admin_key.as_str()), ("OPENAI_ORG_ID", name)];
            let lines = sdk.run(script, &[&url, &tenant.team, &start], &environment).unwrap();
            let (requests, input, output, _) = counted(labels, team, tenant);
            // No price is known.
            let expected = json!({"requests": requests, "input": input, "output": output, "amounts": [null]});
            assert_eq!(lines, [expected], "{name}, {script}");
        }
    }
}

/// `liutong usage` says the same, by name.
fn named_by_the_command(system: &System, labels: &BTreeMap<String, LabelTotals>, tenants: &[Tenant]) {
    let usage = wait_until("three teams in the usage report", SOON, || {
        Some(system.cli(&["usage", "--by", "team"])).filter(|usage| rows(usage).len() >= tenants.len())
    });
    for ((tenant, team), name) in tenants.iter().zip(0..).zip(["alpha", "beta", "gamma"]) {
        let rows = rows(&usage);
        let row =
            rows.iter().find(|row| text(row, "team") == name).unwrap_or_else(|| panic!("{name} in {usage}"));
        let expected = counted(labels, team, tenant);
        let member = |member: &str| u64::try_from(number(row, member)).unwrap();
        let sums = (
            member("requests"),
            member("prompt_tokens"),
            member("completion_tokens"),
            member("total_tokens"),
        );
        assert_eq!(sums, expected, "{name} in {usage}");
    }
}

/// A list, or the list in an object with one.
fn rows(usage: &serde_json::Value) -> Vec<serde_json::Value> {
    let list = usage.as_array().or_else(|| usage["data"].as_array()).or_else(|| usage["rows"].as_array());
    list.cloned().unwrap_or_default()
}
