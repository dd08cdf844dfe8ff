//! Where a text ends does not depend on who asks: a reader of the whole stream, or a look at its last tokens.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::common;
use folio_text::{Detokenizer, StopCheck, StopFinder, Tokenizer};
use proptest::prelude::*;

const FIXTURES: [&str; 4] =
    ["byte_level.json", "byte_fallback.json", "metaspace.json", "word_piece.json"];

/// The tokenizer of a fixture, read once for all cases of a property.
fn load(fixture: &'static str) -> Tokenizer {
    static LOADED: Mutex<BTreeMap<&str, Tokenizer>> = Mutex::new(BTreeMap::new());
    let mut loaded = LOADED.lock().expect("no panic");
    let read = || Tokenizer::from_json(&common::fixture(fixture), 1 << 20).expect("a tokenizer");
    loaded.entry(fixture).or_insert_with(read).clone()
}

/// After how many tokens the stream is found to hold a stop string.
fn by_stream(
    tokenizer: &Tokenizer,
    skip_special: bool,
    context: &[u32],
    generated: &[u32],
    stops: &[String],
) -> Option<usize> {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special, context);
    let mut finder = StopFinder::new(stops.to_vec(), false);
    generated.iter().position(|token| {
        let piece = detokenizer.push(*token).expect("text");
        finder.push(&piece).stop.is_some()
    })
}

/// The same, asked after each token.
fn by_check(check: &StopCheck, generated: &[u32]) -> Option<usize> {
    (0..generated.len()).find(|last| check.ends(generated[..=*last].iter().rev().copied()))
}

/// Tokens of which some are rare, some special, some no tokens at all, and many halves of characters.
fn some_tokens(seeds: &[u32], tokenizer: &Tokenizer) -> Vec<u32> {
    let vocab = tokenizer.vocab_size();
    // A few tokens come often, so that stop strings come, too.
    let often: Vec<u32> = (0..8).map(|i| i * 37 % vocab).collect();
    seeds
        .iter()
        .map(|seed| match seed % 3 {
            0 => seed / 3 % (vocab + 2),
            _ => often[usize::try_from(seed / 3 % 8).expect("small")],
        })
        .collect()
}

/// Stop strings cut out of the text of `generated`, where they are found at all.
fn cut_out(
    tokenizer: &Tokenizer,
    skip_special: bool,
    context: &[u32],
    generated: &[u32],
    cuts: &[(prop::sample::Index, usize)],
) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special, context);
    let text: String =
        generated.iter().map(|token| detokenizer.push(*token).expect("text")).collect();
    let letters: Vec<char> = text.chars().collect();
    let cut = |(start, length): &(prop::sample::Index, usize)| {
        let start = start.index(letters.len() + 1);
        letters.iter().skip(start).take(*length).collect()
    };
    cuts.iter().map(cut).collect()
}

proptest! {
    #[test]
    fn random_tokens_end_where_their_stream_ends(
        seeds in prop::collection::vec(any::<u32>(), 1..90),
        prompt in prop::collection::vec(any::<u32>(), 0..6),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 1..14_usize), 0..3),
        others in prop::collection::vec("[ a\u{fffd}!é]{1,3}", 0..2),
        skip in any::<bool>(),
    ) {
        for name in FIXTURES {
            let tokenizer = load(name);
            let (context, generated) = (some_tokens(&prompt, &tokenizer), some_tokens(&seeds, &tokenizer));
            let stops = [cut_out(&tokenizer, skip, &context, &generated, &cuts), others.clone()].concat();
            let check = StopCheck::new(tokenizer.clone(), skip, &context, &stops);
            let expected = by_stream(&tokenizer, skip, &context, &generated, &stops);
            prop_assert_eq!(by_check(&check, &generated), expected, "{} {:?}", name, stops);
        }
    }

    /// Characters of many tokens and words of many pieces, with stop strings that begin and end between them.
    #[test]
    fn texts_end_where_their_stream_ends(
        parts in prop::collection::vec(prop::sample::select(vec!["🙂", "日", "é", " hello", " friendly", "'s", "!", ",", " don't", "the"]), 20..60),
        cut in (any::<prop::sample::Index>(), 3..30_usize),
    ) {
        for name in FIXTURES {
            let tokenizer = load(name);
            let generated = tokenizer.encode(&parts.concat(), false).expect("tokens");
            let stops = cut_out(&tokenizer, true, &[], &generated, &[cut]);
            let check = StopCheck::new(tokenizer.clone(), true, &[], &stops);
            let expected = by_stream(&tokenizer, true, &[], &generated, &stops);
            prop_assert_eq!(by_check(&check, &generated), expected, "{} {:?}", name, stops);
        }
    }
}

/// Spaces that are stripped from the first word, and special tokens before it, do not shift what is found.
#[test]
fn what_is_stripped_from_the_start_is_not_found() {
    for name in ["byte_fallback.json", "metaspace.json"] {
        let tokenizer = load(name);
        let id = |text: &str| tokenizer.token_id(text).expect("a token");
        let (space, hello, start) = (id("▁"), id("▁hello"), id("<s>"));
        let stops = [" hello".to_owned()];
        let after = |context: &[u32]| StopCheck::new(tokenizer.clone(), true, context, &stops);
        assert!(!after(&[]).ends([hello]), "{name}: the space is stripped");
        assert!(!after(&[start]).ends([hello, start]), "{name}: special tokens are no text");
        assert!(after(&[hello]).ends([hello]), "{name}");
        assert!(after(&[]).ends([hello, space]), "{name}: the first space is stripped");
    }
}

/// Wherever the look at the last tokens begins, it sees what the stream saw: after the first word, inside of one, between
/// spaces, inside of a character.
#[test]
fn every_end_of_a_text_is_found() {
    let all: [(&str, &[&str], &[&str]); 7] = [
        ("byte_level.json", &["\u{120}hello"], &["\u{f0}", "\u{141}", "\u{13b}", "\u{124}"]),
        ("byte_fallback.json", &[], &["▁"]),
        ("byte_fallback.json", &["▁hello"], &["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]),
        ("metaspace.json", &[], &["▁"]),
        ("metaspace.json", &[], &["▁hello"]),
        ("word_piece.json", &["hello"], &["##s"]),
        ("word_piece.json", &["hello"], &["don", "'", "t"]),
    ];
    for (name, first, then) in all {
        let tokenizer = load(name);
        let id = |text: &&str| tokenizer.token_id(text).unwrap_or_else(|| panic!("{text}"));
        let then: Vec<u32> = then.iter().map(id).collect();
        let generated: Vec<u32> =
            first.iter().map(id).chain(then.iter().copied().cycle().take(48)).collect();
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), true, &[]);
        let text: String =
            generated.iter().map(|token| detokenizer.push(*token).expect("text")).collect();
        for start in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let stops = [text[start..].to_owned()];
            let check = StopCheck::new(tokenizer.clone(), true, &[], &stops);
            let expected = by_stream(&tokenizer, true, &[], &generated, &stops);
            assert_eq!(by_check(&check, &generated), expected, "{name} {stops:?}");
        }
    }
}

/// However long a generation is, the last tokens are enough.
#[test]
fn only_the_last_tokens_are_looked_at() {
    for name in FIXTURES {
        let tokenizer = load(name);
        let token = (0..tokenizer.vocab_size())
            .find(|token| tokenizer.token_bytes(*token).is_some_and(|bytes| bytes == b"hello"))
            .or_else(|| tokenizer.token_id("▁hello"))
            .or_else(|| tokenizer.token_id("hello"));
        let Some(token) = token else { continue };
        let stops = ["hello hello!".to_owned()];
        let check = StopCheck::new(tokenizer.clone(), true, &[], &stops);
        let mut seen = 0;
        let tokens = (0..100_000).map(|_| {
            seen += 1;
            token
        });
        assert!(!check.ends(tokens));
        assert!(seen < 60, "{name}: {seen} tokens");
    }
}
