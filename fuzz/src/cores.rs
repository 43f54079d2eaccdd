//! Cores and what reads them, against peers and writers that say anything.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use cumulet_hyperbee::message::Header as BeeHeader;
use cumulet_hyperbee::{Bee, MemoryBlocks, Range};
use cumulet_hypercore::core::Core;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{
    Data, Message, Request, RequestBlock, RequestHash, RequestSeek, RequestUpgrade,
};
use cumulet_hypercore::proof::Proof;
use cumulet_hypercore::replication::{CoreReplica, PeerFault, PeerId, Replicator};
use cumulet_hypercore::storage::MemoryStorage;
use futures::executor::block_on;

type MemoryCore = Core<MemoryStorage>;

fn writer(length: u64) -> MemoryCore {
    let pair = KeyPair::from_seed(&[5; 32]);
    let manifest = Manifest::single(pair.public_key());
    let mut core = Core::create(MemoryStorage::new(), manifest, Some(pair)).expect("a core");
    let blocks = (0..length).map(|i| Bytes::from(vec![i as u8; (i % 5) as usize * 3]));
    core.append_batch(blocks.collect()).expect("blocks");
    core
}

/// A core whose writer went back once.
fn forked(length: u64) -> MemoryCore {
    let mut core = writer(length);
    core.truncate(length / 2, None).expect("a truncation");
    core.append_batch(vec![Bytes::from_static(b"another"); 3])
        .expect("blocks");
    core
}

/// Whatever the reader was told, it holds nothing that the writers did not sign.
fn assert_signed(reader: &MemoryCore, writers: &[&MemoryCore]) {
    let origin = writers
        .iter()
        .find(|writer| writer.fork() == reader.fork() && writer.length() >= reader.length());
    if reader.length() == 0 {
        return;
    }
    let origin = origin.expect("a tree that nobody signed");
    for index in 0..reader.length() {
        if let Some(block) = reader.get(index).expect("memory") {
            assert_eq!(Some(block), origin.get(index).expect("memory"), "block {index}");
        }
    }
    for node in 0..2 * reader.length() {
        if let Some(found) = reader.node(node).expect("memory") {
            assert_eq!(Some(found), origin.node(node).expect("memory"), "node {node}");
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Asked {
    block: Option<(u8, u8)>,
    hash: Option<(u8, u8)>,
    seek: Option<(u8, u8)>,
    upgrade: Option<(u8, u8)>,
    manifest: bool,
}

impl Asked {
    fn request(&self, fork: u64) -> Request {
        Request {
            fork,
            block: self.block.map(|(index, nodes)| RequestBlock {
                index: index.into(),
                nodes: nodes.into(),
            }),
            hash: self.hash.map(|(index, nodes)| RequestHash {
                index: index.into(),
                nodes: nodes.into(),
            }),
            seek: self.seek.map(|(bytes, padding)| RequestSeek {
                bytes: bytes.into(),
                padding: (padding % 4).into(),
            }),
            upgrade: self.upgrade.map(|(start, length)| RequestUpgrade {
                start: start.into(),
                length: length.into(),
            }),
            manifest: self.manifest,
            ..Request::default()
        }
    }
}

/// Changes a few bytes of a proof as it travels; none if it no longer reads.
fn tampered(proof: Proof, input: &mut Unstructured<'_>) -> arbitrary::Result<Option<Proof>> {
    let mut bytes = Message::Data(Data { request: 1, proof }).encode();
    for _ in 0..input.int_in_range(0..=3)? {
        let at = input.choose_index(bytes.len())?;
        bytes[at] ^= input.arbitrary::<u8>()?;
    }
    Ok(match Message::decode(3, &bytes.into()) {
        Ok(Message::Data(data)) => Some(data.proof),
        _ => None,
    })
}

/// Proofs of a real core, whole and changed, and bytes that are no proof.
pub fn proof(data: &[u8]) {
    let _ = try_proof(&mut Unstructured::new(data));
}

fn try_proof(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let source = writer(input.int_in_range(1..=40)?);
    let mut reader = Core::open(MemoryStorage::new(), *source.key()).expect("an empty core");
    while !input.is_empty() {
        let proof = if input.ratio(1, 8)? {
            let length = input.arbitrary::<u8>()?.into();
            let bytes = Bytes::copy_from_slice(input.bytes(input.len().min(length))?);
            match Message::decode(3, &bytes) {
                Ok(Message::Data(data)) => Some(data.proof),
                _ => None,
            }
        } else {
            let asked: Asked = input.arbitrary()?;
            match source.create_proof(&asked.request(0)) {
                Ok(proof) => tampered(proof, input)?,
                Err(_) => None,
            }
        };
        if let Some(proof) = proof {
            if proof.fork > 0 {
                let reorg = reader.begin_reorg(&proof);
                assert!(reorg.is_err(), "a fork that nobody signed");
            }
            let _ = reader.verify_and_apply(proof);
            assert_signed(&reader, &[&source]);
        }
    }
    Ok(())
}

/// What happens to a replicator.
#[derive(Debug, Arbitrary)]
enum Step {
    Add(u8),
    Remove(u8),
    /// A message as bytes.
    Bytes {
        peer: u8,
        kind: u8,
        length: u8,
    },
    /// The true answer to the oldest request, or one changed on the way.
    Answer {
        tamper: bool,
        other_fork: bool,
    },
    Ask {
        peer: u8,
        asked: Asked,
        fork: u8,
    },
    Said {
        peer: u8,
        fork: u8,
        length: u8,
        remote: u8,
        flags: u8,
    },
    Has {
        peer: u8,
        drop: bool,
        start: u8,
        length: u8,
    },
    Want {
        index: u8,
    },
    WantRange {
        start: u8,
        length: u8,
    },
    Seek {
        bytes: u8,
        padding: u8,
    },
    Forget,
    Cleared {
        start: u8,
        length: u8,
    },
    Committed,
    Remind,
    Late {
        millis: u16,
    },
}

/// A replicator with several peers of whom each says anything.
pub fn replicator(data: &[u8]) {
    let _ = try_replicator(&mut Unstructured::new(data));
}

/// Most requests that the peers remember.
const REMEMBERED: usize = 256;

struct Net {
    writer: MemoryCore,
    fork: MemoryCore,
    reader: CoreReplica<MemoryStorage>,
    replicator: Replicator,
    now: Instant,
    asked: Vec<(PeerId, Request)>,
}

impl Net {
    fn take(&mut self, id: PeerId, message: Message) {
        match self
            .replicator
            .on_message(id, message, &mut self.reader, self.now)
        {
            Ok(()) | Err(PeerFault::Storage(_)) => {}
            Err(_) => self.replicator.remove_peer(id, &mut self.reader, self.now),
        }
    }

    /// The step of a driver: sends everything that is to be sent.
    fn settle(&mut self) {
        let mut sent = 0;
        while let Some((id, message)) = self.replicator.poll_output() {
            sent += 1;
            assert!(sent < 100_000, "it never stops talking");
            if let Message::Request(request) = message
                && self.asked.len() < REMEMBERED
            {
                self.asked.push((id, request));
            }
        }
        while self.replicator.poll_event().is_some() {}
        let peers: Vec<PeerId> = self.replicator.peers().collect();
        for id in peers {
            while self.replicator.has_uploads(id, self.now) {
                match self.replicator.next_upload(id, &mut self.reader, self.now) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => self.replicator.remove_peer(id, &mut self.reader, self.now),
                }
            }
        }
        while self.replicator.poll_output().is_some() {}
        assert_signed(self.reader.core(), &[&self.writer, &self.fork]);
    }

    fn step(&mut self, step: Step, input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let peer = |number: u8| PeerId(u64::from(number % 4));
        match step {
            Step::Add(number) => self.replicator.add_peer(peer(number), &mut self.reader, self.now),
            Step::Remove(number) => self
                .replicator
                .remove_peer(peer(number), &mut self.reader, self.now),
            Step::Bytes {
                peer: number,
                kind,
                length,
            } => {
                let bytes = input.bytes(input.len().min(length.into()))?;
                if let Ok(message) = Message::decode((kind % 10).into(), &Bytes::copy_from_slice(bytes)) {
                    self.take(peer(number), message);
                }
            }
            Step::Answer { tamper, other_fork } => {
                if self.asked.is_empty() {
                    return Ok(());
                }
                let (id, request) = self.asked.remove(0);
                let source = if other_fork { &self.fork } else { &self.writer };
                let request_number = request.id;
                if let Ok(proof) = source.create_proof(&Request {
                    fork: source.fork(),
                    ..request
                }) {
                    let proof = if tamper {
                        tampered(proof, input)?
                    } else {
                        Some(proof)
                    };
                    if let Some(proof) = proof {
                        self.take(
                            id,
                            Message::Data(Data {
                                request: request_number,
                                proof,
                            }),
                        );
                    }
                }
            }
            Step::Ask {
                peer: number,
                asked,
                fork,
            } => {
                self.take(peer(number), Message::Request(asked.request((fork % 3).into())));
            }
            Step::Said {
                peer: number,
                fork,
                length,
                remote,
                flags,
            } => {
                let sync = cumulet_hypercore::messages::Sync {
                    fork: (fork % 3).into(),
                    length: length.into(),
                    remote_length: remote.into(),
                    can_upgrade: flags & 1 != 0,
                    uploading: flags & 2 != 0,
                    downloading: flags & 4 != 0,
                    has_manifest: flags & 8 != 0,
                    allow_push: flags & 16 != 0,
                };
                self.take(peer(number), Message::Sync(sync));
            }
            Step::Has {
                peer: number,
                drop,
                start,
                length,
            } => {
                let range = cumulet_hypercore::messages::Range {
                    drop,
                    start: start.into(),
                    length: length.into(),
                };
                self.take(peer(number), Message::Range(range));
            }
            Step::Want { index } => self
                .replicator
                .want_block(index.into(), &mut self.reader, self.now),
            Step::WantRange { start, length } => {
                let (start, end) = (u64::from(start), u64::from(start) + u64::from(length));
                self.replicator.want_range(start..end, &mut self.reader, self.now);
            }
            Step::Seek { bytes, padding } => {
                self.replicator
                    .want_seek(bytes.into(), (padding % 4).into(), &mut self.reader, self.now);
            }
            Step::Forget => self.replicator.clear_wanted(),
            Step::Cleared { start, length } => {
                let blocks = u64::from(start)..u64::from(start) + u64::from(length);
                self.reader.core_mut().clear(blocks.clone()).expect("memory");
                self.replicator.dropped(&blocks);
            }
            Step::Committed => self.replicator.committed(&self.reader),
            Step::Remind => self.replicator.remind(&mut self.reader, self.now),
            Step::Late { millis } => {
                self.now += Duration::from_millis(u64::from(millis) * 4);
                self.replicator.on_timeout(&mut self.reader, self.now);
                if let Some(due) = self.replicator.poll_timeout() {
                    assert!(due > self.now, "a timer that is always due");
                }
            }
        }
        Ok(())
    }
}

fn try_replicator(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let writer = writer(21);
    let reader = Core::open(MemoryStorage::new(), *writer.key()).expect("an empty core");
    let mut net = Net {
        fork: forked(21),
        writer,
        reader: CoreReplica::new(reader),
        replicator: Replicator::new(),
        now: Instant::now(),
        asked: Vec::new(),
    };
    while !input.is_empty() {
        let step: Step = input.arbitrary()?;
        net.step(step, input)?;
        net.settle();
    }
    Ok(())
}

/// A bee whose blocks are anything, read in every way.
pub fn hyperbee(data: &[u8]) {
    let _ = try_hyperbee(&mut Unstructured::new(data));
}

fn try_hyperbee(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    /// Entries that are read of a bee that may go on for ever.
    const READ_LIMIT: usize = 50;
    let mut blocks = vec![BeeHeader::new(None).encode()];
    let key = Bytes::copy_from_slice(input.bytes(input.len().min(2))?);
    while !input.is_empty() && blocks.len() < 30 {
        if input.ratio(1, 4)? {
            let length = usize::from(input.arbitrary::<u8>()?);
            blocks.push(Bytes::copy_from_slice(input.bytes(input.len().min(length))?));
            continue;
        }
        let mut levels = Vec::new();
        for _ in 0..input.int_in_range(0..=3)? {
            let mut level = cumulet_hyperbee::message::Level::default();
            for _ in 0..input.int_in_range(0..=4)? {
                level.keys.push(input.arbitrary::<u8>()?.into());
            }
            for _ in 0..input.int_in_range(0..=5)? {
                let (seq, offset) = (
                    input.arbitrary::<u8>()?.into(),
                    (input.arbitrary::<u8>()? % 4).into(),
                );
                level
                    .children
                    .push(cumulet_hyperbee::message::ChildPointer { seq, offset });
            }
            levels.push(level);
        }
        let length = usize::from(input.arbitrary::<u8>()? % 4);
        let key = Bytes::copy_from_slice(input.bytes(input.len().min(length))?);
        let value = input.arbitrary::<bool>()?.then(|| Bytes::from_static(b"v"));
        blocks.push(cumulet_hyperbee::message::Node { levels, key, value }.encode());
    }
    let half = blocks.len() as u64 / 2;
    let bee = Bee::new(MemoryBlocks::new(blocks));
    let _ = block_on(bee.header());
    let _ = block_on(bee.get(&key));
    let _ = block_on(bee.range(Range::all()).collect(READ_LIMIT));
    let _ = block_on(bee.range(Range::all().gte(&key).reverse()).collect(READ_LIMIT));
    let _ = block_on(bee.diff(half, Range::all()).collect(READ_LIMIT));
    let mut history = bee.history(0);
    for _ in 0..READ_LIMIT {
        if !matches!(block_on(history.next()), Ok(Some(_))) {
            break;
        }
    }
    Ok(())
}
