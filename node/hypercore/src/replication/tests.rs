//! Replicators that talk to each other in virtual time, over a model of a core without hashes: what is asked of whom is
//! tested here, what is true is tested with the Merkle tree.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::messages::{Data, NoData, Request};
use crate::proof::{BlockProof, Proof, UpgradeProof};

mod asking;
mod pushing;

#[derive(Debug, Clone, Default)]
struct Model {
    fork: u64,
    length: u64,
    held: BTreeMap<u64, Bytes>,
    lies: bool,
}

impl Model {
    fn full(length: u64) -> Self {
        let held = (0..length)
            .map(|i| (i, Bytes::from(format!("block {i}"))))
            .collect();
        Self {
            length,
            held,
            ..Self::default()
        }
    }

    fn append(&mut self) {
        self.held
            .insert(self.length, Bytes::from(format!("block {}", self.length)));
        self.length += 1;
    }
}

impl Replica for Model {
    fn fork(&self) -> u64 {
        self.fork
    }
    fn length(&self) -> u64 {
        self.length
    }
    fn has(&self, block: u64) -> bool {
        self.held.contains_key(&block)
    }
    fn next_missing(&self, from: u64) -> u64 {
        (from..u64::MAX).find(|block| !self.has(*block)).unwrap()
    }
    fn has_manifest(&self) -> bool {
        false
    }
    fn missing_nodes(&self, _: u64) -> u64 {
        0
    }
    fn can_prove_from(&self, _: u64) -> bool {
        true
    }
    fn prove(&mut self, request: &Request) -> Result<Proof, ProveError> {
        let mut proof = Proof {
            fork: self.fork,
            ..Proof::default()
        };
        if let Some(block) = &request.block {
            let value = self.held.get(&block.index).cloned().ok_or(ProveError::NotHere)?;
            let value = if self.lies {
                Bytes::from_static(b"lie")
            } else {
                value
            };
            proof.block = Some(BlockProof {
                index: block.index,
                value,
                nodes: Vec::new(),
            });
        }
        if let Some(upgrade) = &request.upgrade {
            let (start, length) = (upgrade.start, self.length - upgrade.start);
            let (nodes, additional_nodes) = (Vec::new(), Vec::new());
            proof.upgrade = Some(UpgradeProof {
                start,
                length,
                nodes,
                additional_nodes,
                signature: None,
            });
        }
        Ok(proof)
    }
    fn apply(&mut self, proof: Proof) -> Result<Applied, ApplyError> {
        let mut applied = Applied::default();
        if let Some(upgrade) = proof.upgrade {
            applied.upgraded_from = Some(self.length);
            self.length = upgrade.start + upgrade.length;
        }
        if let Some(block) = proof.block {
            if block.value.as_ref() == b"lie" {
                return Err(ApplyError::Invalid("wrong hash".into()));
            }
            applied.block = Some((block.index, block.value.len() as u64));
            self.held.insert(block.index, block.value);
        }
        Ok(applied)
    }
    fn reorganize(&mut self, proof: Proof) -> Result<Reorganized, ApplyError> {
        let upgrade = proof.upgrade.unwrap();
        let from = 3.min(self.length);
        self.held.retain(|block, _| *block < from);
        (self.fork, self.length) = (proof.fork, upgrade.length);
        Ok(Reorganized::Done(Applied {
            reorganized_from: Some(from),
            ..Applied::default()
        }))
    }
    fn seek_range(&self, _: u64, _: u64) -> Option<Range<u64>> {
        None
    }
    fn words(&self, start: u64, words: usize) -> Vec<u32> {
        let word =
            |first: u64| (first..first + 32).fold(0, |word, i| word | u32::from(self.has(i)) << (i % 32));
        (start..).step_by(32).take(words).map(word).collect()
    }
    fn first_held(&self, from: u64) -> Option<u64> {
        self.held.range(from..).next().map(|(block, _)| *block)
    }
}

/// Some cores and their replicators; links between them carry messages in order.
struct Net {
    sides: Vec<(Replicator, Model)>,
    links: HashMap<(usize, PeerId), (usize, PeerId)>,
    now: Instant,
    sent: Vec<(usize, Message)>,
    /// Sides whose uploads are never served.
    mute: Vec<usize>,
    faults: Vec<PeerFault>,
}

impl Net {
    fn new(models: Vec<Model>) -> Self {
        let sides = models
            .into_iter()
            .map(|model| (Replicator::new(), model))
            .collect();
        let (links, sent, mute, faults) = (HashMap::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            sides,
            links,
            now: Instant::now(),
            sent,
            mute,
            faults,
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        let number = self.links.len() as u64;
        let (at_a, at_b) = (PeerId(number), PeerId(number + 1));
        self.links.insert((a, at_a), (b, at_b));
        self.links.insert((b, at_b), (a, at_a));
        for (side, peer) in [(a, at_a), (b, at_b)] {
            let (replicator, model) = &mut self.sides[side];
            replicator.add_peer(peer, model, self.now);
        }
    }

    fn disconnect(&mut self, side: usize) {
        let gone: Vec<_> = self
            .links
            .iter()
            .filter(|(from, _)| from.0 == side)
            .map(|(f, t)| (*f, *t))
            .collect();
        for (from, to) in gone {
            for (side, peer) in [from, to] {
                self.links.remove(&(side, peer));
                let (replicator, model) = &mut self.sides[side];
                replicator.remove_peer(peer, model, self.now);
            }
        }
    }

    /// Lets messages flow until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for side in 0..self.sides.len() {
                let (replicator, model) = &mut self.sides[side];
                replicator.committed(model);
                while let Some(item) = self.sides[side].0.poll_output() {
                    self.deliver(side, item);
                    moved = true;
                }
                let peers: Vec<_> = self.sides[side].0.peers().collect();
                for peer in peers {
                    if self.mute.contains(&side) {
                        continue;
                    }
                    let (replicator, model) = &mut self.sides[side];
                    if let Some(message) = replicator.next_upload(peer, model, self.now).unwrap() {
                        self.deliver(side, (peer, message));
                        moved = true;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn deliver(&mut self, from: usize, (peer, message): (PeerId, Message)) {
        self.sent.push((from, message.clone()));
        let Some(&(to, at)) = self.links.get(&(from, peer)) else {
            return;
        };
        let (replicator, model) = &mut self.sides[to];
        if let Err(fault) = replicator.on_message(at, message, model, self.now) {
            self.faults.push(fault);
            replicator.remove_peer(at, model, self.now);
            self.links.remove(&(to, at));
        }
    }

    fn want(&mut self, side: usize, range: Range<u64>) {
        let (replicator, model) = &mut self.sides[side];
        replicator.want_range(range, model, self.now);
    }

    fn requests(&self, from: usize) -> Vec<&Request> {
        let of =
            |(side, message): &'_ (usize, Message)| *side == from && matches!(message, Message::Request(_));
        let requests = self.sent.iter().filter(|item| of(item));
        requests
            .filter_map(|(_, m)| {
                if let Message::Request(request) = m {
                    Some(request)
                } else {
                    None
                }
            })
            .collect()
    }

    fn held(&self, side: usize) -> usize {
        self.sides[side].1.held.len()
    }
}

#[test]
fn a_reader_gets_everything_and_asks_for_each_block_once() {
    let mut net = Net::new(vec![Model::full(2000), Model::default()]);
    net.want(1, 0..u64::MAX);
    net.connect(0, 1);
    net.settle();
    assert_eq!(net.sides[1].1.held, net.sides[0].1.held);
    assert_eq!(net.requests(1).len(), 2001);
}

#[test]
fn an_appended_block_arrives_without_being_asked_about() {
    let mut net = Net::new(vec![Model::full(5), Model::default()]);
    net.want(1, 0..u64::MAX);
    net.connect(0, 1);
    net.settle();
    for length in 6..9 {
        let (replicator, model) = &mut net.sides[0];
        model.append();
        replicator.local_change(length - 1..length, model, net.now);
        net.settle();
        assert_eq!(net.held(1) as u64, length);
    }
}

#[test]
fn a_sparse_reader_gets_the_block_it_waits_for_and_no_other() {
    let mut net = Net::new(vec![Model::full(1000), Model::default()]);
    net.connect(0, 1);
    net.settle();
    let (replicator, model) = &mut net.sides[1];
    replicator.want_block(700, model, net.now);
    net.settle();
    assert_eq!(net.sides[1].1.held.keys().copied().collect::<Vec<_>>(), [700]);
    assert_eq!(net.requests(1).iter().filter(|r| r.block.is_some()).count(), 1);
}

#[test]
fn a_third_peer_gets_everything_from_the_second_while_the_first_is_off() {
    let mut net = Net::new(vec![Model::full(100), Model::default(), Model::default()]);
    net.want(1, 0..u64::MAX);
    net.connect(0, 1);
    net.settle();
    net.disconnect(0);
    net.want(2, 0..u64::MAX);
    net.connect(1, 2);
    net.settle();
    assert_eq!(net.held(2), 100);
}

#[test]
fn a_reader_between_writer_and_reader_passes_blocks_on_as_they_arrive() {
    let mut net = Net::new(vec![Model::full(600), Model::default(), Model::default()]);
    net.want(1, 0..u64::MAX);
    net.want(2, 0..u64::MAX);
    net.connect(1, 2);
    net.connect(0, 1);
    net.settle();
    assert_eq!((net.held(1), net.held(2)), (600, 600));
}

#[test]
fn what_a_silent_peer_was_asked_is_asked_of_another_after_the_timeout() {
    let mut net = Net::new(vec![
        Model::full(10),
        Model::full(10),
        Model {
            length: 10,
            ..Model::default()
        },
    ]);
    net.mute = vec![0];
    net.want(2, 0..10);
    net.connect(0, 2);
    net.settle();
    net.connect(1, 2);
    net.settle();
    assert_eq!(net.held(2), 0);
    let deadline = net.sides[2].0.poll_timeout().unwrap();
    net.now = deadline;
    for _ in 0..MAX_TIMEOUTS {
        let (replicator, model) = &mut net.sides[2];
        replicator.on_timeout(model, net.now);
        net.settle();
        net.now += REQUEST_TIMEOUT;
    }
    assert_eq!(net.held(2), 10);
}

#[test]
fn two_peers_with_different_halves_make_a_whole() {
    let mut left = Model::full(3000);
    let mut right = left.clone();
    left.held.retain(|block, _| block % 2 == 0);
    right.held.retain(|block, _| block % 2 == 1);
    let mut net = Net::new(vec![left, right, Model::default()]);
    net.want(2, 0..u64::MAX);
    net.connect(0, 2);
    net.connect(1, 2);
    net.settle();
    assert_eq!(net.held(2), 3000);
    assert_eq!(
        net.sent
            .iter()
            .filter(|(_, m)| matches!(m, Message::NoData(_)))
            .count(),
        0
    );
}

#[test]
fn a_peer_that_proves_something_false_is_given_up_and_another_asked() {
    let liar = Model {
        lies: true,
        ..Model::full(50)
    };
    let mut net = Net::new(vec![liar, Model::full(50), Model::default()]);
    net.want(2, 0..u64::MAX);
    net.connect(0, 2);
    net.settle();
    assert!(matches!(net.faults[..], [PeerFault::BadProof(_), ..]));
    assert_eq!(net.held(2), 0);
    net.connect(1, 2);
    net.settle();
    assert_eq!(net.held(2), 50);
}

/// Lengths that a peer is told to have, in the Syncs that wait to be sent; the last one.
fn told(replicator: &mut Replicator) -> Option<u64> {
    let said: Vec<_> = std::iter::from_fn(|| replicator.poll_output()).collect();
    said.iter().rev().find_map(|(_, message)| match message {
        Message::Sync(sync) => Some(sync.remote_length),
        _ => None,
    })
}

#[test]
fn a_reader_that_does_not_say_that_it_has_what_was_proven_to_it_is_told_both_lengths_in_turns() {
    let (mut replicator, mut model, now) = (Replicator::new(), Model::full(9), Instant::now());
    let peer = PeerId(1);
    let length = |length| {
        Message::Sync(messages::Sync {
            length,
            ..Default::default()
        })
    };
    replicator.add_peer(peer, &mut model, now);
    replicator.on_message(peer, length(6), &mut model, now).unwrap();
    let request = Message::Request(Request {
        id: 1,
        upgrade: Some(messages::RequestUpgrade { start: 6, length: 3 }),
        ..Request::default()
    });
    replicator.on_message(peer, request, &mut model, now).unwrap();
    let answer = replicator.next_upload(peer, &mut model, Instant::now());
    assert!(answer.unwrap().is_some());
    // Said before the proof reached it.
    replicator.on_message(peer, length(6), &mut model, now).unwrap();
    model.append();
    replicator.local_change(9..10, &mut model, now);
    assert_eq!(told(&mut replicator), Some(9));
    let mut clock = now;
    let mut heard = Vec::new();
    for _ in 0..400 {
        replicator.remind(&mut model, clock);
        heard.extend(told(&mut replicator));
        clock += Duration::from_millis(500);
    }
    let both = [9, 6, 9, 6, 9, 6, 9, 6, 9, 6, 9, 6, 9];
    assert_eq!(heard, both, "it may have dropped the proof");
    let range = Message::Range(messages::Range {
        drop: false,
        start: 0,
        length: 9,
    });
    replicator.on_message(peer, range, &mut model, now).unwrap();
    assert_eq!(told(&mut replicator), Some(9));
    replicator.on_message(peer, length(9), &mut model, now).unwrap();
    assert_eq!(told(&mut replicator), Some(9));
    replicator.remind(&mut model, clock);
    assert_eq!(told(&mut replicator), None);
}

#[test]
fn a_higher_fork_replaces_the_core_from_where_they_differ() {
    let mut net = Net::new(vec![
        Model {
            fork: 1,
            ..Model::full(8)
        },
        Model::full(20),
    ]);
    net.want(1, 0..u64::MAX);
    net.connect(0, 1);
    net.settle();
    let (replicator, model) = &mut net.sides[1];
    assert_eq!((model.fork, model.length, model.held.len()), (1, 8, 8));
    let events: Vec<_> = std::iter::from_fn(|| replicator.poll_event()).collect();
    assert!(events.contains(&Event::Reorganized {
        from: 3,
        length: 8,
        fork: 1
    }));
}

#[test]
fn a_claim_of_endless_blocks_costs_nothing_and_ends() {
    let mut net = Net::new(vec![Model::full(3)]);
    let (replicator, model) = &mut net.sides[0];
    let peer = PeerId(9);
    replicator.add_peer(peer, model, net.now);
    replicator.want_range(0..u64::MAX, model, net.now);
    for (start, length) in [
        (0, 1 << 40),
        (1, 1 << 40),
        (5, u64::MAX - 5),
        (u64::MAX, u64::MAX),
    ] {
        let range = messages::Range {
            drop: false,
            start,
            length,
        };
        replicator
            .on_message(peer, Message::Range(range), model, net.now)
            .unwrap();
    }
    let sync = messages::Sync {
        length: 1 << 50,
        can_upgrade: true,
        remote_length: 3,
        ..messages::Sync::default()
    };
    replicator
        .on_message(peer, Message::Sync(sync), model, net.now)
        .unwrap();
    let asked =
        std::iter::from_fn(|| replicator.poll_output()).filter(|(_, m)| matches!(m, Message::Request(_)));
    assert_eq!(asked.count(), 1);
}

#[test]
fn a_want_beyond_the_largest_window_is_a_fault() {
    let mut net = Net::new(vec![Model::full(3)]);
    let (replicator, model) = &mut net.sides[0];
    replicator.add_peer(PeerId(1), model, net.now);
    let want = Message::Want(messages::Want {
        start: 0,
        length: 1 << 40,
        any: false,
    });
    assert_eq!(
        replicator.on_message(PeerId(1), want, model, net.now),
        Err(PeerFault::BadRequests)
    );
}

#[test]
fn more_requests_than_any_honest_peer_has_in_flight_are_a_fault() {
    let mut net = Net::new(vec![Model::full(3)]);
    let (replicator, model) = &mut net.sides[0];
    replicator.add_peer(PeerId(1), model, net.now);
    let results: Vec<_> = (1..3000)
        .map(|id| {
            Message::Request(Request {
                id,
                ..Request::default()
            })
        })
        .map(|request| replicator.on_message(PeerId(1), request, model, net.now))
        .collect();
    assert_eq!(
        results.iter().filter(|result| result.is_ok()).count(),
        MAX_QUEUED_REQUESTS
    );
}

#[test]
fn a_cancelled_request_gets_no_answer() {
    let mut net = Net::new(vec![Model::full(3)]);
    let (replicator, model) = &mut net.sides[0];
    replicator.add_peer(PeerId(1), model, net.now);
    for message in [
        Message::Request(Request {
            id: 5,
            ..Request::default()
        }),
        Message::Cancel(messages::Cancel { request: 5 }),
    ] {
        replicator.on_message(PeerId(1), message, model, net.now).unwrap();
    }
    assert_eq!(replicator.next_upload(PeerId(1), model, Instant::now()), Ok(None));
}

#[test]
fn a_block_that_is_not_here_is_refused_and_not_answered_with_nothing() {
    let mut net = Net::new(vec![Model {
        length: 3,
        ..Model::default()
    }]);
    let (replicator, model) = &mut net.sides[0];
    replicator.add_peer(PeerId(1), model, net.now);
    let block = Some(crate::messages::RequestBlock { index: 1, nodes: 0 });
    let request = Message::Request(Request {
        id: 5,
        block,
        ..Request::default()
    });
    replicator.on_message(PeerId(1), request, model, net.now).unwrap();
    let answer = replicator.next_upload(PeerId(1), model, Instant::now()).unwrap();
    assert_eq!(
        answer,
        Some(Message::NoData(NoData {
            request: 5,
            reason: 1
        }))
    );
}

#[test]
fn an_answer_to_something_else_is_not_taken() {
    let mut net = Net::new(vec![Model {
        length: 10,
        ..Model::default()
    }]);
    let (replicator, model) = &mut net.sides[0];
    replicator.add_peer(PeerId(1), model, net.now);
    replicator.want_block(4, model, net.now);
    let sync = messages::Sync {
        length: 10,
        remote_length: 10,
        ..messages::Sync::default()
    };
    replicator
        .on_message(PeerId(1), Message::Sync(sync), model, net.now)
        .unwrap();
    let all = Message::Range(messages::Range {
        drop: false,
        start: 0,
        length: 10,
    });
    replicator.on_message(PeerId(1), all, model, net.now).unwrap();
    let request = std::iter::from_fn(|| replicator.poll_output()).find_map(|(_, message)| {
        if let Message::Request(request) = message {
            Some(request.id)
        } else {
            None
        }
    });
    let block = BlockProof {
        index: 5,
        value: Bytes::new(),
        nodes: Vec::new(),
    };
    let data = Data {
        request: request.unwrap(),
        proof: Proof {
            block: Some(block),
            ..Proof::default()
        },
    };
    let result = replicator.on_message(PeerId(1), Message::Data(data), model, net.now);
    assert!(matches!(result, Err(PeerFault::BadProof(_))));
    assert!(model.held.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn peers_that_hold_everything_together_give_a_reader_everything(
        owners in proptest::collection::vec(0usize..3, 1..400),
    ) {
        let whole = Model::full(owners.len() as u64);
        let part = |owner: usize| {
            let mut model = whole.clone();
            model.held.retain(|block, _| owners[*block as usize] == owner);
            model
        };
        let mut net = Net::new(vec![part(0), part(1), part(2), Model::default()]);
        net.want(3, 0..u64::MAX);
        for side in 0..3 {
            net.connect(side, 3);
        }
        net.settle();
        prop_assert_eq!(&net.sides[3].1.held, &whole.held);
        prop_assert!(net.sides[3].0.in_flight.is_empty() && net.sides[3].0.again.is_empty());
    }
}
