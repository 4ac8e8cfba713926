//! The pure parts of the data plane as cases: what criterion times and what callgrind counts.

/// Requests and answers.
pub mod texts;
