//! Everything that talks to ClickHouse: the embedded engine, the tables, ingest's inserts, rollups and
//! reports.
//!
//! In reading order. An event enters through `insert` and never changes again; `rollup` derives the hours and
//! days from it, and `usage_query` reads whichever of the two is the cheaper truth.
//!
//! **Invariant:** every value in `usage_events` comes from a data plane or from the registry; ClickHouse adds
//! none.

pub use self::client::{ClickHouseError, Client};

/// A connection to any ClickHouse server, and what its errors mean for the sender.
pub mod client;
/// The embedded ClickHouse: fetched once, run as a child process that lives as long as its stdin.
pub mod engine;
/// Usage of what is erased.
pub mod erasure;
/// Everything about one id.
pub mod export;
/// Batches of usage events: one batch, one insert, one token.
pub mod insert;
/// When keys were used, also those that are refused.
pub mod key_uses;
/// Which batches are stored, and which numbers they had.
pub mod ledger;
/// Numbered SQL files, each applied once.
pub mod migrate;
/// What ids are called.
pub mod names;
/// How long usage is kept.
pub mod retention;
/// Hours and days derived from raw.
pub mod rollup;
/// What the table of events must look like.
pub mod schema;
/// Whole tables out of it and into it, for backups.
pub mod transfer;
/// Sums for reports, and single events.
pub mod usage_query;
/// Which numbers and batches there are.
pub mod verify;
