//! The control plane.

/// `liutong`, the administrators' command.
pub mod cli;
/// Everything that talks to ClickHouse, and the embedded one.
pub mod clickhouse;
/// What the configuration file may say, and what it means.
pub mod config;
/// Making of keys.
pub mod keys;
/// `liutong quickstart`: all of Liutong on one machine, for a first try.
pub mod quickstart;
/// Organizations, teams, applications, keys, aliases, deployments: the truth about them.
pub mod registry;
