//! The control plane: the truth about who may use what, and the way of usage events into ClickHouse.
//!
//! It may be down without clients noticing: data planes go on with what they have. In reading order.

/// The process: starts all of it, and stops it in order.
pub mod run;
/// What the configuration file may say, and what it means.
pub mod config;
/// Organizations, teams, applications, keys, aliases, deployments: the truth about them.
pub mod registry;
/// Making of keys.
pub mod keys;
/// What the data planes last said of their usage events.
pub mod accounts;
/// The built-in certificate authority.
pub mod authority;
/// The admin API.
pub mod admin;
/// Bringing changes to the data planes, and revocation with a receipt.
pub mod publish;
/// The socket that data planes connect to.
pub mod sync;
/// Batches of usage events on their way into ClickHouse.
pub mod ingest;
/// Everything that talks to ClickHouse, and the embedded one.
pub mod clickhouse;
/// Retention, legal holds and erasure.
pub mod privacy;
/// Backups of the registry and of usage, and restoring them.
pub mod backup;
/// `liutong`, the administrators' command.
pub mod cli;
/// `liutong quickstart`: all of Liutong on one machine, for a first try.
pub mod quickstart;
