//! How long prompts and outputs are.
//!
//! No data set is shipped. The two that the paper used are distributions with its means (Fig. 11) and with the spread of
//! samples that were looked at; real lengths are read from a file.

use crate::random::Random;

/// The longest request of the paper's data sets, prompt and output together.
const MOST_TOKENS: f64 = 2048.0;

/// Where lengths come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Lengths {
    /// Like ShareGPT's conversations: on average 161 tokens in, 338 out. Most prompts are a sentence, some a page; a third
    /// of them carries nearly all tokens.
    ShareGpt,
    /// Like Alpaca's instructions: on average 19 tokens in, 58 out.
    Alpaca,
    /// Like sentences of news to be translated from English to German: on average 35 tokens in, 45 out, which is assumed; no
    /// two sentences are as long, but a long one has a long translation.
    Wmt16,
    /// Prompt and output of every request.
    Fixed(u32, u32),
    /// One of these, each as likely.
    Listed(Vec<(u32, u32)>),
}

impl Lengths {
    /// Prompt and output of the next request, both at least 1.
    pub fn draw(&self, random: &mut Random) -> (u32, u32) {
        match self {
            Self::ShareGpt => loop {
                // Two log-normals fitted to quantiles of first prompts, the longer one stretched to the paper's mean.
                let (median, spread) =
                    if random.uniform() < 0.6 { (20.0, 0.8) } else { (520.0, 1.0) };
                let prompt = (f64::ln(median) + spread * random.normal()).exp();
                // The spread follows from Fig. 2: what Orca (Max) holds and has yet to fill per running request.
                let output = 346.0 * random.gamma(1.28);
                if prompt <= 1024.0 && prompt + output <= MOST_TOKENS {
                    break (tokens(prompt.max(4.0)), tokens(output.max(4.0)));
                }
            },
            Self::Alpaca => {
                let prompt = (f64::ln(16.3) + 0.58 * random.normal()).exp();
                let output = 58.3 * random.gamma(1.05);
                (tokens(prompt.max(4.0)), tokens(output.min(1024.0)))
            }
            Self::Wmt16 => {
                let sentence = random.gamma(3.5);
                let prompt = 35.0 * sentence * (0.1 * random.normal()).exp();
                let output = 45.0 * sentence * (0.15 * random.normal()).exp();
                (tokens(prompt.max(4.0)), tokens(output.max(4.0)))
            }
            Self::Fixed(prompt, output) => ((*prompt).max(1), (*output).max(1)),
            Self::Listed(all) => {
                let drawn = all.get(random.below(all.len())).copied().unwrap_or((1, 1));
                (drawn.0.max(1), drawn.1.max(1))
            }
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "lengths are positive and far below the range"
)]
fn tokens(length: f64) -> u32 {
    length.round().clamp(1.0, 1e9) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_means_are_the_papers() {
        for (lengths, prompt, output) in [
            (Lengths::ShareGpt, 161.31, 337.99),
            (Lengths::Alpaca, 19.31, 58.45),
            (Lengths::Wmt16, 35.0, 45.0),
        ] {
            let mut random = Random::new(1, 0);
            let (mut prompts, mut outputs) = (0.0, 0.0);
            for _ in 0..30_000 {
                let (prompt, output) = lengths.draw(&mut random);
                prompts += f64::from(prompt) / 30_000.0;
                outputs += f64::from(output) / 30_000.0;
            }
            assert!((prompts / prompt - 1.0).abs() < 0.03, "{prompts} for {prompt}");
            assert!((outputs / output - 1.0).abs() < 0.03, "{outputs} for {output}");
        }
    }
}
