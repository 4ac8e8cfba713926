//! Taking secrets, addresses, names and people out of configurations.
//!
//! By an allow-list of keys, each with the form that its value must have; everything else goes. Of what an
//! administrator named (credentials, hosts) it is said that there is a name. Texts are `text`'s.

use std::collections::BTreeSet;
use std::net::IpAddr;

use reqwest::Url;
use toml::{Table, Value};

pub(super) use self::text::{SECRET_BYTES_MIN, Scrubber};

/// Other texts than configurations, line by line.
mod text;

const REMOVED: &str = "(removed)";
/// In the place of a name that an administrator gave.
const NAME: &str = "(a name)";

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
    /// The name of a systemd credential, which may tell whose it is.
    Name,
    /// One of our own words: letters in lower case.
    Word,
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
    ("usage.sync", Form::Word),
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
    let keep = |(at, (key, value)): (usize, (&String, &Value))| {
        // Names of credentials and keys that nobody knows may be anything.
        let is_word = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && key.len() <= 32;
        let key = match (above, is_word) {
            // Numbered: two of the same name would be one.
            ("credentials", _) => format!("{NAME} {}", at + 1),
            (_, true) => key.clone(),
            (_, false) => REMOVED.to_owned(),
        };
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
    table.iter().enumerate().map(keep).collect()
}

/// What a configuration names: its credentials, systemd's, and hosts. Texts may repeat them.
pub(super) fn names(table: &Table) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    names_in(table, "", &mut names);
    names
}

fn names_in(table: &Table, above: &str, names: &mut BTreeSet<String>) {
    for (key, value) in table {
        if above == "credentials" {
            names.insert(key.clone());
        }
        let key = if above == "credentials" { "*" } else { key };
        let path = if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") };
        match (value, form(&path)) {
            (Value::Table(table), _) => names_in(table, &path, names),
            (Value::Array(all), None) => {
                all.iter().filter_map(Value::as_table).for_each(|table| names_in(table, &path, names));
            }
            (Value::String(text), Some(Form::Name)) => {
                names.insert(text.clone());
            }
            (Value::String(text), Some(Form::Places | Form::Url)) => names.extend(host(text)),
            (Value::Array(all), Some(Form::Places)) => {
                names.extend(all.iter().filter_map(Value::as_str).filter_map(host));
            }
            _ => {}
        }
    }
}

/// The host of a place or a URL, where it is a name and not this machine.
fn host(text: &str) -> Option<String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let host = Url::parse(&url).ok()?.host_str()?.to_owned();
    (!is_own(&host) && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()).then_some(host)
}

/// Whether a host is this machine, whatever it is called elsewhere.
fn is_own(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
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
            (Self::Places, Value::String(text)) => is_place(text).then(|| place(text).into()),
            (Self::Places, Value::Array(all)) => {
                let places = all.iter().filter_map(Value::as_str).map(|text| place(text).into());
                texts(all, is_place).then(|| Value::Array(places.collect()))
            }
            (Self::Variable, Value::String(text)) => {
                let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
                (text.contains('_') && text.bytes().all(plain)).then(|| value.clone())
            }
            (Self::Name, Value::String(_)) => Some(NAME.into()),
            (Self::Word, Value::String(text)) => {
                text.bytes().all(|byte| byte.is_ascii_lowercase()).then(|| value.clone())
            }
            (Self::Url, Value::String(text)) => {
                let url = Url::parse(text).ok()?;
                let (scheme, path) = (url.scheme(), url.path());
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                let host = shown_host(url.host_str().unwrap_or_default());
                Some(format!("{scheme}://{host}{port}{path}").into())
            }
            _ => None,
        }
    }
}

/// `host:port` without a host that has a name or an address elsewhere.
fn place(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let (host, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
    let between = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{between}{}:{port}", shown_host(host))
}

fn shown_host(host: &str) -> &str {
    if is_own(host) {
        return host;
    }
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() { REMOVED } else { NAME }
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
            "hosts = [\"(a name):443\"]",
            "url = \"http://(a name):8123/\"",
            "password_file = \"/p\"",
            "key_file = \"/t\"",
            "api_key = \"(removed)\"",
        ] {
            assert!(shown.contains(kept), "{kept} is not in\n{shown}");
        }
    }

    #[test]
    fn of_names_it_is_said_that_there_are_some_and_texts_are_rid_of_them() {
        let text = "[credentials.ACME_MERGER]\nsystemd_credential = 'acme-key'\nhosts = ['llm.acme.example:443']\n\
                    [credentials.ZOO]\nenv = 'ZOO_KEY'\nhosts = ['10.1.2.3:443', '127.0.0.1:80']\n\
                    [control]\naddress = ['cp.acme.example:8092']\n\
                    [clickhouse]\nurl = 'https://ch.acme.example:8443/'\npassword_systemd_credential = 'ch-key'\n\
                    [registry]\nurl = 'postgres://liutong@db.acme.example/liutong'\n";
        let table: Table = text.parse().unwrap();
        let shown = config(&table);
        for gone in ["acme", "ACME", "ZOO]", "ch-key", "10.1.2.3"] {
            assert!(!shown.contains(gone), "{gone} is in\n{shown}");
        }
        for kept in [
            "[credentials.\"(a name) 1\"]",
            "[credentials.\"(a name) 2\"]",
            "systemd_credential = \"(a name)\"",
            "hosts = [\"(a name):443\"]",
            "\"(removed):443\"",
            "\"127.0.0.1:80\"",
            "address = [\"(a name):8092\"]",
            "url = \"https://(a name):8443/\"",
            "url = \"postgres://(a name)/liutong\"",
        ] {
            assert!(shown.contains(kept), "{kept} is not in\n{shown}");
        }
        let expected = [
            "ACME_MERGER",
            "ZOO",
            "acme-key",
            "ch-key",
            "ch.acme.example",
            "cp.acme.example",
            "db.acme.example",
            "llm.acme.example",
        ];
        assert_eq!(names(&table).into_iter().collect::<Vec<_>>(), expected);
    }
}
