//! Profiles: which control plane to speak to, and where the administrator's key for it is.
//!
//! ```toml
//! # ~/.config/liutong/config.toml
//! default = "production"
//! [profiles.production]
//! admin_url = "https://liutong-admin.example"
//! key_file = "/home/me/.config/liutong/production-key"   # or key_env, or key_systemd_credential
//! ```
//!
//! Invariants:
//!
//!   * the key itself never stands in the file
//!   * a profile is taken whole: its key goes to its own `admin_url` and to no other

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secret::Source;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::CliError;
use super::output::Output;

pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:8090";
const COLUMNS: [&str; 5] = ["name", "admin_url", "key", "default", "file"];

/// Where the control plane is, and where the key for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) admin_url: String,
    /// How to name the key's place in messages.
    pub(super) origin: String,
    pub(super) key: Source,
}

/// What the command line and the environment say.
#[derive(Default)]
pub(super) struct Given<'a> {
    /// `--profile`.
    pub(super) profile: Option<&'a str>,
    /// `--admin-url`.
    pub(super) admin_url: Option<&'a str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(skip)]
    path: PathBuf,
    default: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    admin_url: String,
    key_file: Option<PathBuf>,
    key_env: Option<String>,
    key_systemd_credential: Option<String>,
    /// Refused by name, and not kept.
    #[serde(alias = "admin_key", alias = "secret", alias = "token", alias = "password")]
    key: Option<IgnoredAny>,
}

impl Given<'_> {
    /// The profile that was asked for; else what flags and variables say; else the default profile.
    pub(super) fn place(&self, env: impl Fn(&str) -> Option<String>) -> Result<Place, CliError> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let file = || path(&set).map_or_else(|| Ok(File::default()), |path| load(&path));
        if let Some(name) = self.profile {
            if self.admin_url.is_some() {
                let problem = "--profile says where the admin API is: leave --admin-url out";
                return Err(CliError::Usage(problem.to_owned()));
            }
            return file()?.place(name);
        }
        let url = self.admin_url.map(str::to_owned).or_else(|| set("LIUTONG_ADMIN_URL"));
        let key = if set("LIUTONG_ADMIN_KEY").is_some() {
            Some(("LIUTONG_ADMIN_KEY", Source::Environment("LIUTONG_ADMIN_KEY".to_owned())))
        } else {
            let file = set("LIUTONG_ADMIN_KEY_FILE").map(PathBuf::from);
            let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
            file.map(|path| ("LIUTONG_ADMIN_KEY_FILE", Source::File(absolute(path))))
        };
        match (url, key) {
            (url, Some((origin, key))) => {
                let admin_url = url.unwrap_or_else(|| DEFAULT_URL.to_owned());
                Ok(Place { admin_url, origin: origin.to_owned(), key })
            }
            (Some(_), None) => Err(CliError::NoAdminKey),
            (None, None) => {
                let file = file()?;
                let name = set("LIUTONG_PROFILE").or_else(|| file.default.clone());
                file.place(&name.ok_or(CliError::NoAdminKey)?)
            }
        }
    }
}

impl File {
    fn place(mut self, name: &str) -> Result<Place, CliError> {
        let Some(profile) = self.profiles.remove(name) else {
            let known: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let problem = format!("there is no profile {name}; {} has: {known}", self.path.display());
            return Err(CliError::Usage(problem));
        };
        let origin = format!("profile {name} of {}", self.path.display());
        let key = profile.source().map_err(|problem| CliError::Usage(format!("{origin}: {problem}")))?;
        Ok(Place { admin_url: profile.admin_url, origin, key })
    }
}

impl Profile {
    fn source(&self) -> Result<Source, &'static str> {
        const ONE_OF: &str = "give one of key_file, key_env and key_systemd_credential";
        if self.key.is_some() {
            return Err(
                "a key does not belong in this file; write it to another one and name that as key_file",
            );
        }
        match (&self.key_file, &self.key_env, &self.key_systemd_credential) {
            (Some(path), None, None) => Ok(Source::File(path.clone())),
            (None, Some(name), None) => Ok(Source::Environment(name.clone())),
            (None, None, Some(name)) => Ok(Source::SystemdCredential(name.clone())),
            _ => Err(ONE_OF),
        }
    }
}

/// `$LIUTONG_CONFIG`, which may be relative to where one is; else `liutong/config.toml` in the user's
/// configuration directory.
fn path(set: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |name: &str| set(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let asked = set("LIUTONG_CONFIG").map(PathBuf::from);
    // Never another file than the one that was asked for: it would be another installation.
    asked.map(|path| std::path::absolute(&path).unwrap_or(path)).or_else(|| {
        let directory = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(directory.join("liutong/config.toml"))
    })
}

/// A file that is not there has no profiles.
fn load(path: &Path) -> Result<File, CliError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(File { path: path.to_owned(), ..File::default() });
        }
        Err(source) => {
            return Err(CliError::File { action: "reading profiles from", path: path.to_owned(), source });
        }
    };
    let file: File = toml::from_str(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        let message = secret::without_values(error.message());
        CliError::Usage(format!("{}:{line}: {message}", path.display()))
    })?;
    Ok(File { path: path.to_owned(), ..file })
}

/// `liutong profile list`: what is there, and where each key is.
pub(super) fn list(out: &Output) -> Result<(), CliError> {
    let Some(path) = path(&|name: &str| std::env::var(name).ok().filter(|value| !value.is_empty())) else {
        return out.list(&[], &COLUMNS);
    };
    let file = load(&path)?;
    let row = |(name, profile): (&String, &Profile)| -> Value {
        let key = match profile.source() {
            Ok(Source::File(path)) => path.display().to_string(),
            Ok(Source::Environment(_)) => "an environment variable".to_owned(),
            Ok(Source::SystemdCredential(_)) => "a systemd credential".to_owned(),
            Err(problem) => format!("({problem})"),
        };
        json!({
            "name": name, "admin_url": super::admin::shown_url(&profile.admin_url), "key": key,
            "default": file.default.as_ref() == Some(name), "file": path.display().to_string(),
        })
    };
    out.list(&file.profiles.iter().map(row).collect::<Vec<_>>(), &COLUMNS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "default = 'a'\n[profiles.a]\nadmin_url = 'https://a:1'\nkey_file = '/keys/a'\n\
                        [profiles.b]\nadmin_url = 'https://b:1'\nkey_env = 'KEY_B'\n";

    fn place(text: &str, given: &Given<'_>, env: &[(&str, &str)]) -> Result<Place, CliError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        given.place(|name| {
            let found = env.iter().find(|one| one.0 == name).map(|one| one.1.to_owned());
            found.or_else(|| (name == "LIUTONG_CONFIG").then(|| file.to_str().unwrap().to_owned()))
        })
    }

    fn outcome(given: &Given<'_>, env: &[(&str, &str)]) -> (String, Source) {
        let place = place(FILE, given, env).unwrap();
        (place.admin_url, place.key)
    }

    #[test]
    fn flags_go_before_variables_and_those_before_the_file_and_a_key_only_to_its_own_url() {
        let file_key = || Source::File("/keys/a".into());
        let env_key = |name: &str| Source::Environment(name.into());
        let asked = |profile| Given { profile: Some(profile), admin_url: None };
        let env = [("LIUTONG_ADMIN_URL", "http://e:1"), ("LIUTONG_ADMIN_KEY", "k"), ("LIUTONG_PROFILE", "b")];
        let nothing = Given::default();
        assert_eq!(outcome(&nothing, &[]), ("https://a:1".into(), file_key()));
        assert_eq!(outcome(&nothing, &env[2..]), ("https://b:1".into(), env_key("KEY_B")));
        assert_eq!(outcome(&nothing, &env), ("http://e:1".into(), env_key("LIUTONG_ADMIN_KEY")));
        assert_eq!(outcome(&asked("a"), &env), ("https://a:1".into(), file_key()));
        assert_eq!(outcome(&nothing, &env[1..2]), (DEFAULT_URL.into(), env_key("LIUTONG_ADMIN_KEY")));
        let elsewhere = Given { profile: None, admin_url: Some("http://evil:1") };
        assert!(matches!(place(FILE, &elsewhere, &[]), Err(CliError::NoAdminKey)));
        let both = Given { profile: Some("a"), admin_url: Some("http://evil:1") };
        assert!(matches!(place(FILE, &both, &[]), Err(CliError::Usage(_))));
        assert!(matches!(place("", &nothing, &[]), Err(CliError::NoAdminKey)));
    }

    #[test]
    fn a_file_that_was_asked_for_by_a_relative_path_is_the_one() {
        let env = |name: &str| match name {
            "LIUTONG_CONFIG" => Some("profiles/here.toml".to_owned()),
            "HOME" => Some("/home/me".to_owned()),
            _ => None,
        };
        let here = std::env::current_dir().unwrap();
        assert_eq!(path(&env), Some(here.join("profiles/here.toml")));
        assert_eq!(
            path(&|name: &str| env(name).filter(|_| name == "HOME")),
            Some("/home/me/.config/liutong/config.toml".into())
        );
        // What is not there has no profiles, and no other file has.
        let missing = Given { profile: Some("a"), admin_url: None }.place(env).unwrap_err().to_string();
        assert!(
            missing.contains("there is no profile a") && missing.contains("profiles/here.toml"),
            "{missing}"
        );
    }

    #[test]
    fn mistakes_in_the_file_are_named_and_a_key_in_it_is_not_repeated() {
        let profile = |line: &str| format!("[profiles.a]\nadmin_url = 'http://a:1'\n{line}\n");
        for (text, says) in [
            (profile("key = 'hunter2'"), "a key does not belong in this file"),
            (profile("key_file = '/k'\nkey_env = 'K'"), "give one of"),
            (profile("colour = 'hunter2'"), "unknown field `colour`"),
            (profile("key_file = 5"), "config.toml:3: invalid type: integer, expected"),
            ("profiles = 'hunter2'".to_owned(), "expected a map"),
            ("[profiles]".to_owned(), "there is no profile a"),
        ] {
            let error = place(&text, &Given { profile: Some("a"), admin_url: None }, &[]).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
            assert_eq!(error.exit_status(), 2);
        }
    }
}
