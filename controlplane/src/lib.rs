//! The control plane.

/// Everything that talks to ClickHouse, and the embedded one.
pub mod clickhouse;
