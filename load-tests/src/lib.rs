//! What the end-to-end tests and the bench stand on. None of it is part of a shipped program.
//!
//! The upstream and the load generator run on monoio, with DEFER_TASKRUN, like the data plane: at a hundred
//! thousand requests a second they must cost less than what they measure. The raw client and the harness are
//! plain blocking code, so that a test reads from top to bottom.

/// Kills, stops and cuts at random moments under load; then three ledgers are compared.
pub mod chaos;
/// The other side: a raw client that shows exact bytes, and a load generator.
pub mod client;
/// A proxy in front of a real ClickHouse that fails as told.
pub mod clickhouse_faults;
/// Time to the microsecond on a ring.
mod clock;
/// Starts the whole system the way a newcomer does, and asks it questions.
pub mod harness;
/// HTTP/1.1 messages as bytes: where a head ends, how its body is framed, what the body is.
pub mod message;
/// A PostgreSQL for the registry.
pub mod postgres;
/// Numbers that a seed decides.
pub mod random;
/// Rings of the upstream and of the load generator.
mod ring;
/// A certificate, and clients that trust it.
pub mod tls;
/// An OpenAI-shaped upstream whose every answer, pause and fault a test can script.
pub mod upstream;
