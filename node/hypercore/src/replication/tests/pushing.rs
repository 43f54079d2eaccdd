//! Where the growth of the tree begins that a pushed block, or an answer between two such, brings with it.

use super::*;
use crate::messages::RequestUpgrade;

const READER: PeerId = PeerId(1);

/// A block, and where the growth begins and ends that comes with it.
type Sent = (Option<u64>, Option<(u64, u64)>);

/// A writer of some blocks, and one reader that takes what is pushed.
struct Writer {
    replicator: Replicator,
    model: Model,
    now: Instant,
}

impl Writer {
    fn new(length: u64) -> Self {
        let (mut replicator, mut model, now) = (Replicator::new(), Model::full(length), Instant::now());
        replicator.add_peer(READER, &mut model, now);
        Self {
            replicator,
            model,
            now,
        }
    }

    fn hear(&mut self, message: Message) {
        let heard = self
            .replicator
            .on_message(READER, message, &mut self.model, self.now);
        heard.unwrap();
    }

    /// The reader says its length, and whether it takes what is pushed.
    fn hear_sync(&mut self, length: u64, allow_push: bool) {
        self.hear(Message::Sync(messages::Sync {
            length,
            allow_push,
            downloading: true,
            ..messages::Sync::default()
        }));
    }

    /// Appends a block and pushes it.
    fn append_and_push(&mut self) {
        self.model.append();
        let index = self.model.length - 1;
        assert_eq!(self.replicator.push(index, &self.model), [READER]);
    }

    /// What is sent next.
    fn sent(&mut self) -> Option<Sent> {
        let sent = self
            .replicator
            .next_upload(READER, &mut self.model, self.now)
            .unwrap();
        let Some(Message::Data(data)) = sent else {
            assert_eq!(sent, None);
            return None;
        };
        let upgrade = data.proof.upgrade.as_ref();
        let upgrade = upgrade.map(|upgrade| (upgrade.start, upgrade.start + upgrade.length));
        Some((data.proof.block.map(|block| block.index), upgrade))
    }
}

#[test]
fn pushed_blocks_follow_each_other_whatever_length_the_reader_says_meanwhile() {
    let mut writer = Writer::new(20);
    writer.hear_sync(0, true);
    assert_eq!(writer.replicator.push(7, &writer.model), [READER]);
    assert_eq!(writer.sent(), Some((Some(7), Some((0, 20)))));
    writer.append_and_push();
    assert_eq!(writer.sent(), Some((Some(20), Some((20, 21)))));
    // It says what it had before the last block came.
    writer.hear_sync(20, true);
    writer.append_and_push();
    assert_eq!(writer.sent(), Some((Some(21), Some((21, 22)))));
    // What lies below comes alone.
    assert_eq!(writer.replicator.push(3, &writer.model), [READER]);
    assert_eq!(writer.sent(), Some((Some(3), None)));
    assert_eq!(writer.sent(), None);
}

#[test]
fn what_a_reader_asked_for_before_a_push_is_answered_from_where_the_push_ends() {
    let mut writer = Writer::new(20);
    writer.hear_sync(20, true);
    writer.append_and_push();
    assert_eq!(writer.sent(), Some((Some(20), Some((20, 21)))));
    writer.model.append();
    let ask = |id, start, length| {
        Message::Request(Request {
            id,
            upgrade: Some(RequestUpgrade { start, length }),
            ..Request::default()
        })
    };
    writer.hear(ask(1, 20, 2));
    assert_eq!(writer.sent(), Some((None, Some((21, 22)))));
    // The evidence against a fork is not shortened.
    writer.hear(ask(0, 0, 22));
    assert_eq!(writer.sent(), Some((None, Some((0, 22)))));
}

#[test]
fn an_answer_that_a_push_made_useless_does_not_shorten_the_next_push() {
    let mut writer = Writer::new(20);
    writer.hear_sync(18, true);
    writer.append_and_push();
    assert_eq!(writer.sent(), Some((Some(20), Some((18, 21)))));
    // Asked when the tree had 20 blocks. The proof leads from 18 to the whole tree: a reader who has 21 can't use it.
    writer.append_and_push();
    writer.hear(Message::Request(Request {
        id: 1,
        upgrade: Some(RequestUpgrade { start: 18, length: 2 }),
        ..Request::default()
    }));
    assert!(writer.sent().is_some_and(|(block, _)| block.is_none()));
    assert_eq!(writer.sent(), Some((Some(21), Some((21, 22)))));
}

#[test]
fn what_was_pushed_while_a_reader_took_nothing_does_not_count() {
    let mut writer = Writer::new(20);
    writer.hear_sync(20, true);
    writer.append_and_push();
    assert_eq!(writer.sent(), Some((Some(20), Some((20, 21)))));
    writer.hear_sync(20, false);
    writer.model.append();
    assert_eq!(writer.replicator.push(21, &writer.model), []);
    writer.hear_sync(20, true);
    assert_eq!(writer.replicator.push(21, &writer.model), [READER]);
    assert_eq!(writer.sent(), Some((Some(21), Some((20, 22)))));
}

#[test]
fn thousands_of_pushed_blocks_wait_for_a_slow_reader_without_one_being_lost() {
    let mut writer = Writer::new(1);
    writer.hear_sync(1, true);
    for _ in 0..3000 {
        writer.append_and_push();
    }
    let sent: Vec<Option<u64>> = std::iter::from_fn(|| writer.sent().map(|(block, _)| block)).collect();
    assert_eq!(sent, (1..=3000).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_core_that_asks_for_nothing_asks_for_what_is_forced_and_takes_requests_back_that_a_push_answers() {
    let mut net = Net::new(vec![Model {
        length: 10,
        ..Model::default()
    }]);
    let (replicator, model) = &mut net.sides[0];
    let now = net.now;
    replicator.set_allow_push(true, model);
    replicator.set_push_only(true, model, now);
    replicator.add_peer(READER, model, now);
    replicator.want_range(0..10, model, now);
    replicator.want_block(4, model, now);
    let sync = messages::Sync {
        length: 12,
        remote_length: 10,
        can_upgrade: true,
        ..messages::Sync::default()
    };
    let all = messages::Range {
        drop: false,
        start: 0,
        length: 12,
    };
    for message in [Message::Sync(sync), Message::Range(all)] {
        replicator.on_message(READER, message, model, now).unwrap();
    }
    let said = |replicator: &mut Replicator| -> Vec<Message> {
        let said = std::iter::from_fn(|| replicator.poll_output()).map(|(_, message)| message);
        said.filter(|message| matches!(message, Message::Request(_) | Message::Cancel(_)))
            .collect()
    };
    assert_eq!(said(replicator), []);
    replicator.force_block(6, model, now);
    let [Message::Request(request)] = &said(replicator)[..] else {
        panic!("one request");
    };
    assert_eq!(request.block.as_ref().map(|block| block.index), Some(6));
    let block = BlockProof {
        index: 6,
        value: Bytes::from_static(b"pushed"),
        nodes: Vec::new(),
    };
    let data = Data {
        request: 0,
        proof: Proof {
            block: Some(block),
            ..Proof::default()
        },
    };
    replicator
        .on_message(READER, Message::Data(data), model, now)
        .unwrap();
    let id = request.id;
    assert_eq!(
        said(replicator),
        [Message::Cancel(messages::Cancel { request: id })]
    );
    assert!(model.has(6));
    // And everything again when it is told to.
    replicator.set_push_only(false, model, now);
    assert!(said(replicator).len() > 5);
}
