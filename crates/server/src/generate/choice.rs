//! One choice of one request, from tokens to the text a client sees.
//!
//! The engine speaks tokens; here they become characters, stop strings are found, and a choice may end before the engine
//! ends it. **Invariants.** Pieces joined are the choice's whole text. Every token that is counted is reported once, in
//! order, with or before the text it completes; when a stop string is held back, so are its tokens' records.

use std::sync::Arc;
use std::time::Instant;

use folio_core::event::FinishReason;
use folio_core::exec::{Drawn, Score};
use folio_core::ids::Token;
use folio_text::{Detokenizer, StopFinder, Tokenizer, TokenizerError};

use super::reading::{Reading, Thinking};
use crate::request::common::Common;
use crate::request::output::Output;
use crate::state::Served;

/// How many tokens of the prompt decide how the first generated ones are written.
const CONTEXT: usize = 32;

/// Why a choice ended, as clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model's own end.
    End,
    /// One of the caller's stop tokens.
    StopToken(Token),
    /// One of the caller's stop strings.
    StopString(String),
    /// A limit was reached.
    Length,
}

impl Finish {
    /// The value of `finish_reason`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::End | Self::StopToken(_) | Self::StopString(_) => "stop",
            Self::Length => "length",
        }
    }
}

/// A token that is reported with log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenRecord {
    pub(crate) token: Token,
    /// Absent for the first token of a prompt, which nothing predicts.
    pub(crate) score: Option<Score>,
    /// Characters that were complete before this token.
    pub(crate) offset: u64,
}

/// What a choice has to say since it was last asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Piece {
    /// The choice's place in the answer, over all prompts.
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) records: Vec<TokenRecord>,
    /// The tokens, where they are asked for.
    pub(crate) tokens: Vec<u32>,
    /// Set on the choice's last piece.
    pub(crate) finish: Option<Finish>,
    /// Set on the last piece of a choice that was ranked.
    pub(crate) score: Option<f64>,
}

/// How tokens become text, the same for all choices of a request.
#[derive(Clone, Debug)]
pub(crate) struct Rendering {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) output: Output,
    pub(crate) stops: Arc<[String]>,
    /// Stop strings are not looked for in the text of so many first tokens.
    pub(crate) min_tokens: u32,
    /// Tokens that are the model's own end.
    pub(crate) eos: Arc<[Token]>,
    /// Whether log-probabilities are reported.
    pub(crate) with_records: bool,
    /// How the text is read.
    pub(crate) reading: Reading,
}

impl Rendering {
    pub(crate) fn new(served: &Served, common: &Common) -> Self {
        Self {
            tokenizer: served.texts.tokenizer.clone(),
            output: common.output,
            stops: Arc::from(&common.stops[..]),
            min_tokens: common.params.bans.min_tokens,
            eos: Arc::from(&common.params.eos[..]),
            with_records: common.params.sampling.logprobs.is_some(),
            reading: Reading::default(),
        }
    }
}

/// The tokens of a prompt that decide how the first generated ones are written.
pub(super) fn context(prompt: &[u32]) -> &[u32] {
    prompt.get(prompt.len().saturating_sub(CONTEXT)..).unwrap_or_default()
}

/// Counts the tokens of thoughts, with the marks around them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thoughts {
    thinking: Thinking,
    pub(crate) tokens: u32,
}

impl Thoughts {
    fn count(&mut self, token: Token) {
        let before = self.thinking;
        self.thinking = before.after(token);
        let thought = matches!(before, Thinking::Begun { .. })
            || matches!(self.thinking, Thinking::Begun { .. });
        self.tokens = self.tokens.saturating_add(u32::from(thought));
    }
}

/// A choice that is being generated.
#[derive(Debug)]
pub(crate) struct Choice {
    detokenizer: Detokenizer,
    finder: StopFinder,
    stops: Arc<[String]>,
    min_tokens: u32,
    eos: Arc<[Token]>,
    with_records: bool,
    output: Output,
    /// Characters completed so far, those held back included.
    characters: u64,
    pending: Piece,
    finished: Option<Finish>,
    reported: bool,
    /// What a ranking made of it.
    pub(crate) score: Option<f64>,
    /// Tokens counted so far.
    pub(crate) generated: u32,
    /// Those of its thoughts, where the model thinks.
    pub(crate) thoughts: Option<Thoughts>,
    /// When the first and the last token so far were made.
    pub(crate) first_token: Option<Instant>,
    pub(crate) last_token: Option<Instant>,
}

impl Choice {
    /// Choice number `index` of an answer to `prompt`; its characters are counted from `offset`.
    pub(crate) fn new(rendering: &Rendering, index: usize, prompt: &[u32], offset: u64) -> Self {
        let Rendering { tokenizer, output, stops, min_tokens, eos, with_records, reading } =
            rendering;
        let context = context(prompt);
        Self {
            detokenizer: Detokenizer::new(tokenizer.clone(), output.skip_special_tokens, context),
            finder: StopFinder::new(stops.to_vec(), output.include_stop),
            stops: Arc::clone(stops),
            min_tokens: *min_tokens,
            eos: Arc::clone(eos),
            with_records: *with_records,
            output: *output,
            characters: offset,
            pending: Piece { index, ..Piece::default() },
            finished: None,
            reported: false,
            score: None,
            generated: 0,
            thoughts: reading
                .reasoning
                .then(|| Thoughts { thinking: reading.thinking(), tokens: 0 }),
            first_token: None,
            last_token: None,
        }
    }

    /// Whether more tokens would change nothing.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// How the choice ended, if it has.
    pub(crate) fn finish(&self) -> Option<&Finish> {
        self.finished.as_ref()
    }

    /// Takes the next token. Tokens after the end are ignored: the engine may have made some before it was told.
    ///
    /// # Errors
    /// When the tokenizer does not know the token.
    pub(crate) fn push(
        &mut self,
        drawn: Drawn,
        ended: Option<FinishReason>,
        at: Instant,
    ) -> Result<(), TokenizerError> {
        if self.is_finished() {
            return Ok(());
        }
        self.generated = self.generated.saturating_add(1);
        if let Some(thoughts) = &mut self.thoughts {
            thoughts.count(drawn.token);
        }
        self.first_token.get_or_insert(at);
        self.last_token = Some(at);
        let Drawn { token, score } = drawn;
        if self.with_records {
            self.pending.records.push(TokenRecord { token, score, offset: self.characters });
        }
        if self.output.token_ids {
            self.pending.tokens.push(token.0);
        }
        if self.output.include_stop || !self.is_end(token, ended) {
            let text = self.detokenizer.push(token.0)?;
            self.append(&text);
        }
        if let Some(ended) = ended
            && !self.is_finished()
        {
            self.end(ended);
        }
        Ok(())
    }

    /// Whether a token ends the text without being part of it. Where choices are ranked, the engine also ends a sequence by
    /// a stop string; the token that completes one is text like any other.
    fn is_end(&self, token: Token, ended: Option<FinishReason>) -> bool {
        match ended {
            Some(FinishReason::Stop(Some(_))) => true,
            Some(FinishReason::Stop(None)) => self.eos.contains(&token),
            Some(FinishReason::Length) | None => false,
        }
    }

    /// Text that is complete: shown unless it may be part of a stop string.
    fn append(&mut self, text: &str) {
        self.characters += u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        if self.generated <= self.min_tokens {
            self.pending.text.push_str(text);
            return;
        }
        let found = self.finder.push(text);
        self.pending.text.push_str(&found.text);
        if let Some(which) = found.stop {
            let stop = self.stops.get(which).cloned().unwrap_or_default();
            self.finished = Some(Finish::StopString(stop));
        }
    }

    /// The engine ended the choice: what was held back is shown.
    fn end(&mut self, ended: FinishReason) {
        let tail = self.detokenizer.finish();
        self.append(&tail);
        if self.is_finished() {
            return;
        }
        self.pending.text.push_str(&self.finder.finish());
        self.finished = Some(match ended {
            FinishReason::Stop(None) => Finish::End,
            FinishReason::Stop(Some(token)) => Finish::StopToken(token),
            FinishReason::Length => Finish::Length,
        });
    }

    /// What there is to say, if anything. After the piece with a `finish` there is never more.
    pub(crate) fn take(&mut self) -> Option<Piece> {
        if self.reported || (self.pending.text.is_empty() && !self.is_finished()) {
            return None;
        }
        self.reported = self.is_finished();
        let next = Piece { index: self.pending.index, ..Piece::default() };
        let mut piece = std::mem::replace(&mut self.pending, next);
        piece.finish = self.finished.clone();
        piece.score = self.score.filter(|_| self.is_finished());
        Some(piece)
    }
}
