//! Scripts of puts, deletes and batches, with the blocks that the JS package writes for them.

#![allow(dead_code)] // not every test uses all of it

use bytes::Bytes;
use cumulet_hyperbee::message::Metadata;
use cumulet_hyperbee::{BeeWriter, MemoryBlocks, WriteOptions};
use futures::executor::block_on;
use serde_json::Value;

pub(crate) fn bytes(value: &Value) -> Bytes {
    Bytes::from(hex::decode(value.as_str().unwrap()).unwrap())
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

pub(crate) fn numbers(value: &Value) -> Vec<u64> {
    list(value)
        .iter()
        .map(|number| number.as_u64().unwrap())
        .collect()
}

pub(crate) fn optional_bytes(value: &Value) -> Option<Bytes> {
    (!value.is_null()).then(|| bytes(value))
}

pub(crate) fn metadata(case: &Value) -> Option<Metadata> {
    let metadata = &case["options"]["metadata"];
    (!metadata.is_null()).then(|| Metadata {
        content_feed: optional_bytes(&metadata["contentFeed"]),
        user_data: optional_bytes(&metadata["userData"]),
    })
}

async fn apply(writer: &mut BeeWriter<MemoryBlocks>, op: &[Value], prefix: &str) {
    let key = |index: usize| format!("{prefix}{}", op[index].as_str().unwrap());
    let value = |index: usize| op[index].as_str().map(str::as_bytes);
    match op[0].as_str().unwrap() {
        "put" => writer.put(key(1), value(2)).await.map(drop).unwrap(),
        "putIfChanged" => {
            let new = value(2);
            writer
                .put_if(key(1), new, |old| old.value.as_deref() != new)
                .await
                .map(drop)
                .unwrap();
        }
        "del" => writer.del(key(1)).await.map(drop).unwrap(),
        "sub" => {
            let prefix = format!("{}\0", key(1));
            Box::pin(apply(writer, list(&op[2]), &prefix)).await;
        }
        "batch" => {
            let mut batch = writer.batch();
            for op in list(&op[1]) {
                let key = op[1].as_str().unwrap();
                match op[0].as_str().unwrap() {
                    "put" => batch
                        .put(key, op[2].as_str().map(str::as_bytes))
                        .await
                        .map(drop)
                        .unwrap(),
                    "del" => batch.del(key).await.map(drop).unwrap(),
                    other => panic!("unknown op {other}"),
                }
            }
            batch.flush().await.unwrap();
        }
        other => panic!("unknown op {other}"),
    }
}

/// Runs the script of a case and compares every block.
pub(crate) fn assert_writes(case: &Value) {
    let options = WriteOptions {
        metadata: metadata(case),
        skip_equal: !case["options"]["alwaysDuplicate"].as_bool().unwrap(),
    };
    let core = MemoryBlocks::default();
    let mut writer = BeeWriter::new(core.clone(), options);
    let mut lengths = Vec::new();
    for op in list(&case["ops"]) {
        block_on(apply(&mut writer, list(op), ""));
        lengths.push(core.to_vec().len() as u64);
    }
    assert_eq!(lengths, numbers(&case["lengths"]), "{}", case["tag"]);
    let expected = list(&case["blocks"]);
    for (seq, (ours, theirs)) in core.to_vec().iter().zip(expected).enumerate() {
        assert_eq!(
            hex::encode(ours),
            theirs.as_str().unwrap(),
            "{} block {seq}",
            case["tag"]
        );
    }
    assert_eq!(core.to_vec().len(), expected.len());
}
