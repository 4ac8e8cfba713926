//! Questions to a running system: HTTP, SQL, the command.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{SOON, System, binary, wait_until};
use crate::client::{self, Connection, Response};

/// The address in a URL of the form `http://ADDRESS[/path]`.
pub fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not http"))?;
    let host = rest.split('/').next().unwrap_or_default();
    host.parse().with_context(|| format!("{host} is no address"))
}

/// Makes one request to a URL and reads the whole response.
pub fn http(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> anyhow::Result<Response> {
    let path = url.splitn(4, '/').nth(3).unwrap_or_default();
    let mut all = headers.to_vec();
    all.push(("connection", "close"));
    let request = client::request(method, &format!("/{path}"), &all, body);
    let response = Connection::open(address(url)?)?.exchange(&request)?;
    ensure!(response.is_complete(), "{method} {url}: the response broke off");
    Ok(response)
}

/// An application in a team of its own, with a key.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The team's id, as in `usage_events.team_id`.
    pub team: String,
    /// The application's id.
    pub application: String,
    /// The key's id.
    pub key_id: String,
    /// The key.
    pub secret: String,
}

impl System {
    /// Opens a connection to the data plane.
    pub fn connection(&self) -> Connection {
        Connection::open(self.address()).expect("the data plane accepts connections")
    }

    /// Posts JSON to the data plane under `/v1`, with a key, on a connection of its own.
    pub fn post(&self, path: &str, key: &str, body: &str) -> Response {
        let request = client::post(&format!("/v1{path}"), key, body);
        self.connection().exchange(&request).expect("the data plane answers")
    }

    /// Asks ClickHouse, and returns lines of tab-separated fields.
    pub fn try_clickhouse(&self, sql: &str) -> anyhow::Result<String> {
        let ready = &self.ready;
        let headers = [
            ("x-clickhouse-user", ready.clickhouse_user.as_str()),
            ("x-clickhouse-key", ready.clickhouse_password.as_str()),
        ];
        let url = format!("{}/?database=liutong", ready.clickhouse_url.trim_end_matches('/'));
        let response = http("POST", &url, &headers, sql.as_bytes())?;
        ensure!(response.status() == 200, "ClickHouse: {sql}: {}", response.text());
        Ok(response.text().trim_end_matches('\n').to_owned())
    }

    /// Asks ClickHouse; panics with its message when it refuses.
    pub fn clickhouse(&self, sql: &str) -> String {
        self.try_clickhouse(sql).expect("ClickHouse answers")
    }

    /// Asks ClickHouse for one number.
    pub fn count(&self, sql: &str) -> u64 {
        let text = self.clickhouse(sql);
        text.parse().unwrap_or_else(|_| panic!("{sql} gave {text:?}"))
    }

    /// Waits until `usage_events` has exactly so many rows where `condition` holds; more is a failure at
    /// once.
    pub fn wait_for_rows(&self, condition: &str, rows: u64) {
        let sql = format!("SELECT count() FROM usage_events WHERE {condition}");
        let what = format!("{rows} rows where {condition}");
        wait_until(&what, SOON, || {
            let found = self.count(&sql);
            assert!(found <= rows, "{found} rows where {condition}, {rows} expected");
            (found == rows).then_some(())
        });
    }

    /// Runs `liutong` with these arguments and returns its JSON.
    pub fn try_cli(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.command(&[arguments, &["-o", "json"]].concat())?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "liutong {arguments:?}: {}: {stderr}", output.status);
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("liutong {arguments:?}: not JSON: {stderr}"))
    }

    /// Runs `liutong` with these arguments, and returns what it printed and its exit status.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary("liutong")?);
        command.args(arguments).env("LIUTONG_ADMIN_URL", &self.ready.admin_url);
        Ok(command.env("LIUTONG_ADMIN_KEY", &self.ready.admin_key).output()?)
    }

    /// Runs `liutong`; panics with what it said when it fails.
    pub fn cli(&self, arguments: &[&str]) -> Value {
        self.try_cli(arguments).expect("liutong succeeds")
    }

    /// Calls the admin API under `/admin/v1`.
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Response {
        let bearer = format!("Bearer {}", self.ready.admin_key);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let url = format!("{}/admin/v1{path}", self.ready.admin_url);
        http(method, &url, &headers, body.as_bytes()).expect("the admin API answers")
    }

    /// Reads `/metrics`, `/healthz` or `/readyz` of the data plane.
    pub fn ops(&self, path: &str) -> anyhow::Result<Response> {
        http("GET", &format!("{}{path}", self.ready.ops_url), &[], b"")
    }

    /// Makes an organization, a team and an application of this name that may use every alias, and a key.
    pub fn tenant(&self, name: &str) -> Tenant {
        self.cli(&["organization", "create", name]);
        let team = self.cli(&["team", "create", name, "--organization", name]);
        let application = self.cli(&["application", "create", name, "--team", name, "--models", "*"]);
        let (key_id, secret) = self.create_key(name);
        Tenant { team: text(&team, "id"), application: text(&application, "id"), key_id, secret }
    }

    /// Makes a key for an application; returns its id and secret.
    pub fn create_key(&self, application: &str) -> (String, String) {
        let key = self.cli(&["key", "create", "--application", application]);
        (text(&key, "id"), text(&key, "secret"))
    }

    /// Points an alias at an upstream.
    pub fn set_model(&self, alias: &str, upstream: &str, model: &str, more: &[&str]) {
        let mut arguments = vec!["model", "set", alias, "--upstream", upstream, "--upstream-model", model];
        arguments.extend_from_slice(more);
        self.cli(&arguments);
        // The data planes learn of it a moment later.
        let listed = |alias: &str| {
            let bearer = format!("Bearer {}", self.key());
            let url = format!("{}/models/{alias}", self.ready.base_url);
            http("GET", &url, &[("authorization", &bearer)], b"")
                .ok()
                .filter(|response| response.status() == 200)
        };
        wait_until(&format!("alias {alias} on the data plane"), SOON, || listed(alias));
    }

    /// The row of one exchange, by its `x-request-id`, once it is there.
    pub fn request_row(&self, request_id: &str) -> Value {
        let what = format!("the row of {request_id}");
        wait_until(&what, SOON, || self.try_cli(&["request", "show", request_id]).ok())
    }

    /// Waits until `pids.json` names another process than `before` for a child that was killed.
    pub fn wait_restarted(&self, name: &str, before: i32, limit: Duration) -> i32 {
        wait_until(&format!("{name} to be restarted"), limit, || {
            let pids = self.pids().ok()?;
            let now = match name {
                "dataplane" => pids.dataplane,
                "controlplane" => pids.controlplane,
                "clickhouse" => pids.clickhouse,
                other => panic!("{other} is no child of quickstart"),
            };
            (now != before && now > 0).then_some(now)
        })
    }

    /// Waits until ClickHouse answers again.
    pub fn wait_clickhouse(&self, limit: Duration) {
        wait_until("ClickHouse to answer", limit, || self.try_clickhouse("SELECT 1").ok());
    }

    /// Waits until the data plane answers health checks again, for instance after it was killed.
    pub fn wait_ready(&self, limit: Duration) {
        wait_until("the data plane to be ready", limit, || {
            self.ops("/readyz").ok().filter(|response| response.status() == 200)
        });
    }
}

/// A key of the right form, with the right check, that nobody was ever given.
pub fn unknown_key() -> String {
    let text = format!("sk-lt-Nobody00-{}", "A".repeat(43));
    let mut rest = crc32(text.as_bytes());
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    text + &String::from_utf8_lossy(&digits)
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// CRC-32 as in IEEE 802.3, bit by bit: on purpose not the data plane's.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// A member of a JSON object as a number, whether JSON has it as one or as text; -1 if it is neither.
pub fn number(value: &Value, member: &str) -> i64 {
    let value = &value[member];
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(-1)
}

/// A member of a JSON object as text; ids may be numbers.
pub fn text(value: &Value, member: &str) -> String {
    match &value[member] {
        Value::String(text) => text.clone(),
        Value::Null => panic!("{value} has no {member}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_is_the_usual_crc() {
        assert_eq!(super::crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(super::unknown_key().len(), 64);
    }
}
