//! Upstream credentials: a secret, and the hosts that it may be sent to.
//!
//! The binding is written here, on the data plane, and nowhere else: whoever administers the registry says
//! which deployment uses which credential, but cannot have one sent to a host of his own, nor over a
//! connection that others can read.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use secret::{Secret, Source};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::ConfigError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    env: Option<String>,
    file: Option<PathBuf>,
    systemd_credential: Option<String>,
    hosts: Vec<String>,
    /// What people call a secret that they write into the file: refused by name, and not kept.
    #[serde(alias = "value", alias = "key", alias = "api_key", alias = "token", alias = "password")]
    secret: Option<IgnoredAny>,
}

/// A secret that an upstream asks for, and where it may go.
pub struct Credential {
    /// The secret.
    pub secret: Secret,
    /// Where it may go.
    pub hosts: Vec<Host>,
}

/// A host that a credential may be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `host:port`, lower case.
    authority: String,
    /// Also over a connection that is not encrypted.
    unencrypted: bool,
}

impl Host {
    /// Reads `host:port`, or `http://host:port` where the connection need not be encrypted; to this machine
    /// itself it never needs to be.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (authority, asked) = match text.strip_prefix("http://") {
            Some(authority) => (authority, true),
            None => (text.strip_prefix("https://").unwrap_or(&text), false),
        };
        let (host, port) = authority.rsplit_once(':')?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_host =
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
        if !is_host || port.parse::<u16>().is_err() {
            return None;
        }
        let here = bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        Some(Self { authority: authority.to_owned(), unencrypted: asked || here })
    }
}

impl Credential {
    /// Whether it may be sent to this `host:port`, over TLS or without.
    #[must_use]
    pub fn may_go_to(&self, authority: &str, tls: bool) -> bool {
        self.hosts.iter().any(|host| host.authority == authority && (tls || host.unencrypted))
    }
}

/// Reads all credentials that the configuration names.
pub(super) fn read_all(
    file: &Path,
    written: HashMap<String, Written>,
) -> Result<HashMap<String, Credential>, ConfigError> {
    let read =
        |(name, written): (String, Written)| {
            let credential = written.read();
            credential.map(|credential| (name.clone(), credential)).map_err(|(key, problem)| {
                ConfigError::Value { file: file.to_owned(), key: format!("credentials.{name}{key}"), problem }
            })
        };
    written.into_iter().map(read).collect()
}

impl Written {
    /// The credential, or which key is wrong and what is allowed.
    fn read(self) -> Result<Credential, (&'static str, String)> {
        const ONE_OF: &str =
            "give one of env (a variable's name), file (its absolute path) and systemd_credential (its name)";
        if self.secret.is_some() {
            return Err(("", format!("a secret does not belong in this file; {ONE_OF}")));
        }
        let (key, source) = match (self.env, self.file, self.systemd_credential) {
            (Some(name), None, None) => (".env", Source::Environment(name)),
            (None, Some(path), None) => (".file", Source::File(path)),
            (None, None, Some(name)) => (".systemd_credential", Source::SystemdCredential(name)),
            _ => return Err(("", ONE_OF.to_owned())),
        };
        let secret = source.read().map_err(|error| (key, error.to_string()))?;
        if secret.reveal().bytes().any(|byte| !(0x21..0x7f).contains(&byte)) {
            return Err((key, "the secret has bytes that a header can't carry".to_owned()));
        }
        if self.hosts.is_empty() {
            return Err((".hosts", "name the host:port that it may be sent to".to_owned()));
        }
        let hosts: Option<Vec<Host>> = self.hosts.iter().map(|host| Host::parse(host)).collect();
        let hosts = hosts.ok_or_else(|| {
            let form = "each is host:port, or http://host:port where the connection need not be encrypted";
            (".hosts", form.to_owned())
        })?;
        Ok(Credential { secret, hosts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(hosts: &[&str]) -> Credential {
        let hosts = hosts.iter().map(|host| Host::parse(host).unwrap()).collect();
        Credential { secret: Secret::new("s".into()), hosts }
    }

    #[test]
    fn a_credential_goes_to_its_hosts_and_unencrypted_only_where_that_is_written() {
        let bound = credential(&["API.example:443", "http://gpu.internal:8000", "127.0.0.1:9", "[::1]:9"]);
        for (authority, tls, may) in [
            ("api.example:443", true, true),
            ("api.example:443", false, false),
            ("api.example:8443", true, false),
            ("evil.example:443", true, false),
            ("api.example.evil.example:443", true, false),
            ("gpu.internal:8000", false, true),
            ("gpu.internal:8000", true, true),
            ("127.0.0.1:9", false, true),
            ("[::1]:9", false, true),
            ("127.0.0.2:9", false, false),
        ] {
            assert_eq!(bound.may_go_to(authority, tls), may, "{authority} {tls}");
        }
    }

    #[test]
    fn a_host_has_a_port() {
        for bad in
            ["api.example", "api.example:", ":443", "api.example:443/v1", "ftp://a:1", "a b:1", "a:65536"]
        {
            assert_eq!(Host::parse(bad), None, "{bad}");
        }
    }
}
