//! The data plane: takes requests from clients, checks their keys, forwards them, streams the answers back,
//! and records who used how many tokens.
//!
//! The modules in the order in which a request meets them; what looks at bytes comes first and knows no
//! socket.

/// Sixteen bytes at once.
mod step;

/// HTTP/1.1 as bytes: heads, framing, writing; no sockets.
pub mod http;

/// A resumable scan of a JSON document for a few top-level members.
pub mod json;

/// What is read in a request body, and the few bytes that change in one.
pub mod body;

/// Where the events of an event stream end.
pub mod sse;

/// How many tokens an answer used.
pub mod meter;

/// What must hold whatever the bytes are; for fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub mod checks;

/// The configuration.
pub mod config;

/// The program and its arguments.
pub mod program;

/// Starting and ending the process.
pub mod server;

/// One thread, one core, one ring.
pub mod worker;

/// The seam to monoio.
pub mod runtime;

/// System calls that nothing else wraps.
pub mod sys;

/// Threads that the process can't do without.
pub mod guard;

/// Deadlines and departures: one sweep per worker.
pub mod watch;

/// Sockets and the buffers that reads fill and writes drain.
pub mod net;

/// TLS, towards clients and upstreams.
pub mod tls;

/// A client's connection.
pub mod client;

/// HTTP/2 for clients.
pub mod http2;

/// The whole path of a request.
pub mod serve;

/// Why a request is not served, and what its client is told.
pub mod error;

/// Who a request is from.
pub mod auth;

/// Uses of keys that are refused though they are known.
pub mod refused;

/// What workers know of the registry.
pub mod tables;

/// From a path and a body to a deployment.
pub mod route;

/// The servers that we connect to.
pub mod upstream;

/// `GET /v1/models`.
pub mod models;

/// A request on its way to an upstream.
pub mod forward;

/// An answer on its way to the client.
pub mod relay;

/// One admitted exchange, up to settlement.
pub mod exchange;

/// What is known of every exchange in flight, in memory that outlives the process.
pub mod slots;

/// Usage events on disk, and how they are shipped.
pub mod spool;

/// Who this node is towards a control plane on another host.
pub mod identity;
/// The connection to the control plane.
pub mod link;

/// Keeping the tables as the control plane has them.
pub mod sync;

/// What was given out and where it is, for the control plane to hold against what it has.
pub mod account;

/// Counters.
pub mod metrics;

/// Features left out to learn what they cost.
pub mod prices;

/// Health and metrics for operators.
pub mod ops;

/// Lines for the operator, from a closed set.
pub mod log;
