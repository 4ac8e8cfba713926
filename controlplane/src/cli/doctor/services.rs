//! The control plane, data planes and ClickHouse, asked over HTTP.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::DATE;
use serde_json::Value;

use super::Finding;
use super::installation::{Installation, Plane};
use crate::cli::CliError;
use crate::cli::admin::Admin;
use crate::clickhouse::client::DATABASE;
use crate::config::{ClickHouse, Config};

const ANSWER_MAX: Duration = Duration::from_secs(5);
const ADMIN_LISTEN: &str = "127.0.0.1:8090";
const OPS_LISTEN: &str = "127.0.0.1:9180";
/// The oldest that `insert_deduplication_token` and the tables' settings are known to work on.
const CLICKHOUSE_MIN: u64 = 24;
const SKEW_GOOD_MS: i64 = 2000;
const SKEW_MAX_MS: i64 = 30_000;

/// Goes nowhere but where it is told to: ClickHouse's password is in a header, and would go behind a
/// redirect.
fn client() -> Option<reqwest::Client> {
    let to_one_place = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    to_one_place.timeout(ANSWER_MAX).build().ok()
}

pub(super) async fn examine(installation: &Installation, admin: Result<Admin, CliError>) -> Vec<Finding> {
    let Some(http) = client() else { return vec![Finding::skipped("services", "no HTTP client")] };
    let mut findings = Vec::new();
    if let Some(plane) = &installation.dataplane {
        findings.push(dataplane_ready(&get(&http, &ops_url(plane, "/readyz")).await));
    }
    if let Some(plane) = &installation.controlplane {
        let answer = get(&http, &admin_url(plane, "/readyz")).await;
        findings.push(controlplane_ready(&answer));
        if let Ok(Answer { date: Some(date), .. }) = &answer {
            findings
                .push(clock("the control plane", date.as_millisecond() - Timestamp::now().as_millisecond()));
        }
        findings.extend(clickhouse(&http, plane).await);
    }
    findings.extend(nodes(admin).await);
    findings
}

/// The data plane's own address for operators.
fn ops_url(plane: &Plane, path: &str) -> String {
    format!("http://{}{path}", plane.text("ops.listen").unwrap_or(OPS_LISTEN))
}

/// The control plane's address for administrators.
fn admin_url(plane: &Plane, path: &str) -> String {
    format!("http://{}{path}", plane.text("admin.listen").unwrap_or(ADMIN_LISTEN))
}

/// What a service answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    text: String,
    date: Option<Timestamp>,
}

async fn get(http: &reqwest::Client, url: &str) -> Result<Answer, String> {
    ask(http.get(url)).await
}

async fn ask(request: reqwest::RequestBuilder) -> Result<Answer, String> {
    let innermost = |error: reqwest::Error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        cause.to_string()
    };
    let answer = request.send().await.map_err(innermost)?;
    let status = answer.status().as_u16();
    let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|date| date.timestamp());
    let text = answer.text().await.map_err(innermost)?;
    Ok(Answer { status, text: text.trim().to_owned(), date })
}

fn dataplane_ready(answer: &Result<Answer, String>) -> Finding {
    let check = "data plane";
    match answer {
        Ok(Answer { status: 200, text, .. }) => Finding::ok(check, text),
        Ok(Answer { text, .. }) => {
            Finding::failed(check, text, "its log says more: `journalctl -u liutong-dataplane`")
        }
        Err(error) => Finding::failed(
            check,
            format!("it does not answer: {error}"),
            "`systemctl start liutong-dataplane`",
        ),
    }
}

fn controlplane_ready(answer: &Result<Answer, String>) -> Finding {
    let check = "control plane";
    match answer {
        Ok(Answer { status: 200, text, .. }) if text.contains("away") => Finding::warning(
            check,
            text,
            "start ClickHouse; until then usage waits on the data planes' disks",
        ),
        Ok(Answer { status: 200, text, .. }) => Finding::ok(check, text),
        Ok(Answer { text, .. }) => {
            Finding::failed(check, text, "its log says more: `journalctl -u liutong-controlplane`")
        }
        Err(error) => {
            let mend = "`systemctl start liutong-controlplane`; data planes serve on meanwhile";
            Finding::failed(check, format!("it does not answer: {error}"), mend)
        }
    }
}

/// How far another clock is ahead of this one.
fn clock(of: &str, ahead_ms: i64) -> Finding {
    let check = "clock";
    let seconds = ahead_ms.abs() / 1000;
    let found = format!("that of {of} is {seconds} s {}", if ahead_ms < 0 { "behind" } else { "ahead" });
    let mend = "let both machines follow a time server: `systemctl enable --now systemd-timesyncd`";
    match ahead_ms.abs() {
        0..=SKEW_GOOD_MS => Finding::ok(check, format!("that of {of} agrees")),
        ..=SKEW_MAX_MS => Finding::warning(check, found, mend),
        _ => Finding::failed(check, found, mend),
    }
}

/// Asks the server that the control plane's configuration names.
async fn clickhouse(http: &reqwest::Client, plane: &Plane) -> Vec<Finding> {
    let check = "clickhouse";
    let (url, user, password) = match Config::load_for_tools(&plane.file) {
        Ok(Config { clickhouse: ClickHouse::Server { url, user, password }, .. }) => (url, user, password),
        Ok(_) => {
            let why = "it is embedded: the control plane's own state, above, tells how it is";
            return vec![Finding::skipped(check, why)];
        }
        Err(error) if error.is_elsewhere() => {
            let why = format!("{error} (the control plane's unit has it, this shell has not)");
            return vec![Finding::skipped(check, why)];
        }
        Err(error) => {
            let mend = "mend the configuration, or run this as a user who may read its secret files";
            return vec![Finding::failed("configuration of the control plane", error.to_string(), mend)];
        }
    };
    let query = |sql: &'static str| {
        let request = http.post(&url).header("x-clickhouse-user", &user).body(sql);
        ask(request.header("x-clickhouse-key", password.reveal()))
    };
    let version = query("SELECT version()").await;
    let mut findings = vec![server(&url, &version)];
    if !matches!(version, Ok(Answer { status: 200, .. })) {
        return findings;
    }
    if let Ok(Answer { status: 200, text, .. }) = query("SELECT toUnixTimestamp64Milli(now64(3))").await
        && let Ok(theirs) = text.parse::<i64>()
    {
        findings.push(clock("ClickHouse", theirs - Timestamp::now().as_millisecond()));
    }
    findings.push(fsync(&query(TABLES).await));
    findings
}

/// Rows and bytes of our tables, as ClickHouse has them.
const SIZES: &str = "SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes, count() AS parts \
                     FROM system.parts WHERE database = 'liutong' AND active GROUP BY table ORDER BY table \
                     SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONEachRow";

/// The metrics of the planes that are here, each with the name of a file.
pub(in crate::cli) async fn metrics(installation: &Installation) -> Vec<(&'static str, String)> {
    let Some(http) = client() else { return Vec::new() };
    let mut found = Vec::new();
    let urls = [
        ("metrics-dataplane.txt", installation.dataplane.as_ref().map(|plane| ops_url(plane, "/metrics"))),
        (
            "metrics-controlplane.txt",
            installation.controlplane.as_ref().map(|plane| admin_url(plane, "/metrics")),
        ),
    ];
    for (name, url) in urls {
        let Some(url) = url else { continue };
        let text = match get(&http, &url).await {
            Ok(answer) => answer.text + "\n",
            Err(error) => format!("(not to be had: {error})\n"),
        };
        found.push((name, text));
    }
    found
}

/// How large ClickHouse's tables are, a line of JSON each; or why that can't be said.
pub(in crate::cli) async fn table_sizes(installation: &Installation) -> String {
    let not = |why: &str| format!("(not to be had: {why})\n");
    let (Some(http), Some(plane)) = (client(), &installation.controlplane) else {
        return not("there is no control plane on this machine");
    };
    let (url, user, password) = match Config::load_for_tools(&plane.file) {
        Ok(Config { clickhouse: ClickHouse::Server { url, user, password }, .. }) => (url, user, password),
        Ok(_) => return not("ClickHouse is embedded"),
        Err(error) => return not(&error.to_string()),
    };
    let request = http.post(&url).header("x-clickhouse-user", user).body(SIZES);
    match ask(request.header("x-clickhouse-key", password.reveal())).await {
        Ok(Answer { status: 200, text, .. }) => text + "\n",
        Ok(Answer { status, .. }) => not(&format!("ClickHouse answered {status}")),
        Err(error) => not(&error),
    }
}

/// Each of our tables that holds data, and how it was made. Which migrations were made is found out again.
const TABLES: &str = "SELECT name, create_table_query FROM system.tables WHERE database = 'liutong' \
                      AND engine LIKE '%MergeTree' AND name != 'schema_migrations' FORMAT JSONEachRow";

fn server(url: &str, version: &Result<Answer, String>) -> Finding {
    let check = "clickhouse";
    match version {
        Ok(Answer { status: 200, text, .. }) => {
            let major = text.split('.').next().and_then(|major| major.parse::<u64>().ok());
            let found = format!("{url} has version {text}");
            if major.is_some_and(|major| major >= CLICKHOUSE_MIN) {
                return Finding::ok(check, found);
            }
            Finding::failed(check, found, format!("use ClickHouse {CLICKHOUSE_MIN} or later"))
        }
        Ok(Answer { status: status @ (401 | 403 | 516), .. }) => {
            let mend = "check clickhouse.user and its password in the control plane's configuration";
            Finding::failed(check, format!("{url} refuses us with {status}"), mend)
        }
        Ok(Answer { status, .. }) => {
            Finding::failed(check, format!("{url} answered {status}"), "ClickHouse's own log says more")
        }
        Err(error) => {
            let mend =
                "start it, or correct clickhouse.url; until then usage waits on the data planes' disks";
            Finding::failed(check, format!("{url} does not answer: {error}"), mend)
        }
    }
}

/// Whether what ClickHouse acknowledges is on its disk.
fn fsync(tables: &Result<Answer, String>) -> Finding {
    let check = "clickhouse fsync";
    let text = match tables {
        Ok(Answer { status: 200, text, .. }) => text,
        Ok(Answer { status, .. }) => return Finding::skipped(check, format!("system.tables: {status}")),
        Err(error) => return Finding::skipped(check, format!("system.tables: {error}")),
    };
    let rows: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if rows.is_empty() {
        let mend = format!("the control plane makes the tables of {DATABASE} once it reaches ClickHouse");
        return Finding::failed(check, "there are no tables yet", mend);
    }
    let without = |row: &&Value| {
        let made = row["create_table_query"].as_str().unwrap_or_default();
        !(made.contains("fsync_after_insert = 1") && made.contains("fsync_part_directory = 1"))
    };
    let names: Vec<&str> = rows.iter().filter(without).filter_map(|row| row["name"].as_str()).collect();
    if names.is_empty() {
        return Finding::ok(check, format!("what is acknowledged is on disk, in all {} tables", rows.len()));
    }
    let mend = "`ALTER TABLE liutong.NAME MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1`";
    Finding::failed(
        check,
        format!("a power cut may lose what was acknowledged in {}", names.join(", ")),
        mend,
    )
}

/// What the control plane knows of its data planes.
async fn nodes(admin: Result<Admin, CliError>) -> Vec<Finding> {
    let check = "sync";
    let admin = match admin {
        Ok(admin) => admin,
        Err(error) => return vec![Finding::skipped(check, error.to_string())],
    };
    match admin.list("listing nodes".to_owned(), &["nodes"], &[]).await {
        Ok(rows) if rows.is_empty() => {
            let mend = "start a data plane; on another host `liutong node enroll` comes first";
            vec![Finding::warning(check, "the control plane knows no data plane", mend)]
        }
        Ok(rows) => rows.iter().map(node).collect(),
        Err(error) => {
            let mend =
                error.hint().unwrap_or("check the profile or the environment that names the control plane");
            vec![Finding::failed(check, error.to_string(), mend)]
        }
    }
}

fn node(row: &Value) -> Finding {
    let text = |member: &str| row[member].as_str().unwrap_or_default();
    let name = if text("name").is_empty() { text("id") } else { text("name") };
    let check = format!("sync of {name}");
    if row["connected"] != true {
        let mend = "start it, or see whether it reaches the control plane; `liutong node remove` retires it";
        return Finding::failed(check, format!("away since {}", text("last_seen")), mend);
    }
    match row["behind"].as_u64() {
        Some(0) => Finding::ok(check, format!("up to date, generation {}", row["generation"])),
        Some(behind) => {
            let mend = "look again in a second; if it stays, that data plane's log says why";
            Finding::warning(check, format!("{behind} changes behind"), mend)
        }
        None => Finding::skipped(check, "the control plane does not say how far it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Failed, Ok as Fine, Skipped, Warning};
    use super::*;
    use serde_json::json;

    fn answer(status: u16, text: &str) -> Result<Answer, String> {
        Ok(Answer { status, text: text.to_owned(), date: None })
    }

    fn away() -> Result<Answer, String> {
        Err("connection refused".to_owned())
    }

    fn verdicts(findings: &[Finding]) -> Vec<Verdict> {
        findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn planes_that_are_away_or_not_ready_are_found() {
        let data = [answer(200, "ready"), answer(503, "not ready: no snapshot"), away()];
        assert_eq!(verdicts(&data.map(|answer| dataplane_ready(&answer))), [Fine, Failed, Failed]);
        let control =
            [answer(200, "ready"), answer(200, "ready, clickhouse is away"), answer(503, "x"), away()];
        let found = control.map(|answer| controlplane_ready(&answer));
        assert_eq!(verdicts(&found), [Fine, Warning, Failed, Failed]);
    }

    #[test]
    fn clocks_that_disagree_are_found() {
        let found = [0, -1999, 2500, -31_000].map(|ms| clock("x", ms));
        assert_eq!(verdicts(&found), [Fine, Fine, Warning, Failed]);
        assert!(found[3].found.contains("31 s behind"));
    }

    /// Answers one request with a redirect to `location`; gives what it was asked.
    fn redirecting(listener: std::net::TcpListener, location: String) -> std::thread::JoinHandle<String> {
        use std::io::{BufRead as _, BufReader, Write as _};
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let answer = format!("HTTP/1.1 307 x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            (&stream).write_all(answer.as_bytes()).unwrap();
            head.join("\n")
        })
    }

    #[tokio::test]
    async fn a_password_goes_behind_no_redirect() {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (clickhouse, elsewhere) = (listen(), listen());
        let url = |at: &std::net::TcpListener| format!("http://{}/", at.local_addr().unwrap());
        let to = url(&clickhouse);
        let asked = redirecting(clickhouse, url(&elsewhere));
        let request = client().unwrap().post(&to).header("x-clickhouse-key", "hunter2").body("SELECT 1");
        assert_eq!(ask(request).await.unwrap().status, 307);
        assert!(asked.join().unwrap().contains("hunter2"));
        elsewhere.set_nonblocking(true).unwrap();
        assert!(elsewhere.accept().is_err(), "nobody came");
    }

    #[tokio::test]
    async fn a_clickhouse_whose_password_only_the_unit_has_is_skipped_with_why() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("controlplane.toml");
        for place in ["password_systemd_credential = 'clickhouse'", "password_env = 'LIUTONG_NOT_SET'"] {
            let text = format!(
                "data_dir = '/d'\n[admin]\nbootstrap_key_file = '/absent'\n\
                 [clickhouse]\nurl = 'http://127.0.0.1:1'\n{place}\n"
            );
            std::fs::write(&file, &text).unwrap();
            let plane = Plane { file: file.clone(), config: text.parse().unwrap() };
            let found = clickhouse(&client().unwrap(), &plane).await;
            assert_eq!(verdicts(&found), [Skipped], "{found:?}");
            assert!(found[0].found.contains("clickhouse.password_"), "{found:?}");
        }
    }

    #[test]
    fn a_clickhouse_that_is_away_refuses_or_is_old_is_found() {
        let answers =
            [answer(200, "26.7.2.1"), answer(200, "23.8.1.1"), answer(516, ""), answer(500, ""), away()];
        let found = answers.map(|answer| server("http://c", &answer));
        assert_eq!(verdicts(&found), [Fine, Failed, Failed, Failed, Failed]);
        assert!(found[2].mend.as_ref().unwrap().contains("password"));
    }

    #[test]
    fn tables_that_are_not_synced_are_named() {
        let table = |name: &str, settings: &str| {
            json!({"name": name, "create_table_query": format!("CREATE ... SETTINGS {settings}")}).to_string()
        };
        let good = table("a", "x = 1, fsync_after_insert = 1, fsync_part_directory = 1");
        assert_eq!(fsync(&answer(200, &good)).verdict, Fine);
        let bad = format!("{good}\n{}", table("b", "fsync_after_insert = 1"));
        let finding = fsync(&answer(200, &bad));
        assert_eq!(finding.verdict, Failed);
        assert!(finding.found.ends_with("in b"), "{}", finding.found);
        assert_eq!(
            verdicts(&[fsync(&answer(200, "")), fsync(&answer(500, "")), fsync(&away())]),
            [Failed, Skipped, Skipped]
        );
    }

    #[test]
    fn data_planes_that_are_away_or_behind_are_found() {
        let row = |connected: bool, behind: Value| {
            node(&json!({"name": "n", "connected": connected, "behind": behind, "generation": 7}))
        };
        let found =
            [row(true, json!(0)), row(true, json!(3)), row(true, Value::Null), row(false, Value::Null)];
        assert_eq!(verdicts(&found), [Fine, Warning, Skipped, Failed]);
    }
}
