//! The Kubernetes operator of Cumulet.
fn main() {}
