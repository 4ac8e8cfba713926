//! Where a secret is: in an environment variable, in a file, or among systemd's credentials.
//!
//! It never stands in a configuration itself. People paste it there all the same, also where the name of a
//! variable or a path belongs: such a text is refused by its form, or not found, and is not repeated.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use super::Secret;

/// Where systemd puts a unit's credentials (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// The longest secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// Others may do nothing with a secret's file, its group may read it.
const FORBIDDEN_MODE: u32 = 0o027;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the environment variable of this name.
    Environment(String),
    /// In this file, whose last line end does not count.
    File(PathBuf),
    /// In the file of this name in `$CREDENTIALS_DIRECTORY`.
    SystemdCredential(String),
}

/// Why there is no secret. Lower case, says what is allowed, repeats no value that may be the secret.
#[derive(Debug, Error)]
pub enum SourceError {
    /// It is no name of a variable.
    #[error("the name of an environment variable goes here, never the secret itself")]
    NoVariableName,
    /// There is no such variable.
    #[error("the environment variable that is named here is not set, or is not UTF-8")]
    Unset,
    /// It is no absolute path.
    #[error("the absolute path of a file goes here, never the secret itself")]
    NoPath,
    /// It is no name of a credential.
    #[error("the name of a credential that the unit loads goes here, never the secret itself")]
    NoCredentialName,
    /// Not started by systemd, or without credentials.
    #[error("$CREDENTIALS_DIRECTORY is not set: systemd sets it for units with LoadCredential=")]
    NoCredentials,
    /// The unit has no such credential.
    #[error("the unit has no credential of this name, or it can't be read: {0}")]
    Credential(io::Error),
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others have access to the file.
    #[error("{}: others may read or change it (mode {mode:03o}): `chmod 600` it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is longer than any secret.
    #[error("the secret is longer than {} bytes", SECRET_BYTES_MAX)]
    TooLong,
    /// Nothing is there.
    #[error("the secret is empty")]
    Empty,
}

impl SourceError {
    /// Whether the secret is only to be had elsewhere: in the environment, or among the credentials, of the
    /// unit that is meant to use it.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Unset | Self::NoCredentials | Self::Credential(_))
    }
}

/// Who may have access to a secret's file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Others none, its group may read it.
    Private,
    /// Anybody.
    Any,
}

impl Source {
    /// Fetches the secret.
    pub fn read(&self) -> Result<Secret, SourceError> {
        self.read_with(|name| std::env::var(name).ok())
    }

    /// Fetches the secret whoever else may read it: to take it out of texts, not to use it.
    pub fn read_exposed(&self) -> Result<Secret, SourceError> {
        self.fetch(|name| std::env::var(name).ok(), Access::Any)
    }

    /// Fetches the secret; variables are `env`'s.
    pub fn read_with(&self, env: impl Fn(&str) -> Option<String>) -> Result<Secret, SourceError> {
        self.fetch(env, Access::Private)
    }

    fn fetch(&self, env: impl Fn(&str) -> Option<String>, access: Access) -> Result<Secret, SourceError> {
        let secret = match self {
            Self::Environment(name) => {
                if !is_variable(name) {
                    return Err(SourceError::NoVariableName);
                }
                Secret::new(env(name).ok_or(SourceError::Unset)?)
            }
            Self::File(path) => {
                if !path.is_absolute() {
                    return Err(SourceError::NoPath);
                }
                read_file(path, access)?
            }
            Self::SystemdCredential(name) => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                if name.starts_with('.') || name.is_empty() || !name.bytes().all(plain) {
                    return Err(SourceError::NoCredentialName);
                }
                let directory = env(CREDENTIALS_DIRECTORY).ok_or(SourceError::NoCredentials)?;
                // The path is not repeated: its end may be the secret.
                read_file(&Path::new(&directory).join(name), access).map_err(|error| match error {
                    SourceError::File { source, .. } => SourceError::Credential(source),
                    other => other,
                })?
            }
        };
        if secret.reveal().is_empty() { Err(SourceError::Empty) } else { Ok(secret) }
    }
}

fn is_variable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && !name.as_bytes()[0].is_ascii_digit() && name.bytes().all(plain)
}

/// Reads a private key's file, which may have any path, by the rule for the files of secrets.
pub fn read_private(path: &Path) -> Result<Secret, SourceError> {
    read_file(path, Access::Private)
}

fn read_file(path: &Path, access: Access) -> Result<Secret, SourceError> {
    let failed = |source| SourceError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // Of the file that is open: its name may mean another one by now.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if access == Access::Private && mode & FORBIDDEN_MODE != 0 {
        return Err(SourceError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(1024));
    // Half of a secret would be refused by whoever gets it, and nobody would know why.
    if file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)? as u64 > SECRET_BYTES_MAX {
        return Err(SourceError::TooLong);
    }
    let len = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(len);
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "hunter2-swordfish";

    fn env(name: &str) -> Option<String> {
        (name == "SET").then(|| MARKER.to_owned())
    }

    #[test]
    fn a_secret_comes_from_a_variable_a_file_or_a_credential() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("openai");
        std::fs::write(&file, format!("{MARKER}\r\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o440)).unwrap();
        let directory = dir.path().to_str().unwrap().to_owned();
        let env = |name: &str| match name {
            CREDENTIALS_DIRECTORY => Some(directory.clone()),
            name => env(name),
        };
        for source in [
            Source::Environment("SET".into()),
            Source::File(file.clone()),
            Source::SystemdCredential("openai".into()),
        ] {
            assert_eq!(source.read_with(env).unwrap().reveal(), MARKER, "{source:?}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_or_its_group_may_change_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), MARKER).unwrap();
        let source = Source::File(file.path().to_owned());
        for (mode, taken) in
            [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o604, false), (0o660, false)]
        {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let read = source.read();
            assert_eq!(read.is_ok(), taken, "{mode:o} {read:?}");
            if let Err(error) = read {
                let said = error.to_string();
                assert!(said.contains("chmod 600") && said.contains(&format!("{mode:o}")), "{said}");
            }
        }
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_refused_and_not_repeated() {
        for source in [
            Source::Environment(MARKER.into()),
            Source::Environment("hunter2swordfish".into()),
            Source::Environment(String::new()),
            Source::File(MARKER.into()),
            Source::SystemdCredential(MARKER.into()),
            Source::SystemdCredential(format!("../{MARKER}")),
        ] {
            let error = source.read_with(|_| None).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && error.lines().count() == 1, "{source:?}: {error}");
        }
        let absent = |name: &str| (name == CREDENTIALS_DIRECTORY).then(|| "/nowhere".to_owned());
        let error = Source::SystemdCredential(MARKER.into()).read_with(absent).unwrap_err().to_string();
        assert!(error.contains("no credential of this name") && !error.contains(MARKER), "{error}");
    }

    #[test]
    fn a_secret_that_is_too_long_is_refused_and_not_cut() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (len, taken) in [(64 * 1024, true), (64 * 1024 + 1, false)] {
            std::fs::write(file.path(), "k".repeat(len)).unwrap();
            let read = Source::File(file.path().to_owned()).read();
            match taken {
                true => assert_eq!(read.unwrap().reveal().len(), len),
                false => assert!(matches!(read, Err(SourceError::TooLong)), "{read:?}"),
            }
        }
    }

    #[test]
    fn to_be_taken_out_of_texts_a_secret_is_read_whatever_its_mode() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), MARKER).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o666)).unwrap();
        let source = Source::File(file.path().to_owned());
        assert!(source.read().is_err());
        assert_eq!(source.read_exposed().unwrap().reveal(), MARKER);
    }

    #[test]
    fn an_empty_secret_is_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\n").unwrap();
        let empty = Source::File(file.path().to_owned()).read();
        assert!(matches!(empty, Err(SourceError::Empty)), "{empty:?}");
    }
}
