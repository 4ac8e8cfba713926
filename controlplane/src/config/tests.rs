//! Configurations that are taken, and the one line that says why another is not.

use super::*;

fn parse_with(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let find = |name: &str| env.iter().find(|one| one.0 == name).map(|one| one.1.to_owned());
    Config::parse(Path::new("c.toml"), text, For::Serving, find)
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    parse_with(text, &[])
}

#[test]
fn a_data_dir_is_enough() {
    let config = parse("data_dir = '/d'").unwrap();
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:8090");
    assert_eq!(config.sync_socket, Path::new("/d/run/control.sock"));
    assert!(matches!(config.clickhouse, ClickHouse::Embedded { port: 18123 }));
    assert!(matches!(config.registry, Place::File(file) if file == Path::new("/d/registry.db")));
    assert_eq!(config.raw_days, 90);
    assert!(config.bootstrap_key.is_none());
}

#[test]
fn a_postgresql_takes_its_password_from_elsewhere_and_does_not_print_it() {
    let text = "data_dir = '/d'\n[registry]\nurl = 'postgres://u@h/d?sslmode=require'\npassword_env = 'P'";
    let config = parse_with(text, &[("P", "p@ss word")]).unwrap();
    assert!(!format!("{config:?}").contains("p@ss"));
    let Place::Postgres(url) = config.registry else { panic!() };
    assert_eq!(url.reveal(), "postgres://u:p%40ss%20word@h/d?sslmode=require");
    let text = "data_dir = '/d'\n[registry]\nurl = 'postgres://u@%2Frun%2Fpostgresql:5433/d'";
    let Place::Postgres(url) = parse(text).unwrap().registry else { panic!() };
    assert_eq!(url.reveal(), "postgres://u@%2Frun%2Fpostgresql:5433/d");
}

#[test]
fn a_server_takes_its_password_from_the_environment_or_a_file() {
    let text = "data_dir = '/d'\n[clickhouse]\nurl = 'http://h:8123/'\nuser = 'u'\npassword_env = 'P'";
    let config = parse_with(text, &[("P", "secret")]).unwrap();
    let ClickHouse::Server { url, user, password } = &config.clickhouse else { panic!() };
    assert_eq!((url.as_str(), user.as_str(), password.reveal()), ("http://h:8123", "u", "secret"));
    assert!(!format!("{config:?}").contains("secret"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from file\n").unwrap();
    let text = format!(
        "data_dir = '/d'\n[clickhouse]\nurl = 'http://h:8123'\npassword_file = '{}'",
        file.path().display()
    );
    let ClickHouse::Server { password, .. } = parse(&text).unwrap().clickhouse else { panic!() };
    assert_eq!(password.reveal(), "from file");
}

#[test]
fn each_mistake_is_one_line_with_file_key_and_what_is_allowed() {
    for (text, says) in [
        ("", "c.toml:1: missing field `data_dir`"),
        ("data_dir = '/d'\nlisten = 1", "c.toml:2: unknown field `listen`, expected one of `data_dir`"),
        ("data_dir = '/d'\n[admin]\nport = 1", "c.toml:3: unknown field `port`"),
        ("data_dir = '/d'\n[admin]\nlisten = 'x'", "c.toml: admin.listen: an IP address and a port"),
        ("data_dir = '/d'\n[registry]\nurl = 'mysql://h/d'", "registry.url: a URL such as postgres://"),
        (
            "data_dir = '/d'\n[registry]\nurl = 'postgres://u:s3cret@h/d'",
            "registry.url: a URL without password",
        ),
        ("data_dir = '/d'\n[registry]\nurl = 'postgres://h/d?password=s3cret'", "a URL without password"),
        (
            "data_dir = '/d'\n[registry]\npassword_env = 'P'",
            "registry.password_env: the environment variable that",
        ),
        ("data_dir = '/d'\n[registry]\npassword = 's3cret'", "registry.password: a secret does not belong"),
        (
            "data_dir = '/d'\n[clickhouse]\nuser = 'u'",
            "clickhouse.user: it and a password only beside clickhouse.url",
        ),
        ("data_dir = '/d'\n[clickhouse]\nurl = 'ftp://h'", "clickhouse.url: an http or https URL"),
        (
            "data_dir = '/d'\n[clickhouse]\nurl = 'http://h'\npassword_env = 'NO'",
            "clickhouse.password_env: the environment variable that",
        ),
        ("data_dir = '/d'\n[clickhouse]\nraw_days = 0", "clickhouse.raw_days: 1 to 36500"),
        ("data_dir = '/d'\n[clickhouse.embedded]\nlisten = '0.0.0.0:1'", "a port on 127.0.0.1"),
        (
            "data_dir = '/d'\n[admin]\nbootstrap_key_file = '/no/such'",
            "admin.bootstrap_key_file: /no/such: No such file",
        ),
        (
            "data_dir = '/d'\n[registry]\npassword_env = 'P'\npassword_systemd_credential = 'p'",
            "registry.password_systemd_credential: not beside registry.password_env",
        ),
        (
            "data_dir = '/d'\n[registry]\npassword_systemd_credential = 'p'",
            "registry.password_systemd_credential: $CREDENTIALS_DIRECTORY is not set",
        ),
        ("data_dir = ''", "c.toml: data_dir: a path"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_literal_secret_is_refused_by_name_and_not_repeated() {
    for (text, key) in [
        ("data_dir = '/d'\n[admin]\nbootstrap_key = 'hunter2'", "admin.bootstrap_key"),
        ("data_dir = '/d'\n[clickhouse]\npassword = 'hunter2'", "clickhouse.password"),
        ("data_dir = '/d'\n[clickhouse]\nurl = 'http://u:hunter2@h'", "clickhouse.url"),
        ("data_dir = '/d'\n[clickhouse]\npassword_env = 'hunter2'", "clickhouse.password_env"),
        ("data_dir = '/d'\n[clickhouse]\npassword_file = 'hunter2'", "clickhouse.password_file"),
        ("data_dir = '/d'\n[clickhouse]\nraw_days = 'hunter2'", "expected u32"),
        ("data_dir = '/d'\nclickhouse = 'hunter2'", "expected struct"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(key) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn only_an_admin_key_makes_the_first_administrator() {
    let good = crate::keys::new_admin_key().unwrap();
    let (_, data_key) = crate::keys::new_key().unwrap();
    let with = |key: &str| parse_with("data_dir = '/d'", &[(BOOTSTRAP_KEY_VARIABLE, key)]);
    assert_eq!(with(good.reveal()).unwrap().bootstrap_key, Some(good));
    for bad in ["hunter2", data_key.reveal()] {
        let error = with(bad).unwrap_err().to_string();
        assert!(error.contains(BOOTSTRAP_KEY_VARIABLE) && !error.contains(bad), "{error}");
    }
}

#[test]
fn every_key_is_in_the_document() {
    let document = include_str!("../../../CONFIGURATION.md");
    for section in ["", "registry", "admin", "sync", "clickhouse", "clickhouse.embedded", "backup"] {
        let (name, head) = match section {
            "" => (String::new(), String::new()),
            _ => (format!("{section}."), format!("[{section}]\n")),
        };
        let error = parse(&format!("{head}zzz = 1\n")).unwrap_err().to_string();
        let known = error.split("expected").nth(1).unwrap_or_else(|| panic!("{section}: {error}"));
        let literals = [&BOOTSTRAP_KEYS, &REGISTRY_KEYS, &CLICKHOUSE_KEYS].map(|keys| keys.literal);
        let mut keys = known.split('`').skip(1).step_by(2).map(|key| format!("{name}{key}")).peekable();
        assert!(keys.peek().is_some(), "{section}: {error}");
        for key in keys.filter(|key| !literals.contains(&key.as_str())) {
            let is_there =
                [format!("`{key}`"), format!("`{key}.")].iter().any(|text| document.contains(text));
            assert!(is_there, "{key} is not in CONFIGURATION.md");
        }
    }
}
