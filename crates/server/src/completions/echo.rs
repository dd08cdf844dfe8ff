//! `echo`: an answer that begins with its prompt, and with the scores of the prompt's tokens when they are asked for.

use folio_core::exec::Score;
use folio_core::ids::Token;
use folio_text::Detokenizer;

use crate::config::ModelTexts;
use crate::error::ApiError;
use crate::generate::answer::Gathered;
use crate::generate::choice::{Finish, Rendering, TokenRecord};
use crate::generate::run::{Run, Usage};

/// A prompt as an answer repeats it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Echo {
    /// What the caller sent, or what the tokens it sent mean.
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    /// For each token, the characters that are complete before it.
    offsets: Vec<u64>,
}

impl Echo {
    /// Repeats `text`, whose tokens are `tokens`; without a text, what the tokens mean.
    ///
    /// # Errors
    /// When a token has no text.
    pub(crate) fn new(
        texts: &ModelTexts,
        text: Option<String>,
        tokens: Vec<Token>,
        skip_special_tokens: bool,
    ) -> Result<Self, ApiError> {
        let nameless = |error| ApiError::field("prompt", format!("cannot be echoed: {error}"));
        let mut detokenizer = Detokenizer::new(texts.tokenizer.clone(), skip_special_tokens, &[]);
        let mut decoded = String::new();
        let mut characters = 0;
        let mut offsets = Vec::with_capacity(tokens.len());
        for token in &tokens {
            offsets.push(characters);
            let more = detokenizer.push(token.0).map_err(nameless)?;
            characters += count(&more);
            decoded.push_str(&more);
        }
        decoded.push_str(&detokenizer.finish());
        Ok(Self { text: text.unwrap_or(decoded), tokens, offsets })
    }

    /// How many characters come before the first generated one.
    pub(crate) fn characters(&self) -> u64 {
        count(&self.text)
    }

    fn records(&self, scores: &[Score]) -> Vec<TokenRecord> {
        // Nothing predicts the first token.
        let scores = std::iter::once(None).chain(scores.iter().cloned().map(Some));
        let tokens = self.tokens.iter().zip(&self.offsets);
        tokens
            .zip(scores)
            .map(|((&token, &offset), score)| TokenRecord { token, score, offset })
            .collect()
    }
}

fn count(text: &str) -> u64 {
    u64::try_from(text.chars().count()).unwrap_or(u64::MAX)
}

/// How the choices of one request are written.
#[derive(Clone, Debug)]
pub(crate) struct Style {
    pub(crate) rendering: Rendering,
    /// One per prompt, or none at all.
    pub(crate) echoes: Vec<Echo>,
    /// Choices per prompt.
    pub(crate) n: usize,
    /// Whether what is generated is left out.
    pub(crate) prompts_only: bool,
}

impl Style {
    /// Puts the prompt of choice number `index` before the first thing it says.
    pub(crate) fn with_prompt(&self, index: usize, mut said: Gathered, run: &Run) -> Gathered {
        let Some(echo) = self.echoes.get(index / self.n.max(1)) else { return said };
        if self.prompts_only {
            said = Gathered { finish: said.finish.map(|_| Finish::Length), ..Gathered::default() };
        }
        let mut text = echo.text.clone();
        text.push_str(&said.text);
        let mut records = Vec::new();
        if self.rendering.with_records {
            let scores = run.lane_of(index).map_or(&[][..], |lane| &lane.scores);
            records = echo.records(scores);
        }
        records.extend(std::mem::take(&mut said.records));
        Gathered { text, records, ..said }
    }

    /// What an answer is said to have taken.
    pub(crate) fn usage(&self, usage: Usage) -> Usage {
        if !self.prompts_only {
            return usage;
        }
        Usage { completion_tokens: 0, total_tokens: usage.prompt_tokens, ..usage }
    }
}
