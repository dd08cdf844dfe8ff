//! Every operation against a naive reference in f64, and bit for bit against itself: on every instruction set, with any
//! number of threads, whatever else is in the batch.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod attend;
mod codes;
mod common;
mod elementwise;
mod kv;
mod linear;
mod logits;
mod norm;
mod pack;
mod portable;
mod team;
