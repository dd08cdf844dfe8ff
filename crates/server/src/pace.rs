//! How quickly requests end, measured, so that a client that is refused hears when it is worth coming back.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Weight of the newest interval in the running mean.
const NEWEST: f64 = 0.1;

/// What is said while nothing has been measured.
const FIRST_GUESS: Duration = Duration::from_secs(1);

/// The longest wait that is announced; who comes back earlier is told again.
const LONGEST: Duration = Duration::from_secs(600);

/// The mean time between two requests that end.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    last: Option<Instant>,
    /// Seconds.
    mean: Option<f64>,
}

impl Pace {
    /// A request has ended at `now`.
    pub(crate) fn ended(&self, now: Instant) {
        let mut measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = measured.last.replace(now) {
            let newest = now.saturating_duration_since(last).as_secs_f64();
            measured.mean =
                Some(measured.mean.map_or(newest, |mean| mean + NEWEST * (newest - mean)));
        }
    }

    /// The time in which `requests` end.
    pub(crate) fn wait(&self, requests: u32) -> Duration {
        let measured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = measured.mean.unwrap_or(FIRST_GUESS.as_secs_f64());
        let seconds = (each * f64::from(requests)).min(LONGEST.as_secs_f64());
        Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_mean_between_endings_and_are_bounded() {
        let pace = Pace::default();
        assert_eq!(pace.wait(3), Duration::from_secs(3));
        let start = Instant::now();
        for step in 0..20 {
            pace.ended(start + Duration::from_millis(500 * step));
        }
        assert_eq!(pace.wait(4), Duration::from_secs(2));
        assert_eq!(pace.wait(u32::MAX), LONGEST);
        // A burst makes it quicker, little by little.
        pace.ended(start + Duration::from_millis(500 * 19));
        assert!(pace.wait(4) < Duration::from_secs(2) && pace.wait(4) > Duration::from_secs(1));
    }
}
