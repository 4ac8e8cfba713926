//! The engine's configuration files and passwords.
//!
//! Three users, all on 127.0.0.1 only: `liutong` writes, `analyst` reads Liutong's database, and `default`,
//! which ClickHouse's local session insists on having without a password, may do nothing but start the
//! listener and look at the numbers table that keeps it alive.
//!
//! Passwords are made once and kept; the XML files are written anew at each start, by rename. All are mode
//! 0600. ClickHouse ignores a missing configuration file without a word, and then serves without passwords:
//! [`check`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The user that writes.
pub const WRITER: &str = "liutong";

/// The user that reads.
pub const ANALYST: &str = "analyst";

/// ClickHouse's cap on its own memory unless told otherwise; without one a heavy GROUP BY takes all there is.
pub const MEMORY_BYTES_MAX_DEFAULT: u64 = 2 << 30;

const ANALYST_SECONDS_MAX: u32 = 300;
const BACKGROUND_POOL_SIZE: u32 = 4;
const MARK_CACHE_BYTES: u32 = 64 << 20;
/// Above the 2 s after which the client drops an idle connection, so that it never uses one that is just
/// closing.
const KEEP_ALIVE_SECONDS: u32 = 3;
const LOG_BYTES_MAX: u64 = 1 << 20;
const PASSWORD_BYTES: usize = 24;

/// Where an engine serves, and the passwords of its users.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://127.0.0.1:port`.
    pub url: String,
    /// The user that writes.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The password of user `analyst`.
    pub analyst_password: String,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url).field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Passwords {
    liutong: String,
    analyst: String,
}

/// ClickHouse's own files.
pub(super) fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// The file that ClickHouse is started with.
pub(super) fn config_file(dir: &Path) -> PathBuf {
    dir.join("config.xml")
}

/// The file that is locked by the engine of this directory.
pub(super) fn lock_file(dir: &Path) -> PathBuf {
    dir.join("lock")
}

fn users_file(dir: &Path) -> PathBuf {
    dir.join("users.xml")
}

fn passwords_file(dir: &Path) -> PathBuf {
    dir.join("passwords.json")
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("engine.log")
}

/// Makes the directory, its passwords (once) and its configuration files.
///
/// # Errors
/// When a file cannot be written, or the passwords' file is damaged.
pub fn write(dir: &Path, port: u16, memory_bytes_max: u64) -> io::Result<Endpoint> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let dir = &fs::canonicalize(dir)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir(dir))?;
    let passwords = match passwords(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_passwords(dir)?,
        found => found?,
    };
    replace(&users_file(dir), &users_xml(&passwords, memory_bytes_max))?;
    replace(&config_file(dir), &config_xml(dir, memory_bytes_max))?;
    Ok(endpoint(passwords, port))
}

/// Where an engine of this directory serves, if it serves on `port`.
///
/// # Errors
/// When it never ran, or the passwords' file is damaged.
pub fn read(dir: &Path, port: u16) -> io::Result<Endpoint> {
    Ok(endpoint(passwords(dir)?, port))
}

fn endpoint(passwords: Passwords, port: u16) -> Endpoint {
    Endpoint {
        url: format!("http://127.0.0.1:{port}"),
        user: WRITER.to_owned(),
        password: passwords.liutong,
        analyst_password: passwords.analyst,
    }
}

/// The writer's password, if everything that ClickHouse must find is there.
pub(super) fn check(dir: &Path) -> io::Result<String> {
    for file in [config_file(dir), users_file(dir)] {
        if File::open(&file)?.metadata()?.len() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is empty", file.display())));
        }
    }
    Ok(passwords(dir)?.liutong)
}

/// The log that the engine's process writes its own few lines to; its predecessor is kept once it has grown.
pub(super) fn open_log(dir: &Path) -> io::Result<File> {
    let path = log_file(dir);
    if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        fs::rename(&path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The last lines of that log, on one line.
pub(super) fn log_tail(dir: &Path, bytes_max: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log_file(dir))?;
        let from = file.metadata()?.len().saturating_sub(bytes_max as u64);
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    String::from_utf8_lossy(&tail).trim().replace('\n', " | ")
}

fn passwords(dir: &Path) -> io::Result<Passwords> {
    Ok(serde_json::from_slice(&fs::read(passwords_file(dir))?)?)
}

fn make_passwords(dir: &Path) -> io::Result<Passwords> {
    let passwords = Passwords { liutong: random_hex(PASSWORD_BYTES)?, analyst: random_hex(PASSWORD_BYTES)? };
    replace(&passwords_file(dir), &serde_json::to_string(&passwords)?)?;
    Ok(passwords)
}

fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(hex(&random))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Replaces a file by rename, so that nobody sees half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

fn xml(path: &Path) -> String {
    path.to_string_lossy().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn config_xml(dir: &Path, memory_bytes_max: u64) -> String {
    let users = xml(&users_file(dir));
    let files = xml(&data_dir(dir).join("user_files"));
    format!(
        "<clickhouse>
  <users_config>{users}</users_config>
  <default_profile>default</default_profile>
  <user_files_path>{files}/</user_files_path>
  <max_server_memory_usage>{memory_bytes_max}</max_server_memory_usage>
  <mark_cache_size>{MARK_CACHE_BYTES}</mark_cache_size>
  <keep_alive_timeout>{KEEP_ALIVE_SECONDS}</keep_alive_timeout>
  <background_pool_size>{BACKGROUND_POOL_SIZE}</background_pool_size>
</clickhouse>
"
    )
}

fn users_xml(passwords: &Passwords, memory_bytes_max: u64) -> String {
    let writer = hex(&Sha256::digest(passwords.liutong.as_bytes()));
    let analyst = hex(&Sha256::digest(passwords.analyst.as_bytes()));
    let analyst_memory = memory_bytes_max / 2;
    let local = "<networks><ip>127.0.0.1</ip></networks>";
    format!(
        "<clickhouse>
  <profiles>
    <default/>
    <analyst>
      <readonly>1</readonly>
      <max_memory_usage>{analyst_memory}</max_memory_usage>
      <max_execution_time>{ANALYST_SECONDS_MAX}</max_execution_time>
    </analyst>
  </profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <no_password/>{local}<profile>default</profile><quota>default</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT SELECT ON system.numbers</query>
      </grants>
    </default>
    <{WRITER}>
      <password_sha256_hex>{writer}</password_sha256_hex>{local}
      <profile>default</profile><quota>default</quota>
    </{WRITER}>
    <{ANALYST}>
      <password_sha256_hex>{analyst}</password_sha256_hex>{local}
      <profile>analyst</profile><quota>default</quota>
      <grants><query>GRANT SELECT ON liutong.*</query></grants>
    </{ANALYST}>
  </users>
</clickhouse>
"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn passwords_are_kept_and_no_file_is_readable_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a & b");
        let first = write(&dir, 1, 1 << 30).unwrap();
        let second = write(&dir, 2, 2 << 30).unwrap();
        assert_eq!(first.password, second.password);
        assert_eq!(first.analyst_password, second.analyst_password);
        assert_ne!(first.password, first.analyst_password);
        for file in ["config.xml", "users.xml", "passwords.json"] {
            let mode = fs::metadata(dir.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let users = fs::read_to_string(dir.join("users.xml")).unwrap();
        assert!(!users.contains(&first.password) && !users.contains(&first.analyst_password));
        assert!(fs::read_to_string(dir.join("config.xml")).unwrap().contains("a &amp; b/users.xml"));
        assert!(!format!("{first:?}").contains(&first.password));
    }

    #[test]
    fn a_missing_configuration_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = write(dir.path(), 1, 1 << 30).unwrap();
        assert_eq!(check(dir.path()).unwrap(), endpoint.password);
        fs::write(users_file(dir.path()), "").unwrap();
        assert!(check(dir.path()).is_err());
        fs::remove_file(config_file(dir.path())).unwrap();
        assert!(check(dir.path()).is_err());
    }
}
