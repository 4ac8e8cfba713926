//! The data plane.

/// HTTP/1.1 as bytes: heads, framing, writing; no sockets.
pub mod http;
