//! Every case of `vectors/data/encoding.json`, and laws over all values.

#![allow(clippy::panic)] // an unknown case kind must fail the test

use cumulet_encoding::{DecodeError, MAX_UINT, Reader, Writer, buffer_len, uint_len};
use proptest::prelude::*;
use serde_json::Value;

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a hex string")).expect("hex")
}

fn uints(reader: &mut Reader<'_>) -> Result<Value, DecodeError> {
    let count = reader.array_len(1)?;
    (0..count).map(|_| reader.uint().map(Value::from)).collect()
}

/// Decodes `hex` by the codec named `kind`, in the JSON shape of the vectors.
fn decode(kind: &str, mut reader: Reader<'_>) -> Result<Value, DecodeError> {
    let hexed = |bytes: &[u8]| Value::from(hex::encode(bytes));
    let value = match kind {
        "uint" | "uint-non-minimal-accepted" => reader.uint()?.into(),
        "int" => reader.int()?.into(),
        "uint8" => reader.u8()?.into(),
        "uint16" => reader.u16()?.into(),
        "uint24" => reader.uint_of(3)?.into(),
        "uint32" => reader.u32()?.into(),
        "uint40" => reader.uint_of(5)?.into(),
        "uint48" => reader.uint_of(6)?.into(),
        "uint56" => reader.uint_of(7)?.into(),
        "uint64" => reader.u64()?.into(),
        "buffer" => hexed(reader.buffer()?),
        "raw" => hexed(reader.rest()),
        "optionalBuffer" => reader.optional_buffer()?.map_or(Value::Null, hexed),
        "string" => reader.string()?.into(),
        "bool" => reader.bool()?.into(),
        "fixed32" => hexed(&reader.fixed::<32>()?),
        "fixed64" => hexed(&reader.fixed::<64>()?),
        "array<uint>" => uints(&mut reader)?,
        "array<fixed32>" => {
            let count = reader.array_len(32)?;
            (0..count)
                .map(|_| Ok(hexed(&reader.fixed::<32>()?)))
                .collect::<Result<_, _>>()?
        }
        "uint32array" => reader.words()?.collect::<Vec<_>>().into(),
        "frame<array<uint>>" => uints(&mut reader.frame()?)?,
        other => panic!("unknown case kind {other}"),
    };
    assert!(reader.is_empty(), "{kind} leaves bytes");
    Ok(value)
}

fn encode(kind: &str, value: &Value) -> Vec<u8> {
    let mut writer = Writer::new();
    let uint = || value.as_u64().expect("an unsigned integer");
    let list = || value.as_array().expect("a list");
    let uints = |writer: &mut Writer| {
        writer.array_len(list().len());
        for item in list() {
            writer.uint(item.as_u64().expect("an unsigned integer"));
        }
    };
    match kind {
        "uint" => writer.uint(uint()),
        "int" => writer.int(value.as_i64().expect("an integer")),
        "uint8" => writer.u8(uint() as u8),
        "uint16" => writer.u16(uint() as u16),
        "uint24" => writer.uint_of(3, uint()),
        "uint32" => writer.u32(uint() as u32),
        "uint40" => writer.uint_of(5, uint()),
        "uint48" => writer.uint_of(6, uint()),
        "uint56" => writer.uint_of(7, uint()),
        "uint64" => writer.u64(uint()),
        "buffer" => writer.buffer(&bytes(value)),
        "raw" | "fixed32" | "fixed64" => writer.raw(&bytes(value)),
        "optionalBuffer" => writer.optional_buffer((!value.is_null()).then(|| bytes(value)).as_deref()),
        "string" => writer.string(value.as_str().expect("text")),
        "bool" => writer.bool(value.as_bool().expect("a bool")),
        "array<uint>" => {
            uints(&mut writer);
            &mut writer
        }
        "array<fixed32>" => {
            writer.array_len(list().len());
            for item in list() {
                writer.raw(&bytes(item));
            }
            &mut writer
        }
        "uint32array" => {
            let words: Vec<u32> = list()
                .iter()
                .map(|word| word.as_u64().expect("a word") as u32)
                .collect();
            writer.words(&words)
        }
        "frame<array<uint>>" => writer.frame(uints),
        other => panic!("unknown case kind {other}"),
    };
    writer.into_vec()
}

#[test]
fn every_shared_vector_is_reproduced() {
    let file: Value =
        serde_json::from_str(include_str!("../../../vectors/data/encoding.json")).expect("JSON");
    let cases = file["cases"].as_array().expect("cases");
    assert!(cases.len() >= 124);
    for case in cases {
        let kind = case["kind"].as_str().expect("a kind");
        let hex = bytes(&case["hex"]);
        if kind == "refuse" {
            let codec = case["type"].as_str().expect("a codec");
            assert!(
                decode(codec, Reader::new(&hex)).is_err(),
                "{case} must be refused"
            );
            continue;
        }
        assert_eq!(
            decode(kind, Reader::new(&hex)).as_ref(),
            Ok(&case["value"]),
            "decoding {case}"
        );
        if kind != "uint-non-minimal-accepted" {
            assert_eq!(encode(kind, &case["value"]), hex, "encoding {case}");
        }
    }
}

proptest! {
    #[test]
    fn uints_come_back_and_take_the_length_announced(value in 0..=MAX_UINT) {
        let mut writer = Writer::new();
        writer.uint(value);
        prop_assert_eq!(writer.len(), uint_len(value));
        prop_assert_eq!(Reader::new(writer.as_slice()).uint(), Ok(value));
    }

    #[test]
    fn ints_come_back(value in -(1i64 << 52)..(1i64 << 52)) {
        let mut writer = Writer::new();
        writer.int(value);
        prop_assert_eq!(Reader::new(writer.as_slice()).int(), Ok(value));
    }

    #[test]
    fn buffers_come_back_and_take_the_length_announced(value: Vec<u8>) {
        let mut writer = Writer::new();
        writer.buffer(&value);
        prop_assert_eq!(writer.len(), buffer_len(value.len()));
        prop_assert_eq!(Reader::new(writer.as_slice()).buffer(), Ok(&value[..]));
    }

    #[test]
    fn no_bytes_make_a_read_panic(bytes: Vec<u8>, codec in 0..10usize) {
        const CODECS: [&str; 10] = [
            "uint", "int", "uint24", "uint56", "uint64", "string", "buffer", "uint32array", "optionalBuffer",
            "array<uint>",
        ];
        let mut reader = Reader::new(&bytes);
        let _ = match CODECS[codec] {
            "uint" => reader.uint().map(drop),
            "int" => reader.int().map(drop),
            "uint24" => reader.uint_of(3).map(drop),
            "uint56" => reader.uint_of(7).map(drop),
            "uint64" => reader.u64().map(drop),
            "string" => reader.string().map(drop),
            "buffer" => reader.buffer().map(drop),
            "uint32array" => reader.words().map(drop),
            "optionalBuffer" => reader.optional_buffer().map(drop),
            _ => uints(&mut reader).map(drop),
        };
    }
}
