//! Counting what passed, failed and was skipped, over tools that count in ways of their own.

use std::fmt::Display;

use anyhow::Result;
use cumulet_e2e::progress::Progress;

/// Counts over all layers.
#[derive(Debug, Default)]
pub(super) struct Summary {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// One line per failure, repeated at the end where it is seen.
    failures: Vec<String>,
}

impl Summary {
    /// Runs a check that passes or fails as a whole.
    pub(super) fn check(
        &mut self,
        progress: &Progress,
        name: &str,
        work: impl FnOnce() -> Result<()>,
    ) -> bool {
        match progress.step(name, work) {
            Ok(()) => {
                self.passed += 1;
                true
            }
            Err(error) => {
                self.fail(progress, name, format_args!("{error:#}"));
                false
            }
        }
    }

    /// Counts a failure.
    pub(super) fn fail(&mut self, progress: &Progress, name: &str, reason: impl Display) {
        progress.say(format_args!("FAIL {name}: {reason}"));
        self.failed += 1;
        self.failures.push(name.into());
    }

    /// A layer whose tools are missing: skipped on a laptop, a failure in CI.
    pub(super) fn missing(&mut self, progress: &Progress, layer: &str, what: &str) {
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            self.fail(
                progress,
                layer,
                format_args!("{what} is missing, and CI skips nothing"),
            );
        } else {
            progress.say(format_args!("skip {layer}: {what} is missing"));
            self.skipped += 1;
        }
    }

    /// Adds what a test runner counted.
    pub(super) fn add(&mut self, layer: &str, counts: Counts) {
        self.passed += counts.passed;
        self.failed += counts.failed;
        if counts.failed > 0 {
            self.failures.push(format!("{} tests of {layer}", counts.failed));
        }
    }

    /// Whether anything failed.
    pub(super) fn has_failures(&self) -> bool {
        self.failed > 0
    }

    /// The last lines of the run.
    pub(super) fn print(&self) {
        for failure in &self.failures {
            println!("FAIL {failure}");
        }
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
    }
}

/// What one run of a test runner counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Tests that passed.
    pub(super) passed: u64,
    /// Tests that did not: failed, crashed or timed out.
    pub(super) failed: u64,
}

impl Counts {
    /// Reads the summary line of cargo-nextest: `Summary [ 1.2s] 12/14 tests run: 10 passed (1 slow), 2 failed, 3 skipped`.
    pub(super) fn of_nextest(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("Summary [")?;
        let (run, outcomes) = rest.split_once(']')?.1.split_once(" run:")?;
        let run = run.split_whitespace().next()?;
        let run: u64 = run.split('/').next()?.parse().ok()?;
        let passed = outcomes.split(',').find_map(|part| {
            let mut words = part.split_whitespace();
            let count = words.next()?.parse().ok()?;
            (words.next()? == "passed").then_some(count)
        });
        let passed = passed.unwrap_or(0);
        Some(Self {
            passed,
            failed: run.checked_sub(passed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_summary_is_understood() {
        let of = |line| Counts::of_nextest(line).map(|counts| (counts.passed, counts.failed));
        assert_eq!(
            of("     Summary [   1.234s] 12 tests run: 12 passed, 0 skipped"),
            Some((12, 0))
        );
        assert_eq!(
            of(" Summary [ 9.1s] 12/20 tests run: 9 passed (2 slow), 2 failed, 1 timed out, 3 skipped"),
            Some((9, 3))
        );
        assert_eq!(
            of(" Summary [ 0.1s] 1 test run: 0 passed, 1 failed, 0 skipped"),
            Some((0, 1))
        );
        assert_eq!(of("test result: ok. 3 passed"), None);
    }
}
