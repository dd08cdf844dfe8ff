//! The synchronisation the team is built on: the standard library's, or loom's when its model checker runs the tests.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
};

#[cfg(not(loom))]
pub(crate) use real::UnsafeCell;

#[cfg(not(loom))]
mod real {
    /// The standard cell behind loom's interface.
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

/// Waits by spinning, then by giving up the processor, so that a busy machine is not made busier.
pub(crate) struct Patience {
    #[cfg(not(loom))]
    spins: u32,
    #[cfg(not(loom))]
    since: Option<std::time::Instant>,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(not(loom))]
            spins: 0,
            #[cfg(not(loom))]
            since: None,
        }
    }

    /// One short wait. False once the patience of `SPIN` is at its end.
    #[cfg(not(loom))]
    pub(crate) fn spin(&mut self) -> bool {
        /// Longer than the serial stretches of a forward pass, shorter than anybody minds a core spinning for nothing.
        const SPIN: std::time::Duration = std::time::Duration::from_micros(80);
        std::hint::spin_loop();
        self.spins = self.spins.wrapping_add(1);
        // The clock costs as much as several spins.
        if !self.spins.is_multiple_of(64) {
            return true;
        }
        let now = std::time::Instant::now();
        now.duration_since(*self.since.get_or_insert(now)) < SPIN
    }

    /// Model checking explores every interleaving; spinning would only add equal ones.
    #[cfg(loom)]
    pub(crate) fn spin(&mut self) -> bool {
        false
    }
}
