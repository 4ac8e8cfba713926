//! The servers that we connect to: where they are, how a connection to one is made, kept and looked at before
//! use.

/// Where an upstream is, and what every request to it carries.
pub mod target;
/// Connecting, with the limits of the deployment.
pub mod connect;
/// TLS towards upstreams.
pub mod tls;
/// Idle connections of one worker.
pub mod pool;
