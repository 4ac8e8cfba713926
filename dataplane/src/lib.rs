//! The data plane.

/// A resumable scan of a JSON document for a few top-level members.
pub mod json;

/// What is read in a request body, and the few bytes that change in one.
pub mod body;

/// Where the events of an event stream end.
pub mod sse;

/// How many tokens an answer used.
pub mod meter;
