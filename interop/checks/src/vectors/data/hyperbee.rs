//! `hyperbee.json`: the blocks that scripts of puts and deletes write, everything that can be read from them, and the
//! extension's messages.

use bytes::Bytes;
use cumulet_hyperbee::extension::{Cache, Iterator as Walk, Message};
use cumulet_hyperbee::message::{Header, Metadata, Node};
use cumulet_hyperbee::{BeeWriter, MemoryBlocks, WriteOptions};
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, hexed, hexed_or_null, items, keep, unknown};
use futures::executor::block_on;
use serde_json::{Value, json};

use super::bee_reads;

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "extension" => extension(case),
        "sequential" | "random" | "delete-all" | "batch" | "small" | "sub" | "big" => script(case),
        kind => unknown("kind", kind),
    }
}

fn script(case: &Value) -> Rebuilt {
    let options = case.at("options")?;
    ensure(
        options.at("sep")?.is_null(),
        "options.sep: a separator of its own is not known",
    )?;
    let metadata = match options.given("metadata") {
        None => None,
        Some(metadata) => Some(Metadata {
            content_feed: metadata.optional_bytes("contentFeed")?.map(Bytes::from),
            user_data: metadata.optional_bytes("userData")?.map(Bytes::from),
        }),
    };
    let skip_equal = !options.flag("alwaysDuplicate")?;
    let core = MemoryBlocks::default();
    let mut writer = BeeWriter::new(core.clone(), WriteOptions { metadata, skip_equal });
    let mut lengths = Vec::new();
    for op in case.list("ops")? {
        block_on(apply(&mut writer, items(op)?, ""))?;
        lengths.push(core.to_vec().len());
    }
    let blocks = core.to_vec();
    let mut ours = keep(case, &["kind", "tag", "ops"]);
    ours["options"] = keep(options, &["metadata", "alwaysDuplicate", "sep"]);
    ours["lengths"] = lengths.into();
    ours["version"] = blocks.len().into();
    ours["blocks"] = blocks.iter().map(hexed).collect();
    ours["decoded"] = decoded(&blocks)?;
    block_on(bee_reads::rebuild(case, &MemoryBlocks::new(blocks), &mut ours))?;
    Ok(ours)
}

fn word(op: &[Value], index: usize) -> Result<&str, Reason> {
    let word = op.get(index).and_then(Value::as_str);
    word.ok_or_else(|| Reason::new("ops: an operation lacks a word"))
}

async fn apply(writer: &mut BeeWriter<MemoryBlocks>, op: &[Value], prefix: &str) -> Result<(), Reason> {
    let key = || Ok::<_, Reason>(format!("{prefix}{}", word(op, 1)?));
    let value = op.get(2).and_then(Value::as_str).map(str::as_bytes);
    match word(op, 0)? {
        "put" => {
            writer.put(key()?, value).await?;
        }
        "putIfChanged" => {
            writer
                .put_if(key()?, value, |old| old.value.as_deref() != value)
                .await?;
        }
        "del" => {
            writer.del(key()?).await?;
        }
        "sub" => {
            let prefix = format!("{}\0", key()?);
            let op = op
                .get(2)
                .ok_or_else(|| Reason::new("ops: sub lacks its operation"))?;
            Box::pin(apply(writer, items(op)?, &prefix)).await?;
        }
        "batch" => {
            let mut batch = writer.batch();
            let ops = op
                .get(1)
                .ok_or_else(|| Reason::new("ops: batch lacks its operations"))?;
            for op in items(ops)? {
                let op = items(op)?;
                match word(op, 0)? {
                    "put" => {
                        batch
                            .put(word(op, 1)?, op.get(2).and_then(Value::as_str).map(str::as_bytes))
                            .await?;
                    }
                    "del" => {
                        batch.del(word(op, 1)?).await?;
                    }
                    other => return unknown("operation", other),
                }
            }
            batch.flush().await?;
        }
        other => return unknown("operation", other),
    }
    Ok(())
}

/// Every block taken apart; each must encode to itself.
fn decoded(blocks: &[Bytes]) -> Rebuilt {
    let mut shapes = Vec::new();
    for (seq, block) in blocks.iter().enumerate() {
        if seq == 0 {
            let header = Header::decode(block)?;
            ensure(
                header.encode() == *block,
                "the header does not encode to its block",
            )?;
            let metadata = header.metadata.as_ref().map(|metadata| {
                json!({
                    "contentFeed": hexed_or_null(metadata.content_feed.as_ref()),
                    "userData": hexed_or_null(metadata.user_data.as_ref()),
                })
            });
            shapes.push(json!({"protocol": header.protocol, "metadata": metadata}));
            continue;
        }
        let node = Node::decode(block)?;
        ensure(node.encode() == *block, "a node does not encode to its block")?;
        let level = |level: &cumulet_hyperbee::message::Level| {
            let children: Vec<u64> = level
                .children
                .iter()
                .flat_map(|child| [child.seq, child.offset])
                .collect();
            json!({"keys": level.keys, "children": children})
        };
        let levels: Value = node.levels.iter().map(level).collect();
        shapes.push(
            json!({"key": hexed(&node.key), "value": hexed_or_null(node.value.as_ref()), "levels": levels}),
        );
    }
    Ok(shapes.into())
}

fn numbers(fields: &Value, name: &str) -> Result<Vec<u64>, Reason> {
    let numbers: Option<Vec<u64>> = fields.list(name)?.iter().map(Value::as_u64).collect();
    numbers.ok_or_else(|| Reason::new(format!("{name} is not a list of numbers")))
}

/// The message that a case describes.
fn described(value: &Value) -> Result<Message, Reason> {
    let key = |fields: &Value, name| Ok::<_, Reason>(fields.optional_bytes(name)?.map(Bytes::from));
    if let Some(get) = value.given("get") {
        return Ok(Message::Get {
            version: get.uint("version")?,
            key: get.bytes("key")?.into(),
        });
    }
    if let Some(cache) = value.given("cache") {
        let (start, end) = (cache.uint("start")?, cache.uint("end")?);
        return Ok(Message::Cache(Cache {
            start,
            end,
            blocks: numbers(cache, "blocks")?,
        }));
    }
    let walk = value.at("iterator")?;
    Ok(Message::Iterator(Walk {
        version: walk.uint("version")?,
        gte: key(walk, "gte")?,
        gt: key(walk, "gt")?,
        lte: key(walk, "lte")?,
        lt: key(walk, "lt")?,
        limit: walk.uint("limit")?,
        reverse: walk.flag("reverse")?,
        checkpoint: numbers(walk, "checkpoint")?,
    }))
}

fn extension(case: &Value) -> Rebuilt {
    let read = Message::decode(&case.bytes("hex")?.into())?;
    let shape = match read.ok_or_else(|| Reason::new("no message that is known"))? {
        Message::Cache(cache) => {
            json!({"cache": {"start": cache.start, "end": cache.end, "blocks": cache.blocks}})
        }
        Message::Get { version, key } => json!({"get": {"version": version, "key": hexed(key)}}),
        Message::Iterator(walk) => json!({"iterator": {
            "version": walk.version, "gte": hexed_or_null(walk.gte), "gt": hexed_or_null(walk.gt),
            "lte": hexed_or_null(walk.lte), "lt": hexed_or_null(walk.lt), "limit": walk.limit, "reverse": walk.reverse,
            "checkpoint": walk.checkpoint,
        }}),
    };
    let mut ours = keep(case, &["kind"]);
    ours["value"] = shape;
    ours["hex"] = hexed(described(case.at("value")?)?.encode());
    Ok(ours)
}
