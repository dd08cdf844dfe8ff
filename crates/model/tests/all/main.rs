//! The model crate from outside: folders in, plans through the executor, outputs against answers made elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "in a test a panic is the report, what is printed are the measured deviations, and oracles round on purpose"
)]

mod beams;
mod block_size;
mod converted;
mod driver;
mod dummy;
mod folder;
mod generation;
mod gguf;
mod gguf_families;
mod gguf_file;
mod golden;
mod hostile;
mod invariance;
mod llama_cpp;
mod memory;
mod naive;
mod one_truth;
mod oracle;
mod packed;
mod profile;
mod quantization;
mod rounding;
mod sample;
mod spec;
mod step_tokens;
mod swap;
