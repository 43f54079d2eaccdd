//! The relay's decisions, without IO.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Admission, AllowList, Counters, Limits, LinkId, MemberLimits, Meter, Output, Pair, Refusal, Server,
    SessionId, Unpair,
};
use crate::Key;

const MEMBER: Key = [1; 32];
const OTHER: Key = [2; 32];
const GUEST: Key = [3; 32];

struct Scene {
    server: Server,
    list: Arc<AllowList>,
    now: Instant,
}

impl Scene {
    fn new(limits: Limits, member: MemberLimits) -> Self {
        let list = Arc::new(AllowList::with_others(Admission::Guest));
        list.allow(MEMBER, member);
        list.allow(OTHER, MemberLimits::default());
        let now = Instant::now();
        let server = Server::new(limits, list.clone(), None, now);
        Self { server, list, now }
    }

    fn pair(&mut self, session: SessionId, is_initiator: bool, token: u8, id: u64) {
        let request = Pair {
            is_initiator,
            token: [token; 32],
            id,
            seq: 0,
        };
        self.server.pair(self.now, session, &request);
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.server.poll_output()).collect()
    }

    /// Links two identities and says that the streams exist.
    fn link(&mut self, initiator: Key, responder: Key, token: u8) -> (LinkId, Arc<Meter>, [SessionId; 2]) {
        let sessions = [
            self.server.open(responder).unwrap(),
            self.server.open(initiator).unwrap(),
        ];
        self.pair(sessions[1], true, token, 11);
        self.pair(sessions[0], false, token, 22);
        let linked = self.outputs().into_iter().find_map(|output| match output {
            Output::Link {
                link,
                meter,
                remote_ids,
            } => {
                assert_eq!(remote_ids, [22, 11]);
                Some((link, meter))
            }
            _ => None,
        });
        let (link, meter) = linked.expect("a link");
        self.server.linked(link, [222, 111]);
        (link, meter, sessions)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.server.handle_timeout(self.now);
    }

    fn unlinked(&mut self) -> bool {
        self.outputs()
            .iter()
            .any(|output| matches!(output, Output::Unlink(_)))
    }

    fn counters(&self) -> Counters {
        self.server.counters()
    }
}

fn scene() -> Scene {
    Scene::new(Limits::default(), MemberLimits::default())
}

#[test]
fn each_side_is_told_the_id_of_its_own_stream_and_its_own_role() {
    let mut scene = scene();
    let (_, _, sessions) = scene.link(MEMBER, GUEST, 7);
    let answers = scene.outputs().into_iter().map(|output| match output {
        Output::Answer { session, pair } => (session, pair.is_initiator, pair.token, pair.id, pair.seq),
        other => panic!("{other:?}"),
    });
    let expected = vec![
        (sessions[0], false, [7; 32], 222, 0),
        (sessions[1], true, [7; 32], 111, 0),
    ];
    assert_eq!(answers.collect::<Vec<_>>(), expected);
    assert_eq!((scene.counters().links, scene.counters().pending), (1, 0));
}

#[test]
fn a_request_for_a_taken_role_is_ignored_and_a_stranger_can_not_unpair() {
    let mut scene = scene();
    let [first, second] = [MEMBER, OTHER].map(|identity| scene.server.open(identity).unwrap());
    scene.pair(first, true, 7, 1);
    scene.pair(second, true, 7, 2);
    scene.server.unpair(second, Unpair { token: [7; 32] });
    assert_eq!(
        (scene.counters().pending, scene.counters().pairs_requested),
        (1, 1)
    );
    scene.pair(second, false, 7, 3);
    let outputs = scene.outputs();
    assert!(
        matches!(
            outputs[..],
            [Output::Link {
                remote_ids: [3, 1],
                ..
            }]
        ),
        "{outputs:?}"
    );

    let third = scene.server.open(GUEST).unwrap();
    scene.server.unpair(third, Unpair { token: [7; 32] });
    assert!(!scene.unlinked());
    scene.server.unpair(first, Unpair { token: [7; 32] });
    assert!(scene.unlinked());
}

#[test]
fn requests_are_bounded_per_connection_and_in_all_and_expire() {
    let limits = Limits {
        pending: 3,
        pending_per_session: 2,
        ..Limits::default()
    };
    let mut scene = Scene::new(limits, MemberLimits::default());
    let [first, second] = [GUEST, GUEST].map(|identity| scene.server.open(identity).unwrap());
    for token in 0..3 {
        scene.pair(first, true, token, 1);
    }
    assert_eq!((scene.counters().pending, scene.counters().pairs_refused), (2, 1));
    scene.pair(second, true, 8, 1);
    scene.pair(second, true, 9, 1);
    assert_eq!((scene.counters().pending, scene.counters().pairs_refused), (3, 2));
    scene.pass(limits.pending_lifetime);
    assert_eq!((scene.counters().pending, scene.counters().pairs_expired), (0, 3));
    scene.pair(first, true, 1, 1);
    assert_eq!(scene.counters().pending, 1, "expired requests free their places");
    scene.pair(first, true, 2, u64::MAX);
    assert_eq!(scene.counters().pending, 1, "an id that is no stream id");
}

#[test]
fn connections_are_bounded_and_strangers_refused_unless_the_list_says_otherwise() {
    let limits = Limits {
        sessions: 3,
        sessions_per_identity: 2,
        ..Limits::default()
    };
    let mut scene = Scene::new(limits, MemberLimits::default());
    let first = scene.server.open(MEMBER).unwrap();
    scene.server.open(MEMBER).unwrap();
    assert_eq!(scene.server.open(MEMBER), Err(Refusal::Full));
    scene.server.open(GUEST).unwrap();
    assert_eq!(scene.server.open(OTHER), Err(Refusal::Full));
    scene.server.close(first);
    assert!(scene.server.admits(&OTHER));
    let closed = Server::new(limits, Arc::new(AllowList::new()), None, scene.now);
    assert!(!closed.admits(&GUEST));
}

#[test]
fn two_guests_get_no_link() {
    let mut scene = scene();
    let [first, second] = [[8; 32], GUEST].map(|identity| scene.server.open(identity).unwrap());
    scene.pair(first, true, 7, 1);
    scene.pair(second, false, 7, 2);
    assert!(scene.outputs().is_empty());
    assert_eq!((scene.counters().pending, scene.counters().pairs_refused), (0, 1));
}

#[test]
fn a_members_quota_counts_both_directions_and_all_its_links_and_is_whole_again_after_the_window() {
    let member = MemberLimits {
        quota_bytes: Some(1_000),
        ..MemberLimits::default()
    };
    let mut scene = Scene::new(Limits::default(), member);
    let (_, first, _) = scene.link(MEMBER, GUEST, 1);
    let (_, second, _) = scene.link(OTHER, MEMBER, 2);
    assert!(first.take(true, &[0; 400]) && first.take(false, &[0; 400]) && second.take(true, &[0; 200]));
    assert_eq!(
        (first.bytes(true), first.bytes(false), second.bytes(true)),
        (400, 400, 200)
    );
    assert!(
        !second.take(true, &[0; 1]),
        "nothing is left, on the other link as well"
    );
    scene.pass(Duration::from_millis(100));
    assert_eq!((scene.counters().links, scene.counters().links_exhausted), (1, 1));
    assert_eq!(
        (scene.counters().bytes, scene.counters().packets_dropped),
        (1_000, 1)
    );
    let again = scene.server.open(MEMBER).unwrap();
    let guest = scene.server.open(GUEST).unwrap();
    scene.pair(again, true, 3, 1);
    scene.pair(guest, false, 3, 2);
    assert_eq!(
        scene.counters().pairs_refused,
        1,
        "a new connection brings no new quota"
    );
    scene.now += Limits::default().quota_window;
    scene.pair(again, true, 4, 1);
    scene.pair(guest, false, 4, 2);
    assert_eq!(scene.counters().links_opened, 3);
}

#[test]
fn links_are_bounded_per_member_and_in_all() {
    let member = MemberLimits {
        links: 1,
        ..MemberLimits::default()
    };
    let limits = Limits {
        links: 2,
        ..Limits::default()
    };
    let mut scene = Scene::new(limits, member);
    scene.link(MEMBER, GUEST, 1);
    let [more, guest] = [MEMBER, GUEST].map(|identity| scene.server.open(identity).unwrap());
    scene.pair(more, true, 2, 1);
    scene.pair(guest, false, 2, 2);
    assert_eq!(scene.counters().links, 1);
    let (link, ..) = scene.link(OTHER, GUEST, 3);
    let other = scene.server.open(OTHER).unwrap();
    scene.pair(other, true, 4, 1);
    scene.pair(guest, false, 4, 2);
    assert_eq!(scene.counters().links, 2);
    scene.server.link_ended(link);
    scene.link(OTHER, GUEST, 5);
}

#[test]
fn a_link_ends_after_its_bytes_its_duration_or_a_silence() {
    let member = MemberLimits {
        link_bytes: Some(100),
        link_duration: Some(Duration::from_mins(10)),
        ..MemberLimits::default()
    };
    let mut scene = Scene::new(Limits::default(), member);
    let (_, meter, _) = scene.link(MEMBER, GUEST, 1);
    assert!(meter.take(true, &[0; 100]) && !meter.take(true, &[0; 1]));
    scene.pass(Duration::from_millis(100));
    assert!(scene.unlinked());

    scene.link(MEMBER, GUEST, 2);
    scene.outputs();
    scene.pass(Limits::default().link_idle);
    assert!(scene.unlinked());
    assert_eq!(scene.counters().links_idle, 1);

    let (_, meter, _) = scene.link(MEMBER, GUEST, 3);
    for _ in 0..20 {
        scene.pass(Duration::from_secs(29));
        assert!(meter.take(true, &[0; 1]));
    }
    scene.outputs();
    scene.pass(Duration::from_secs(29));
    assert!(scene.unlinked());
    assert_eq!(
        (scene.counters().links_idle, scene.counters().links_exhausted),
        (1, 2)
    );
}

#[test]
fn the_relays_rate_drops_packets_but_ends_no_link() {
    let limits = Limits {
        bytes_per_second: Some(100_000),
        ..Limits::default()
    };
    let mut scene = Scene::new(limits, MemberLimits::default());
    let (_, meter, _) = scene.link(MEMBER, GUEST, 1);
    let mut sent = 0;
    for _ in 0..100 {
        for _ in 0..20 {
            sent += usize::from(meter.take(true, &[0; 1_000])) * 1_000;
        }
        scene.pass(Duration::from_millis(100));
    }
    assert!((1_000_000..=1_060_000).contains(&sent), "{sent} bytes in 10 s");
    assert_eq!(scene.counters().links, 1);
}

#[test]
fn what_is_revoked_ends_at_the_next_review_and_nothing_else_does() {
    let mut scene = scene();
    scene.link(MEMBER, GUEST, 1);
    let (kept, ..) = scene.link(OTHER, GUEST, 2);
    scene.outputs();
    scene.list.revoke(&MEMBER);
    scene.server.review(scene.now);
    let outputs = scene.outputs();
    assert!(
        matches!(outputs[..], [Output::Unlink(link)] if link != kept),
        "two guests are left: {outputs:?}"
    );
    assert_eq!(scene.counters().links_revoked, 1);

    let list = Arc::new(AllowList::new());
    list.allow(MEMBER, MemberLimits::default());
    let mut server = Server::new(Limits::default(), list.clone(), None, scene.now);
    let session = server.open(MEMBER).unwrap();
    list.revoke(&MEMBER);
    server.review(scene.now);
    assert!(matches!(server.poll_output(), Some(Output::Close(closed)) if closed == session));
    assert_eq!(server.counters().sessions, 0);
}

#[test]
fn the_end_of_a_connection_ends_its_links_and_requests() {
    let mut scene = scene();
    let (_, _, sessions) = scene.link(MEMBER, GUEST, 1);
    scene.pair(sessions[1], true, 2, 5);
    scene.outputs();
    scene.server.close(sessions[1]);
    assert!(scene.unlinked());
    let counters = scene.counters();
    assert_eq!((counters.links, counters.pending, counters.sessions), (0, 0, 1));
}

#[test]
fn draining_refuses_newcomers_lets_links_run_and_then_cuts() {
    let mut scene = scene();
    let (link, _, sessions) = scene.link(MEMBER, GUEST, 1);
    let idle = scene.server.open(OTHER).unwrap();
    scene.pair(idle, true, 9, 1);
    scene.outputs();
    scene.server.drain();
    let outputs = scene.outputs();
    assert!(
        matches!(outputs[..], [Output::Close(closed)] if closed == idle),
        "{outputs:?}"
    );
    assert_eq!(scene.server.open(OTHER), Err(Refusal::Draining));
    scene.pair(sessions[1], true, 3, 1);
    assert_eq!((scene.counters().pending, scene.counters().links), (0, 1));
    assert!(!scene.server.is_quiet());
    scene.server.cut();
    let outputs = scene.outputs();
    assert!(
        matches!(outputs[0], Output::Unlink(ended) if ended == link),
        "{outputs:?}"
    );
    assert_eq!(outputs.len(), 3, "and both connections: {outputs:?}");
    assert!(scene.server.is_quiet());
}
