//! Reading the shared vector files.
#![allow(dead_code, unreachable_pub, clippy::panic)] // each test file uses a part; a broken vector must fail the test

use serde_json::Value;

pub fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/../../vectors/data/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let file: Value = serde_json::from_str(&text).expect("JSON");
    file["cases"].as_array().expect("cases").clone()
}

pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} is no text in {value}"))
}

pub fn uint(value: &Value, field: &str) -> u64 {
    value[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} is no integer in {value}"))
}

pub fn bytes(value: &Value, field: &str) -> Vec<u8> {
    unhex(&value[field])
}

pub fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap_or_else(|| panic!("{value} is no hex"))).expect("hex")
}

pub fn fixed<const N: usize>(value: &Value, field: &str) -> [u8; N] {
    bytes(value, field)
        .try_into()
        .unwrap_or_else(|_| panic!("{field} has another length in {value}"))
}
