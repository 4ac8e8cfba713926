//! The planes' configuration files, written anew at each start. No secret is in them.

use serde::Serialize;
use toml::{Table, Value};

use super::QuickstartError;
use super::address::Addresses;
use super::data_dir::{DataDir, replace};
use super::state::Upstream;

const NOTE: &str = "# Written by `liutong quickstart` at each start: changes here do not last.\n\n";

/// Writes both files.
pub(super) fn write(
    data: &DataDir,
    addresses: &Addresses,
    upstream: &Upstream,
    workers: Option<u16>,
) -> Result<(), QuickstartError> {
    save(data, "dataplane", &dataplane(data, addresses, upstream, workers)?)?;
    save(data, "controlplane", &controlplane(data, addresses)?)
}

fn dataplane(
    data: &DataDir,
    addresses: &Addresses,
    upstream: &Upstream,
    workers: Option<u16>,
) -> Result<Table, QuickstartError> {
    let mut config = Table::new();
    config.insert("data_dir".into(), path(data.file("dataplane"))?);
    config.insert("runtime_dir".into(), path(data.file("run"))?);
    if let Some(workers) = workers {
        config.insert("workers".into(), i64::from(workers).into());
    }
    config.insert("http".into(), table([("listen", addresses.http.address().to_string().into())]));
    config.insert("ops".into(), table([("listen", addresses.ops.address().to_string().into())]));
    config.insert("control".into(), table([("socket", path(data.socket())?)]));
    if let (Some(name), Some(host)) = (upstream.credential_env(), upstream.host()) {
        let credential = table([("env", name.into()), ("hosts", Value::Array(vec![host.into()]))]);
        config.insert("credentials".into(), table([(name, credential)]));
    }
    Ok(config)
}

fn controlplane(data: &DataDir, addresses: &Addresses) -> Result<Table, QuickstartError> {
    let mut config = Table::new();
    config.insert("data_dir".into(), path(data.file("controlplane"))?);
    let admin = [
        ("listen", addresses.admin.address().to_string().into()),
        ("bootstrap_key_file", path(data.admin_key_file())?),
    ];
    config.insert("admin".into(), table(admin));
    config.insert("sync".into(), table([("socket", path(data.socket())?)]));
    let clickhouse = [
        ("url", format!("http://{}", addresses.clickhouse.address()).into()),
        ("user", crate::clickhouse::engine::config::WRITER.into()),
        ("password_file", path(data.clickhouse_password_file())?),
    ];
    config.insert("clickhouse".into(), table(clickhouse));
    Ok(config)
}

fn table<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Table(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn path(path: std::path::PathBuf) -> Result<Value, QuickstartError> {
    match path.into_os_string().into_string() {
        Ok(text) => Ok(Value::String(text)),
        Err(path) => {
            Err(QuickstartError::Usage(format!("--data-dir: {} is not UTF-8", path.to_string_lossy())))
        }
    }
}

fn save(data: &DataDir, name: &str, config: &impl Serialize) -> Result<(), QuickstartError> {
    let text = toml::to_string(config).expect("tables of text become TOML");
    replace(&data.config(name), format!("{NOTE}{text}").as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::QuickstartOptions;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: QuickstartOptions,
    }

    #[test]
    fn the_files_say_what_the_planes_expect_and_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(dir.path().join("da\"ta"))).unwrap();
        let key = data.admin_key().unwrap();
        let free = ["--http", "--ops", "--admin", "--clickhouse"].map(|flag| [flag, "127.0.0.1:0"]).concat();
        let options = Line::parse_from([vec!["quickstart"], free].concat()).options;
        let addresses = Addresses::reserve(&options).unwrap();
        let upstream = Upstream::Url {
            url: "https://h/v1".into(),
            model: "m".into(),
            dialect: "openai".into(),
            credential_env: Some("PATH".into()),
        };
        write(&data, &addresses, &upstream, Some(3)).unwrap();

        let read = |name| std::fs::read_to_string(data.config(name)).unwrap();
        let (dataplane, controlplane) = (read("dataplane"), read("controlplane"));
        let parsed: Table = dataplane.parse().unwrap();
        assert_eq!(parsed["workers"].as_integer(), Some(3));
        assert_eq!(parsed["http"]["listen"].as_str(), Some(addresses.http.address().to_string().as_str()));
        assert_eq!(parsed["credentials"]["PATH"]["env"].as_str(), Some("PATH"));
        assert_eq!(parsed["credentials"]["PATH"]["hosts"][0].as_str(), Some("h:443"));
        let parsed: Table = controlplane.parse().unwrap();
        assert_eq!(parsed["sync"]["socket"].as_str(), data.socket().to_str());
        for text in [dataplane, controlplane] {
            assert!(!text.contains(&key) && !text.contains(&std::env::var("PATH").unwrap()), "{text}");
        }
    }
}
