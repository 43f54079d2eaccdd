//! What came of a run.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// From an idle JavaScript peer to an idle JavaScript peer.
    pub took: Duration,
    /// Why it failed; nothing if it passed.
    pub error: Option<String>,
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, seconds) = (&self.name, self.took.as_secs_f32());
        match &self.error {
            None => write!(f, "ok      {name} ({seconds:.1} s)"),
            Some(error) => write!(f, "FAILED  {name} ({seconds:.1} s): {error}"),
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What decided everything that was random.
    pub seed: u64,
    /// All cases that ran, in the order in which they ended.
    pub cases: Vec<CaseReport>,
    /// From the first case's start to the last one's end.
    pub took: Duration,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            cases: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Number of cases that passed.
    pub fn passed(&self) -> usize {
        self.cases.len() - self.failed().count()
    }

    /// The other cases.
    pub fn failed(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| case.error.is_some())
    }

    /// The cases that took longest, the longest first.
    pub fn slowest(&self, count: usize) -> Vec<&CaseReport> {
        let mut cases: Vec<_> = self.cases.iter().collect();
        cases.sort_by_key(|case| std::cmp::Reverse(case.took));
        cases.truncate(count);
        cases
    }

    /// As JSON: `{seed, seconds, passed, failed, cases: [{name, seconds, error}]}`, where `error` is null for a case that passed.
    pub fn to_json(&self) -> Value {
        let case = |case: &CaseReport| json!({"name": case.name, "seconds": case.took.as_secs_f64(), "error": case.error});
        json!({
            "seed": self.seed,
            "seconds": self.took.as_secs_f64(),
            "passed": self.passed(),
            "failed": self.failed().count(),
            "cases": self.cases.iter().map(case).collect::<Value>(),
        })
    }
}
