//! What runs next and where its KV lives.
//!
//! `folio-core` is the floor everything stands on: the block manager ([`kv`]), the scheduler ([`schedule`]), and the
//! messages between the scheduler and whatever executes a step ([`plan`], [`exec`], [`event`]).
//!
//! **Invariants.** No I/O, clock, environment, async, tensors or randomness. Time is passed in as [`ids::Tick`];
//! a random draw is a hash of (seed, choice, position) made by the executor. Plans go down, results come up.
#![forbid(unsafe_code)]

mod ban;
mod beam;
pub mod event;
pub mod exec;
mod group;
pub mod ids;
pub mod inspect;
pub mod kv;
pub mod params;
pub mod plan;
mod rank;
pub mod schedule;
mod sequence;
pub mod stats;

/// How many there are. Contexts, blocks and slots are counted in `u32`, so no list of theirs is longer.
fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}
