//! `encoding.json`: compact-encoding.

use cumulet_encoding::{DecodeError, Reader, Writer};
use cumulet_vectors::{
    Fields, Reason, Rebuilt, ensure, fixed, hexed, hexed_or_null, items, keep, unhex, unknown,
};
use serde_json::Value;

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    let (kind, hex) = (case.text("kind")?, case.bytes("hex")?);
    match kind {
        "refuse" => {
            let codec = case.text("type")?;
            let refused = decode(codec, Reader::new(&hex))?.is_err();
            ensure(refused, "was decoded, should be refused")?;
            Ok(keep(case, &["kind", "type", "hex", "error"]))
        }
        "uint-non-minimal-accepted" => {
            let mut ours = keep(case, &["kind", "hex"]);
            ours["value"] = Reader::new(&hex).uint()?.into();
            Ok(ours)
        }
        codec => {
            let mut ours = keep(case, &["kind"]);
            ours["value"] = decode(codec, Reader::new(&hex))??;
            ours["hex"] = hexed(encode(codec, case.at("value")?)?);
            Ok(ours)
        }
    }
}

type Decoded = Result<Value, DecodeError>;

fn uints(reader: &mut Reader<'_>) -> Decoded {
    let count = reader.array_len(1)?;
    (0..count).map(|_| reader.uint().map(Value::from)).collect()
}

fn keys(reader: &mut Reader<'_>) -> Decoded {
    let count = reader.array_len(32)?;
    (0..count).map(|_| Ok(hexed(reader.fixed::<32>()?))).collect()
}

/// Decodes by the codec named `codec`; the outer error is an unknown codec or bytes left over.
fn decode(codec: &str, mut reader: Reader<'_>) -> Result<Decoded, Reason> {
    let r = &mut reader;
    let value: Decoded = match codec {
        "uint" => r.uint().map(Value::from),
        "int" => r.int().map(Value::from),
        "uint8" => r.u8().map(Value::from),
        "uint16" => r.u16().map(Value::from),
        "uint24" => r.uint_of(3).map(Value::from),
        "uint32" => r.u32().map(Value::from),
        "uint40" => r.uint_of(5).map(Value::from),
        "uint48" => r.uint_of(6).map(Value::from),
        "uint56" => r.uint_of(7).map(Value::from),
        "uint64" => r.u64().map(Value::from),
        "buffer" => r.buffer().map(hexed),
        "raw" => Ok(hexed(r.rest())),
        "optionalBuffer" => r.optional_buffer().map(hexed_or_null),
        "string" => r.string().map(Value::from),
        "bool" => r.bool().map(Value::from),
        "fixed32" => r.fixed::<32>().map(hexed),
        "fixed64" => r.fixed::<64>().map(hexed),
        "array<uint>" => uints(r),
        "array<fixed32>" => keys(r),
        "uint32array" => r.words().map(|words| words.collect::<Vec<_>>().into()),
        "frame<array<uint>>" => r.frame().and_then(|mut frame| uints(&mut frame)),
        other => return unknown("kind", other),
    };
    ensure(value.is_err() || reader.is_empty(), "bytes are left over")?;
    Ok(value)
}

fn encode(codec: &str, value: &Value) -> Result<Vec<u8>, Reason> {
    let mut writer = Writer::new();
    match codec {
        "buffer" | "raw" | "fixed32" | "fixed64" | "optionalBuffer" | "string" => {
            write_bytes(&mut writer, codec, value)?;
        }
        "array<uint>" | "array<fixed32>" | "uint32array" | "frame<array<uint>>" => {
            write_list(&mut writer, codec, value)?;
        }
        _ => write_number(&mut writer, codec, value)?,
    }
    Ok(writer.into_vec())
}

fn write_number(writer: &mut Writer, codec: &str, value: &Value) -> Result<(), Reason> {
    let uint = || {
        value
            .as_u64()
            .ok_or_else(|| Reason::new("value is not an unsigned integer"))
    };
    match codec {
        "uint" => writer.uint(uint()?),
        "int" => writer.int(
            value
                .as_i64()
                .ok_or_else(|| Reason::new("value is not an integer"))?,
        ),
        "uint8" => writer.u8(uint()?.try_into()?),
        "uint16" => writer.u16(uint()?.try_into()?),
        "uint24" => writer.uint_of(3, uint()?),
        "uint32" => writer.u32(uint()?.try_into()?),
        "uint40" => writer.uint_of(5, uint()?),
        "uint48" => writer.uint_of(6, uint()?),
        "uint56" => writer.uint_of(7, uint()?),
        "uint64" => writer.u64(uint()?),
        "bool" => writer.bool(
            value
                .as_bool()
                .ok_or_else(|| Reason::new("value is not a boolean"))?,
        ),
        other => return unknown("kind", other),
    };
    Ok(())
}

fn write_bytes(writer: &mut Writer, codec: &str, value: &Value) -> Result<(), Reason> {
    match codec {
        "buffer" => writer.buffer(&unhex(value)?),
        "raw" => writer.raw(&unhex(value)?),
        "fixed32" => writer.fixed(&fixed::<32>(value)?),
        "fixed64" => writer.fixed(&fixed::<64>(value)?),
        "optionalBuffer" => {
            let bytes = if value.is_null() {
                None
            } else {
                Some(unhex(value)?)
            };
            writer.optional_buffer(bytes.as_deref())
        }
        "string" => writer.string(value.as_str().ok_or_else(|| Reason::new("value is not text"))?),
        other => return unknown("kind", other),
    };
    Ok(())
}

fn write_list(writer: &mut Writer, codec: &str, value: &Value) -> Result<(), Reason> {
    if codec == "array<fixed32>" {
        writer.array_len(items(value)?.len());
        for item in items(value)? {
            writer.fixed(&fixed::<32>(item)?);
        }
        return Ok(());
    }
    let number = |item: &Value| {
        item.as_u64()
            .ok_or_else(|| Reason::new("value is not a list of numbers"))
    };
    let numbers = items(value)?.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    match codec {
        "array<uint>" => write_uints(writer, &numbers),
        "uint32array" => {
            let words = numbers.into_iter().map(u32::try_from);
            writer.words(&words.collect::<Result<Vec<_>, _>>()?);
        }
        "frame<array<uint>>" => {
            writer.frame(|writer| write_uints(writer, &numbers));
        }
        other => return unknown("kind", other),
    }
    Ok(())
}

fn write_uints(writer: &mut Writer, numbers: &[u64]) {
    writer.array_len(numbers.len());
    for number in numbers {
        writer.uint(*number);
    }
}
