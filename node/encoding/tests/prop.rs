//! Laws of the codec: what is written one after another is read one after another, and nothing more.
#![allow(clippy::unwrap_used)]

use cumulet_encoding::{MAX_UINT, Reader, Writer, buffer_len, uint_len};
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Uint(u64),
    Int(i64),
    Bool(bool),
    U16(u16),
    U32(u32),
    U64(u64),
    Buffer(Vec<u8>),
    OptionalBuffer(Option<Vec<u8>>),
    Text(String),
    Words(Vec<u32>),
    Fixed([u8; 32]),
    Frame(Vec<u8>),
}

fn value() -> impl Strategy<Value = Value> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        (0..=MAX_UINT).prop_map(Value::Uint),
        (0..70_000u64).prop_map(Value::Uint),
        (-(1i64 << 52)..(1i64 << 52)).prop_map(Value::Int),
        any::<bool>().prop_map(Value::Bool),
        any::<u16>().prop_map(Value::U16),
        any::<u32>().prop_map(Value::U32),
        (0..=MAX_UINT).prop_map(Value::U64),
        bytes().prop_map(Value::Buffer),
        // An empty buffer and none are the same on the wire.
        proptest::option::of(proptest::collection::vec(any::<u8>(), 1..9)).prop_map(Value::OptionalBuffer),
        ".{0,20}".prop_map(Value::Text),
        proptest::collection::vec(any::<u32>(), 0..20).prop_map(Value::Words),
        any::<[u8; 32]>().prop_map(Value::Fixed),
        bytes().prop_map(Value::Frame),
    ]
}

fn write(value: &Value, writer: &mut Writer) {
    let _ = match value {
        Value::Uint(value) => writer.uint(*value),
        Value::Int(value) => writer.int(*value),
        Value::Bool(value) => writer.bool(*value),
        Value::U16(value) => writer.u16(*value),
        Value::U32(value) => writer.u32(*value),
        Value::U64(value) => writer.u64(*value),
        Value::Buffer(value) => writer.buffer(value),
        Value::OptionalBuffer(value) => writer.optional_buffer(value.as_deref()),
        Value::Text(value) => writer.string(value),
        Value::Words(value) => writer.words(value),
        Value::Fixed(value) => writer.fixed(value),
        Value::Frame(value) => writer.frame(|writer| {
            writer.raw(value);
        }),
    };
}

/// Reads a value of the same kind.
fn read(kind: &Value, reader: &mut Reader<'_>) -> Result<Value, cumulet_encoding::DecodeError> {
    Ok(match kind {
        Value::Uint(_) => Value::Uint(reader.uint()?),
        Value::Int(_) => Value::Int(reader.int()?),
        Value::Bool(_) => Value::Bool(reader.bool()?),
        Value::U16(_) => Value::U16(reader.u16()?),
        Value::U32(_) => Value::U32(reader.u32()?),
        Value::U64(_) => Value::U64(reader.u64()?),
        Value::Buffer(_) => Value::Buffer(reader.buffer()?.to_vec()),
        Value::OptionalBuffer(_) => Value::OptionalBuffer(reader.optional_buffer()?.map(<[u8]>::to_vec)),
        Value::Text(_) => Value::Text(reader.string()?.into_owned()),
        Value::Words(_) => Value::Words(reader.words()?.collect()),
        Value::Fixed(_) => Value::Fixed(reader.fixed()?),
        Value::Frame(_) => Value::Frame(reader.frame()?.rest().to_vec()),
    })
}

proptest! {
    #[test]
    fn values_written_in_a_row_are_read_in_a_row_and_nothing_is_left(values in proptest::collection::vec(value(), 0..12)) {
        let mut writer = Writer::new();
        for value in &values {
            write(value, &mut writer);
        }
        let mut reader = Reader::new(writer.as_slice());
        for value in &values {
            prop_assert_eq!(&read(value, &mut reader).unwrap(), value);
        }
        prop_assert!(reader.is_empty());
    }

    #[test]
    fn a_row_of_values_that_ends_early_is_an_error_and_never_another_row(
        values in proptest::collection::vec(value(), 1..6), end in any::<prop::sample::Index>(),
    ) {
        let mut writer = Writer::new();
        for value in &values {
            write(value, &mut writer);
        }
        let end = end.index(writer.len());
        let mut reader = Reader::new(&writer.as_slice()[..end]);
        let mut whole = 0;
        for value in &values {
            match read(value, &mut reader) {
                Ok(found) => prop_assert_eq!(&found, value),
                Err(_) => break,
            }
            whole += 1;
        }
        prop_assert!(whole < values.len());
    }

    #[test]
    fn lengths_are_known_before_writing(value in 0..=MAX_UINT, length in 0..70_000usize) {
        prop_assert_eq!(Writer::new().uint(value).len(), uint_len(value));
        prop_assert_eq!(Writer::new().buffer(&vec![0; length]).len(), buffer_len(length));
    }
}
