//! The mux against vectors made by the JavaScript implementation, and its limits.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod limits;
mod received;
mod sent;

use bytes::Bytes;
use serde_json::Value;

fn cases(prefix: &str) -> Vec<Value> {
    let path = format!("{}/../../vectors/data/protomux.json", env!("CARGO_MANIFEST_DIR"));
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases: Vec<Value> = serde_json::from_value(file["cases"].take()).unwrap();
    cases
        .into_iter()
        .filter(|case| case["kind"].as_str().unwrap().starts_with(prefix))
        .collect()
}

fn bytes(value: &Value) -> Bytes {
    value
        .as_str()
        .map(|text| hex::decode(text).unwrap())
        .unwrap_or_default()
        .into()
}

fn frames(mux: &mut cumulet_protomux::Mux) -> Vec<String> {
    std::iter::from_fn(|| mux.poll_transmit())
        .map(hex::encode)
        .collect()
}
