//! `liutong support bundle`: what a maintainer needs to see of an installation, in one archive.
//!
//! Nothing gets in as it is: configurations keep what an allow-list names, texts are scrubbed line by line,
//! and whatever the configurations' own secrets are, their text is taken out wherever it stands. A part that
//! can't be had is named in the archive with the reason.

/// Taking secrets, addresses and people out of texts.
mod redact;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use secret::{Secret, Source};
use serde_json::{Value, json};
use toml::Value as Toml;

use self::redact::{SECRET_BYTES_MIN, Scrubber};
use super::CliError;
use super::admin::Admin;
use super::doctor::installation::{Installation, Plane};
use super::doctor::{self, Places};
use super::output::Output;
use super::progress::Progress;

const BUNDLE_EXAMPLES: &str = "\
Examples:
  liutong support bundle
  liutong support bundle /tmp/liutong.tar.gz --data-dir ~/.local/share/liutong

The archive has the configurations without secrets, versions, metrics, what `liutong doctor` finds, sizes of files
and tables, and the last lines of the logs without keys and addresses. Look at it before you send it.";

/// Lines of each log.
const LOG_LINES: usize = 500;
const LOG_BYTES_MAX: usize = 1 << 20;
/// Files whose sizes are listed.
const FILES_MAX: usize = 2000;
const DEPTH_MAX: usize = 6;
const UNITS: [&str; 2] = ["liutong-dataplane", "liutong-controlplane"];

#[derive(Debug, Subcommand)]
pub(super) enum SupportCommand {
    /// Collects what a maintainer needs, without secrets, in an archive that only you can read
    #[command(after_help = BUNDLE_EXAMPLES)]
    Bundle(BundleArgs),
}

#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    /// The archive, a new file [default: liutong-support-TIME.tar.gz here]
    file: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
}

/// A file of the archive.
struct Part {
    name: String,
    text: String,
}

pub(super) async fn run(
    out: &Output,
    command: SupportCommand,
    admin: impl Fn() -> Result<Admin, CliError>,
) -> Result<(), CliError> {
    let SupportCommand::Bundle(options) = command;
    let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let file = options.file.clone().unwrap_or_else(|| format!("liutong-support-{now}.tar.gz").into());
    let parts = {
        let _progress = Progress::of_waiting("collecting");
        collect(&options.places, admin).await
    };
    write(&file, &parts).map_err(|source| CliError::File {
        action: "writing",
        path: file.clone(),
        source,
    })?;
    eprintln!("liutong: look at it before you send it: tar -xzOf {} | less", file.display());
    let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    out.one(&json!({"file": file.display().to_string(), "parts": names}))
}

/// Every part, scrubbed.
async fn collect(places: &Places, admin: impl Fn() -> Result<Admin, CliError>) -> Vec<Part> {
    let installation = Installation::find(places);
    let mut parts = vec![part("versions.json", pretty(&versions()))];
    for (name, plane) in planes(&installation) {
        parts.push(part(format!("{name}.toml"), redact::config(&plane.config)));
    }
    parts.push(part("doctor.json", pretty(&Value::Array(doctor::rows(places, admin()).await))));
    let (nodes, node_names) = nodes(admin()).await;
    parts.push(part("nodes.json", nodes));
    parts.extend(doctor::metrics(&installation).await.into_iter().map(|(name, text)| part(name, text)));
    parts.push(part("tables.json", doctor::table_sizes(&installation).await));
    parts.push(part("files.txt", sizes(&installation)));
    parts.extend(logs(&installation));
    let (secrets, missing) = secrets(&installation);
    for one in &missing {
        eprintln!("liutong: warning: not looked for in what was collected: {one}");
    }
    parts.push(part("secrets.txt", not_looked_for(&missing)));
    let named = planes(&installation).flat_map(|(_, plane)| redact::names(&plane.config));
    let scrubber = Scrubber::new(secrets, named.chain(node_names).collect());
    for part in &mut parts {
        part.text = scrubber.scrub(&part.text);
    }
    parts
}

fn part(name: impl Into<String>, text: impl Into<String>) -> Part {
    Part { name: name.into(), text: text.into() }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn planes(installation: &Installation) -> impl Iterator<Item = (&'static str, &Plane)> {
    let named = [("dataplane", &installation.dataplane), ("controlplane", &installation.controlplane)];
    named.into_iter().filter_map(|(name, plane)| Some((name, plane.as_ref()?)))
}

fn versions() -> Value {
    let system = rustix::system::uname();
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    json!({
        "liutong": env!("CARGO_PKG_VERSION"),
        "kernel": system.release().to_string_lossy(),
        "machine": system.machine().to_string_lossy(),
        "system": os.trim_matches('"'),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory": memory.lines().next().unwrap_or_default(),
        "time": Timestamp::now().to_string(),
    })
}

/// The data planes without their names, which are those of hosts; and the names.
async fn nodes(admin: Result<Admin, CliError>) -> (String, Vec<String>) {
    let listed = match admin {
        Ok(admin) => admin.list("listing nodes".to_owned(), &["nodes"], &[]).await,
        Err(error) => Err(error),
    };
    match listed {
        Ok(rows) => without_names(rows),
        Err(error) => (format!("(not to be had: {error})\n"), Vec::new()),
    }
}

fn without_names(mut rows: Vec<Value>) -> (String, Vec<String>) {
    let name = |row: &mut Value| match row["name"].take() {
        Value::String(name) if !name.is_empty() => Some(name),
        _ => None,
    };
    let names = rows.iter_mut().filter_map(name).collect();
    (pretty(&Value::Array(rows)), names)
}

/// The secrets that the configurations name, so that their text can be found wherever it stands, whoever may
/// read them; and which of them can't be looked for, with why.
fn secrets(installation: &Installation) -> (Vec<Secret>, Vec<String>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (plane, Plane { config, .. }) in planes(installation) {
        let mut sources = Vec::new();
        sources_in(config, plane, &mut sources);
        for (key, source) in sources {
            match source.read_exposed() {
                Ok(secret) if secret.reveal().len() < SECRET_BYTES_MIN => {
                    missing.push(format!("{key}: it is shorter than {SECRET_BYTES_MIN} bytes"));
                    found.push(secret);
                }
                Ok(secret) => found.push(secret),
                Err(error) => missing.push(format!("{key}: {error}")),
            }
        }
    }
    // These need not be there.
    let files = installation.quickstart.iter().map(|dir| Source::File(dir.join("admin-key")));
    let variables = ["LIUTONG_ADMIN_KEY", "LIUTONG_BOOTSTRAP_ADMIN_KEY"];
    let others = files.chain(variables.map(|name| Source::Environment(name.to_owned())));
    found.extend(others.filter_map(|source| source.read_exposed().ok()));
    (found, missing)
}

fn not_looked_for(missing: &[String]) -> String {
    if missing.is_empty() {
        return "Every secret that the configurations name was looked for in these files.\n".to_owned();
    }
    let lines: String = missing.iter().map(|one| format!("{one}\n")).collect();
    format!("These secrets were not looked for in these files:\n{lines}")
}

/// Every place of a secret, wherever it stands: `env`, `file` and `systemd_credential`, alone or at the end
/// of a key's name; with the keys that lead there.
fn sources_in(table: &toml::Table, above: &str, sources: &mut Vec<(String, Source)>) {
    for (key, value) in table {
        let path = format!("{above}.{key}");
        let is = |name: &str| key == name || key.ends_with(&format!("_{name}"));
        match value {
            Toml::Table(table) => sources_in(table, &path, sources),
            Toml::String(text) if is("env") => sources.push((path, Source::Environment(text.clone()))),
            Toml::String(text) if is("systemd_credential") => {
                sources.push((path, Source::SystemdCredential(text.clone())));
            }
            Toml::String(text) if key == "file" || key == "password_file" || key == "bootstrap_key_file" => {
                sources.push((path, Source::File(text.into())));
            }
            _ => {}
        }
    }
}

/// Sizes of what lies below the data directories, by path.
fn sizes(installation: &Installation) -> String {
    let mut lines = Vec::new();
    for dir in planes(installation).filter_map(|(_, plane)| plane.data_dir()) {
        walk(dir, 0, &mut lines);
    }
    lines.truncate(FILES_MAX);
    lines.concat()
}

fn walk(dir: &Path, depth: usize, lines: &mut Vec<String>) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return lines.push(format!("{}: {error}\n", dir.display())),
    };
    for entry in entries.flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        if metadata.is_dir() && depth < DEPTH_MAX && lines.len() < FILES_MAX {
            walk(&path, depth + 1, lines);
        } else if metadata.is_file() {
            lines.push(format!("{:>14} {}\n", metadata.len(), path.display()));
        }
    }
}

/// The last lines of a quickstart's log files, or of the units' journal.
fn logs(installation: &Installation) -> Vec<Part> {
    let Some(dir) = &installation.quickstart else {
        return UNITS.iter().map(|unit| part(format!("logs/{unit}.log"), journal(unit))).collect();
    };
    let entries = std::fs::read_dir(dir.join("log")).into_iter().flatten().flatten();
    let logs = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log"));
    let named = logs.filter_map(|path| {
        let bytes = std::fs::read(&path).ok()?;
        let name = path.file_name()?.to_str()?.to_owned();
        Some(part(format!("logs/{name}"), last_lines(&bytes)))
    });
    named.collect()
}

fn journal(unit: &str) -> String {
    let lines = LOG_LINES.to_string();
    let arguments =
        ["--unit", unit, "--lines", &lines, "--no-pager", "--no-hostname", "--output", "short-iso"];
    match std::process::Command::new("journalctl").args(arguments).output() {
        Ok(output) if output.status.success() => last_lines(&output.stdout),
        Ok(output) => format!("(not to be had: journalctl: {})\n", output.status),
        Err(error) => format!("(not to be had: journalctl: {error})\n"),
    }
}

fn last_lines(bytes: &[u8]) -> String {
    let tail = &bytes[bytes.len().saturating_sub(LOG_BYTES_MAX)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    last.iter().flat_map(|line| [*line, "\n"]).collect()
}

fn write(file: &Path, parts: &[Part]) -> std::io::Result<()> {
    let archive = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    let mut archive = tar::Builder::new(GzEncoder::new(archive, Compression::default()));
    for Part { name, text } in parts {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(text.len() as u64);
        header.set_mtime(u64::try_from(Timestamp::now().as_second()).unwrap_or(0));
        archive.append_data(&mut header, format!("liutong-support/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn every_place_of_a_secret_is_known() {
        let config = "[credentials.A]\nenv = 'A_KEY'\n[credentials.B]\nfile = '/b'\n[clickhouse]\n\
                      password_systemd_credential = 'c'\n[registry]\npassword_env = 'D_KEY'\n\
                      [http.tls]\nkey_file = '/tls'\n";
        let mut sources = Vec::new();
        sources_in(&config.parse().unwrap(), "x", &mut sources);
        for (key, source) in [
            ("x.credentials.A.env", Source::Environment("A_KEY".into())),
            ("x.credentials.B.file", Source::File("/b".into())),
            ("x.clickhouse.password_systemd_credential", Source::SystemdCredential("c".into())),
            ("x.registry.password_env", Source::Environment("D_KEY".into())),
        ] {
            assert!(sources.contains(&(key.to_owned(), source)), "{key}");
        }
    }

    #[test]
    fn secrets_that_all_may_read_are_looked_for_and_those_that_can_not_be_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            path.display().to_string()
        };
        let (open, short) = (file("open", "hunter2-swordfish"), file("short", "abc"));
        let config = format!(
            "[credentials.A]\nfile = '{open}'\n[credentials.B]\nfile = '/absent/b'\n\
             [credentials.C]\nenv = 'LIUTONG_NOT_SET'\n[credentials.D]\nfile = '{short}'\n\
             [clickhouse]\npassword_systemd_credential = 'ch'\n"
        );
        let plane = Plane { file: dir.path().join("c.toml"), config: config.parse().unwrap() };
        let mut installation = Installation::default();
        installation.controlplane = Some(plane);
        let (found, missing) = secrets(&installation);
        assert!(found.iter().any(|secret| secret.reveal() == "hunter2-swordfish"));
        assert_eq!(missing.len(), 4, "{missing:?}");
        let told = not_looked_for(&missing);
        for named in
            ["credentials.B.file", "credentials.C.env", "credentials.D.file", "password_systemd_credential"]
        {
            assert!(told.contains(named), "{told}");
        }
        assert!(!told.contains("hunter2"));
    }

    #[test]
    fn of_a_log_its_last_lines_are_taken() {
        let text: String = (0..LOG_LINES + 7).map(|at| format!("line {at}\n")).collect();
        let last = last_lines(text.as_bytes());
        assert!(last.starts_with("line 7\n") && last.ends_with(&format!("line {}\n", LOG_LINES + 6)));
    }
}
