//! The decisions of shipping, without any I/O.

#![allow(clippy::panic, reason = "a test that can't go on shall say where")]

use std::collections::HashSet;
use std::time::Duration;

use cumulet_backup::names::{HeadName, SegmentName};
use cumulet_backup::plan::{ChangeMark, CorePlan, Durable, PARALLEL_PUTS, Snapshot, Step};
use proptest::prelude::*;

const LAG: Duration = Duration::from_secs(4);

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn mark(length: u64) -> ChangeMark {
    ChangeMark {
        fork: 0,
        length,
        changes: length,
    }
}

fn segment(index: u64) -> SegmentName {
    SegmentName {
        fork: 0,
        level: 0,
        index,
        hash: [index as u8; 8],
    }
}

fn head(length: u64, parts: u8) -> HeadName {
    HeadName {
        fork: 0,
        length,
        hash: [parts; 8],
    }
}

/// A core of one-block segments, of which the last `held_back` are in a subtree that is being filled.
fn snapshot(length: u64, held_back: u64, everything: bool) -> Snapshot {
    let named = if everything { length } else { length - held_back };
    Snapshot {
        mark: mark(length),
        segments: (0..named).map(segment).collect(),
        head: head(length, named as u8),
        held_back: named < length,
    }
}

fn listed(plan: &mut CorePlan, now: Duration) {
    assert_eq!(plan.poll(now), Step::List);
    assert_eq!(plan.poll(now), Step::Wait);
    plan.listed([], []);
}

/// Ships a snapshot to its end.
fn shipped(plan: &mut CorePlan, snapshot: Snapshot, now: Duration) {
    plan.snapshot(Some(snapshot));
    loop {
        match plan.poll(now) {
            Step::PutSegment(name, _) => plan.segment_put(name),
            Step::PutHead(name, _) => return plan.head_put(name),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_core_is_listed_first_and_only_when_there_is_something_to_ship() {
    let mut plan = CorePlan::new(LAG, 1);
    assert_eq!(plan.poll(at(0.0)), Step::Wait);
    plan.changed(mark(3), at(1.0));
    listed(&mut plan, at(1.0));
    assert_eq!(
        plan.poll(at(1.0)),
        Step::WaitUntil(at(3.0)),
        "half of the lag is for collecting changes"
    );
    plan.changed(mark(4), at(2.0));
    assert_eq!(
        plan.poll(at(2.0)),
        Step::WaitUntil(at(3.0)),
        "more changes do not put it off"
    );
    assert_eq!(plan.lag(at(2.5)), at(1.5));
    assert_eq!(plan.poll(at(3.0)), Step::Snapshot { everything: false });
    assert_eq!(plan.poll(at(3.0)), Step::Wait);
}

#[test]
fn the_head_goes_up_after_the_last_of_its_segments() {
    let mut plan = CorePlan::new(LAG, 1);
    plan.changed(mark(6), at(0.0));
    listed(&mut plan, at(0.0));
    assert!(matches!(plan.poll(at(2.0)), Step::Snapshot { .. }));
    plan.snapshot(Some(snapshot(6, 0, true)));
    let mut flying: Vec<SegmentName> = Vec::new();
    for _ in 0..PARALLEL_PUTS {
        let Step::PutSegment(name, 0) = plan.poll(at(2.0)) else {
            panic!()
        };
        flying.push(name);
    }
    assert_eq!(plan.poll(at(2.0)), Step::Wait, "not more at once");
    while let Some(name) = flying.pop() {
        plan.segment_put(name);
        match plan.poll(at(2.0)) {
            Step::PutSegment(name, 0) => flying.push(name),
            Step::Wait => assert!(!flying.is_empty()),
            Step::PutHead(name, 0) => {
                assert!(flying.is_empty());
                assert_eq!(name, head(6, 6));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        plan.durable(),
        Durable::default(),
        "nothing is durable before the head is"
    );
    assert!(!plan.is_settled());
    plan.head_put(head(6, 6));
    assert_eq!(plan.durable(), Durable { fork: 0, length: 6 });
    assert!(plan.is_settled());
    assert_eq!((plan.lag(at(9.0)), plan.backlog()), (Duration::ZERO, 0));
    assert_eq!(plan.poll(at(9.0)), Step::Wait);
}

#[test]
fn what_the_listing_shows_is_not_put_again() {
    let mut plan = CorePlan::new(LAG, 1);
    plan.changed(mark(3), at(0.0));
    assert_eq!(plan.poll(at(0.0)), Step::List);
    plan.listed([(segment(0), 0), (segment(2), 0)], [(head(2, 2), 0)]);
    assert!(matches!(plan.poll(at(2.0)), Step::Snapshot { .. }));
    plan.snapshot(Some(snapshot(3, 0, true)));
    assert_eq!(plan.poll(at(2.0)), Step::PutSegment(segment(1), 0));
    plan.segment_put(segment(1));
    assert_eq!(plan.poll(at(2.0)), Step::PutHead(head(3, 3), 0));
}

#[test]
fn subtrees_that_are_being_filled_wait_until_they_are_quiet_but_not_for_ever() {
    let mut plan = CorePlan::new(LAG, 1);
    plan.changed(mark(5), at(0.0));
    listed(&mut plan, at(0.0));
    assert_eq!(plan.poll(at(2.0)), Step::Snapshot { everything: false });
    shipped(&mut plan, snapshot(5, 2, false), at(2.0));
    assert_eq!(
        plan.durable(),
        Durable::default(),
        "not everything that is held is in the store"
    );
    assert_eq!(
        plan.poll(at(2.0)),
        Step::WaitUntil(at(4.0)),
        "quiet is a lag without changes"
    );
    assert_eq!(plan.poll(at(4.0)), Step::Snapshot { everything: true });
    shipped(&mut plan, snapshot(5, 2, true), at(4.0));
    assert_eq!(plan.durable().length, 5);

    // Blocks that keep coming hold it back for twelve lags, no longer.
    let mut now = at(100.0);
    let mut length = 6;
    plan.changed(mark(length), now);
    let everything = loop {
        now += at(1.0);
        length += 1;
        plan.changed(mark(length), now);
        assert!(now < at(200.0));
        match plan.poll(now) {
            Step::WaitUntil(_) => {}
            Step::Snapshot { everything: true } => break now,
            Step::Snapshot { everything: false } => shipped(&mut plan, snapshot(length, 2, false), now),
            other => panic!("{other:?}"),
        }
    };
    assert!((at(148.0)..at(152.0)).contains(&everything), "{everything:?}");
}

#[test]
fn a_flush_ships_everything_at_once() {
    let mut plan = CorePlan::new(LAG, 1);
    plan.changed(mark(5), at(0.0));
    listed(&mut plan, at(0.0));
    plan.flush(at(0.1));
    assert_eq!(plan.poll(at(0.1)), Step::Snapshot { everything: true });
    assert!(!plan.has_shipped_until(at(0.1)));
    shipped(&mut plan, snapshot(5, 2, true), at(0.1));
    assert!(plan.has_shipped_until(at(0.1)));
    assert_eq!(plan.poll(at(0.2)), Step::Wait);
}

#[test]
fn pauses_after_failures_grow_up_to_a_bound_and_end_with_the_failures() {
    let mut plan = CorePlan::new(LAG, 1);
    plan.changed(mark(5), at(0.0));
    let mut now = at(0.0);
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        assert_eq!(plan.poll(now), Step::List);
        plan.failed(None, now);
        let Step::WaitUntil(until) = plan.poll(now) else {
            panic!()
        };
        let pause = until.saturating_sub(now);
        assert!(
            pause >= Duration::from_millis(500) && pause <= Duration::from_mins(1),
            "{pause:?}"
        );
        longest = longest.max(pause);
        now = until;
    }
    assert!(longest > Duration::from_secs(30));
    listed(&mut plan, now);
    assert!(
        matches!(plan.poll(now), Step::Snapshot { .. }),
        "it is overdue, so it goes on at once"
    );
    assert!(
        plan.lag(now) == now,
        "the lag counts from the change and not from the last try"
    );
}

#[test]
fn two_plans_with_different_seeds_do_not_come_back_at_the_same_time() {
    let pause = |seed| {
        let mut plan = CorePlan::new(LAG, seed);
        plan.changed(mark(5), at(0.0));
        assert_eq!(plan.poll(at(0.0)), Step::List);
        plan.failed(None, at(0.0));
        plan.poll(at(0.0))
    };
    let pauses: HashSet<String> = (0..50).map(|seed| format!("{:?}", pause(seed))).collect();
    assert!(pauses.len() > 40);
}

#[test]
fn a_damaged_object_is_put_again_under_the_next_free_name() {
    let mut plan = CorePlan::new(LAG, 1);
    plan.changed(mark(2), at(0.0));
    assert_eq!(plan.poll(at(0.0)), Step::List);
    plan.listed(
        [(segment(0), 0), (segment(0), 4), (segment(1), 0)],
        [(head(2, 2), 0)],
    );
    assert!(matches!(plan.poll(at(2.0)), Step::Snapshot { .. }));
    plan.snapshot(Some(snapshot(2, 0, true)));
    assert_eq!(plan.poll(at(2.0)), Step::Wait);
    assert!(plan.is_settled(), "nothing is missing, so nothing is put");

    plan.damaged_segment(segment(0), 0, at(3.0));
    assert!(plan.is_settled(), "there is a good copy");
    plan.damaged_segment(segment(0), 4, at(3.0));
    plan.damaged_segment(segment(1), 0, at(3.0));
    plan.damaged_head(head(2, 2), 0, at(3.0));
    assert!(matches!(plan.poll(at(5.0)), Step::Snapshot { .. }));
    plan.snapshot(Some(snapshot(2, 0, true)));
    assert_eq!(
        plan.poll(at(5.0)),
        Step::PutSegment(segment(0), 5),
        "after the last that was listed"
    );
    assert_eq!(plan.poll(at(5.0)), Step::PutSegment(segment(1), 1));
    plan.segment_put(segment(0));
    plan.segment_put(segment(1));
    assert_eq!(plan.poll(at(5.0)), Step::PutHead(head(2, 2), 1));
}

#[derive(Debug, Clone)]
enum Event {
    Append(u64),
    /// Finish the n-th of the steps that are on their way, well or badly.
    Finish(usize, bool),
    Pass(u64),
    Flush,
    /// The n-th segment in the store turns out damaged.
    Damage(usize),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1..5_u64).prop_map(Event::Append),
        12 => (0..8_usize, proptest::bool::weighted(0.8)).prop_map(|(n, ok)| Event::Finish(n, ok)),
        4 => (1..5000_u64).prop_map(Event::Pass),
        1 => Just(Event::Flush),
        1 => (0..20_usize).prop_map(Event::Damage),
        1 => Just(Event::Restart),
    ]
}

/// A core, a store and the plan between them.
struct World {
    plan: CorePlan,
    now: Duration,
    length: u64,
    flying: Vec<Step>,
    segments: HashSet<(SegmentName, u8)>,
    damaged: HashSet<(SegmentName, u8)>,
    heads: HashSet<HeadName>,
}

impl World {
    fn new() -> Self {
        Self {
            plan: CorePlan::new(LAG, 3),
            now: Duration::ZERO,
            length: 1,
            flying: Vec::new(),
            segments: HashSet::new(),
            damaged: HashSet::new(),
            heads: HashSet::new(),
        }
    }

    fn has(&self, name: SegmentName) -> bool {
        self.segments
            .iter()
            .any(|copy| copy.0 == name && !self.damaged.contains(copy))
    }

    fn poll(&mut self) {
        self.plan.changed(mark(self.length), self.now);
        loop {
            match self.plan.poll(self.now) {
                Step::Wait | Step::WaitUntil(_) => return,
                step => self.flying.push(step),
            }
            let puts = self
                .flying
                .iter()
                .filter(|step| matches!(step, Step::PutSegment(..)))
                .count();
            assert!(puts <= PARALLEL_PUTS);
        }
    }

    fn finish(&mut self, step: Step, well: bool) {
        if !well {
            let segment = if let Step::PutSegment(name, _) = step {
                Some(name)
            } else {
                None
            };
            return self.plan.failed(segment, self.now);
        }
        match step {
            Step::List => {
                // A listing can't show damage; that is reported by those who read.
                let heads: Vec<_> = self.heads.iter().map(|name| (*name, 0)).collect();
                self.plan.listed(self.segments.clone(), heads);
                for (name, repair) in self.damaged.clone() {
                    self.plan.damaged_segment(name, repair, self.now);
                }
            }
            Step::Snapshot { everything } => {
                let held_back = self.length % 3;
                self.plan.snapshot(Some(snapshot(
                    self.length,
                    held_back.min(self.length),
                    everything,
                )));
            }
            Step::PutSegment(name, repair) => {
                assert!(!self.has(name), "what is there is not put again");
                assert!(self.segments.insert((name, repair)), "no name is put twice");
                self.plan.segment_put(name);
            }
            Step::PutHead(name, _) => {
                let named = u64::from(name.hash[0]);
                // Damage may be found after the head was decided on; what was never there is never named.
                assert!((0..named).all(|index| self.segments.iter().any(|copy| copy.0 == segment(index))));
                self.heads.insert(name);
                self.plan.head_put(name);
            }
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_everything_is_shipped_once_and_heads_come_last(
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut world = World::new();
        for event in events {
            world.poll();
            match event {
                Event::Append(count) => world.length = (world.length + count).min(200),
                Event::Finish(n, well) if !world.flying.is_empty() => {
                    let step = world.flying.swap_remove(n % world.flying.len());
                    world.finish(step, well);
                }
                Event::Finish(..) => {}
                Event::Pass(milliseconds) => world.now += Duration::from_millis(milliseconds),
                Event::Flush => world.plan.flush(world.now),
                Event::Damage(n) => {
                    let mut copies: Vec<_> = world.segments.difference(&world.damaged).copied().collect();
                    copies.sort_unstable();
                    if let Some(copy) = copies.get(n) {
                        world.damaged.insert(*copy);
                        world.plan.damaged_segment(copy.0, copy.1, world.now);
                    }
                }
                Event::Restart => {
                    world.plan = CorePlan::new(LAG, 5);
                    world.flying.clear();
                }
            }
        }
        // When nothing fails any more, all of it is in the store, soon.
        for _ in 0..2000 {
            world.poll();
            match world.flying.pop() {
                Some(step) => world.finish(step, true),
                None if world.plan.is_settled() => break,
                None => world.now += Duration::from_millis(500),
            }
        }
        prop_assert!(world.plan.is_settled());
        prop_assert_eq!(world.plan.durable(), Durable { fork: 0, length: world.length });
        for index in 0..world.length {
            prop_assert!(world.has(segment(index)), "block {} has a good copy", index);
        }
    }
}
