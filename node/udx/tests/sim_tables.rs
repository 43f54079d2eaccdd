//! Tables of `docs/udx.md`, printed. They take minutes and assert nothing: `cargo nextest run --release -p cumulet-udx --run-ignored only --no-capture sim_tables`.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    dead_code,
    reason = "simulated quantities are small and not negative; the network is shared with other simulations"
)]

mod network;

use network::{Network, Profile, Run, rival::Law};

const FILLED: f64 = 1452.0 / 1500.0;

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

#[test]
#[ignore = "a table"]
fn random_loss() {
    for mbit in [10.0, 100.0, 1000.0] {
        for rtt in [1.0, 20.0, 100.0] {
            print!("{mbit:>5} Mbit/s {rtt:>4} ms:");
            for loss in [0.0, 0.01, 0.02, 0.05] {
                let profile = path(rtt, mbit, loss, 1.0);
                let seconds = if mbit > 500.0 { 3.0 } else { 10.0 };
                let shares = Network::shared_bottleneck(1, &profile, (1, None), (0.0, seconds));
                let share = shares.total() / (profile.rate * (1.0 - loss) * FILLED);
                print!("  {share:.3}");
            }
            println!();
        }
    }
}

/// As a radio link: what is delayed at random looks like a queue.
#[test]
#[ignore = "a table"]
fn random_loss_and_delay() {
    for (mbit, rtt) in [(10.0, 40.0), (50.0, 40.0), (50.0, 100.0)] {
        print!("{mbit:>5} Mbit/s {rtt:>4} ms and up to 10:");
        for loss in [0.0, 0.01, 0.02, 0.05] {
            let profile = Profile {
                jitter_ms: 5.0,
                ..path(rtt, mbit, loss, 1.0)
            };
            let shares = Network::shared_bottleneck(1, &profile, (1, None), (0.0, 30.0));
            let share = shares.total() / (profile.rate * (1.0 - loss) * FILLED);
            print!("  {share:.3}");
        }
        println!();
    }
}

/// What `cargo xtask bench net` sends over its long paths.
#[test]
#[ignore = "a table"]
fn transfers() {
    for loss in [0.0, 0.01, 0.02, 0.05] {
        print!("{loss:>5}:");
        for seed in 0..6 {
            let outcome = Run::new(seed, path(100.0, 100.0, loss, 1.0), [32 << 20, 0]).run();
            let speed = outcome.goodput(32);
            print!(
                "  {speed:.2} ({} timeouts, {:.3} of packets again)",
                outcome.timeouts,
                outcome.retransmits as f64 / outcome.packets as f64
            );
        }
        println!(" MiB/s");
    }
}

/// Jain's index of two.
fn jain(one: f64, other: f64) -> f64 {
    (one + other).powi(2) / 2.0 / (one * one + other * other)
}

#[test]
#[ignore = "a table"]
fn shares() {
    for (mbit, rtt) in [(10.0, 40.0), (20.0, 20.0), (20.0, 100.0)] {
        for (name, law) in [
            ("Reno", Some(Law::Reno)),
            ("CUBIC", Some(Law::Cubic)),
            ("BBR1", Some(Law::Bbr1)),
            ("libudx", Some(Law::Libudx)),
            ("ours", None),
        ] {
            print!("{mbit:>3} Mbit/s {rtt:>4} ms {name:>6}:");
            for depth in [0.25, 0.5, 1.0, 2.0, 4.0] {
                let (mut other, mut total) = (0.0, 0.0);
                let seeds = 3;
                let mut least = 1.0f64;
                for seed in 0..seeds {
                    let mut profile = path(rtt, mbit, 0.0, depth);
                    profile.queue = ((profile.rate * rtt / 1e3 / 1500.0 * depth) as usize).max(4);
                    let streams = if law.is_some() { 1 } else { 2 };
                    let shares = Network::shared_bottleneck(seed, &profile, (streams, law), (10.0, 50.0));
                    let rival = if law.is_some() {
                        shares.rival
                    } else {
                        shares.ours[1]
                    };
                    let share = rival / shares.total();
                    least = least.min(share);
                    other += share / seeds as f64;
                    total += shares.total() / profile.rate / seeds as f64;
                }
                print!(
                    "  {other:.2} (min {least:.2}, J {:.2}, {total:.2})",
                    jain(other, 1.0 - other)
                );
            }
            println!();
        }
    }
}
