use serde_json::Value;

use super::*;

fn cases() -> Vec<Value> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../vectors/network/hyperswarm-rules.json"
    );
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    file["cases"].as_array().unwrap().clone()
}

fn key(value: &Value) -> [u8; 32] {
    hex::decode(value.as_str().unwrap()).unwrap().try_into().unwrap()
}

#[test]
fn priorities_queueing_and_backoffs_are_those_of_js() {
    for case in cases().iter().filter(|case| case["kind"] == "peer") {
        let attempts = u32::try_from(case["attempts"].as_u64().unwrap()).unwrap();
        let [proven, explicit, banned] =
            ["proven", "explicit", "banned"].map(|name| case[name].as_bool().unwrap());
        let letter = (!banned)
            .then(|| backoff(attempts, proven, explicit))
            .flatten()
            .map(|wait| match wait {
                Backoff::Short => "S",
                Backoff::Medium => "M",
                Backoff::Long => "L",
                Backoff::Last => "X",
            });
        assert_eq!(letter, case["retry_timer"].as_str(), "{case}");
        let mut peer = Peer {
            attempts,
            proven,
            banned,
            explicit,
            ..Peer::new()
        };
        assert_eq!(peer.enqueue(), case["may_queue"].as_bool().unwrap(), "{case}");
        assert_eq!(
            u64::from(peer.attempts),
            case["attempts_after"].as_u64().unwrap(),
            "{case}"
        );
        if let Some(priority) = case["priority"].as_u64() {
            assert_eq!(u64::from(peer.priority()), priority, "{case}");
        }
    }
}

#[test]
fn doubles_are_resolved_as_in_js() {
    let mut seen = 0;
    for case in cases().iter().filter(|case| case["kind"] == "duplicate") {
        let bytes = |name: &str| case[name].as_u64().unwrap();
        let outdated = bytes("existing_bytes_read") > 0 && bytes("existing_bytes_written") > 0;
        let (own, remote) = (key(&case["own_public_key"]), key(&case["remote_public_key"]));
        let keep = keep_new(
            &own,
            &remote,
            outdated,
            case["new_connection_is_initiator"].as_bool().unwrap(),
        );
        assert_eq!(keep, case["actions"][0] == "destroy existing", "{case}");
        seen += 1;
    }
    assert!(seen >= 16);
}

fn somewhere(public_key: [u8; 32]) -> KnownHost {
    KnownHost {
        public_key,
        ..KnownHost::default()
    }
}

fn peers(max_parallel: usize) -> Peers {
    Peers::new(
        [5; 32],
        SwarmLimits {
            max_peers: 3,
            max_parallel,
            max_known_peers: 4,
            ..SwarmLimits::default()
        },
    )
}

#[test]
fn of_two_simultaneous_dials_exactly_one_survives_on_both_sides() {
    let now = Instant::now();
    let [low, high] = [[1; 32], [9; 32]];
    let mut sides = [low, high].map(|own| Peers::new(own, SwarmLimits::default()));
    sides[0].join_peer(somewhere(high));
    sides[1].join_peer(somewhere(low));
    let dials = sides.each_mut().map(|side| side.next_dial(0).unwrap());
    let [at_low, at_high] = &mut sides;
    // Each sees the other's dial arrive while its own is pending.
    assert_eq!(
        at_high.accepted(now, low, false, |_| false),
        Admission::RefuseDouble
    );
    assert!(matches!(
        at_low.accepted(now, high, false, |_| false),
        Admission::Replace { .. }
    ));
    assert!(
        at_high.dialled(now, &low, dials[1].number).is_some(),
        "the larger key's dial survives"
    );
    assert!(at_low.dialled(now, &high, dials[0].number).is_none());
}

#[test]
fn a_connection_that_is_alive_is_better_than_a_dial_under_way() {
    let now = Instant::now();
    let mut peers = Peers::new([9; 32], SwarmLimits::default());
    peers.join_peer(somewhere([1; 32]));
    let dial = peers.next_dial(0).unwrap();
    assert_eq!(
        peers.accepted(now, [1; 32], false, |_| false),
        Admission::RefuseDouble
    );
    assert!(matches!(
        peers.accepted(now, [1; 32], true, |_| false),
        Admission::Replace { .. }
    ));
    assert_eq!(peers.dialled(now, &[1; 32], dial.number), None, "it is forgotten");
}

#[test]
fn a_dial_that_lacked_a_relay_is_repeated_at_once_and_counts_no_attempt() {
    let peer = [1; 32];
    let mut peers = Peers::new([9; 32], SwarmLimits::default());
    peers.join_peer(somewhere(peer));
    let first = peers.next_dial(0).unwrap().number;
    peers.failed_without_relay(&peer, first + 1);
    assert_eq!(peers.next_dial(0), None, "that was another dial");
    peers.failed_without_relay(&peer, first);
    assert!(peers.next_dial(0).is_some_and(|second| second.number != first));
    assert_eq!((peers.statuses()[0].attempts, peers.poll_timeout()), (0, None));
}

#[test]
fn a_peer_that_restarted_replaces_its_old_connection_and_a_restless_one_is_left_alone_after_three_tries() {
    let mut now = Instant::now();
    let mut peers = peers(3);
    assert_eq!(
        peers.accepted(now, [9; 32], false, |_| unreachable!()),
        Admission::Admit(1)
    );
    assert_eq!(
        peers.accepted(now, [9; 32], false, |_| true),
        Admission::Replace { old: 1, new: 2 }
    );
    peers.closed(now, &[9; 32], 1, 0);
    assert!(
        matches!(peers.get(&[9; 32]).unwrap().link, Link::Open { number: 2, .. }),
        "the old one's end is no news"
    );

    peers.found([7; 32], [1; 32], &[]);
    let mut dials = 0;
    while let Some(dial) = peers.next_dial(0) {
        dials += 1;
        peers.failed(now, &dial.host.public_key, dial.number, 0);
        if let Some(at) = peers.poll_timeout() {
            now = at;
            peers.handle_timeout(now);
        }
    }
    assert_eq!(dials, 4);
    assert!(peers.get(&[7; 32]).is_none(), "forgotten until it is found again");
}

#[test]
fn limits_hold_and_peers_by_name_pass_the_limit_of_connections() {
    let now = Instant::now();
    let mut peers = peers(2);
    for byte in 10..20 {
        peers.found([byte; 32], [1; 32], &[]);
    }
    assert_eq!(peers.len(), 4, "known peers are bounded");
    let dials: Vec<_> = std::iter::from_fn(|| peers.next_dial(0)).collect();
    assert_eq!(dials.len(), 2, "dials at a time");
    for dial in &dials {
        assert!(peers.dialled(now, &dial.host.public_key, dial.number).is_some());
    }
    let third = peers.next_dial(0).unwrap();
    assert!(peers.dialled(now, &third.host.public_key, third.number).is_some());
    assert_eq!(peers.next_dial(0), None, "connections in all");
    let last = peers
        .statuses()
        .into_iter()
        .find(|peer| !peer.connected)
        .unwrap()
        .public_key;
    peers.join_peer(somewhere(last));
    assert_eq!(peers.next_dial(0).unwrap().host.public_key, last);
}

#[test]
fn our_own_key_and_banned_peers_are_never_dialled_or_accepted() {
    let now = Instant::now();
    let mut peers = peers(3);
    peers.found([5; 32], [1; 32], &[]);
    peers.found([6; 32], [1; 32], &[]);
    assert_eq!(peers.ban([6; 32], true), None);
    assert_eq!(peers.next_dial(0), None);
    assert_eq!(peers.accepted(now, [6; 32], false, |_| false), Admission::Refuse);
    assert_eq!(peers.accepted(now, [5; 32], false, |_| false), Admission::Refuse);
    peers.ban([6; 32], false);
    peers.found([6; 32], [1; 32], &[]);
    assert!(peers.next_dial(0).is_some());
}

#[test]
fn who_is_banned_stays_banned_when_no_more_peers_are_remembered_and_takes_no_room() {
    let now = Instant::now();
    let limits = SwarmLimits {
        max_known_peers: 1,
        ..SwarmLimits::default()
    };
    let mut peers = Peers::new([5; 32], limits);
    peers.found([6; 32], [1; 32], &[]);
    peers.ban([7; 32], true);
    peers.ban([7; 32], true);
    peers.found([7; 32], [1; 32], &[]);
    assert_eq!(peers.next_dial(0).unwrap().host.public_key, [6; 32]);
    assert_eq!(peers.next_dial(0), None);
    peers.ban([6; 32], true);
    peers.found([8; 32], [1; 32], &[]);
    assert_eq!(peers.next_dial(0).unwrap().host.public_key, [8; 32]);
    assert_eq!(peers.accepted(now, [7; 32], true, |_| true), Admission::Refuse);
}

#[test]
fn a_peer_joined_by_name_is_dialled_again_once_its_ban_is_taken_back() {
    let mut peers = peers(3);
    peers.join_peer(somewhere([6; 32]));
    peers.ban([6; 32], true);
    assert_eq!(peers.next_dial(0), None);
    peers.ban([6; 32], false);
    assert_eq!(peers.next_dial(0).unwrap().host.public_key, [6; 32]);
}
