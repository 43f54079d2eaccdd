//! Attacks on one who reads a core.

use bytes::Bytes;
use cumulet_hypercore::blocks::Blocks;
use cumulet_hypercore::manifest::{Manifest, Signer};
use cumulet_hypercore::messages::{
    BitfieldMessage, Data, Message, NoData, Range, Request, RequestBlock, RequestUpgrade, Sync,
};
use cumulet_hypercore::node::Node;
use cumulet_hypercore::proof::{BlockProof, Proof, UpgradeProof};
use cumulet_protomux::ChannelId;

use crate::hand::Hand;
use crate::scene::{Fate, Scene, Victim, flood, withstand};

const FAR: u64 = (1 << 53) - 1;

fn sync(fork: u64, length: u64) -> Message {
    Message::Sync(Sync {
        fork,
        length,
        can_upgrade: true,
        uploading: true,
        has_manifest: true,
        ..Sync::default()
    })
}

fn range(start: u64, length: u64) -> Message {
    let drop = false;
    Message::Range(Range { drop, start, length })
}

/// Claims to have the whole core, and answers each request with what `answer` makes of it.
async fn answer(scene: &Scene, mut answer: impl AsyncFnMut(&Scene, &Request) -> Option<Message>) {
    let (mut hand, channel) = scene.open().await;
    let length = scene.source.state().length;
    hand.say(channel, &sync(0, length));
    hand.say(channel, &range(0, length));
    while let Some(message) = hand.hear().await {
        match message {
            Message::Request(request) => {
                if let Some(message) = answer(scene, &request).await {
                    hand.say(channel, &message);
                }
            }
            // Acknowledges, so that it is asked for the tree.
            Message::Sync(theirs) => {
                let sync = Sync {
                    length,
                    remote_length: theirs.length,
                    can_upgrade: theirs.length < length,
                    uploading: true,
                    has_manifest: true,
                    ..Sync::default()
                };
                hand.say(channel, &Message::Sync(sync));
            }
            _ => {}
        }
    }
}

/// The right answer.
async fn prove(scene: &Scene, request: &Request) -> Option<Data> {
    let proof = scene
        .source
        .with_core(|core| core.create_proof(request))
        .await
        .ok()?;
    let request = request.id;
    Some(Data { request, proof })
}

#[test]
fn a_peer_that_claims_everything_and_never_answers() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        answer(scene, async |_, _| None).await;
        // It lost the channel.
        std::future::pending::<()>().await;
    });
}

#[test]
fn false_blocks() {
    withstand(Victim::Reads, Fate::Dropped, async |scene| {
        answer(scene, async |scene, request| {
            let mut data = prove(scene, request).await?;
            if let Some(block) = &mut data.proof.block {
                block.value = Bytes::from_static(b"false");
            }
            Some(Message::Data(data))
        })
        .await;
    });
}

#[test]
fn a_false_block_of_two_mebibytes() {
    withstand(Victim::Reads, Fate::Dropped, async |scene| {
        let mut answered = false;
        answer(scene, async |scene, request| {
            // The attacker's memory counts too, so one is all that it has.
            if request.block.is_none() || std::mem::replace(&mut answered, true) {
                return None;
            }
            let mut data = prove(scene, request).await?;
            if let Some(block) = &mut data.proof.block {
                block.value = Bytes::from(vec![7; 2 << 20]);
            }
            Some(Message::Data(data))
        })
        .await;
    });
}

#[test]
fn a_tree_that_is_longer_than_what_was_signed() {
    withstand(Victim::Reads, Fate::Dropped, async |scene| {
        answer(scene, async |scene, request| {
            let mut data = prove(scene, request).await?;
            if let Some(upgrade) = &mut data.proof.upgrade {
                let last = *upgrade.nodes.last()?;
                let twin = Node {
                    index: last.index + 2,
                    ..last
                };
                upgrade.nodes.push(twin);
                upgrade.length += 1;
            } else {
                // It has not come to that: the honest peer was asked for the tree.
                data.proof.block.as_mut()?.value = Bytes::new();
            }
            Some(Message::Data(data))
        })
        .await;
    });
}

#[test]
fn two_thousand_nodes_beside_a_tree() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        answer(scene, async |scene, request| {
            let mut data = prove(scene, request).await?;
            let node = Node {
                index: 1,
                size: 1,
                hash: [1; 32],
            };
            if let Some(upgrade) = &mut data.proof.upgrade {
                upgrade.additional_nodes = vec![node; 2000];
            }
            if let Some(block) = &mut data.proof.block {
                block.nodes = vec![node; 2000];
            }
            Some(Message::Data(data))
        })
        .await;
        std::future::pending::<()>().await;
    });
}

#[test]
fn nothing_given_of_what_is_announced_again_and_again() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        let (mut hand, channel) = scene.open().await;
        let length = scene.source.state().length;
        hand.say(channel, &sync(0, length));
        hand.say(channel, &range(0, length));
        while let Some(message) = hand.hear().await {
            if let Message::Request(request) = message {
                let (request, reason) = (request.id, 1);
                hand.say(channel, &Message::NoData(NoData { request, reason }));
                hand.say(channel, &range(0, length));
            }
        }
    });
}

#[test]
fn byte_positions_that_lie_nowhere() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        let core = scene.victim.get(*scene.source.key()).await.unwrap();
        let lies = answer(scene, async |scene, request| {
            let mut data = prove(scene, request).await?;
            for node in data.proof.seek.iter_mut().flat_map(|seek| &mut seek.nodes) {
                node.size = FAR;
            }
            for node in data.proof.hash.iter_mut().flat_map(|hash| &mut hash.nodes) {
                node.size = FAR;
            }
            Some(Message::Data(data))
        });
        let seeks = async {
            for position in (0..).step_by(4099) {
                let _ = core.seek(position % 1_000_000).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = lies => std::future::pending().await,
            () = seeks => {}
        }
    });
}

#[test]
fn right_hashes_at_the_wrong_places() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        answer(scene, async |scene, request| {
            let mut data = prove(scene, request).await?;
            if let Some(block) = &mut data.proof.block {
                for node in &mut block.nodes {
                    node.index ^= 4;
                }
            }
            if let Some(upgrade) = &mut data.proof.upgrade {
                upgrade.nodes.reverse();
            }
            Some(Message::Data(data))
        })
        .await;
        std::future::pending::<()>().await;
    });
}

#[test]
fn blocks_that_nobody_asked_for() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        let (mut hand, channel) = scene.open().await;
        let value = Bytes::from(vec![7; 20_000]);
        flood(&mut hand, channel, true, |number| {
            let nodes = Vec::new();
            let block = Some(BlockProof {
                index: number,
                value: value.clone(),
                nodes,
            });
            let proof = Proof {
                block,
                ..Proof::default()
            };
            Message::Data(Data {
                request: number % 100,
                proof,
            })
        })
        .await;
    });
}

#[test]
fn proofs_of_conflicts_that_are_none() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        let (mut hand, channel) = scene.open().await;
        let upgrade = Some(RequestUpgrade {
            start: 0,
            length: 300,
        });
        let request = Request {
            upgrade,
            ..Request::default()
        };
        let data = prove(scene, &request).await.unwrap();
        flood(&mut hand, channel, true, |number| {
            let mut data = data.clone();
            if let Some(upgrade) = data.proof.upgrade.as_mut().filter(|_| number % 2 == 0) {
                upgrade.signature = Some(Bytes::from(vec![3; 64]));
            }
            Message::Data(data)
        })
        .await;
    });
}

#[test]
fn a_manifest_of_ten_thousand_signers() {
    withstand(Victim::Reads, Fate::Dropped, async |scene| {
        let mut answered = false;
        answer(scene, async |scene, request| {
            // One will do, and many would weigh on the attacker itself, whose memory counts too.
            if std::mem::replace(&mut answered, true) {
                return None;
            }
            let mut data = prove(scene, request).await?;
            let signer = Signer {
                namespace: [1; 32],
                public_key: [2; 32],
            };
            data.proof.manifest = Some(Manifest {
                version: 1,
                allow_patch: true,
                quorum: 10_000,
                signers: vec![signer; 10_000],
                prologue: None,
                linked: None,
                user_data: Some(vec![0; 100_000]),
            });
            Some(Message::Data(data))
        })
        .await;
    });
}

async fn claims(scene: &Scene, next: impl FnMut(u64) -> Message) {
    let (mut hand, channel): (Hand, ChannelId) = scene.open().await;
    flood(&mut hand, channel, true, next).await;
}

#[test]
fn endless_and_scattered_ranges() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        claims(scene, |number| match number {
            0 => sync(0, FAR),
            1 => range(0, 1 << 40),
            2 => range(1, 1 << 40),
            _ => Message::Range(Range {
                drop: number % 5 == 0,
                start: number * 7919 % (1 << 45),
                length: 1 + number % 3,
            }),
        })
        .await;
    });
}

#[test]
fn absurd_lengths_and_forks() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        claims(scene, |number| match number % 4 {
            0 => sync(0, FAR - number),
            1 => sync(FAR, FAR),
            2 => sync(number, 1),
            _ => range(0, FAR),
        })
        .await;
    });
}

#[test]
fn a_flood_of_higher_forks_with_trees_that_are_false() {
    withstand(Victim::Reads, Fate::Dropped, async |scene| {
        let (mut hand, channel) = scene.open().await;
        hand.say(channel, &range(0, 300));
        for fork in 1.. {
            hand.say(channel, &sync(fork, 1 << 20));
            let request = loop {
                match hand.hear().await {
                    Some(Message::Request(request)) => break request,
                    Some(_) => {}
                    None => return,
                }
            };
            let node = Node {
                index: (1 << 20) - 1,
                size: 4096 << 20,
                hash: [9; 32],
            };
            let upgrade = Some(UpgradeProof {
                start: 0,
                length: 1 << 20,
                nodes: vec![node],
                additional_nodes: Vec::new(),
                signature: Some(Bytes::from(vec![3; 70])),
            });
            let proof = Proof {
                fork,
                upgrade,
                ..Proof::default()
            };
            let request = request.id;
            hand.say(channel, &Message::Data(Data { request, proof }));
        }
    });
}

#[test]
fn bitfields_far_out() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        claims(scene, |number| match number {
            0 => sync(0, FAR),
            _ => Message::Bitfield(BitfieldMessage {
                start: number * (1 << 21) % (1 << 50),
                words: vec![0x5555_5555; 4096],
            }),
        })
        .await;
    });
}

#[test]
fn a_bitfield_of_a_whole_frame() {
    withstand(Victim::Reads, Fate::Dropped, async |scene| {
        let (mut hand, channel) = scene.open().await;
        let words = vec![u32::MAX; 1 << 20];
        hand.say(channel, &Message::Bitfield(BitfieldMessage { start: 0, words }));
        hand.write().await;
        while hand.hear().await.is_some() {}
    });
}

#[test]
fn requests_with_which_a_reader_is_asked_for_what_it_lacks() {
    withstand(Victim::Reads, Fate::Bounded, async |scene| {
        claims(scene, |number| {
            let index = number % 300;
            Message::Request(Request {
                id: number + 1,
                block: Some(RequestBlock { index, nodes: 0 }),
                manifest: true,
                ..Request::default()
            })
        })
        .await;
    });
}
