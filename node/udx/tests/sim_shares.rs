//! How much of a path streams fill, and what they leave to others: shares of a simulated bottleneck, in virtual time, from seeds.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    dead_code,
    reason = "simulated quantities are small and not negative; the network is shared with sim_streams"
)]

mod network;

use network::{Network, Profile, Run, rival::Law};

const SEEDS: std::ops::Range<u64> = 0..2;
/// Payload of a full packet, and its length on the path.
const FILLED: f64 = 1452.0 / 1500.0;

/// A path with a queue of `depth` times what fills it.
fn path(rtt_ms: f64, mbit: f64, loss: f64, depth: f64) -> Profile {
    let rate = mbit * 125_000.0;
    Profile {
        loss,
        delay_ms: rtt_ms / 2.0,
        rate,
        queue: ((rate * rtt_ms / 1e3 / 1500.0 * depth) as usize).max(10),
        ..Profile::default()
    }
}

/// What one stream gets between two moments, as a share of what the path can deliver after its losses.
fn filled(seed: u64, profile: &Profile, between: (f64, f64)) -> f64 {
    let shares = Network::shared_bottleneck(seed, profile, (1, None), between);
    shares.total() / (profile.rate * (1.0 - profile.loss) * FILLED)
}

#[test]
fn a_path_that_loses_something_in_every_round_trip_is_filled() {
    // A round trip's worth is held behind each gap, and twice that behind a lost retransmission. Four megabytes are three
    // round trips of 100 Mbit/s at 100 ms; here a smaller window is as many of a slower path, so that the test is short.
    for loss in [0.01, 0.02, 0.05] {
        for seed in SEEDS {
            let profile = Profile {
                receive_window: 840_000,
                ..path(100.0, 20.0, loss, 1.0)
            };
            let share = filled(seed, &profile, (4.0, 12.0));
            assert!(share > 0.94, "loss {loss}, seed {seed}: {share:.2} of the path");
        }
    }
}

#[test]
fn random_loss_does_not_end_the_search_for_the_path_s_bandwidth() {
    for loss in [0.0, 0.01, 0.02, 0.05] {
        for seed in SEEDS {
            let share = filled(seed, &path(100.0, 50.0, loss, 1.0), (1.0, 3.0));
            assert!(share > 0.96, "loss {loss}, seed {seed}: {share:.2} of the path");
        }
    }
}

#[test]
fn a_very_long_path_is_filled_although_its_round_trip_time_is_measured_again_and_again() {
    for loss in [0.0, 0.01, 0.02] {
        for seed in SEEDS {
            let share = filled(seed, &path(600.0, 10.0, loss, 1.0), (12.0, 40.0));
            let least = if loss > 0.0 { 0.85 } else { 0.92 };
            assert!(share > least, "loss {loss}, seed {seed}: {share:.2} of the path");
        }
    }
}

#[test]
fn a_lost_retransmission_on_a_very_long_path_is_no_timeout() {
    let mut timeouts = 0;
    for seed in 0..8 {
        let outcome = Run::new(seed, path(600.0, 10.0, 0.05, 1.0), [4 << 20, 0]).run();
        assert!(outcome.intact && outcome.clean, "seed {seed}: {outcome:?}");
        timeouts += outcome.timeouts;
    }
    assert!(timeouts <= 2, "{timeouts} timeouts");
}

#[test]
fn two_streams_share_a_bottleneck() {
    for depth in [0.5, 1.0, 2.0] {
        for seed in SEEDS {
            let profile = path(40.0, 10.0, 0.0, depth);
            let shares = Network::shared_bottleneck(seed, &profile, (2, None), (5.0, 30.0));
            let total = shares.total();
            assert!(
                total > 0.85 * profile.rate,
                "queue {depth}, seed {seed}: {shares:?}"
            );
            assert!(
                shares.ours.iter().all(|share| *share > 0.3 * total),
                "queue {depth}, seed {seed}: {shares:?}"
            );
        }
    }
}

#[test]
fn a_stream_and_one_that_halves_when_it_loses_both_get_on() {
    for law in [Law::Reno, Law::Cubic] {
        for (depth, ours_least, rival_least) in [
            (0.25, 0.3, 0.2),
            (0.5, 0.3, 0.3),
            (1.0, 0.3, 0.3),
            (2.0, 0.3, 0.3),
            (4.0, 0.2, 0.2),
        ] {
            for seed in SEEDS {
                let profile = path(40.0, 10.0, 0.0, depth);
                let shares = Network::shared_bottleneck(seed, &profile, (1, Some(law)), (10.0, 40.0));
                let total = shares.total();
                let context = format!(
                    "{law:?}, queue {depth}, seed {seed}: {shares:?} of {}",
                    profile.rate
                );
                assert!(total > 0.85 * profile.rate, "{context}");
                assert!(
                    shares.ours.iter().sum::<f64>() > ours_least * profile.rate,
                    "{context}"
                );
                assert!(shares.rival > rival_least * profile.rate, "{context}");
            }
        }
    }
}

#[test]
fn a_stream_and_one_that_never_gives_way_both_get_on() {
    for depth in [0.25, 0.5, 1.0, 2.0, 4.0] {
        for seed in SEEDS {
            let profile = path(40.0, 10.0, 0.0, depth);
            let shares = Network::shared_bottleneck(seed, &profile, (1, Some(Law::Bbr1)), (10.0, 40.0));
            let context = format!("queue {depth}, seed {seed}: {shares:?} of {}", profile.rate);
            assert!(shares.total() > 0.85 * profile.rate, "{context}");
            assert!(shares.ours[0] > 0.2 * profile.rate, "{context}");
            assert!(shares.rival > 0.2 * profile.rate, "{context}");
        }
    }
}
