//! The targets of `tests/fuzz` for libFuzzer, which learns from the branches an input takes.

#[path = "../../tests/fuzz/targets/mod.rs"]
mod targets;

use std::cell::OnceCell;

thread_local! {
    // A process has one target and feeds it on one thread.
    static TARGET: OnceCell<targets::Target> = const { OnceCell::new() };
}

/// Feeds an input to a target, which is made at the first one.
pub fn feed(name: &str, input: &[u8]) {
    TARGET.with(|cell| {
        let target = cell.get_or_init(|| {
            // Its own hook ends the process even at panics that are caught, as promised, and answered.
            drop(std::panic::take_hook());
            targets::target(name)
        });
        target(input);
    });
}
