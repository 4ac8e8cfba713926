//! The data plane as a process, without a control plane: what clients see, what upstreams get, what is
//! recorded.
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "tests")]

mod control;
mod cuts;
mod end;
mod faults;
mod hostile;
mod http2;
mod http2_faults;
mod http2_floods;
mod http2_frames;
mod http2_peer;
mod oracle;
mod path;
mod plane;
mod random;
mod refused;
mod resources;
mod slow;
mod strict;
mod tls;
mod tls_clients;
mod tls_faults;
mod tls_peer;
