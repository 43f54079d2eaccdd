//! What is read from a bee in `hyperbee.json`: entries, ranges, gets, history, older versions and differences.

use cumulet_hyperbee::{Bee, Entry, MemoryBlocks, Operation, Range};
use cumulet_vectors::{Fields, Reason, Rebuilt, hexed, hexed_or_null, keep, unhex, unknown};
use serde_json::{Value, json};

fn shape(entry: &Entry) -> Value {
    json!({"seq": entry.seq, "key": hexed(&entry.key), "value": hexed_or_null(entry.value.as_ref())})
}

async fn keys(bee: &Bee<MemoryBlocks>, range: Range) -> Rebuilt {
    let entries = bee.range(range).collect(usize::MAX).await?;
    Ok(entries.iter().map(|entry| hexed(&entry.key)).collect())
}

/// Adds all reads of a case to its rebuilt form.
pub(super) async fn rebuild(case: &Value, blocks: &MemoryBlocks, ours: &mut Value) -> Result<(), Reason> {
    let bee = Bee::new(blocks.clone());
    let entries = bee.range(Range::all()).collect(usize::MAX).await?;
    ours["entries"] = entries.iter().map(shape).collect();
    ours["reverse5"] = keys(&bee, Range::all().reverse().limit(5)).await?;
    for wanted in &entries {
        let found = bee.get(&wanted.key).await?;
        cumulet_vectors::ensure(
            found.as_ref() == Some(wanted),
            "an entry of the bee is not found by its key",
        )?;
    }
    ours["history"] = history(&bee).await?;
    let mut ranges = Vec::new();
    for recorded in case.list("ranges")? {
        let range = range(recorded.at("range")?)?;
        let mut rebuilt = keep(recorded, &["range"]);
        rebuilt["keys"] = keys(&bee, range.clone()).await?;
        rebuilt["reverse"] = keys(&bee, range.clone().reverse()).await?;
        rebuilt["limit3"] = keys(&bee, range.limit(3)).await?;
        ranges.push(rebuilt);
    }
    ours["ranges"] = ranges.into();
    let mut gets = Vec::new();
    for recorded in case.list("gets")? {
        let entry = bee.get(recorded.bytes("key")?).await?;
        gets.push(json!({"key": recorded["key"], "entry": entry.as_ref().map(shape)}));
    }
    ours["gets"] = gets.into();
    let mut checkouts = Vec::new();
    for recorded in case.list("checkouts")? {
        checkouts.push(checkout(&bee, recorded.uint("version")?).await?);
    }
    ours["checkouts"] = checkouts.into();
    Ok(())
}

fn range(bounds: &Value) -> Result<Range, Reason> {
    let bounds = bounds
        .as_object()
        .ok_or_else(|| Reason::new("range is not an object"))?;
    let mut range = Range::all();
    for (name, key) in bounds {
        let key = unhex(key)?;
        range = match name.as_str() {
            "gt" => range.gt(key),
            "gte" => range.gte(key),
            "lt" => range.lt(key),
            "lte" => range.lte(key),
            other => return unknown("bound", other),
        };
    }
    Ok(range)
}

/// The history forwards; backwards it must be the same.
async fn history(bee: &Bee<MemoryBlocks>) -> Rebuilt {
    let (mut forward, mut backward) = (bee.history(1), bee.history_reverse());
    let (mut shapes, mut reversed) = (Vec::new(), Vec::new());
    for (history, shapes) in [(&mut forward, &mut shapes), (&mut backward, &mut reversed)] {
        while let Some(entry) = history.next().await? {
            let kind = if entry.operation == Operation::Delete {
                "del"
            } else {
                "put"
            };
            let (key, value) = (hexed(&entry.key), hexed_or_null(entry.value.as_ref()));
            shapes.push(json!({"type": kind, "seq": entry.seq, "key": key, "value": value}));
        }
    }
    reversed.reverse();
    cumulet_vectors::ensure(shapes == reversed, "the history is another one backwards")?;
    Ok(shapes.into())
}

async fn checkout(bee: &Bee<MemoryBlocks>, version: u64) -> Rebuilt {
    let entries = bee
        .checkout(version)
        .range(Range::all())
        .collect(usize::MAX)
        .await?;
    let entries: Value = (entries.iter())
        .map(|entry| json!([hexed(&entry.key), hexed_or_null(entry.value.as_ref()), entry.seq]))
        .collect();
    let changes = bee.diff(version, Range::all()).collect(usize::MAX).await?;
    let changes: Value = (changes.iter())
        .map(|change| json!({"left": change.left.as_ref().map(shape), "right": change.right.as_ref().map(shape)}))
        .collect();
    Ok(json!({"version": version, "entries": entries, "diffToNow": changes}))
}
