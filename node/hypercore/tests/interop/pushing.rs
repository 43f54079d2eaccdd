//! Pushed blocks, with either side in JavaScript or ours: what a reader that only takes what is pushed ends up with, and what it
//! asks for, is the same whoever they are.

use std::time::Duration;

use cumulet_hypercore::corestore::CoreHandle;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use serde_json::json;

use crate::peer::{JsPeer, Node, PATIENCE, block, seed, until};

const BEFORE: u64 = 20;
const PUSHED: u64 = 40;
const SIZE: usize = 100;

/// Who writes and who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pair {
    JsToJs,
    JsToUs,
    UsToJs,
}

const PAIRS: [Pair; 3] = [Pair::JsToJs, Pair::JsToUs, Pair::UsToJs];

/// A core named "a" on one side.
enum Side {
    Js(Box<JsPeer>),
    Us(Node, CoreHandle),
}

impl Side {
    async fn write(ours: bool) -> Option<(Self, [u8; 32])> {
        let sizes = [SIZE; BEFORE as usize];
        if !ours {
            let mut js = JsPeer::start()?;
            let key = js.create("a", "default", &sizes).await;
            return Some((Self::Js(Box::new(js)), key));
        }
        let (node, pair) = (Node::new(), KeyPair::from_seed(&[9; 32]));
        let manifest = Manifest::single(pair.public_key());
        let core = node.store.create(manifest, Some(pair)).await.unwrap();
        let blocks = (0..BEFORE).map(|index| block("a", index, SIZE)).collect();
        core.append(blocks).await.unwrap();
        let key = *core.key();
        Some((Self::Us(node, core), key))
    }

    async fn read(ours: bool, key: [u8; 32]) -> Option<Self> {
        if ours {
            let node = Node::new();
            let core = node.store.get(key).await.unwrap();
            return Some(Self::Us(node, core));
        }
        let mut js = JsPeer::start()?;
        js.ask("open", json!({"name": "a", "key": hex::encode(key)}))
            .await;
        Some(Self::Js(Box::new(js)))
    }

    async fn connect(&mut self, other: &mut Self) {
        match (self, other) {
            (Self::Js(js), Self::Js(other)) => {
                let port = js.ask("listen", json!({})).await["port"].clone();
                other.ask("connect", json!({"port": port})).await;
            }
            (Self::Us(node, _), Self::Js(js)) | (Self::Js(js), Self::Us(node, _)) => {
                node.accept(js).await;
            }
            (Self::Us(node, _), Self::Us(other, _)) => node.connect_to_node(other).await,
        }
    }

    async fn push_only(&mut self, on: bool) {
        match self {
            Self::Js(js) => drop(js.ask("pushOnly", json!({"name": "a", "on": on})).await),
            Self::Us(_, core) => {
                core.set_allow_push(true).await;
                core.set_push_only(on).await;
            }
        }
    }

    /// Pushes a block, as soon as there is somebody to push it to.
    async fn push(&mut self, index: u64) {
        match self {
            Self::Js(js) => drop(js.ask("push", json!({"name": "a", "index": index})).await),
            Self::Us(_, core) => {
                let pushed = async {
                    while core.push(index).await == 0 {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                tokio::time::timeout(PATIENCE, pushed)
                    .await
                    .expect("a peer that takes it");
            }
        }
    }

    async fn append(&mut self, count: u64, push: bool) {
        match self {
            Self::Js(js) => {
                let cmd = if push { "appendAndPush" } else { "fill" };
                let args = json!({"name": "a", "seed": seed("a"), "count": count, "size": SIZE});
                js.ask(cmd, args).await;
            }
            Self::Us(_, core) => {
                for _ in 0..count {
                    let index = core.state().length;
                    core.append(vec![block("a", index, SIZE)]).await.unwrap();
                    if push {
                        assert_eq!(core.push(index).await, 1);
                    }
                }
            }
        }
    }

    /// The length, and the blocks that are held once they are as many.
    async fn held(&mut self, count: u64, length: u64) -> Vec<u64> {
        match self {
            Self::Js(js) => {
                let args = json!({"name": "a", "count": count, "length": length});
                let held = js.ask("holds", args).await["held"].take();
                serde_json::from_value(held).unwrap()
            }
            Self::Us(_, core) => {
                let what = format!("{count} blocks of {length}");
                until(core, &what, |state| {
                    state.held_blocks >= count && state.length == length
                })
                .await;
                let held = |core: &cumulet_hypercore::corestore::BoxedCore| {
                    let blocks = 0..core.length();
                    blocks.filter(|block| core.has(*block)).collect()
                };
                core.with_core(|core| held(core)).await
            }
        }
    }

    async fn get_forced(&mut self, index: u64) -> usize {
        match self {
            Self::Js(js) => {
                let got = js.ask("getForced", json!({"name": "a", "index": index})).await;
                got["size"].as_u64().unwrap() as usize
            }
            Self::Us(_, core) => core.get_forced(index).await.unwrap().len(),
        }
    }

    /// Waits for the length, as a reader does that asks for it.
    async fn update(&mut self, length: u64) {
        match self {
            Self::Js(js) => drop(js.ask("readable", json!({"name": "a", "length": length})).await),
            Self::Us(_, core) => until(core, "the length", |state| state.length == length).await,
        }
    }

    async fn close(self) {
        match self {
            Self::Js(js) => js.close().await,
            Self::Us(node, _) => node.close().await,
        }
    }
}

/// Requests that the reader sent, as a JavaScript side counts them.
async fn requests(writer: &mut Side, reader: &mut Side) -> u64 {
    let (js, direction) = match (writer, reader) {
        (_, Side::Js(js)) => (js, "tx"),
        (Side::Js(js), _) => (js, "rx"),
        _ => panic!("nobody counts"),
    };
    let counts = js.ask("counts", json!({"name": "a"})).await;
    counts["wireRequest"][direction].as_u64().unwrap()
}

async fn sides(pair: Pair) -> Option<(Side, Side)> {
    let (writer, key) = Side::write(pair == Pair::UsToJs).await?;
    let reader = Side::read(pair == Pair::JsToUs, key).await?;
    Some((writer, reader))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_asks_for_nothing_gets_everything_that_is_pushed_whoever_pushes_and_whoever_reads() {
    for pair in PAIRS {
        let Some((mut writer, mut reader)) = sides(pair).await else {
            return;
        };
        reader.push_only(true).await;
        writer.connect(&mut reader).await;
        writer.push(7).await;
        assert_eq!(reader.held(1, BEFORE).await, [7], "{pair:?}");
        writer.append(PUSHED, true).await;
        let length = BEFORE + PUSHED;
        let expected: Vec<u64> = [7].into_iter().chain(BEFORE..length).collect();
        assert_eq!(reader.held(1 + PUSHED, length).await, expected, "{pair:?}");
        assert_eq!(requests(&mut writer, &mut reader).await, 0, "{pair:?}");
        assert_eq!(reader.get_forced(3).await, SIZE, "{pair:?}");
        assert_eq!(requests(&mut writer, &mut reader).await, 1, "{pair:?}");
        // And asks again when it is told to.
        reader.push_only(false).await;
        writer.append(1, false).await;
        reader.update(length + 1).await;
        writer.close().await;
        reader.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_what_is_pushed_also_catches_up_with_what_was_not() {
    // JavaScript loses some of what it pushes between its answers: its first answer about the tree begins at 0.
    for pair in PAIRS {
        let Some((mut writer, mut reader)) = sides(pair).await else {
            return;
        };
        reader.push_only(false).await;
        writer.connect(&mut reader).await;
        reader.update(BEFORE).await;
        // In turns pushed and not, while the reader asks by itself.
        for turn in 1..=10 {
            writer.append(3, false).await;
            writer.append(2, true).await;
            let length = BEFORE + 5 * turn;
            reader.update(length).await;
            if pair == Pair::UsToJs {
                let held = reader.held(2 * turn, length).await;
                let expected = (1..=turn).flat_map(|turn| [BEFORE + 5 * turn - 2, BEFORE + 5 * turn - 1]);
                assert_eq!(held, expected.collect::<Vec<_>>());
            }
        }
        writer.close().await;
        reader.close().await;
    }
}
