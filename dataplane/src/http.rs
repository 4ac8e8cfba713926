//! HTTP/1.1 as bytes: finding heads, judging them, framing bodies, writing heads. No sockets, no async, no
//! clock.
//!
//! Two parsers that read one message differently are how requests are smuggled, so nothing here is
//! interpreted kindly: what RFC 9112 calls an error is an error, and where it leaves a choice the strict one
//! is taken. What is forwarded is written anew from the parts found here, never copied as a head.
//!
//! Invariants:
//!
//!   * the result does not depend on how the bytes were split into reads
//!   * each byte of a head or a body is looked at a bounded number of times, however slowly it arrives
//!   * nothing here allocates, but for `head_write`, which appends to the caller's buffer, and `known_head`,
//!     once for a connection
//!   * no error, and no `Debug` text, holds a byte of the message

/// The chunked transfer coding, decoded in place.
pub mod chunked;
/// What both kinds of head have in common: field lines, framing, persistence, allow-lists.
pub mod fields;
/// Where a body ends: every kind of framing behind one decoder.
pub mod framing;
/// Finds the blank line that ends a head, resumably.
pub mod head_end;
/// Why a head is refused, and the status that says so.
pub mod head_error;
/// Heads and chunk size lines for the way out.
pub mod head_write;
/// The head that a connection sent last, recognised when it comes again.
pub mod known_head;
/// The lines of a head: start line, names, values.
mod lines;
/// A client's request head.
pub mod request_head;
/// An upstream's response head.
pub mod response_head;
/// A range of bytes in a head, without a borrow of it.
pub mod span;
/// Request targets and the Host field.
pub mod target;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod hostile;
