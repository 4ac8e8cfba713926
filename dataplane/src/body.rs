//! What the data plane reads in a JSON request body, and the few bytes that it changes in one.
//!
//! A body is scanned while it arrives (`scan`), and sent on with at most three byte ranges replaced
//! (`rewrite`). It is never deserialized and written again: key order, white space, number text and unknown
//! members pass untouched.

/// Replaces the model's name and asks for usage.
pub mod rewrite;
/// Finds `model`, `stream` and `stream_options` while a body arrives.
pub mod scan;
