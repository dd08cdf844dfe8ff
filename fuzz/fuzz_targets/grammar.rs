//! Schemas, regular expressions and grammars.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| folio_fuzz::feed("grammar", input));
