//! Bounded polls: wait for a real condition, never for an amount of time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks when the caller has no reason to choose another.
pub const INTERVAL: Duration = Duration::from_millis(200);

/// Looks every [`INTERVAL`] until `look` gives a value.
///
/// # Errors
/// The last reason `look` gave for "not yet", after `timeout`; `what` names the condition. An `Err` counts as "not
/// yet": while a cluster starts, connections are refused and objects are missing.
pub fn until<T>(what: &str, timeout: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(INTERVAL, what, timeout, look)
}

/// As [`until`], with an interval of the caller's.
pub fn until_every<T>(
    interval: Duration,
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        let reason = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if began.elapsed() >= timeout {
            bail!("{what} did not happen within {} s{reason}", timeout.as_secs());
        }
        std::thread::sleep(interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let value = until_every(Duration::ZERO, "third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_timeout_names_the_condition_and_the_last_reason() {
        let error = until::<()>("the sun rising", Duration::ZERO, || bail!("still dark")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the sun rising did not happen within 0 s: still dark"
        );
    }
}
