//! The control plane.

/// Everything that talks to ClickHouse, and the embedded one.
pub mod clickhouse;
/// What the configuration file may say, and what it means.
pub mod config;
/// Making of keys.
pub mod keys;
/// Organizations, teams, applications, keys, aliases, deployments: the truth about them.
pub mod registry;
