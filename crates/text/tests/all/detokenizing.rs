//! Streams of text are the whole text in pieces: for any tokens, any stop strings and any cuts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::common;
use folio_text::{Detokenizer, Found, StopFinder, Tokenizer};
use proptest::prelude::*;

/// The tokenizer of a fixture, read once for all cases of a property.
fn load(fixture: &'static str) -> Tokenizer {
    static LOADED: Mutex<BTreeMap<&str, Tokenizer>> = Mutex::new(BTreeMap::new());
    let mut loaded = LOADED.lock().expect("no panic");
    let read = || Tokenizer::from_json(&common::fixture(fixture), 1 << 20).expect("a tokenizer");
    loaded.entry(fixture).or_insert_with(read).clone()
}

/// The same tokenizer, as the library has it.
fn library(fixture: &'static str) -> Arc<tokenizers::Tokenizer> {
    static LOADED: Mutex<BTreeMap<&str, Arc<tokenizers::Tokenizer>>> = Mutex::new(BTreeMap::new());
    let mut loaded = LOADED.lock().expect("no panic");
    let read = || {
        Arc::new(tokenizers::Tokenizer::from_bytes(common::fixture(fixture)).expect("a tokenizer"))
    };
    loaded.entry(fixture).or_insert_with(read).clone()
}

/// The pieces of text that a stream of tokens gives.
fn pieces(
    tokenizer: &Tokenizer,
    tokens: &[u32],
    skip_special: bool,
    context: &[u32],
) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special, context);
    let mut pieces: Vec<String> =
        tokens.iter().map(|token| detokenizer.push(*token).expect("text")).collect();
    pieces.push(detokenizer.finish());
    assert_eq!(detokenizer.finish(), "", "nothing is left after the end");
    pieces
}

/// The bytes of tokens in a row as text, which is what byte-level decoding is.
fn lossy(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens
        .iter()
        .filter_map(|token| tokenizer.token_bytes(*token))
        .flatten()
        .copied()
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

proptest! {
    /// Text that was encoded comes back, piece by piece, and no piece ends inside a character.
    #[test]
    fn encoded_text_comes_back(text in any_text()) {
        let tokenizer = load("byte_level.json");
        let tokens = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(pieces(&tokenizer, &tokens, false, &[]).concat(), text.as_str());
        for name in ["byte_fallback.json", "metaspace.json"] {
            let tokenizer = load(name);
            let tokens = tokenizer.encode(&text, true).unwrap();
            let pieces = pieces(&tokenizer, &tokens, true, &[]);
            prop_assert_eq!(pieces.concat(), tokenizer.decode(&tokens, true).unwrap());
            if !text.contains('\u{fffd}') {
                prop_assert!(!pieces.concat().contains('\u{fffd}'), "half a character in {:?}", pieces);
            }
        }
    }

    /// Whatever a model generates, the stream is the text of all tokens at once.
    #[test]
    fn random_tokens_stream_like_they_decode(seeds in prop::collection::vec(any::<u32>(), 0..60), skip in any::<bool>()) {
        for name in ["byte_level.json", "byte_fallback.json", "metaspace.json"] {
            let tokenizer = load(name);
            let tokens: Vec<u32> = seeds.iter().map(|seed| seed % (tokenizer.vocab_size() + 3)).collect();
            prop_assert_eq!(pieces(&tokenizer, &tokens, skip, &[]).concat(), tokenizer.decode(&tokens, skip).unwrap(), "{}", name);
        }
        let tokenizer = load("byte_level.json");
        let tokens: Vec<u32> = seeds.iter().map(|seed| seed % tokenizer.vocab_size()).collect();
        prop_assert_eq!(pieces(&tokenizer, &tokens, false, &[]).concat(), lossy(&tokenizer, &tokens));
    }

    /// Our decoding is the library's, wherever all bytes form characters.
    #[test]
    fn decoding_equals_the_librarys(seeds in prop::collection::vec(any::<u32>(), 0..40), skip in any::<bool>()) {
        for name in ["byte_level.json", "byte_fallback.json", "metaspace.json"] {
            let tokenizer = load(name);
            let library = library(name);
            let tokens: Vec<u32> = seeds.iter().map(|seed| seed % tokenizer.vocab_size()).collect();
            let theirs = library.decode(&tokens, skip).unwrap();
            if name == "byte_level.json" || !theirs.contains('\u{fffd}') {
                prop_assert_eq!(tokenizer.decode(&tokens, skip).unwrap(), theirs, "{}", name);
            }
        }
    }

    /// A generation continues its prompt: together they are the text of both.
    #[test]
    fn a_stream_continues_its_context(seeds in prop::collection::vec(any::<u32>(), 1..40), cut in any::<prop::sample::Index>()) {
        for name in ["byte_level.json", "byte_fallback.json", "metaspace.json"] {
            let tokenizer = load(name);
            let tokens: Vec<u32> = seeds.iter().map(|seed| seed % tokenizer.vocab_size()).collect();
            let (prompt, generated) = tokens.split_at(cut.index(tokens.len()));
            let mut before = Detokenizer::new(tokenizer.clone(), true, &[]);
            let before: String = prompt.iter().map(|token| before.push(*token).unwrap()).collect();
            let after = pieces(&tokenizer, generated, true, prompt).concat();
            prop_assert_eq!(before + &after, tokenizer.decode(&tokens, true).unwrap(), "{}", name);
        }
    }

    /// Where and how a text is cut changes nothing about its stop.
    #[test]
    fn cuts_do_not_change_what_stops(
        text in "[ab é🙂]{0,40}",
        stops in prop::collection::vec("[ab é🙂]{1,5}", 0..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        include in any::<bool>(),
    ) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|at| text.is_char_boundary(*at)).collect();
        places.extend([0, text.len()]);
        places.sort_unstable();
        let mut finder = StopFinder::new(stops.clone(), include);
        let (mut out, mut stop) = (String::new(), None);
        for pair in places.windows(2) {
            let Found { text, stop: found } = finder.push(&text[pair[0]..pair[1]]);
            out.push_str(&text);
            stop = stop.or(found);
        }
        out.push_str(&finder.finish());
        prop_assert_eq!((out, stop), search(&text, &stops, include));
    }

    /// What has left can be no part of a stop string that is still to come, and nothing else is kept.
    #[test]
    fn only_beginnings_of_stop_strings_are_kept(text in "[ab]{0,30}", stop in "[ab]{1,6}") {
        let mut finder = StopFinder::new(vec![stop.clone()], false);
        let found = finder.push(&text);
        prop_assume!(found.stop.is_none());
        let kept = &text[found.text.len()..];
        prop_assert!(stop.starts_with(kept));
        let longer = (kept.len() + 1..=text.len()).map(|length| &text[text.len() - length..]);
        prop_assert!(longer.into_iter().all(|end| !stop.starts_with(end)));
    }
}

/// The definition: the shortest beginning of the text that ends with a stop string; of several, the one that starts first.
fn search(text: &str, stops: &[String], include: bool) -> (String, Option<usize>) {
    for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
        let fitting =
            stops.iter().enumerate().filter(|(_, stop)| text[..end].ends_with(stop.as_str()));
        if let Some((index, stop)) = fitting.rev().max_by_key(|(_, stop)| stop.len()) {
            return (text[..if include { end } else { end - stop.len() }].to_owned(), Some(index));
        }
    }
    (text.to_owned(), None)
}

fn any_text() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![
            any::<char>().prop_map(String::from),
            "[a-z ]{1,8}",
            Just(" hello".to_owned()),
            Just("café 日本 🙂 👩\u{200d}👩".to_owned()),
        ],
        0..12,
    )
    .prop_map(|parts| parts.concat())
}

/// Half a character is kept back; what can no longer become one leaves at once, so nothing waits for ever.
#[test]
fn bytes_that_are_no_characters_do_not_pile_up() {
    let tokenizer = load("byte_fallback.json");
    let byte = |byte: u8| tokenizer.token_id(&format!("<0x{byte:02X}>")).unwrap();
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), true, &[]);
    for _ in 0..1000 {
        assert_eq!(detokenizer.push(byte(0xff)).unwrap(), "\u{fffd}");
    }
    // The smile in four tokens, then one that never gets its end.
    assert_eq!(detokenizer.push(byte(0xf0)).unwrap(), "");
    assert_eq!(detokenizer.push(byte(0x9f)).unwrap(), "");
    assert_eq!(detokenizer.push(byte(0x99)).unwrap(), "");
    assert_eq!(detokenizer.push(byte(0x82)).unwrap(), "🙂");
    assert_eq!(detokenizer.push(byte(0xe6)).unwrap(), "");
    assert_eq!(detokenizer.push(byte(b'x')).unwrap(), "\u{fffd}x");
    assert_eq!(detokenizer.push(byte(0xe6)).unwrap(), "");
    assert_eq!(detokenizer.finish(), "\u{fffd}");
}

#[test]
fn the_first_word_keeps_its_space_after_a_prompt_only() {
    for name in ["byte_fallback.json", "metaspace.json"] {
        let tokenizer = load(name);
        let hello = tokenizer.token_id("▁hello").unwrap();
        assert_eq!(
            pieces(&tokenizer, &[hello, hello], true, &[]).concat(),
            "hello hello",
            "{name}"
        );
        assert_eq!(pieces(&tokenizer, &[hello], true, &[hello]).concat(), " hello", "{name}");
        // A BOS that is not shown is no text.
        assert_eq!(pieces(&tokenizer, &[hello], true, &[1]).concat(), "hello", "{name}");
    }
}

/// A decoder that is left to the library: words get spaces between, and a stream has them, too.
#[test]
fn other_decoders_stream_through_a_window() {
    let tokenizer = load("word_piece.json");
    let tokens =
        tokenizer.encode("hello worlds the friend the friends hello", false).unwrap().repeat(20);
    let whole = tokenizer.decode(&tokens, true).unwrap();
    assert!(whole.starts_with("hello worlds the friend"));
    assert_eq!(pieces(&tokenizer, &tokens, true, &[]).concat(), whole);
    let (prompt, generated) = tokens.split_at(11);
    assert_eq!(
        tokenizer.decode(prompt, true).unwrap()
            + &pieces(&tokenizer, generated, true, prompt).concat(),
        whole
    );
}
