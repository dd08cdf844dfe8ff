//! Prefixes that are computed at start and stay in the cache.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use folio_core::ids::{Salt, Token};
use folio_core::params::{ParamLimits, Params, Requested};
use folio_core::schedule::Job;
use folio_engine::{Handle, Update};
use folio_text::Tokenizer;

use crate::trace::read_text;

/// Longest file that is read, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// The prefixes, in tokens.
pub(crate) struct Pins {
    prefixes: Vec<(PathBuf, Vec<Token>)>,
}

impl Pins {
    /// Reads the files and tokenises each as the server tokenises the prompt of a completion.
    pub(crate) fn read(files: &[PathBuf], tokenizer: &Tokenizer) -> Result<Self> {
        let mut prefixes = Vec::with_capacity(files.len());
        for file in files {
            let tokens = read_text(file, MOST_BYTES).and_then(|text| {
                let tokens = tokenizer.encode(&text, true)?;
                Ok(tokens.into_iter().map(Token).collect())
            });
            let tokens = tokens.with_context(|| format!("--pin-prefix {}", file.display()))?;
            prefixes.push((file.clone(), tokens));
        }
        Ok(Self { prefixes })
    }

    /// Tokens of each.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.prefixes.iter().map(|(_, tokens)| tokens.len()).collect()
    }

    /// Cuts every prefix to whole blocks, which are what can be shared.
    ///
    /// # Errors
    /// When one does not fill a block.
    pub(crate) fn cut(&mut self, block_size: usize) -> Result<()> {
        for (file, tokens) in &mut self.prefixes {
            let whole = tokens.len() / block_size * block_size;
            ensure!(
                whole > 0,
                "--pin-prefix {}: its {} tokens do not fill a block of {block_size}; use a smaller --block-size",
                file.display(),
                tokens.len()
            );
            tokens.truncate(whole);
        }
        Ok(())
    }

    /// Computes all prefixes and returns when they are in the cache for good.
    pub(crate) fn compute(self, engine: &Handle) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        for (file, tokens) in self.prefixes {
            let name = file.display();
            let job = Job { pin: true, ..Job::new(tokens, one_token(engine)?, Salt::default()) };
            let mut generation =
                engine.generate(job).with_context(|| format!("--pin-prefix {name}"))?;
            while let Some(updates) = runtime.block_on(generation.next()) {
                for update in updates {
                    if let Update::Failed(cause) = update {
                        bail!("--pin-prefix {name}: {cause}");
                    }
                }
            }
        }
        Ok(())
    }
}

/// The least that a request can ask for.
fn one_token(engine: &Handle) -> Result<Params> {
    let asked = Requested {
        max_tokens: Some(1),
        temperature: Some(0.0),
        ignore_eos: true,
        ..Requested::default()
    };
    let limits = ParamLimits::plain(engine.limits().vocab, Vec::new());
    Params::parse(&asked, &limits, 0)
        .map_err(|bad| anyhow::anyhow!("{} {}", bad.field, bad.problem))
}
