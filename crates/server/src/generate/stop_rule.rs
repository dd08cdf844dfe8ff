//! Stop strings of choices that are ranked before anybody reads them: the engine itself has to end them.

use std::sync::Arc;

use folio_core::ids::Token;
use folio_core::params::Params;
use folio_core::schedule::{EndsWith, StopRule};
use folio_text::StopCheck;

use super::choice::{Rendering, context};

/// Ends a sequence where a [`Choice`](super::choice::Choice) that reads it finds a stop string.
struct TextEnd {
    check: StopCheck,
    /// Tokens that end a text without being part of it.
    ends: Vec<Token>,
}

impl EndsWith for TextEnd {
    fn ends(&self, generated: &[Token]) -> bool {
        generated.last().is_some_and(|last| !self.ends.contains(last))
            && self.check.ends(generated.iter().rev().map(|token| token.0))
    }
}

/// The rule of a request whose engine must know its stop strings.
pub(super) fn stop_rule(
    rendering: &Rendering,
    params: &Params,
    prompt: &[u32],
) -> Option<StopRule> {
    if !params.is_ranked() || rendering.stops.is_empty() {
        return None;
    }
    let check = StopCheck::new(
        rendering.tokenizer.clone(),
        rendering.output.skip_special_tokens,
        context(prompt),
        &rendering.stops,
    );
    let ends = params.eos.iter().chain(&params.stop_tokens).copied().collect();
    Some(StopRule(Arc::new(TextEnd { check, ends })))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use folio_core::event::FinishReason;
    use folio_core::exec::Drawn;
    use folio_core::params::{ParamLimits, Requested};
    use folio_text::Tokenizer;

    use super::super::choice::{Choice, Finish};
    use super::*;
    use crate::request::output::Output;

    /// Words of a vocabulary small enough that stop strings come by chance; the last two end a text.
    const WORDS: [&str; 7] = ["a", "b", "ab", " ", "\u{e9}a", "!", "</s>"];
    const STOP_TOKEN: Token = Token(5);
    const EOS: Token = Token(6);

    fn rendering(stops: &[&str]) -> Rendering {
        let vocab: serde_json::Map<String, serde_json::Value> =
            WORDS.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), id.into())).collect();
        let file = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "added_tokens": [],
            "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "!"},
        });
        Rendering {
            tokenizer: Tokenizer::from_json(file.to_string().as_bytes(), 100).unwrap(),
            output: Output {
                skip_special_tokens: true,
                include_stop: false,
                token_ids: false,
                names_are_ids: false,
                prompt_logprobs: false,
            },
            min_tokens: 0,
            stops: stops.iter().map(|stop| (*stop).to_owned()).collect(),
            eos: Arc::from([EOS]),
            with_records: false,
            reading: crate::generate::reading::Reading::default(),
        }
    }

    fn params(beams: bool) -> Params {
        let limits = ParamLimits {
            vocab: 7,
            max_n: 8,
            max_logprobs: 0,
            max_logit_bias: 0,
            max_stop_token_ids: 1,
            eos: vec![EOS],
        };
        let stop_token_ids = vec![i64::from(STOP_TOKEN.0)];
        let asked = Requested {
            use_beam_search: beams,
            beam_width: beams.then_some(4),
            stop_token_ids,
            ..Requested::default()
        };
        Params::parse(&asked, &limits, 0).unwrap()
    }

    #[test]
    fn only_ranked_requests_with_stop_strings_have_a_rule() {
        let rule = |stops: &[&str], beams| stop_rule(&rendering(stops), &params(beams), &[]);
        assert!(rule(&["a"], true).is_some());
        assert!(rule(&["a"], false).is_none());
        assert!(rule(&[], true).is_none());
    }

    /// What the engine ends by the rule reads as ended by the stop string, at that very token and at no other.
    #[test]
    fn the_rule_ends_a_sequence_where_its_reader_does() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut ended = 0;
        for stops in [&["ba b"][..], &["aab", "\u{e9}", "b!"], &["   "], &["abab", "bab", "ab "]] {
            for _ in 0..500 {
                let mut tokens =
                    |n| (0..n).map(|_| u32::try_from(random(7)).unwrap()).collect::<Vec<u32>>();
                let (prompt, generated) = (tokens(3), tokens(40));
                let generated: Vec<Token> = generated.into_iter().map(Token).collect();
                let rendering = rendering(stops);
                let rule = stop_rule(&rendering, &params(true), &prompt).unwrap();
                let mut reader = Choice::new(&rendering, 0, &prompt, 0);
                for (at, &token) in generated.iter().enumerate() {
                    let by_token = match token {
                        EOS => Some(FinishReason::Stop(None)),
                        STOP_TOKEN => Some(FinishReason::Stop(Some(token))),
                        _ => None,
                    };
                    let by_rule = rule.0.ends(&generated[..=at]);
                    assert!(!by_rule || by_token.is_none(), "a token that is no text ends none");
                    let finish = by_token.or(by_rule.then_some(FinishReason::Stop(None)));
                    reader.push(Drawn { token, score: None }, finish, Instant::now()).unwrap();
                    let found = matches!(reader.finish(), Some(Finish::StopString(_)));
                    assert_eq!(by_rule, found, "{stops:?} in {:?}", &generated[..=at]);
                    ended += u32::from(by_rule);
                    if finish.is_some() {
                        break;
                    }
                }
            }
        }
        assert!(ended > 100, "only {ended} texts ended by a stop string");
    }
}
