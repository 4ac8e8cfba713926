//! `quickstart.json`: what earlier starts on this data directory made, without any secret.
//!
//! A later start without flags goes on with it. Flags of a later start that say something else are obeyed,
//! and noted.

use std::path::Path;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::data_dir::{DataDir, replace};
use super::{QuickstartError, QuickstartOptions};

/// The file's name in the data directory.
pub(super) const FILE: &str = "quickstart.json";
const ALIAS_DEFAULT: &str = "demo";

/// What was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The demo key's id.
    #[serde(default)]
    pub(super) key_id: Option<String>,
    /// The model name that clients send.
    #[serde(default)]
    pub(super) alias: Option<String>,
    /// What serves it.
    #[serde(default)]
    pub(super) upstream: Option<Upstream>,
}

/// What serves the alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Upstream {
    /// The demo upstream in quickstart's own process.
    Demo {
        /// Where it was; it takes the same port again if it can.
        url: Option<String>,
    },
    /// One that was given.
    Url {
        /// Its base URL.
        url: String,
        /// The model's name there.
        model: String,
        /// How it speaks.
        dialect: String,
        /// The environment variable with its credential, also the credential's name.
        credential_env: Option<String>,
    },
}

impl State {
    /// Reads the file; nothing was made where there is none.
    pub(super) fn load(data: &DataDir) -> Result<Self, QuickstartError> {
        let path = data.file(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| QuickstartError::Corrupt { path, reason: error.to_string() }),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(QuickstartError::File { action: "reading", path, source }),
        }
    }

    /// Replaces the file.
    pub(super) fn save(&self, file: &Path) -> Result<(), QuickstartError> {
        let text = serde_json::to_string_pretty(self).expect("text becomes JSON");
        replace(file, format!("{text}\n").as_bytes(), 0o644)
    }

    /// The upstream for this start: the one given, else the earlier one, else the demo.
    pub(super) fn upstream_for(&self, options: &QuickstartOptions) -> Result<Upstream, QuickstartError> {
        let upstream = match (&options.upstream, &self.upstream) {
            (Some(url), _) => given(url, options)?,
            (None, Some(earlier)) => earlier.clone(),
            (None, None) => Upstream::Demo { url: None },
        };
        if let Some(name) = upstream.credential_env()
            && std::env::var_os(name).is_none_or(|value| value.is_empty())
        {
            return Err(QuickstartError::NoCredential { name: name.to_owned() });
        }
        Ok(upstream)
    }

    /// The alias for this start, chosen in the same way.
    pub(super) fn alias_for(&self, options: &QuickstartOptions) -> String {
        options.alias.clone().or_else(|| self.alias.clone()).unwrap_or_else(|| ALIAS_DEFAULT.to_owned())
    }
}

impl Upstream {
    pub(super) fn credential_env(&self) -> Option<&str> {
        match self {
            Self::Demo { .. } => None,
            Self::Url { credential_env, .. } => credential_env.as_deref(),
        }
    }

    /// `host:port`, which a credential is bound to.
    pub(super) fn host(&self) -> Option<String> {
        let Self::Url { url, .. } = self else { return None };
        let url = Url::parse(url).ok()?;
        let authority = format!("{}:{}", url.host_str()?, url.port_or_known_default()?);
        Some(if url.scheme() == "http" { format!("http://{authority}") } else { authority })
    }
}

fn given(text: &str, options: &QuickstartOptions) -> Result<Upstream, QuickstartError> {
    let refuse = |reason: &str| {
        // A URL with a password in it is not repeated.
        let url = if text.contains('@') { "..." } else { text };
        QuickstartError::UpstreamUrl { url: url.to_owned(), reason: reason.to_owned() }
    };
    let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refuse("expected http://HOST/v1 or https://HOST/v1"));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(refuse(
            "expected no user, password, query or fragment; --credential-env names a credential",
        ));
    }
    let credential_env = options.credential_env.clone();
    if let Some(name) = &credential_env
        && (name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
    {
        return Err(QuickstartError::Usage("--credential-env: expected the name of a variable".to_owned()));
    }
    Ok(Upstream::Url {
        url: text.trim_end_matches('/').to_owned(),
        model: options.upstream_model.clone().unwrap_or_default(),
        dialect: options.dialect.map_or("openai", crate::cli::DialectName::name).to_owned(),
        credential_env,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: QuickstartOptions,
    }

    fn options(flags: &[&str]) -> QuickstartOptions {
        Line::parse_from([&["quickstart"], flags].concat()).options
    }

    #[test]
    fn a_later_start_without_flags_goes_on_with_the_upstream_of_the_first() {
        let first = options(&["--upstream", "http://h:1/v1/", "--upstream-model", "m", "--alias", "a"]);
        let mut state = State::default();
        assert_eq!(state.upstream_for(&options(&[])).unwrap(), Upstream::Demo { url: None });
        state.upstream = Some(state.upstream_for(&first).unwrap());
        state.alias = Some(state.alias_for(&first));
        let later = options(&[]);
        let upstream = state.upstream_for(&later).unwrap();
        assert_eq!(upstream.host().unwrap(), "http://h:1");
        assert!(matches!(&upstream, Upstream::Url { url, .. } if url == "http://h:1/v1"));
        assert_eq!(state.alias_for(&later), "a");
        assert_eq!(state.alias_for(&options(&["--alias", "b"])), "b");
    }

    #[test]
    fn the_state_reads_back_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(dir.path().join("data"))).unwrap();
        assert_eq!(State::load(&data).unwrap(), State::default());
        let state = State {
            key_id: Some("key_1".into()),
            alias: Some("a".into()),
            upstream: Some(Upstream::Demo { url: Some("http://127.0.0.1:9/v1".into()) }),
        };
        state.save(&data.file(FILE)).unwrap();
        assert_eq!(State::load(&data).unwrap(), state);
        std::fs::write(data.file(FILE), b"{").unwrap();
        assert!(matches!(State::load(&data), Err(QuickstartError::Corrupt { .. })));
    }

    #[test]
    fn a_credential_that_is_not_in_the_environment_is_refused_before_anything_starts() {
        let flags =
            ["--upstream", "https://h/v1", "--upstream-model", "m", "--credential-env", "LIUTONG_ABSENT"];
        let error = State::default().upstream_for(&options(&flags)).unwrap_err();
        assert!(matches!(error, QuickstartError::NoCredential { .. }));
        let present = ["--upstream", "https://h/v1", "--upstream-model", "m", "--credential-env", "PATH"];
        let upstream = State::default().upstream_for(&options(&present)).unwrap();
        assert_eq!((upstream.host().unwrap().as_str(), upstream.credential_env()), ("h:443", Some("PATH")));
    }

    #[test]
    fn upstreams_that_are_no_base_url_are_refused_without_repeating_a_password() {
        for bad in ["h:1/v1", "ftp://h/v1", "http://u:hunter2@h/v1", "http://h/v1?key=x"] {
            let error = State::default()
                .upstream_for(&options(&["--upstream", bad, "--upstream-model", "m"]))
                .unwrap_err();
            assert!(error.is_usage() && !error.to_string().contains("hunter2"), "{error}");
        }
    }
}
