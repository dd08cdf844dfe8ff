//! What a model says, as a stream.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| folio_fuzz::feed("sse", input));
