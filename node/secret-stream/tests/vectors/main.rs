//! The crate against vectors made by the JavaScript implementations.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod noise;
mod stream;

use serde_json::Value;

fn cases(path: &str) -> Vec<Value> {
    let path = format!("{}/../../vectors/{path}", env!("CARGO_MANIFEST_DIR"));
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    serde_json::from_value(file["cases"].take()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// The first N bytes.
fn fixed<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value)[..N].try_into().unwrap()
}
