//! liutong.
fn main() {}
