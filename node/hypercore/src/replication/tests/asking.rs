//! What is asked of whom when several peers have it.

use super::*;

#[test]
fn what_a_slow_peer_was_asked_is_asked_of_an_idle_one_and_cancelled_when_it_came() {
    let mut net = Net::new(vec![Model::full(40), Model::full(40), Model::default()]);
    net.mute.push(0);
    net.connect(0, 2);
    net.connect(1, 2);
    net.want(2, 0..u64::MAX);
    net.settle();
    // The slow one may have been asked for the tree first.
    for _ in 0..3 {
        net.now += HOT_SWAP_AFTER;
        let (replicator, model) = &mut net.sides[2];
        replicator.on_timeout(model, net.now);
        net.settle();
    }
    assert_eq!(net.held(2), 40);
    let cancelled = |(side, message): &&(usize, Message)| *side == 2 && matches!(message, Message::Cancel(_));
    assert!(net.sent.iter().filter(cancelled).count() > 0);
    // Nothing is left in flight, and what the slow one says now changes nothing.
    assert_eq!(net.sides[2].0.poll_timeout(), None);
    net.mute.clear();
    net.settle();
    assert_eq!((net.held(2), net.faults.len()), (40, 0));
}

#[test]
fn blocks_that_only_one_peer_has_are_asked_of_it_first() {
    let model = Model {
        length: 100,
        ..Model::default()
    };
    let mut net = Net::new(vec![model]);
    let (replicator, model) = &mut net.sides[0];
    for (id, length) in [(PeerId(1), 100), (PeerId(2), 50)] {
        replicator.add_peer(id, model, net.now);
        let sync = messages::Sync {
            length: 100,
            remote_length: 100,
            ..messages::Sync::default()
        };
        let (drop, start) = (false, 0);
        let range = messages::Range { drop, start, length };
        let said = [Message::Sync(sync), Message::Range(range)];
        replicator.on_messages(id, said, model, net.now).unwrap();
    }
    replicator.want_range(0..100, model, net.now);
    let asked: Vec<(PeerId, u64)> = std::iter::from_fn(|| replicator.poll_output())
        .filter_map(|(to, message)| match message {
            Message::Request(request) => Some((to, request.block?.index)),
            _ => None,
        })
        .collect();
    let first = |id| {
        asked
            .iter()
            .filter(|(to, _)| *to == id)
            .map(|(_, block)| *block)
            .next()
    };
    assert_eq!((first(PeerId(1)), first(PeerId(2))), (Some(50), Some(0)));
    let mut blocks: Vec<u64> = asked.iter().map(|(_, block)| *block).collect();
    blocks.sort_unstable();
    blocks.dedup();
    assert_eq!(blocks.len(), asked.len(), "each once");
}

#[test]
fn a_peer_that_refuses_what_it_announces_again_and_again_does_not_keep_others_from_being_asked() {
    let model = Model {
        length: 40,
        ..Model::default()
    };
    let mut net = Net::new(vec![model]);
    let (replicator, model) = &mut net.sides[0];
    let (drop, start, length) = (false, 0, 40);
    let range = Message::Range(messages::Range { drop, start, length });
    let sync = messages::Sync {
        length: 40,
        remote_length: 40,
        ..messages::Sync::default()
    };
    replicator.want_range(0..40, model, net.now);
    // The one who refuses was there first, and is asked for everything.
    for id in [PeerId(1), PeerId(2)] {
        replicator.add_peer(id, model, net.now);
        let said = [Message::Sync(sync), range.clone()];
        replicator.on_messages(id, said, model, net.now).unwrap();
    }
    let mut refused = 0;
    while let Some((id, message)) = replicator.poll_output() {
        let Message::Request(request) = message else {
            continue;
        };
        let answers = if id == PeerId(1) {
            refused += 1;
            assert!(refused < 1000, "{} blocks held", model.held.len());
            let (request, reason) = (request.id, 1);
            vec![Message::NoData(NoData { request, reason }), range.clone()]
        } else {
            let proof = Model::full(40).prove(&request).unwrap();
            let request = request.id;
            vec![Message::Data(Data { request, proof })]
        };
        replicator.on_messages(id, answers, model, net.now).unwrap();
    }
    assert_eq!(model.held.len(), 40);
    assert!(refused > 0);
}
