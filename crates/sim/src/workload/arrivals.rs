//! When requests come.

use folio_core::ids::Tick;
use serde::Serialize;

use super::Closed;
use crate::random::Random;

/// See the module's documentation. Rates are requests per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Independently of each other.
    Poisson {
        /// Requests per second.
        rate: f64,
    },
    /// In bursts: the time between two has this coefficient of variation, where Poisson has 1.
    Bursty {
        /// Requests per second.
        rate: f64,
        /// Deviation of the gaps, divided by their mean.
        variation: f64,
    },
    /// Each of so many users waits for the answer, thinks, and asks again.
    Closed {
        /// How many.
        users: usize,
        /// Seconds between answer and next question.
        think: f64,
    },
}

impl Arrivals {
    /// The times of `count` requests; those of a closed loop that wait for others come at the end of time.
    pub(super) fn times(&self, count: usize, random: &mut Random) -> Vec<Tick> {
        let mut now = 0.0;
        let mut next = |gap: f64| {
            now += gap;
            Tick(micros(now))
        };
        match *self {
            Self::Poisson { rate } => {
                (0..count).map(|_| next(random.exponential() / rate)).collect()
            }
            Self::Bursty { rate, variation } => {
                let shape = 1.0 / variation.max(0.01).powi(2);
                (0..count).map(|_| next(random.gamma(shape) / rate)).collect()
            }
            Self::Closed { users, .. } => {
                (0..count).map(|at| if at < users { Tick(0) } else { Tick(u64::MAX) }).collect()
            }
        }
    }

    /// The loop, if it is closed.
    pub(super) fn closed(&self) -> Option<Closed> {
        match *self {
            Self::Closed { users, think } => Some(Closed { users, think: micros(think) }),
            Self::Poisson { .. } | Self::Bursty { .. } => None,
        }
    }
}

/// Microseconds; saturates.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from f64 saturates, and times are not negative"
)]
pub(super) fn micros(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e6) as u64
}
