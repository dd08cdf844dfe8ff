//! An answer as a list of blocks, which is how OpenAI's responses and Anthropic's messages tell it.

use super::answer::Gathered;
use super::choice::{Finish, TokenRecord};
use super::reading::{Part, Reader, Reading};

/// One block of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Thoughts.
    Thought(String),
    /// What is said.
    Text(String),
    /// A call of a tool.
    Call {
        id: String,
        name: String,
        /// JSON, unless the answer was cut off or the model cannot write it.
        arguments: String,
    },
}

/// What became of the last block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Whether it is a new one.
    pub(crate) begins: bool,
    /// What was added to it.
    pub(crate) delta: String,
}

/// What has been told of one choice so far. **Invariant:** however its text is cut into pieces, the blocks are the same.
#[derive(Debug)]
pub(crate) struct Told {
    reader: Reader,
    pub(crate) blocks: Vec<Block>,
    /// Blanks that are told only if more than blanks follows: they alone make no block.
    blanks: String,
    pub(crate) records: Vec<TokenRecord>,
    pub(crate) finish: Option<Finish>,
}

impl Told {
    /// Nothing so far.
    pub(crate) fn new(reading: &Reading) -> Self {
        Self {
            reader: Reader::new(reading, 0),
            blocks: Vec::new(),
            blanks: String::new(),
            records: Vec::new(),
            finish: None,
        }
    }

    /// A whole choice.
    pub(crate) fn whole(reading: &Reading, said: Gathered) -> Self {
        let Gathered { text, records, tokens: _, finish, score: _ } = said;
        let mut told = Self::new(reading);
        told.push(&text, true, |_, _| {});
        Self { records, finish, ..told }
    }

    /// The next piece of the text, the last one if it `ends` there; `tell` hears of every growth, with the blocks so far.
    pub(crate) fn push(&mut self, text: &str, ends: bool, mut tell: impl FnMut(&[Block], &Growth)) {
        for part in self.reader.push(text, ends) {
            if let Some(growth) = self.add(part) {
                tell(&self.blocks, &growth);
            }
        }
        if ends && self.blocks.is_empty() {
            // An answer has a block, even if nothing is in it.
            let delta = std::mem::take(&mut self.blanks);
            self.blocks.push(Block::Text(delta.clone()));
            tell(&self.blocks, &Growth { begins: true, delta });
        }
    }

    /// Whether a tool has been called.
    pub(crate) fn has_called(&self) -> bool {
        self.reader.has_called()
    }

    /// Whether a limit ended it.
    pub(crate) fn was_cut(&self) -> bool {
        matches!(self.finish, Some(Finish::Length))
    }

    fn add(&mut self, part: Part) -> Option<Growth> {
        match part {
            Part::Call { number: _, id, name } => {
                self.blanks.clear();
                self.blocks.push(Block::Call { id, name, arguments: String::new() });
                Some(Growth { begins: true, delta: String::new() })
            }
            Part::Arguments { number: _, more } => {
                let Some(Block::Call { arguments, .. }) = self.blocks.last_mut() else {
                    return None;
                };
                arguments.push_str(&more);
                Some(Growth { begins: false, delta: more })
            }
            Part::Text(more) => self.grow(more, Block::Text),
            Part::Thought(more) => self.grow(more, Block::Thought),
        }
    }

    fn grow(&mut self, more: String, block: fn(String) -> Block) -> Option<Growth> {
        let of_kind = std::mem::discriminant(&block(String::new()));
        match self.blocks.last_mut() {
            Some(last) if std::mem::discriminant(last) == of_kind => {
                if let Block::Text(text) | Block::Thought(text) = last {
                    text.push_str(&more);
                }
                Some(Growth { begins: false, delta: more })
            }
            _ => {
                self.blanks.push_str(&more);
                if self.blanks.trim_start().is_empty() {
                    return None;
                }
                let delta = std::mem::take(&mut self.blanks);
                self.blocks.push(block(delta.clone()));
                Some(Growth { begins: true, delta })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use folio_text::{MistralStyle, ToolFormat};

    fn reading(tools: Option<ToolFormat>, parallel: bool, shows_reasoning: bool) -> Reading {
        let (reasoning, seed) = (true, "0123456789abcdef0123456789abcdef".to_owned());
        Reading { reasoning, shows_reasoning, tools, parallel, seed, ..Reading::default() }
    }

    /// The blocks of a text in pieces, put together from the growths; they must be the blocks that are kept.
    fn told(reading: &Reading, pieces: &[&str]) -> Vec<Block> {
        let mut told = Told::new(reading);
        let mut seen: Vec<Block> = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            told.push(piece, index + 1 == pieces.len(), |blocks, Growth { begins, delta }| {
                assert_eq!(blocks.len(), seen.len() + usize::from(*begins));
                if *begins {
                    seen.push(match blocks.last().unwrap() {
                        Block::Text(_) => Block::Text(String::new()),
                        Block::Thought(_) => Block::Thought(String::new()),
                        Block::Call { id, name, .. } => Block::Call {
                            id: id.clone(),
                            name: name.clone(),
                            arguments: String::new(),
                        },
                    });
                }
                let Some(
                    Block::Text(all) | Block::Thought(all) | Block::Call { arguments: all, .. },
                ) = seen.last_mut()
                else {
                    panic!("nothing begun");
                };
                all.push_str(delta);
            });
        }
        assert_eq!(seen, told.blocks);
        seen
    }

    #[test]
    fn however_a_text_is_cut_the_blocks_are_the_same() {
        let hermes = "<think>\nHm, ä.</think>\n\nI look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\"}}\n\
                      </tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call> Done. ";
        let llama = " {\"name\": \"f\", \"parameters\": {\"x\": [1, {}]}}; {\"name\": \"g\", \"parameters\": {}}";
        let mistral = "<think> </think>[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{} and more";
        let args = ToolFormat::Mistral { writes: MistralStyle::Args };
        for (format, text, count) in [
            (Some(ToolFormat::Hermes), hermes, 5),
            (Some(ToolFormat::Llama3), llama, 2),
            (Some(args), mistral, 3),
            (None, hermes, 2),
            (None, " \n ", 1),
            (Some(ToolFormat::Hermes), "", 1),
        ] {
            for (parallel, shown) in [(true, true), (false, true), (true, false)] {
                let reading = reading(format, parallel, shown);
                let whole = told(&reading, &[text]);
                if parallel && shown {
                    assert_eq!(whole.len(), count, "{whole:?}");
                }
                let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
                for &cut in &cuts {
                    let (one, other) = text.split_at(cut);
                    assert_eq!(told(&reading, &[one, other]), whole, "cut at {cut}");
                }
                let each: Vec<&str> = text.split_inclusive(|_: char| true).collect();
                if !each.is_empty() {
                    assert_eq!(told(&reading, &each), whole);
                }
            }
        }
    }
}
