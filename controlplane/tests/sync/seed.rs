//! A registry with as many keys as are wanted, without making each: a backup of a small one is filled up and
//! restored.

use std::fmt::Write as _;
use std::io::BufReader;
use std::path::Path;

use controlplane::keys;
use controlplane::registry::application::NewApplication;
use controlplane::registry::dump::load;
use controlplane::registry::key::NewKey;
use controlplane::registry::model::Deployment;
use controlplane::registry::organization::NewOrganization;
use controlplane::registry::team::NewTeam;
use controlplane::registry::{Place, Registry};
use serde_json::{Value, json};
use wire::table::{Dialect, OnDisconnect};

/// The application that all keys belong to.
pub(crate) const APPLICATION: &str = "demo";
/// The alias that they may use.
pub(crate) const ALIAS: &str = "small";

/// The key of a number, well formed; its public id is `id`.
pub(crate) fn secret(number: usize) -> String {
    let text = format!("sk-lt-B{number:07}-{:0>43}", number * 7_919);
    let check = wire::key_format::check_digits(text.as_bytes());
    text + &String::from_utf8_lossy(&check)
}

/// The public id of that key.
pub(crate) fn id(number: usize) -> String {
    format!("key_B{number:07}")
}

/// Makes a registry with keys of the numbers below `count`, and one more.
pub(crate) async fn registry(file: &Path, count: usize, upstream: &str) {
    let small = small(file, upstream).await;
    let lines: Vec<&str> = small.lines().collect();
    let mut text = String::with_capacity(small.len() + count * 320);
    let mut lines = lines.into_iter();
    while let Some(line) = lines.next() {
        if let Ok(end) = serde_json::from_str::<Value>(line)
            && let Some(rows) = end.get("end").and_then(Value::as_u64)
        {
            writeln!(text, "{}", json!({"end": rows + count as u64})).unwrap();
            continue;
        }
        // Numbers go on behind these keys.
        text += &line.replace("[\"key\",1]", &format!("[\"key\",{}]", count + 1));
        text.push('\n');
        if line.starts_with("{\"table\":\"keys\"") {
            let columns: Value = serde_json::from_str(line).unwrap();
            let first = lines.next().unwrap();
            text += first;
            text.push('\n');
            let row: Value = serde_json::from_str(first).unwrap();
            (0..count).for_each(|number| writeln!(text, "{}", key_row(&columns, &row, number)).unwrap());
        }
    }
    load::restore(&Place::from(file), &mut BufReader::new(text.as_bytes())).await.unwrap();
}

/// A row like another, with its own number, names and digest.
fn key_row(columns: &Value, row: &Value, number: usize) -> Value {
    let mut row = row.clone();
    let secret = secret(number);
    for (at, column) in columns["columns"].as_array().unwrap().iter().enumerate() {
        match column[0].as_str().unwrap() {
            "id" => row[at] = json!(number + 2),
            "public_id" => row[at] = json!(id(number)),
            "prefix" => row[at] = json!(&secret[..14]),
            "digest" => row[at] = json!(keys::digest(secret.as_bytes()).to_string()),
            _ => {}
        }
    }
    row
}

/// A backup of a registry with one key.
async fn small(file: &Path, upstream: &str) -> String {
    let registry = Registry::open(Place::from(file)).await.unwrap();
    let name = || APPLICATION.to_owned();
    registry.create_organization(NewOrganization { name: name(), ..Default::default() }).await.unwrap();
    registry.create_team(NewTeam { name: name(), organization: name(), ..Default::default() }).await.unwrap();
    let application =
        NewApplication { name: name(), team: name(), models: vec!["*".into()], ..Default::default() };
    registry.create_application(application).await.unwrap();
    let deployment = Deployment {
        name: "scripted".into(),
        upstream: upstream.into(),
        upstream_model: "scripted".into(),
        dialect: Dialect::Openai,
        credential: String::new(),
        api_version: String::new(),
        weight: 1,
        on_disconnect: OnDisconnect::Cancel,
        replay_safe: false,
        connect_timeout_ms: 5000,
        first_byte_timeout_ms: 60_000,
        idle_timeout_ms: 60_000,
    };
    registry.set_model(ALIAS, &[deployment]).await.unwrap();
    registry.create_key(NewKey { application: name(), ..Default::default() }).await.unwrap();
    let mut bytes = Vec::new();
    registry.dump(&mut bytes).await.unwrap();
    registry.close().await;
    String::from_utf8(bytes).unwrap()
}
