//! The control plane: the truth about who may use what, and the way of usage events into ClickHouse.
//!
//! It may be down without clients noticing: data planes go on with what they have. In reading order.

/// The admin API.
pub mod admin;
/// `liutong`, the administrators' command.
pub mod cli;
/// Everything that talks to ClickHouse, and the embedded one.
pub mod clickhouse;
/// What the configuration file may say, and what it means.
pub mod config;
/// Batches of usage events on their way into ClickHouse.
pub mod ingest;
/// Making of keys.
pub mod keys;
/// Bringing changes to the data planes, and revocation with a receipt.
pub mod publish;
/// `liutong quickstart`: all of Liutong on one machine, for a first try.
pub mod quickstart;
/// Organizations, teams, applications, keys, aliases, deployments: the truth about them.
pub mod registry;
/// The process: starts all of it, and stops it in order.
pub mod run;
/// The socket that data planes connect to.
pub mod sync;
