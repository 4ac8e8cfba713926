//! The data plane.

