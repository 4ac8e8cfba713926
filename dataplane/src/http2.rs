//! HTTP/2 for clients: each stream becomes an HTTP/1.1 connection that carries one exchange.
//!
//! ```text
//! socket <-> TLS <-> pipe <-> h2 crate <-> stream <-> client > serve > forward > relay
//! +-- one task for each connection --+     +---- one task for each stream ----------+
//! ```
//!
//! A stream's head is written out as an HTTP/1.1 head and read by the same parser; what is answered in
//! HTTP/1.1 is taken apart into frames. So every check, limit, answer and usage event exists once, and what
//! serves HTTP/1.1 does not know of HTTP/2. Frames, HPACK, flow control and the state of streams are the `h2`
//! crate's; the socket is ours, since monoio's operations own their buffers and rustls is used unbuffered.
//!
//! Invariants:
//!
//!   * an answer ends with END_STREAM only where it is whole; one that broke off ends with RST_STREAM
//!   * an upstream is read only as fast as its client's flow control allows
//!   * the tasks of streams and of their connection wake each other only for work that is there: with
//!     DEFER_TASKRUN a ring that two tasks keep busy delivers no completion

/// One connection: its task, its limits, its end.
pub mod connection;

/// What lies between the socket and the `h2` crate.
pub mod pipe;

/// Records from the socket and to it.
pub mod socket;

/// What the task of a connection and those of its streams share.
pub mod shared;

/// A stream as a connection that carries one exchange.
pub mod stream;

/// A request's head in HTTP/1.1.
pub mod request;

/// An answer in HTTP/1.1, taken apart.
pub mod answer;
