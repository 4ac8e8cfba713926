//! liutong-dataplane.
fn main() {}
