//! The data plane.

/// A blocking connection to the control plane.
pub mod link;
/// What is known of each exchange in flight, in a file that outlives the process.
pub mod slots;
/// Usage events on disk, and their way to the control plane.
pub mod spool;
