//! Peers that break the rules, made by hand from a secret stream and a mux.

use std::time::Instant;

use cumulet_hypercore::crypto::discovery_key;
use cumulet_hypercore::messages::{
    BitfieldMessage, Data, Handshake, Message, Range, Request, RequestBlock, RequestUpgrade, Sync, Want,
};
use cumulet_protomux::Event as MuxEvent;

use crate::hand::Hand;
use crate::pair::{PATIENCE, Wires, append, block, memory, until, writer};

#[tokio::test(flavor = "multi_thread")]
async fn unknown_cores_wrong_capabilities_and_odd_ids_are_rejected_alike_and_the_stream_lives_on() {
    let (store, wires) = (memory(), Wires::default());
    let core = writer(&store, 1).await;
    append(&core, &[10; 3]).await;
    let mut hand = Hand::connect(&wires, &store).await;
    let right = hand.capability(core.key());
    let stranger = discovery_key(&[9; 32]);
    // The store offers its core; the answer with a wrong capability closes that channel.
    let MuxEvent::Requested(request) = hand.next().await.unwrap() else {
        panic!("the core is offered")
    };
    assert_eq!(&request.id[..], core.discovery_key());
    let wrong = Handshake {
        seeks: true,
        capability: [7; 32],
    }
    .encode();
    let channel = hand.mux.accept(&request, &wrong).unwrap();
    assert!(matches!(hand.next().await.unwrap(), MuxEvent::Opened { .. }));
    assert_eq!(
        hand.next().await,
        Some(MuxEvent::Closed {
            channel,
            rejected: false
        })
    );
    for (id, capability) in [
        (&stranger[..], right),
        (&core.discovery_key()[..31], right),
        (&[][..], right),
        (&core.discovery_key()[..], [7; 32]),
        // The other side's capability, as one who reflects it would have.
        (
            &core.discovery_key()[..],
            request.handshake[1..].try_into().unwrap(),
        ),
    ] {
        let channel = hand.open(id, capability);
        assert_eq!(
            hand.next().await,
            Some(MuxEvent::Closed {
                channel,
                rejected: true
            })
        );
    }
    assert_eq!(core.stats().await.peers, 0);
    hand.open_core(core.key()).await;
    assert!(matches!(hand.hear().await, Some(Message::Sync(sync)) if sync.length == 3));
    wires.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_ranges_and_lengths_cost_nothing_and_an_honest_peer_still_completes_the_core() {
    let (store, honest, wires) = (memory(), memory(), Wires::default());
    let source = writer(&honest, 1).await;
    append(&source, &[10; 50]).await;
    let core = store.get(*source.key()).await.unwrap();
    let _download = core.download(0..u64::MAX).await;
    let mut hand = Hand::connect(&wires, &store).await;
    let channel = hand.open_core(source.key()).await;
    let huge = (1 << 53) - 1;
    let claim = Sync {
        length: huge,
        can_upgrade: true,
        uploading: true,
        ..Sync::default()
    };
    hand.say(channel, &Message::Sync(claim));
    for start in [0, 1, 1 << 40] {
        hand.say(
            channel,
            &Message::Range(Range {
                drop: false,
                start,
                length: huge - start,
            }),
        );
        hand.say(
            channel,
            &Message::Range(Range {
                drop: true,
                start: start + 5,
                length: 1 << 45,
            }),
        );
    }
    hand.say(
        channel,
        &Message::Bitfield(BitfieldMessage {
            start: 1 << 50,
            words: vec![u32::MAX; 1000],
        }),
    );
    for index in 0..20_000 {
        hand.say(
            channel,
            &Message::Range(Range {
                drop: false,
                start: index * 5000,
                length: 1,
            }),
        );
    }
    hand.write().await;
    wires.connect(&store, &honest);
    until(&core, "the honest core", |state| state.contiguous_length == 50).await;
    wires.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_a_false_block_loses_the_channel_for_good_and_the_block_comes_from_another() {
    let (store, honest, wires) = (memory(), memory(), Wires::default());
    let source = writer(&honest, 1).await;
    append(&source, &[10; 5]).await;
    let core = store.get(*source.key()).await.unwrap();
    let to_honest = wires.connect(&store, &honest);
    core.update().await.unwrap();
    let mut hand = Hand::connect(&wires, &store).await;
    let channel = hand.open_core(source.key()).await;
    let first = Request {
        block: Some(RequestBlock { index: 0, nodes: 2 }),
        ..Request::default()
    };
    let mut proof = source.with_core(|core| core.create_proof(&first)).await.unwrap();
    proof.block.as_mut().unwrap().value = block(77, 10);
    // Only the liar has blocks now.
    source.clear(0..5).await.unwrap();
    hand.say(
        channel,
        &Message::Sync(Sync {
            length: 5,
            remote_length: 5,
            uploading: true,
            ..Sync::default()
        }),
    );
    hand.say(
        channel,
        &Message::Range(Range {
            drop: false,
            start: 0,
            length: 5,
        }),
    );
    let download = core.download(0..u64::MAX).await;
    let request = loop {
        if let Some(Message::Request(request)) = hand.hear().await {
            break request;
        }
    };
    assert_eq!(request.block, first.block);
    hand.say(
        channel,
        &Message::Data(Data {
            request: request.id,
            proof,
        }),
    );
    while let Some(message) = hand.hear().await {
        assert!(!matches!(message, Message::Data(_)));
    }
    assert_eq!(core.state().held_blocks, 0);
    let again = hand.capability(source.key());
    let channel = hand.open(source.discovery_key(), again);
    assert_eq!(
        hand.next().await,
        Some(MuxEvent::Closed {
            channel,
            rejected: true
        })
    );
    drop((download, to_honest));
    wires.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_asks_for_everything_and_reads_nothing_costs_a_bounded_amount() {
    let (store, wires) = (memory(), Wires::default());
    let core = writer(&store, 1).await;
    append(&core, &[1 << 20; 64]).await;
    let mut hand = Hand::connect(&wires, &store).await;
    let channel = hand.open_core(core.key()).await;
    for id in 1..=40 {
        let block = Some(RequestBlock {
            index: id % 64,
            nodes: 0,
        });
        hand.say(
            channel,
            &Message::Request(Request {
                id,
                block,
                ..Request::default()
            }),
        );
    }
    hand.write().await;
    // What is asked for is 40 MiB; only what fits the budgets has been read from the core when the store is asked.
    let start = Instant::now();
    let mut uploaded = 0;
    while start.elapsed() < PATIENCE {
        let now = core.stats().await.uploaded_blocks;
        if now > 0 && now == uploaded {
            break;
        }
        uploaded = now;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert!((1..10).contains(&uploaded), "{uploaded}");
    // It goes on as soon as the peer reads.
    let mut answers = 0;
    while answers < 40 {
        if let Some(Message::Data(_)) = hand.hear().await {
            answers += 1;
        }
    }
    wires.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_requests_and_wants_are_refused_and_too_many_close_the_channel() {
    let (store, wires) = (memory(), Wires::default());
    let core = writer(&store, 1).await;
    append(&core, &[10; 3]).await;
    let mut hand = Hand::connect(&wires, &store).await;
    let channel = hand.open_core(core.key()).await;
    let block = |index, nodes| Request {
        block: Some(RequestBlock { index, nodes }),
        ..Request::default()
    };
    let upgrade = |start, length| Request {
        upgrade: Some(RequestUpgrade { start, length }),
        ..Request::default()
    };
    let max = (1 << 53) - 1;
    let other_fork = Request {
        fork: 7,
        ..block(0, 0)
    };
    for (id, request, reason) in [
        (1, block(3, 0), 1),
        (2, block(max, max), 1),
        (3, block(0, 60), 2),
        (4, upgrade(3, 0), 2),
        (5, upgrade(max, max), 2),
        (6, other_fork, 1),
    ] {
        hand.say(channel, &Message::Request(Request { id, ..request }));
        let answer = loop {
            match hand.hear().await.unwrap() {
                Message::NoData(answer) => break answer,
                Message::Sync(_) | Message::Range(_) => {}
                other => panic!("{id}: {other:?}"),
            }
        };
        assert_eq!((answer.request, answer.reason), (id, reason), "{id}");
    }
    for id in 7..80 {
        hand.say(channel, &Message::Request(Request { id, ..upgrade(3, 0) }));
    }
    while hand.hear().await.is_some() {}
    let mut hand = Hand::connect(&wires, &store).await;
    let channel = hand.open_core(core.key()).await;
    hand.say(
        channel,
        &Message::Want(Want {
            start: 0,
            length: 1 << 22,
            any: false,
        }),
    );
    while hand.hear().await.is_some() {}
    wires.end().await;
}
