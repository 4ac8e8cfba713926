//! The admin API's client.
//!
//! The administrator's key comes from where a profile or the environment says that it is, goes into one
//! header, and nowhere else: not through a proxy, not behind a redirect, not into an error.

use std::cell::Cell;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde_json::Value;

use super::CliError;
use super::profile::Place;
use super::progress::Progress;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// `key revoke` waits for every data plane, a usage report for ClickHouse.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const PAGES_MAX: usize = 10_000;

/// Speaks to one control plane as one administrator.
pub(crate) struct Admin {
    http: reqwest::Client,
    base: Url,
    /// Changes are checked and not made.
    dry_run: bool,
    /// Whether it was said that they are not made.
    told_dry: Cell<bool>,
}

/// What a request is about: shown in errors ("revoking key key_17").
pub(crate) type Action = String;

impl Admin {
    /// Fetches the key from its place. With `dry_run` every change is checked and not made.
    pub(super) fn at(place: Place, dry_run: bool) -> Result<Self, CliError> {
        let Place { admin_url, origin, key } = place;
        let base = base_url(&admin_url)?;
        if base.scheme() == "http" && !is_loopback(&base) {
            eprintln!("liutong: warning: the administrator's key travels unencrypted to {base}");
        }
        let key = key.read().map_err(|source| CliError::AdminKey { origin: origin.clone(), source })?;
        Ok(Self { dry_run, ..Self::new(base, &authorization(key.reveal(), &origin)?)? })
    }

    /// Whether changes are checked and not made.
    pub(super) fn is_dry(&self) -> bool {
        self.dry_run
    }

    /// Uses a key that is at hand.
    pub(crate) fn with_key(base: &str, key: &str) -> Result<Self, CliError> {
        let origin = "the data directory";
        Self::new(base_url(base)?, &authorization(key, origin)?)
    }

    fn new(base: Url, authorization: &HeaderValue) -> Result<Self, CliError> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, authorization.clone())]);
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .user_agent(concat!("liutong/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CliError::Unreachable { url: base.to_string(), reason: reason(&error) })?;
        Ok(Self { http, base, dry_run: false, told_dry: Cell::default() })
    }

    /// Gets one thing.
    pub(crate) async fn get(
        &self,
        action: Action,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Value, CliError> {
        self.call(action, Method::GET, self.url(path, query)?, None).await
    }

    /// Gets all pages of a list.
    pub(super) async fn list(
        &self,
        action: Action,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Vec<Value>, CliError> {
        let mut all: Vec<Value> = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut query = query.to_vec();
            let after = all.last().map(last_id).unwrap_or_default();
            if !after.is_empty() {
                query.push(("after", &after));
            }
            let mut page = self.call(action.clone(), Method::GET, self.url(path, &query)?, None).await?;
            let more = page.get("has_more").and_then(Value::as_bool).unwrap_or(false);
            let Some(Value::Array(rows)) = page.get_mut("data").map(Value::take) else {
                return Err(CliError::Unexpected { action, reason: "a list has no data".to_owned() });
            };
            let stuck = rows.last().is_none_or(|row| last_id(row).is_empty() || last_id(row) == after);
            all.extend(rows);
            if !more {
                return Ok(all);
            }
            if stuck {
                break;
            }
        }
        Err(CliError::Unexpected { action, reason: "the list does not end".to_owned() })
    }

    /// Makes something.
    pub(crate) async fn post(&self, action: Action, path: &[&str], body: &Value) -> Result<Value, CliError> {
        self.call(action, Method::POST, self.url(path, &[])?, Some(body)).await
    }

    /// Makes or replaces something.
    pub(crate) async fn put(&self, action: Action, path: &[&str], body: &Value) -> Result<Value, CliError> {
        self.call(action, Method::PUT, self.url(path, &[])?, Some(body)).await
    }

    /// Changes something.
    pub(super) async fn patch(&self, action: Action, path: &[&str], body: &Value) -> Result<Value, CliError> {
        self.call(action, Method::PATCH, self.url(path, &[])?, Some(body)).await
    }

    /// Removes something.
    pub(super) async fn delete(
        &self,
        action: Action,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Value, CliError> {
        self.call(action, Method::DELETE, self.url(path, query)?, None).await
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Url, CliError> {
        // A URL has no room for these as a name: they would silently mean another path.
        if let Some(bad) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Err(CliError::Usage(format!("{bad:?} is no name and no id")));
        }
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http URL has a path").clear().extend(["admin", "v1"]).extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    async fn call(
        &self,
        action: Action,
        method: Method,
        mut url: Url,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let is_tried = self.dry_run && method != Method::GET;
        if is_tried {
            url.query_pairs_mut().append_pair("dry_run", "true");
        }
        let unreachable = |error: &reqwest::Error| CliError::Unreachable {
            url: self.base.to_string(),
            reason: reason(error),
        };
        let _progress = Progress::of_waiting(&action);
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| unreachable(&error))?;
        if !status.is_success() {
            return Err(CliError::Refused { action, status: status.as_u16(), text: problem(&bytes) });
        }
        if is_tried && !self.told_dry.replace(true) {
            eprintln!("liutong: dry run: all was checked, nothing was changed");
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| CliError::Unexpected { action, reason: error.to_string() })
    }
}

/// The text of an RFC 9457 problem.
fn problem(bytes: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |name| problem.get(name).and_then(Value::as_str).unwrap_or_default();
    match (text("title"), text("detail")) {
        ("", "") => "and gave no reason".to_owned(),
        (title, "") => title.to_owned(),
        ("", detail) => detail.to_owned(),
        (title, detail) => format!("{title}: {detail}"),
    }
}

fn last_id(row: &Value) -> String {
    match row.get("id").or_else(|| row.get("alias")) {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => String::new(),
    }
}

fn base_url(text: &str) -> Result<Url, CliError> {
    let refuse = |reason: &str| CliError::AdminUrl { url: shown_url(text), reason: reason.to_owned() };
    let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refuse("expected http://HOST:PORT or https://HOST:PORT"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not repeated: it is a secret.
        return Err(CliError::Usage("the admin API's URL must not carry a user or a password".to_owned()));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("expected no path: the admin API's is added to it"));
    }
    Ok(url)
}

/// A URL without what may be a secret: a user and a password, and what is behind the path. Where it can't be
/// read nobody knows which part of it that is.
pub(super) fn shown_url(text: &str) -> String {
    if !text.contains(['@', '?', '#']) {
        return text.to_owned();
    }
    match Url::parse(text) {
        Ok(url) if url.has_host() && !url.path().contains('@') => {
            let user = if url.username().is_empty() && url.password().is_none() { "" } else { "(removed)@" };
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            let (host, path) = (url.host_str().unwrap_or_default(), url.path());
            let behind = if url.query().is_some() || url.fragment().is_some() { "(removed)" } else { "" };
            format!("{}://{user}{host}{port}{path}{behind}", url.scheme())
        }
        _ => "(removed)".to_owned(),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn authorization(key: &str, origin: &str) -> Result<HeaderValue, CliError> {
    let bad = |reason| CliError::BadAdminKey { origin: origin.to_owned(), reason };
    let key = key.trim();
    if key.is_empty() {
        return Err(bad("empty"));
    }
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad("not one word of ASCII"));
    }
    let mut value =
        HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| bad("not fit for a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The innermost causes, without the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_timeout() { format!("no answer in time ({cause})") } else { cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_as_one_part_of_the_path() {
        let admin = Admin::with_key("http://127.0.0.1:1", "k").unwrap();
        let url = admin.url(&["models", "org/Model 1?"], &[("team", "a&b")]).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:1/admin/v1/models/org%2FModel%201%3F?team=a%26b");
        for bad in ["", ".", ".."] {
            assert!(admin.url(&["models", bad], &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_admin_url_with_a_path_or_a_password_is_refused() {
        for bad in [
            "127.0.0.1:8090",
            "ftp://a",
            "http://a/admin",
            "http://a/?x",
            "http://",
            "http://u:secret@a",
            "http://u:secret@",
            "http://u:sec/ret:secret@a:99999/",
            "ftp://u:secret@a",
            "u:secret@a:8090",
            "http://a/?key=secret",
            "http://a/#secret",
        ] {
            let error = base_url(bad).unwrap_err();
            assert_eq!(error.exit_status(), 2, "{bad}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_a_secret() {
        for (url, shown) in [
            ("https://a:1", "https://a:1"),
            ("https://u:secret@a:1", "https://(removed)@a:1/"),
            ("https://secret@a", "https://(removed)@a/"),
            ("https://a/?key=secret", "https://a/(removed)"),
            ("https://u:se?cret@a", "(removed)"),
            ("https://u/secret@a", "(removed)"),
            ("nothing@secret", "(removed)"),
        ] {
            assert_eq!(shown_url(url), shown);
        }
    }

    #[test]
    fn a_problem_is_told_with_title_and_detail() {
        assert_eq!(problem(br#"{"title":"not found","detail":"team x"}"#), "not found: team x");
        assert_eq!(problem(br#"{"title":"not found"}"#), "not found");
        assert_eq!(problem(b"<html>"), "and gave no reason");
    }

    #[test]
    fn a_key_that_is_not_one_word_is_refused_without_being_repeated() {
        for bad in ["", "  \n", "two words", "a\u{e9}", "a\nb"] {
            let error = authorization(bad, "X").unwrap_err();
            assert_eq!(error.exit_status(), 4, "{bad}");
            assert!(!error.to_string().contains("two words"));
        }
        assert_eq!(authorization(" k\n", "X").unwrap(), "Bearer k");
    }
}
