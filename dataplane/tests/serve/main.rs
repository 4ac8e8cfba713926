//! The data plane as a process, without a control plane: what clients see, what upstreams get, what is
//! recorded.
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "tests")]

mod faults;
mod hostile;
mod path;
mod plane;
mod tls;
mod tls_clients;
mod tls_faults;
mod tls_peer;
