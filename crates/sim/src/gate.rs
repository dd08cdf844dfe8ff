//! A gate in front of each step, so that a test can hold an engine in the middle of one without sleeping.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    arrived: u64,
    allowed: u64,
}

/// Counts the steps that arrive at it and lets through as many as were allowed. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Gate {
    /// A gate that lets nothing through until [`Self::allow`] or [`Self::open`].
    #[must_use]
    pub fn closed() -> Self {
        Self::default()
    }

    /// Called by the executor: waits until this step is allowed.
    pub fn pass(&self) {
        let mut state = self.lock();
        state.arrived += 1;
        let ticket = state.arrived;
        self.shared.1.notify_all();
        while state.allowed < ticket {
            state = self.shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until `steps` steps have arrived since the gate was made, whether they were let through or not.
    pub fn wait_for_arrivals(&self, steps: u64) {
        let mut state = self.lock();
        while state.arrived < steps {
            state = self.shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets `steps` more steps through.
    pub fn allow(&self, steps: u64) {
        let mut state = self.lock();
        state.allowed = state.allowed.saturating_add(steps);
        self.shared.1.notify_all();
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.allow(u64::MAX);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_waits_until_it_is_allowed() {
        let gate = Gate::closed();
        let passed = Arc::new(Mutex::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 {
                    gate.pass();
                    *passed.lock().unwrap() += 1;
                }
            });
            gate.wait_for_arrivals(1);
            assert_eq!(*passed.lock().unwrap(), 0);
            gate.allow(1);
            // The second arrival comes after the first passage.
            gate.wait_for_arrivals(2);
            assert_eq!(*passed.lock().unwrap(), 1);
            gate.open();
        });
        assert_eq!(*passed.lock().unwrap(), 3);
    }
}
