//! What the planes say to each other, and what the spool and the disk copy of the snapshot hold: bytes only.
//!
//! No runtime, no sockets, no files: encode into `Vec<u8>`, decode from `&[u8]`. All numbers are
//! little-endian. Both planes and the administrators' command depend on this crate; it depends on nothing of
//! theirs.

/// Reading and writing of the primitive types that everything here is made of.
pub mod codec;
/// The usage event: 80 bytes, the same in a slot, in the spool and in a batch.
pub mod event;
/// The frames that travel between the planes.
pub mod frame;
/// Identifiers and counters, one type for each.
pub mod id;
/// Names in certificates, and enrolment tokens.
pub mod identity;
/// The form of API keys: prefix, alphabet, check.
pub mod key_format;
/// Uses of keys that are refused though they are known.
pub mod key_use;
/// The spool's file format: segments and records.
pub mod record;
/// Which numbers a data plane gave out, and where the events are.
pub mod report;
/// The number behind `x-request-id`.
pub mod request_id;
/// Walking a segment: records, damage, torn tail.
pub mod segment_scan;
/// What the data plane knows of the registry: keys, applications, aliases, deployments, settings; and changes
/// of them.
pub mod table;
/// Whether two hold the same tables.
pub mod table_sum;
