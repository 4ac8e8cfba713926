//! liutong-controlplane.
fn main() {}
