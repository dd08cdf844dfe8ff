//! The requests: generated, or those of a file.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use folio_core::ids::Tick;
use folio_sim::workload::{
    Arrivals, Content, Decoding, Lengths, MOST_TOKENS, Recipe, Request, Workload, lengths_from_csv,
    parse,
};

use super::args::TrafficArgs;
use crate::{args, trace};

/// Longest trace that is read, in bytes.
const MOST_BYTES: u64 = 1 << 30;
/// Most requests per second.
const MOST_RATE: f64 = 1e6;
/// Most seconds between two requests, so that those of a run fit into the clock.
const LONGEST_GAP: f64 = 1e6;
/// Most requests of one run.
const MOST_REQUESTS: usize = 5_000_000;

/// What was asked for, files read.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    args: TrafficArgs,
    decoding: Decoding,
    lengths: Lengths,
    trace: Option<Vec<Request>>,
}

impl Traffic {
    pub(super) fn read(args: &TrafficArgs) -> Result<Self> {
        ensure!(
            args.burstiness > 0.0 && args.burstiness.is_finite(),
            "--burstiness must be above 0, not {}",
            args.burstiness
        );
        ensure!(
            args.duration > 0.0 && args.duration <= 1e7,
            "--duration must be above 0 and at most 10000000 seconds, not {}",
            args.duration
        );
        ensure!(
            (0.0..=LONGEST_GAP).contains(&args.think_time),
            "--think-time must be from 0 to {LONGEST_GAP} seconds, not {:?}",
            args.think_time
        );
        let prefix = args.shared_prefix.unwrap_or(0);
        ensure!(prefix <= MOST_TOKENS, "--shared-prefix must be at most {MOST_TOKENS}");
        let trace = match &args.trace {
            None => None,
            Some(file) => {
                let text = trace::read_text(file, MOST_BYTES);
                let read = text.and_then(|text| Ok(parse(&text)?));
                Some(read.with_context(|| format!("--trace {}", file.display()))?)
            }
        };
        let decoding = match (args.n, args.beam_width) {
            (_, Some(width)) => Decoding::Beams(width),
            (Some(n), None) if n > 1 => Decoding::Samples(n),
            _ => Decoding::Single,
        };
        Ok(Self { lengths: lengths(&args.dataset)?, decoding, trace, args: args.clone() })
    }

    /// What it is, in a few words.
    pub(super) fn describe(&self) -> String {
        let args = &self.args;
        let mut words = match &args.trace {
            Some(file) => format!("trace {}", file.display()),
            None => args.dataset.clone(),
        };
        match self.decoding {
            Decoding::Single => {}
            Decoding::Samples(n) => words += &format!(", {n} samples"),
            Decoding::Beams(width) => words += &format!(", beam {width}"),
        }
        if let Some(prefix) = args.shared_prefix {
            words += &format!(", shared prefix of {prefix}");
        }
        if args.chat {
            words += ", chats";
        }
        if let Some(users) = args.max_concurrency {
            words += &format!(", {users} users in a closed loop");
        }
        words
    }

    /// The rate to run at when none is swept; `None` where there is none.
    pub(super) fn rate(&self) -> Option<f64> {
        let open = self.trace.is_none() && self.args.max_concurrency.is_none();
        self.args.request_rate.or(open.then_some(1.0))
    }

    /// The requests at `rate`.
    pub(super) fn at(&self, rate: Option<f64>) -> Result<Workload> {
        if let Some(rate) = rate {
            let least = 1.0 / LONGEST_GAP;
            ensure!(
                (least..=MOST_RATE).contains(&rate),
                "a request rate must be from {least} to {MOST_RATE} per second, not {rate:?}"
            );
        }
        if let Some(requests) = &self.trace {
            let requests = stretched(requests, rate);
            return Ok(Workload { requests, decoding: self.decoding, closed: None });
        }
        let args = &self.args;
        let users = args.max_concurrency.map(usize::try_from).transpose()?;
        let arrivals = match (users, rate) {
            (Some(users), _) => Arrivals::Closed { users, think: args.think_time },
            (None, Some(rate)) if args.burstiness == 1.0 => Arrivals::Poisson { rate },
            (None, Some(rate)) => {
                Arrivals::Bursty { rate, variation: 1.0 / args.burstiness.sqrt() }
            }
            (None, None) => bail!("--request-rate says how many requests come per second"),
        };
        let count = match (args.num_prompts, users, rate) {
            (Some(count), ..) => usize::try_from(count)?,
            (None, None, Some(rate)) => count(rate * args.duration),
            (None, users, _) => 50 * users.unwrap_or(1),
        };
        ensure!(count <= MOST_REQUESTS, "{count} requests are more than {MOST_REQUESTS}");
        let content = match (args.chat, args.shared_prefix) {
            (true, _) => Content::Chat,
            (false, Some(prefix)) => Content::SharedPrefix(prefix),
            (false, None) => Content::Plain,
        };
        let (lengths, decoding, seed) = (self.lengths.clone(), self.decoding, args.seed);
        Ok(Recipe { count, arrivals, lengths, content, decoding, seed }.generate())
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from f64 saturates, and the number is bounded afterwards"
)]
fn count(requests: f64) -> usize {
    requests.round().max(1.0) as usize
}

/// The same requests, coming at `rate` on average.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a cast from f64 saturates; microseconds are far below 2^52"
)]
fn stretched(requests: &[Request], rate: Option<f64>) -> Vec<Request> {
    let first = requests.first().map_or(0, |request| request.at.0);
    let last = requests.last().map_or(0, |request| request.at.0);
    let factor = match rate {
        Some(rate) if last > first => requests.len() as f64 / rate / ((last - first) as f64 / 1e6),
        _ => 1.0,
    };
    let moved = |at: u64| Tick(((at - first) as f64 * factor) as u64);
    requests.iter().map(|request| Request { at: moved(request.at.0), ..request.clone() }).collect()
}

/// `sharegpt`, `alpaca`, `wmt16`, `161,338`, or a file.
fn lengths(text: &str) -> Result<Lengths> {
    match text {
        "sharegpt" => return Ok(Lengths::ShareGpt),
        "alpaca" => return Ok(Lengths::Alpaca),
        "wmt16" => return Ok(Lengths::Wmt16),
        _ => {}
    }
    if let Ok(fixed) = args::lengths(text) {
        let longest = fixed.prompt.max(fixed.output);
        ensure!(longest <= MOST_TOKENS, "--dataset {text}: at most {MOST_TOKENS} tokens");
        return Ok(Lengths::Fixed(fixed.prompt, fixed.output));
    }
    let listed = trace::read_text(Path::new(text), MOST_BYTES)
        .and_then(|text| Ok(lengths_from_csv(&text)?))
        .with_context(|| {
            format!(
                "--dataset {text} is neither sharegpt, alpaca, wmt16, PROMPT,OUTPUT nor a CSV file"
            )
        })?;
    Ok(Lengths::Listed(listed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn read(flags: &str) -> Result<Workload> {
        let words = ["folio", "simulate"].into_iter().chain(flags.split_whitespace());
        let Some(Command::Simulate(args)) = Cli::try_parse_from(words)?.command else {
            bail!("another command")
        };
        let traffic = Traffic::read(&args.traffic)?;
        traffic.at(traffic.rate())
    }

    #[test]
    fn traffic_is_something_and_bounded() {
        assert_eq!(read("--max-concurrency 3").unwrap().requests.len(), 150);
        assert_eq!(read("--num-prompts 2 --dataset 5,6").unwrap().requests[1].output, 6);
        for (flags, said) in [
            ("--max-concurrency 0", "--max-concurrency"),
            ("--max-concurrency 1000000", "more than"),
            ("--num-prompts 0", "--num-prompts"),
            ("--dataset 4000000000,4", "--dataset"),
            ("--shared-prefix 4294967295", "--shared-prefix"),
            ("--request-rate nan", "rate"),
            ("--request-rate 1e-300", "from 0.000001 to 1000000 per second, not 1e-300"),
            ("--max-concurrency 1 --think-time 1e300", "--think-time"),
            ("--max-concurrency 1 --think-time nan", "--think-time"),
            ("--duration 1e300", "--duration"),
        ] {
            let problem = format!("{:#}", read(flags).unwrap_err());
            assert!(problem.contains(said), "{flags}: {problem}");
        }
    }
}
