//! `hyperblobs.json`: blobs cut into blocks, and block maps.

use bytes::Bytes;
use cumulet_hyperbee::MemoryBlocks;
use cumulet_hypercore::crypto::hash;
use cumulet_hypercore::node::Node;
use cumulet_hypercore::roots::Roots;
use cumulet_hyperdrive::blobs::{MapEntry, decode_map, encode_map};
use cumulet_hyperdrive::{BlobPointer, BlobWriter, Blobs};
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, hexed, items, keep, unhex, unknown};
use futures::executor::block_on;
use serde_json::{Value, json};

/// Longest part read back at once; the longest blob of the vectors is far shorter.
const READ_LIMIT: usize = 1 << 24;

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "blobs" => blobs(case),
        "blockmap" => block_on(block_map(case)),
        "blockmap-encoding" => map_encoding(case),
        kind => unknown("kind", kind),
    }
}

/// The bytes that the vectors' generator made of a label: hashes of it and a counter.
pub(super) fn stream(fields: &Value) -> Result<Vec<u8>, Reason> {
    let length = usize::try_from(fields.uint("length")?)?;
    let label = fields.text("seedLabel")?.as_bytes();
    let mut data = Vec::new();
    for counter in 0_u32.. {
        if data.len() >= length {
            break;
        }
        data.extend(hash(&[label, &counter.to_le_bytes()]));
    }
    data.truncate(length);
    Ok(data)
}

/// Blocks in the form in which the recorded ones are given: whole, or (long ones) by length and hash.
pub(super) fn block_shapes(blocks: &[Bytes], recorded: &Value) -> Value {
    (blocks.iter().enumerate())
        .map(
            |(index, block)| match recorded.get(index).and_then(|block| block.get("length")) {
                Some(_) => json!({"length": block.len(), "hash": hexed(hash(&[block]))}),
                None => json!({"hex": hexed(block)}),
            },
        )
        .collect()
}

/// The tree of a core with these blocks.
pub(super) fn tree_of(blocks: &[Bytes]) -> Result<Roots, Reason> {
    let mut roots = Roots::new();
    for (block, index) in blocks.iter().zip(0..) {
        roots.push(Node::leaf(index, block), &mut Vec::new())?;
    }
    Ok(roots)
}

fn pointer(value: &Value) -> Result<BlobPointer, Reason> {
    Ok(serde_json::from_value(value.clone())?)
}

fn blobs(case: &Value) -> Rebuilt {
    let core = MemoryBlocks::default();
    let block_size = usize::try_from(case.uint("blockSize")?)?;
    let mut puts = Vec::new();
    for put in case.list("puts")? {
        puts.push(block_on(put_blob(&core, block_size, put))?);
    }
    let tree = tree_of(&core.to_vec())?;
    let mut ours = keep(case, &["kind", "tag", "blockSize"]);
    ours["puts"] = puts.into();
    ours["blocks"] = block_shapes(&core.to_vec(), &case["blocks"]);
    ours["coreByteLength"] = tree.byte_length().into();
    ours["treeHash"] = hexed(tree.tree_hash());
    Ok(ours)
}

async fn put_blob(core: &MemoryBlocks, block_size: usize, put: &Value) -> Rebuilt {
    let data = stream(put)?;
    let mut writer = BlobWriter::new(core, block_size);
    for piece in data.chunks(7777) {
        writer.write(piece).await?;
    }
    let written = writer.finish().await?;
    let blobs = Blobs::new(core.clone());
    let all = blobs.read(&written).await?.to_vec(READ_LIMIT).await?;
    ensure(all == data, "the blob reads back otherwise")?;
    let mut parts = Vec::new();
    for partial in put.list("partial")? {
        let start = partial.uint("start")?;
        let end = match partial.given("length") {
            Some(_) => start + partial.uint("length")?,
            None => partial.uint("end")? + 1,
        };
        let part = blobs
            .read_part(&written, start..end)
            .await?
            .to_vec(READ_LIMIT)
            .await?;
        let mut rebuilt = keep(partial, &["start", "length", "end"]);
        rebuilt["data"] = hexed(part);
        parts.push(rebuilt);
    }
    let mut ours = keep(put, &["seedLabel", "length"]);
    ours["dataHash"] = hexed(hash(&[&data]));
    ours["id"] = serde_json::to_value(written)?;
    ours["partial"] = parts.into();
    Ok(ours)
}

fn map_shape(entries: &[MapEntry]) -> Value {
    (entries.iter())
        .map(|entry| json!({"index": entry.index, "byteLength": entry.byte_length}))
        .collect()
}

fn map_encoding(case: &Value) -> Rebuilt {
    let mut ours = keep(case, &["kind"]);
    let Some(hex) = case.optional_bytes("hex")? else {
        // JS can't write the map of no blocks.
        ensure(case.list("blocks")?.is_empty(), "a map of blocks has no bytes")?;
        ours["hex"] = Value::Null;
        ours["blocks"] = json!([]);
        return Ok(ours);
    };
    let entry = |entry: &Value| {
        Ok(MapEntry {
            index: entry.uint("index")?,
            byte_length: entry.uint("byteLength")?,
        })
    };
    let described = case
        .list("blocks")?
        .iter()
        .map(entry)
        .collect::<Result<Vec<_>, Reason>>()?;
    let mut map = Vec::new();
    decode_map(&hex, &mut map)?;
    ours["blocks"] = map_shape(&map);
    ours["hex"] = hexed(encode_map(&described));
    Ok(ours)
}

/// Blobs whose blocks are named by a map. We write no such blobs, so the blocks are inputs, and so is which chunk was
/// written where; all that is read is compared.
async fn block_map(case: &Value) -> Rebuilt {
    let recorded = case
        .list("blocks")?
        .iter()
        .map(|block| unhex(block).map(Bytes::from));
    let core = recorded.collect::<Result<Vec<_>, _>>()?;
    let blobs = Blobs::new(MemoryBlocks::new(core.clone()));
    let mut rebuilt = Vec::new();
    for blob in case.list("blobs")? {
        let pointer = pointer(blob.at("id")?)?;
        let map = blobs.map(&pointer).await?;
        let data = blobs.read(&pointer).await?.to_vec(READ_LIMIT).await?;
        for start in 0..=data.len() as u64 {
            let part = blobs
                .read_part(&pointer, start..data.len() as u64)
                .await?
                .to_vec(READ_LIMIT)
                .await?;
            ensure(
                data.ends_with(&part) && part.len() as u64 == data.len() as u64 - start,
                "a part reads otherwise",
            )?;
        }
        rebuilt.push(json!({
            "id": serde_json::to_value(pointer)?, "blocks": map_shape(&map), "data": hexed(&data),
            "byteLength": blobs.byte_length(&pointer).await?,
        }));
    }
    // Chunk numbers per blob: the recorded ones name either a chunk, or a block where the generator counted on.
    let chunks = case.list("chunks")?;
    let held: Vec<Value> = core.iter().map(hexed).collect();
    ensure(
        chunks.iter().all(|chunk| held.contains(chunk)),
        "a chunk is in no block",
    )?;
    for (numbers, blob) in case.list("written")?.iter().zip(&rebuilt) {
        let blocks = items(blob.at("blocks")?)?;
        ensure(
            items(numbers)?.len() == blocks.len(),
            "written: another number of blocks than the map's",
        )?;
    }
    let mut ours = keep(case, &["kind", "chunks", "written", "blocks"]);
    ours["blobs"] = rebuilt.into();
    Ok(ours)
}
