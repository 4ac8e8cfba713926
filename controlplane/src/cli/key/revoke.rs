//! `liutong key revoke`: one key, a list of them, or all of a team or an application; and the receipt.
//!
//! A list may hold whole keys, as a leak scanner reports them. They are hashed here, and only the hash is
//! sent: the control plane then revokes the key that was found, and not one whose prefix somebody put before
//! an invented secret.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use serde_json::{Value, json};
use wire::id::KeyDigest;
use zeroize::Zeroizing;

use super::scan::Scanner;
use crate::cli::CliError;
use crate::cli::admin::Admin;
use crate::cli::output::Output;
use crate::registry::revocation::BY_DIGEST;

pub(in crate::cli) const REVOKE_EXAMPLES: &str = "\
Examples:
  liutong key revoke key_17 -o json
  liutong key revoke --team research --cut-streams
  liutong key revoke --from leaks.txt         # ids, prefixes or whole keys, anywhere in the lines
  liutong key scan dump.sql -o json | liutong key revoke --from -";

/// The longest list; larger files are for `key scan`.
const LIST_BYTES_MAX: u64 = 64 << 20;
/// How many keys go with one call.
const CALL_KEYS: usize = 1000;
const COLUMNS: [&str; 7] = ["id", "revoked", "status", "node", "confirmed", "milliseconds", "last_seen"];

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true)))]
pub(in crate::cli) struct RevokeArgs {
    /// Its id, prefix or description
    #[arg(group = "which")]
    key: Option<String>,
    /// All keys of this team, by name or id
    #[arg(long, group = "which")]
    team: Option<String>,
    /// All keys of this application, by name or id
    #[arg(long, group = "which")]
    application: Option<String>,
    /// The keys that a file names, by id, prefix, SHA-256 or whole; - is stdin
    #[arg(long, value_name = "FILE", group = "which")]
    from: Option<PathBuf>,
    /// Also ends what is under way with them, within 50 ms of the receipt
    #[arg(long)]
    cut_streams: bool,
}

pub(super) async fn run(admin: &Admin, out: &Output, options: RevokeArgs) -> Result<(), CliError> {
    let cut_streams = options.cut_streams;
    let receipt = if let Some(key) = &options.key {
        let action = format!("revoking key {key}");
        admin.post(action, &["keys", key, "revoke"], &json!({"cut_streams": cut_streams})).await?
    } else if let Some(file) = &options.from {
        revoke_listed(admin, &names_in(file)?, cut_streams).await?
    } else {
        let (action, member, of) = match (&options.team, &options.application) {
            (Some(team), _) => (format!("revoking the keys of team {team}"), "team", team),
            (None, Some(one)) => (format!("revoking the keys of application {one}"), "application", one),
            (None, None) => return Err(CliError::Usage("name a key, or which keys".to_owned())),
        };
        admin.post(action, &["keys", "revoke"], &json!({member: of, "cut_streams": cut_streams})).await?
    };
    warn_of_pending(&receipt);
    for unknown in items(&receipt, "unknown") {
        eprintln!("liutong: warning: no key of ours: {}", unknown.as_str().unwrap_or_default());
    }
    match out.format() {
        format if format.is_json() => out.one(&receipt),
        _ => show(out, &receipt),
    }
}

async fn revoke_listed(admin: &Admin, names: &[String], cut_streams: bool) -> Result<Value, CliError> {
    let mut all = json!({"object": "revocation", "revoked": 0, "unknown": [], "nodes": [], "pending": []});
    for part in names.chunks(CALL_KEYS) {
        let body = json!({"keys": part, "cut_streams": cut_streams});
        let receipt = admin.post("revoking listed keys".to_owned(), &["keys", "revoke"], &body).await?;
        merge(&mut all, &receipt);
    }
    Ok(all)
}

/// Adds a receipt to those before it: a node has confirmed once it did so in each.
fn merge(all: &mut Value, receipt: &Value) {
    all["revoked"] = json!(all["revoked"].as_u64().unwrap_or(0) + receipt["revoked"].as_u64().unwrap_or(0));
    if let (Some(unknown), Some(more)) = (all["unknown"].as_array_mut(), receipt["unknown"].as_array()) {
        unknown.extend(more.iter().cloned());
    }
    for node in items(receipt, "pending") {
        if !items(all, "pending").any(|other| other["node"] == node["node"])
            && let Some(pending) = all["pending"].as_array_mut()
        {
            pending.push(node.clone());
        }
    }
    for node in items(receipt, "nodes") {
        let Some(nodes) = all["nodes"].as_array_mut() else { continue };
        match nodes.iter_mut().find(|other| other["node"] == node["node"]) {
            Some(other) if other["milliseconds"].as_u64() >= node["milliseconds"].as_u64() => {}
            Some(other) => *other = node.clone(),
            None => nodes.push(node.clone()),
        }
    }
    let pending: Vec<Value> = items(all, "pending").map(|node| node["node"].clone()).collect();
    if let Some(nodes) = all["nodes"].as_array_mut() {
        nodes.retain(|node| !pending.contains(&node["node"]));
    }
}

fn items<'v>(receipt: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    receipt.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// Says on stderr that not every data plane has confirmed.
pub(in crate::cli) fn warn_of_pending(receipt: &Value) {
    let pending = items(receipt, "pending").count();
    if pending > 0 {
        eprintln!(
            "liutong: warning: {pending} data planes have not confirmed; each refuses the keys once it is back"
        );
    }
}

/// One row for each data plane: which it is, whether it confirmed, and how long that took. One without a data
/// plane where none was asked.
fn show(out: &Output, receipt: &Value) -> Result<(), CliError> {
    let row = |node: Option<&Value>, confirmed: Option<bool>| {
        let mut row = json!({"node": node.map_or(Value::Null, |node| node["node"].clone())});
        for name in ["id", "revoked", "status"] {
            if let Some(value) = receipt.get(name) {
                row[name] = value.clone();
            }
        }
        row["confirmed"] = Value::from(confirmed);
        for name in ["milliseconds", "last_seen"] {
            row[name] = node.and_then(|node| node.get(name)).cloned().unwrap_or_default();
        }
        row
    };
    let confirmed = items(receipt, "nodes").map(|node| row(Some(node), Some(true)));
    let pending = items(receipt, "pending").map(|node| row(Some(node), Some(false)));
    let mut rows: Vec<Value> = confirmed.chain(pending).collect();
    if rows.is_empty() {
        // Nobody was asked.
        rows.push(row(None, None));
    }
    out.list(&rows, &COLUMNS)
}

fn names_in(file: &Path) -> Result<Vec<String>, CliError> {
    let mut text = Zeroizing::new(Vec::new());
    let failed = |source| CliError::File { action: "reading", path: file.to_owned(), source };
    if file.as_os_str() == "-" {
        std::io::stdin().lock().take(LIST_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    } else {
        let opened = std::fs::File::open(file).map_err(failed)?;
        opened.take(LIST_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    }
    if text.len() as u64 > LIST_BYTES_MAX {
        let problem = format!("--from: over {} MiB; `liutong key scan` reads it", LIST_BYTES_MAX >> 20);
        return Err(CliError::Usage(problem));
    }
    let names = names(&text);
    if names.is_empty() {
        return Err(CliError::Usage(format!("--from: {} names no key", file.display())));
    }
    // A long list goes in several calls: what the last one would refuse must not come behind the first.
    match names.iter().position(|name| !is_whole(name)) {
        Some(at) => Err(CliError::Usage(format!(
            "--from: entry {} has no whole SHA-256; nothing was revoked",
            at + 1
        ))),
        None => Ok(names),
    }
}

/// Whether what is named by its hash has all of it.
fn is_whole(name: &str) -> bool {
    name.strip_prefix(BY_DIGEST).is_none_or(|hex| KeyDigest::parse(hex).is_some())
}

/// What a list names, each once: by the hash of whole keys, and of what `key scan -o json` found; by ids and
/// prefixes that stand alone.
fn names(text: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(rows) = serde_json::from_slice::<Vec<Value>>(text) {
        // The prefix beside a hash says less than the hash.
        let digests = rows.iter().filter_map(|row| row.get("sha256")?.as_str());
        names.extend(digests.map(|digest| format!("{BY_DIGEST}{digest}")));
    } else {
        let mut scanner = Scanner::default();
        scanner.feed(text, &mut |found| names.push(format!("{BY_DIGEST}{}", found.digest)));
        scanner.finish(&mut |found| names.push(format!("{BY_DIGEST}{}", found.digest)));
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
        for word in text.split(|byte| !is_part(byte)) {
            names.extend(std::str::from_utf8(word).ok().and_then(name));
        }
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// A word that names a key: `key_` and the public id, `sk-lt-` and the public id, or a SHA-256.
fn name(word: &str) -> Option<String> {
    let word = word.trim_matches([':', '-']);
    let alone = |prefix: &str| {
        let id = word.strip_prefix(prefix)?;
        (id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())).then(|| word.to_owned())
    };
    let digest = word.strip_prefix(BY_DIGEST).unwrap_or(word);
    alone("key_")
        .or_else(|| alone("sk-lt-"))
        .or_else(|| wire::id::KeyDigest::parse(digest).map(|digest| format!("{BY_DIGEST}{digest}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;

    #[test]
    fn a_list_names_keys_by_hash_id_and_prefix_and_each_once() {
        let (public_id, secret) = keys::new_key().unwrap();
        let digest = secret.digest();
        let text = format!(
            "# found on a public site\nKEY={}\nsee key_Abcd1234, sk-lt-Wxyz9876: twice key_Abcd1234\n\
             sha256:{digest}\nkey_short key_toolong123 sk-lt-{public_id}-cut\n",
            secret.reveal()
        );
        let expected = [format!("sha256:{digest}"), "key_Abcd1234".into(), "sk-lt-Wxyz9876".into()];
        assert_eq!(names(text.as_bytes()), expected);
        assert!(!names(text.as_bytes()).concat().contains(secret.reveal()));
    }

    #[test]
    fn what_scan_found_is_taken_by_its_hash_alone() {
        let text = format!("[{{\"prefix\": \"sk-lt-Abcd1234\", \"sha256\": \"{}\"}}]", "0a".repeat(32));
        assert_eq!(names(text.as_bytes()), [format!("sha256:{}", "0a".repeat(32))]);
    }

    #[test]
    fn a_list_with_a_hash_that_was_cut_is_refused_before_any_call() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let rows = format!("[{{\"sha256\": \"{}\"}}, {{\"sha256\": \"0a0a\"}}]", "0a".repeat(32));
        std::fs::write(file.path(), rows).unwrap();
        let refused = names_in(file.path()).unwrap_err();
        assert!(refused.exit_status() == 2 && refused.to_string().contains("entry 2"), "{refused}");
    }

    #[test]
    fn receipts_of_several_calls_are_one() {
        let mut all = json!({"revoked": 0, "unknown": [], "nodes": [], "pending": []});
        let node = |node: &str, ms: u64| json!({"node": node, "milliseconds": ms});
        merge(
            &mut all,
            &json!({"revoked": 2, "unknown": ["x"], "nodes": [node("a", 3), node("b", 9)], "pending": []}),
        );
        merge(
            &mut all,
            &json!({"revoked": 1, "unknown": [], "nodes": [node("a", 7)], "pending": [{"node": "b", "last_seen": "t"}]}),
        );
        let expected = json!({
            "revoked": 3, "unknown": ["x"], "nodes": [node("a", 7)], "pending": [{"node": "b", "last_seen": "t"}],
        });
        assert_eq!(all, expected);
    }
}
