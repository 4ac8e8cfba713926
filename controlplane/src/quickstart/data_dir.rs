//! The data directory: everything that quickstart and its children keep.
//!
//! ```text
//! lock             held while quickstart runs        quickstart.json  what the first start made (no secret)
//! admin-key        0600                              pids.json        the children, while they run
//! config/          the planes' files (no secret)     secrets/         ClickHouse's password, 0600
//! log/             one file for each child           run/             socket and slots
//! dataplane/       spool, last snapshot              controlplane/    registry
//! clickhouse/      its tables
//! ```
//!
//! Files that others read while they change are replaced by a rename. Only the owner may enter the directory.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::QuickstartError;
use crate::keys;

const DIRECTORIES: [&str; 7] = ["config", "secrets", "log", "run", "dataplane", "controlplane", "clickhouse"];
// sockaddr_un, with the zero at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The directory, with its lock held.
pub(super) struct DataDir {
    root: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory where it is missing, and takes its lock.
    pub(super) fn open(root: Option<PathBuf>) -> Result<Self, QuickstartError> {
        let root = root.map_or_else(default_root, Ok)?;
        make(&root)?;
        let root = root.canonicalize().map_err(|source| QuickstartError::File {
            action: "finding",
            path: root.clone(),
            source,
        })?;
        let lock = lock(&root)?;
        for name in DIRECTORIES {
            make(&root.join(name))?;
        }
        let data = Self { root, _lock: lock };
        let len = data.socket().as_os_str().len();
        if len > SOCKET_PATH_BYTES_MAX {
            return Err(QuickstartError::SocketPath { path: data.socket(), len, max: SOCKET_PATH_BYTES_MAX });
        }
        Ok(data)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn config(&self, name: &str) -> PathBuf {
        self.root.join("config").join(format!("{name}.toml"))
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// The control plane's end of the sync protocol.
    pub(super) fn socket(&self) -> PathBuf {
        self.root.join("run/control.sock")
    }

    pub(super) fn admin_key_file(&self) -> PathBuf {
        self.root.join("admin-key")
    }

    pub(super) fn clickhouse_password_file(&self) -> PathBuf {
        self.root.join("secrets/clickhouse-password")
    }

    /// Headers with which the analyst asks ClickHouse: in a file, so that they stay out of command lines.
    pub(super) fn clickhouse_headers_file(&self) -> PathBuf {
        self.root.join("secrets/clickhouse-headers")
    }

    /// Reads the administrator's key, or makes it.
    pub(super) fn admin_key(&self) -> Result<String, QuickstartError> {
        let path = self.admin_key_file();
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) => {}
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(QuickstartError::File { action: "reading", path, source }),
        }
        let key = keys::new_admin_key().map_err(|error| QuickstartError::Random(error.to_string()))?;
        replace(&path, key.reveal().as_bytes(), 0o600)?;
        Ok(key.reveal().to_owned())
    }
}

/// Replaces a file, so that a reader sees the old or the new one, and a crash leaves either.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), QuickstartError> {
    let write = || -> io::Result<()> {
        let beside = path.with_extension("new");
        let _ = std::fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| QuickstartError::File { action: "writing", path: path.to_owned(), source })
}

fn default_root() -> Result<PathBuf, QuickstartError> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(root) = absolute("XDG_DATA_HOME") {
        return Ok(root.join("liutong"));
    }
    let home = absolute("HOME").ok_or_else(|| {
        QuickstartError::Usage("neither XDG_DATA_HOME nor HOME is set: give --data-dir".to_owned())
    })?;
    Ok(home.join(".local/share/liutong"))
}

fn make(path: &Path) -> Result<(), QuickstartError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| QuickstartError::File {
        action: "making the directory",
        path: path.to_owned(),
        source,
    })
}

fn lock(root: &Path) -> Result<File, QuickstartError> {
    let path = root.join("lock");
    let failed = |source| QuickstartError::File { action: "locking", path: path.clone(), source };
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(QuickstartError::Locked { path: root.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_second_quickstart_on_the_same_directory_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(Some(dir.path().join("data"))).unwrap();
        let second = DataDir::open(Some(dir.path().join("data")));
        assert!(matches!(second, Err(QuickstartError::Locked { .. })));
        drop(first);
        assert!(DataDir::open(Some(dir.path().join("data"))).is_ok());
    }

    #[test]
    fn the_admin_key_is_kept_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(dir.path().join("data"))).unwrap();
        let made = data.admin_key().unwrap();
        assert_eq!(made, data.admin_key().unwrap());
        assert!(made.starts_with("sk-ltadm-"));
        assert_eq!(data.admin_key_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(data.root().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_directory_whose_socket_would_have_too_long_a_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = DataDir::open(Some(dir.path().join("d".repeat(100)))).map(|_| ()).unwrap_err();
        assert!(matches!(error, QuickstartError::SocketPath { .. }), "{error}");
    }
}
