//! Two sans-IO streams over a simulated network, in virtual time, from a seed.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    dead_code,
    reason = "simulated quantities are small and not negative; the network is shared with sim_shares"
)]

mod network;

use network::{Outcome, Profile, Run};

const MIB: usize = 1 << 20;

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    match number("UDX_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("UDX_SIM_SEEDS").unwrap_or(12),
    }
}

/// Runs a transfer with every seed and checks what must hold on any network.
fn every_seed(profile: &Profile, bytes: [usize; 2], check: impl Fn(&Outcome)) {
    for seed in seeds() {
        let outcome = Run::new(seed, profile.clone(), bytes).run();
        assert!(outcome.intact, "seed {seed}: bytes differ: {outcome:?}");
        assert!(outcome.clean, "seed {seed}: did not close cleanly: {outcome:?}");
        check(&outcome);
    }
}

#[test]
fn every_byte_arrives_in_order_over_a_bad_network() {
    let profile = Profile {
        loss: 0.05,
        duplicate: 0.02,
        reorder: 0.1,
        delay_ms: 20.0,
        jitter_ms: 5.0,
        rate: 2e6,
        queue: 64,
        ..Profile::default()
    };
    every_seed(&profile, [MIB / 2, MIB / 4], |outcome| {
        assert!(outcome.peak_memory < 10 * MIB, "{outcome:?}");
    });
}

#[test]
fn a_quarter_of_all_packets_may_vanish() {
    let profile = Profile {
        loss: 0.25,
        delay_ms: 5.0,
        ..Profile::default()
    };
    every_seed(&profile, [40_000, 10_000], |_| {});
}

#[test]
fn empty_streams_close_on_a_lossy_network_too() {
    let profile = Profile {
        loss: 0.3,
        delay_ms: 10.0,
        ..Profile::default()
    };
    every_seed(&profile, [0, 0], |_| {});
    every_seed(&profile, [1, 0], |_| {});
}

#[test]
fn a_clean_fast_path_is_filled_without_retransmissions() {
    let profile = Profile {
        delay_ms: 20.0,
        rate: 12.5e6,
        queue: 1000,
        ..Profile::default()
    };
    for seed in seeds().take(4) {
        let outcome = Run::new(seed, profile.clone(), [20 * MIB, 0]).run();
        assert!(outcome.intact && outcome.clean, "{outcome:?}");
        let utilisation = outcome.goodput(20 * MIB) / 12.5e6;
        assert!(utilisation > 0.75, "{utilisation:.2} of the path: {outcome:?}");
        assert_eq!(outcome.retransmits, 0, "{outcome:?}");
        assert_eq!(outcome.mtu, 1500);
    }
}

#[test]
fn random_loss_does_not_collapse_the_rate() {
    let profile = Profile {
        loss: 0.01,
        delay_ms: 25.0,
        rate: 5e6,
        queue: 200,
        ..Profile::default()
    };
    every_seed(&profile, [5 * MIB, 0], |outcome| {
        let utilisation = outcome.goodput(5 * MIB) / 5e6;
        assert!(utilisation > 0.5, "{utilisation:.2} of the path: {outcome:?}");
    });
}

#[test]
fn a_shallow_queue_costs_little() {
    let profile = Profile {
        delay_ms: 10.0,
        rate: 2.5e6,
        queue: 20,
        ..Profile::default()
    };
    every_seed(&profile, [4 * MIB, 0], |outcome| {
        let waste = outcome.retransmits as f64 / outcome.packets as f64;
        assert!(waste < 0.2, "{waste:.3} sent again: {outcome:?}");
        assert!(outcome.goodput(4 * MIB) > 0.6 * 2.5e6, "{outcome:?}");
    });
}

#[test]
fn a_path_that_swallows_large_packets_is_found_out() {
    for (limit, expected) in [(1200, 1200), (1300, 1296), (1400, 1392), (1492, 1488)] {
        let profile = Profile {
            mtu: limit,
            delay_ms: 5.0,
            rate: 5e6,
            queue: 200,
            ..Profile::default()
        };
        let outcome = Run::new(1, profile, [2 * MIB, 0]).run();
        assert!(outcome.intact && outcome.clean, "{outcome:?}");
        assert_eq!(outcome.mtu, expected, "{outcome:?}");
        assert!(
            outcome.timeouts == 0,
            "probing must not stall the stream: {outcome:?}"
        );
    }
}

#[test]
fn a_slow_reader_bounds_what_is_held_for_it() {
    let window = 100_000;
    let profile = Profile {
        delay_ms: 10.0,
        loss: 0.02,
        receive_window: window,
        read_rate: Some(400_000.0),
        ..Profile::default()
    };
    every_seed(&profile, [MIB, 0], |outcome| {
        // The window for unread bytes, as much for what is held behind gaps, and slack for both.
        assert!(
            outcome.peak_unread <= 2 * (window as usize + 65_536),
            "{outcome:?}"
        );
    });
}

#[test]
fn a_reader_that_stops_for_a_while_is_found_again() {
    let profile = Profile {
        delay_ms: 5.0,
        receive_window: 50_000,
        read_pause_ms: Some(20_000.0),
        ..Profile::default()
    };
    every_seed(&profile, [300_000, 0], |outcome| {
        assert!(outcome.seconds < 40.0, "{outcome:?}");
    });
}

#[test]
fn an_outage_shorter_than_the_timeouts_is_survived() {
    let profile = Profile {
        delay_ms: 10.0,
        rate: 2e6,
        queue: 100,
        outage_ms: Some((200.0, 4_200.0)),
        ..Profile::default()
    };
    every_seed(&profile, [2 * MIB, MIB], |outcome| {
        assert!(outcome.seconds < 12.0, "{outcome:?}");
    });
}

#[test]
fn a_peer_that_is_gone_is_noticed_in_about_thirteen_seconds() {
    let profile = Profile {
        delay_ms: 10.0,
        outage_ms: Some((0.0, 1e9)),
        ..Profile::default()
    };
    let outcome = Run::new(3, profile, [1000, 0]).run();
    assert!(outcome.timed_out, "{outcome:?}");
    assert!((10.0..16.0).contains(&outcome.seconds), "{outcome:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let profile = Profile {
        loss: 0.1,
        reorder: 0.1,
        jitter_ms: 3.0,
        delay_ms: 10.0,
        ..Profile::default()
    };
    let runs: Vec<_> = (0..2)
        .map(|_| Run::new(77, profile.clone(), [200_000, 100_000]).run())
        .collect();
    assert_eq!(format!("{:?}", runs[0]), format!("{:?}", runs[1]));
}
