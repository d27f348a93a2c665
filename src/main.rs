//! The `caffe` program.
fn main() {}
