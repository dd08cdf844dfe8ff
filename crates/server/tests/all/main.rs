//! The server over loopback, in one program: linked once, and its tests side by side.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod calls;
mod common;
mod dialects;
mod extras;
mod generate;
mod hostile;
mod kv_events;
mod limits;
mod metrics;
mod openapi;
mod operate;
mod rank;
mod refuse;
mod spans;
mod structured;
mod tls;
mod wire;
