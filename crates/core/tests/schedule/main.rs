//! The scheduler over the real block manager, driven by an executor whose output depends on everything that can go wrong.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

mod burst;
mod executor;
mod faults;
mod outputs;
mod properties;
mod refusals;
mod reports;
mod scenario;
mod scenarios;
mod server;
