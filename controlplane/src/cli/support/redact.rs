//! Taking secrets, addresses and people out of texts.
//!
//! Configurations: by an allow-list of keys, each with the form that its value must have; everything else
//! goes. Other texts: words that look like a secret, or stand where one does, and addresses but loopback's.
//! When in doubt it goes.

use std::net::IpAddr;

use reqwest::Url;
use secret::Secret;
use toml::{Table, Value};

const REMOVED: &str = "(removed)";
/// The shortest text that is taken out for being a secret of the configuration's: shorter ones would take
/// ordinary words with them.
const SECRET_BYTES_MIN: usize = 6;
/// A word of letters in both cases and digits that is as long as this is taken for a secret.
const RANDOM_CHARS_MIN: usize = 24;

/// The form of a value that may stay.
#[derive(Clone, Copy)]
enum Form {
    Path,
    /// `host:port`, with a scheme or without; one or a list.
    Places,
    Url,
    /// Numbers and booleans.
    Number,
    /// The name of an environment variable.
    Variable,
    /// The name of a systemd credential: letters in lower case, and dashes.
    Name,
}

/// The keys whose values may stay; `*` is any name of a table.
const KEPT: &[(&str, Form)] = &[
    ("data_dir", Form::Path),
    ("runtime_dir", Form::Path),
    ("upstream_ca_file", Form::Path),
    ("workers", Form::Number),
    ("http.listen", Form::Places),
    ("http.tls.certificate_file", Form::Path),
    ("http.tls.key_file", Form::Path),
    ("http.tls.client_ca_file", Form::Path),
    ("http.tls.certificates.certificate_file", Form::Path),
    ("http.tls.certificates.key_file", Form::Path),
    ("ops.listen", Form::Places),
    ("control.socket", Form::Path),
    ("control.address", Form::Places),
    ("control.stale_limit_seconds", Form::Number),
    ("credentials.*.env", Form::Variable),
    ("credentials.*.file", Form::Path),
    ("credentials.*.systemd_credential", Form::Name),
    ("credentials.*.hosts", Form::Places),
    ("limits.*", Form::Number),
    ("usage.sync", Form::Name),
    ("usage.retention_minutes", Form::Number),
    ("admin.listen", Form::Places),
    ("admin.bootstrap_key_file", Form::Path),
    ("admin.bootstrap_key_systemd_credential", Form::Name),
    ("sync.socket", Form::Path),
    ("sync.listen", Form::Places),
    ("sync.certificate_seconds", Form::Number),
    ("registry.url", Form::Url),
    ("registry.password_file", Form::Path),
    ("registry.password_env", Form::Variable),
    ("registry.password_systemd_credential", Form::Name),
    ("clickhouse.url", Form::Url),
    ("clickhouse.raw_days", Form::Number),
    ("clickhouse.hourly_days", Form::Number),
    ("clickhouse.daily_days", Form::Number),
    ("clickhouse.password_file", Form::Path),
    ("clickhouse.password_env", Form::Variable),
    ("clickhouse.password_systemd_credential", Form::Name),
    ("clickhouse.embedded.listen", Form::Places),
    ("backup.keep_days", Form::Number),
];

/// A configuration with the places of its secrets, and without anything that may be one.
pub(super) fn config(table: &Table) -> String {
    toml::to_string(&kept(table, "")).unwrap_or_default()
}

fn kept(table: &Table, above: &str) -> Table {
    let keep = |(key, value): (&String, &Value)| {
        // Names of credentials and keys that nobody knows may be anything.
        let is_word = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && key.len() <= 32;
        let key = if is_word { key.clone() } else { REMOVED.to_owned() };
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        let value = match value {
            Value::Table(table) => Value::Table(kept(table, &path)),
            Value::Array(all) if all.iter().all(Value::is_table) => Value::Array(
                all.iter().filter_map(Value::as_table).map(|t| Value::Table(kept(t, &path))).collect(),
            ),
            other => form(&path).and_then(|form| form.keep(other)).unwrap_or_else(|| REMOVED.into()),
        };
        (key, value)
    };
    table.iter().map(keep).collect()
}

fn form(path: &str) -> Option<Form> {
    let fits = |pattern: &str| {
        let (mut wanted, mut given) = (pattern.split('.'), path.split('.'));
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some(one), Some(other)) if one == "*" || one == other => {}
                _ => return false,
            }
        }
    };
    KEPT.iter().find(|(pattern, _)| fits(pattern)).map(|(_, form)| *form)
}

impl Form {
    /// The value, where it has the form.
    fn keep(self, value: &Value) -> Option<Value> {
        let texts =
            |all: &[Value], fits: fn(&str) -> bool| all.iter().all(|one| one.as_str().is_some_and(fits));
        match (self, value) {
            (Self::Number, Value::Integer(_) | Value::Boolean(_)) => Some(value.clone()),
            (Self::Path, Value::String(text)) => is_path(text).then(|| value.clone()),
            (Self::Path, Value::Array(all)) => texts(all, is_path).then(|| value.clone()),
            (Self::Places, Value::String(text)) => is_place(text).then(|| value.clone()),
            (Self::Places, Value::Array(all)) => texts(all, is_place).then(|| value.clone()),
            (Self::Variable, Value::String(text)) => {
                let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
                (text.contains('_') && text.bytes().all(plain)).then(|| value.clone())
            }
            (Self::Name, Value::String(text)) => {
                text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-').then(|| value.clone())
            }
            (Self::Url, Value::String(text)) => {
                let mut url = Url::parse(text).ok()?;
                let _ = (url.set_username(""), url.set_password(None));
                url.set_query(None);
                url.set_fragment(None);
                Some(Value::String(url.to_string()))
            }
            _ => None,
        }
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/')
}

fn is_place(text: &str) -> bool {
    let text = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte);
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok() && host.bytes().all(plain)
    })
}

/// Takes secrets and addresses out of texts.
pub(super) struct Scrubber {
    secrets: Vec<Secret>,
}

impl Scrubber {
    /// Also takes out these, wherever they stand.
    pub(super) fn new(secrets: Vec<Secret>) -> Self {
        Self { secrets }
    }

    /// The text, line by line.
    pub(super) fn scrub(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.iter().filter(|secret| secret.reveal().len() >= SECRET_BYTES_MIN) {
            text = text.replace(secret.reveal(), REMOVED);
        }
        text.split_inclusive('\n').map(line).collect()
    }
}

/// A line without the words that may be a secret.
fn line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let (mut rest, mut secret_next, mut version_next) = (line, false, false);
    while !rest.is_empty() {
        let (word, tail) = rest.split_at(rest.find(is_between).unwrap_or(rest.len()));
        let (between, tail) = tail.split_at(tail.find(|c| !is_between(c)).unwrap_or(tail.len()));
        if word.contains(char::is_alphanumeric) {
            // The versions of some have the form of addresses.
            let is_address = is_address(word) && !version_next;
            let goes = secret_next || is_secret(word) || is_address || word.contains('@');
            out.push_str(if goes { REMOVED } else { word });
            secret_next = announces_secret(word, between);
            version_next = word == "version";
        } else {
            out.push_str(word);
        }
        out.push_str(between);
        rest = tail;
    }
    out
}

fn is_between(c: char) -> bool {
    c.is_whitespace() || "\"'`=,;<>{}".contains(c)
}

/// Whether what follows this word is a secret.
fn announces_secret(word: &str, between: &str) -> bool {
    let word = word.trim_end_matches(':').to_ascii_lowercase();
    if matches!(word.as_str(), "bearer" | "basic" | "authorization" | "x-api-key" | "api-key") {
        return true;
    }
    let named = ["password", "passwd", "secret", "token", "api_key", "apikey", "cookie"];
    // "the token was ..." is prose; `token=`, `"token":` and `token "` are not.
    let is_given = between.contains(['=', '"', '\'']) || between.starts_with(':');
    is_given && named.iter().any(|name| word.ends_with(name))
}

fn is_secret(word: &str) -> bool {
    let has = |class: fn(&char) -> bool| word.chars().any(|c| class(&c));
    let mut parts = word.split([':', '/', '(']);
    let begins =
        parts.any(|part| ["sk-", "eyJ", "ghp_", "AKIA"].iter().any(|prefix| part.starts_with(prefix)));
    let has_key = word.contains("sk-lt");
    let is_random = word.len() >= RANDOM_CHARS_MIN
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "+/_-".contains(c))
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_digit);
    begins || has_key || is_random
}

/// An IP address that is not this machine's own, with a port or without.
fn is_address(word: &str) -> bool {
    let word = word.trim_matches(['.', ':', '(', ')']);
    let word = word.rsplit_once("//").map_or(word, |(_, authority)| authority);
    let word = word.split('/').next().unwrap_or_default();
    let host = match word.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None if word.matches(':').count() == 1 => word.split(':').next().unwrap_or_default(),
        None => word,
    };
    host.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "hunter2";

    #[test]
    fn of_a_configuration_places_stay_and_secrets_go() {
        let text = format!(
            "data_dir = '/var/lib/x'\nworkers = 2\nsecret = '{MARKER}'\n\
             [http]\nlisten = '0.0.0.0:8080'\n\
             [credentials.OPENAI]\nenv = 'OPENAI_API_KEY'\nhosts = ['api.openai.com:443']\napi_key = '{MARKER}'\n\
             [credentials.B]\nenv = '{MARKER}'\nfile = '{MARKER}'\nsystemd_credential = '{MARKER}'\nhosts = ['{MARKER}']\n\
             [credentials.'sk-{MARKER}']\nfile = '/k'\n\
             [clickhouse]\nurl = 'http://u:{MARKER}@h:8123/?password={MARKER}'\npassword = '{MARKER}'\nuser = '{MARKER}'\n\
             password_file = '/p'\nraw_days = '{MARKER}'\n\
             [[http.tls.certificates]]\nkey_file = '/t'\npassphrase = '{MARKER}'\n"
        );
        let shown = config(&text.parse().unwrap());
        assert!(!shown.contains(MARKER), "{shown}");
        for kept in [
            "data_dir = \"/var/lib/x\"",
            "workers = 2",
            "listen = \"0.0.0.0:8080\"",
            "env = \"OPENAI_API_KEY\"",
            "hosts = [\"api.openai.com:443\"]",
            "url = \"http://h:8123/\"",
            "password_file = \"/p\"",
            "key_file = \"/t\"",
            "api_key = \"(removed)\"",
        ] {
            assert!(shown.contains(kept), "{kept} is not in\n{shown}");
        }
    }

    #[test]
    fn secrets_and_addresses_go_from_logs_and_what_helps_stays() {
        let scrubber = Scrubber::new(vec![Secret::new("correct horse battery".to_owned())]);
        for (line, shown) in [
            ("authorization: Bearer abc123\n", "authorization: (removed) (removed)\n"),
            ("key sk-lt-Abcd1234-xyz refused", "key (removed) refused"),
            ("{\"password\":\"hunter2\",\"n\":1}", "{\"password\":\"(removed)\",\"n\":1}"),
            ("password=hunter2 user=x", "password=(removed) user=x"),
            ("from 203.0.113.7:443 and [2001:db8::1]:80", "from (removed) and (removed)"),
            ("to http://10.1.2.3:8000/v1, then", "to (removed), then"),
            ("mail root@example.org", "mail (removed)"),
            ("say correct horse battery staple", "say (removed) staple"),
            ("jwt eyJhbGciOi.x.y", "jwt (removed)"),
            ("refused (203.0.113.7)", "refused (removed)"),
            ("api_key = \"(removed)\"", "api_key = \"(removed)\""),
            ("AbCdEfGhIjKlMnOpQrStUvWx0123", "(removed)"),
        ] {
            assert_eq!(scrubber.scrub(line), shown);
        }
        for kept in [
            "2026-11-29T02:00:00.123456Z INFO controlplane::run: control plane ready admin=127.0.0.1:8090\n",
            "liutong_usage_pending 0\n",
            "http://127.0.0.1:18123 has version 26.7.2.1, the disk-full task-1",
            "node 00000000000000aa boot 4fd0c2b1a9e8d7f6, the token was taken\n",
            "/var/lib/liutong/dataplane/spool/0123456789abcdef0123456789abcdef/000001.seg",
            "\"found\": \"Linux 6.1.0-42-amd64\",\n",
        ] {
            assert_eq!(scrubber.scrub(kept), kept);
        }
    }
}
