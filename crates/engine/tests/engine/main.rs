//! The engine through its handle, as the server uses it, over an executor without a model whose answers follow from what
//! is in the paged cache. No test sleeps or looks at a clock: where one must hold the engine still, it holds a gate.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the failure")]

mod abort;
mod admit;
mod common;
mod constrain;
mod failure;
mod inspect;
mod observe;
mod order;
mod serve;
mod shutdown;
