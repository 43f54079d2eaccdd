//! Reading the shared vector files in tests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::net::SocketAddrV4;

use bytes::Bytes;
use serde_json::Value;

pub(crate) fn cases(name: &str) -> Vec<Value> {
    let path = format!("{}/../../vectors/network/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    match file["cases"].take() {
        Value::Array(cases) => cases,
        other => panic!("cases of {name}: {other}"),
    }
}

pub(crate) fn bytes(value: &Value) -> Bytes {
    hex::decode(value.as_str().unwrap()).unwrap().into()
}

pub(crate) fn fixed<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).as_ref().try_into().unwrap()
}

pub(crate) fn address(value: &Value) -> SocketAddrV4 {
    let host = value["host"].as_str().unwrap().parse().unwrap();
    SocketAddrV4::new(host, u16::try_from(value["port"].as_u64().unwrap()).unwrap())
}

pub(crate) fn optional_address(value: &Value) -> Option<SocketAddrV4> {
    value.is_object().then(|| address(value))
}
