//! The configuration as it is written: every key there is, and the keys of each secret's places.
//!
//! A secret itself never stands in it. A key under which someone may write one is known, so that it is
//! refused by name.

use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub(super) data_dir: PathBuf,
    #[serde(default)]
    pub(super) registry: WrittenRegistry,
    #[serde(default)]
    pub(super) admin: WrittenAdmin,
    #[serde(default)]
    pub(super) sync: WrittenSync,
    #[serde(default)]
    pub(super) clickhouse: WrittenClickHouse,
    #[serde(default)]
    pub(super) backup: WrittenBackup,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenBackup {
    pub(super) keep_days: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRegistry {
    pub(super) url: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) password_env: Option<String>,
    pub(super) password_systemd_credential: Option<String>,
    /// Refused by name.
    pub(super) password: Option<Literal>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenAdmin {
    pub(super) listen: Option<String>,
    pub(super) bootstrap_key_file: Option<PathBuf>,
    pub(super) bootstrap_key_systemd_credential: Option<String>,
    /// Refused by name.
    pub(super) bootstrap_key: Option<Literal>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenSync {
    pub(super) socket: Option<PathBuf>,
    pub(super) listen: Option<String>,
    pub(super) certificate_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenClickHouse {
    pub(super) url: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) password_env: Option<String>,
    pub(super) password_systemd_credential: Option<String>,
    /// Refused by name.
    pub(super) password: Option<Literal>,
    pub(super) raw_days: Option<u32>,
    pub(super) hourly_days: Option<u32>,
    pub(super) daily_days: Option<u32>,
    pub(super) embedded: Option<WrittenEngine>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenEngine {
    pub(super) listen: Option<String>,
}

/// The keys under which one secret, or its place, may be written; empty where there is no such key.
pub(super) struct Keys {
    pub(super) literal: &'static str,
    pub(super) variable: &'static str,
    pub(super) file: &'static str,
    pub(super) credential: &'static str,
}

pub(super) const BOOTSTRAP_KEYS: Keys = Keys {
    literal: "admin.bootstrap_key",
    variable: "",
    file: "admin.bootstrap_key_file",
    credential: "admin.bootstrap_key_systemd_credential",
};
pub(super) const REGISTRY_KEYS: Keys = Keys {
    literal: "registry.password",
    variable: "registry.password_env",
    file: "registry.password_file",
    credential: "registry.password_systemd_credential",
};
pub(super) const CLICKHOUSE_KEYS: Keys = Keys {
    literal: "clickhouse.password",
    variable: "clickhouse.password_env",
    file: "clickhouse.password_file",
    credential: "clickhouse.password_systemd_credential",
};

/// A secret that someone wrote into the file: noticed, and not kept.
#[derive(Debug, Deserialize)]
pub(super) struct Literal(
    #[allow(dead_code, reason = "it takes any value so that the key is refused, not its type")]
    serde::de::IgnoredAny,
);
