//! The data plane as a process, without a control plane: what clients see, what upstreams get, what is recorded.

mod faults;
mod hostile;
mod path;
mod plane;
