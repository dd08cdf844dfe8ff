//! A small language for what the scheduler does: a script goes in, a table comes out, one line per step.
//!
//! A scenario is `settings; request; request …`. Settings: `size` of a block, `blocks` there are, `tokens` and `seqs` of a
//! step, `cache` for the prefix cache. A request: its name, `prompt+output` tokens, and maybe `x3` (three samples), `@2`
//! (arrives before step 2), `like=A` (its prompt starts as A's does), `scores` (its prompt is scored), `drop=4` (is aborted
//! before step 4).
//!
//! A row `A[0..5]` computes positions 0 to 4 of A; `*` draws a token, `*3` three; `B.1` is the second sample of B.

use std::fmt::Write;

use expect_test::Expect;
use folio_core::event::EventKind;
use folio_core::ids::{GroupId, SeqId};
use folio_core::kv::Config;
use folio_core::params::Decoding;
use folio_core::schedule::{Job, Limits};

use super::server::{Server, job, wide};

pub(crate) const CACHED: Config =
    Config { block_size: 4, capacity: 16, prefix_caching: true, secret: 0 };

struct Request {
    name: String,
    job: Job,
    arrives: u64,
    drops: Option<u64>,
    group: Option<GroupId>,
    first_seq: u64,
}

impl Request {
    fn parse(line: &str, before: &[Request]) -> Self {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let (prompt, output) = words.next().unwrap().split_once('+').unwrap();
        let (prompt, output) = (prompt.parse().unwrap(), output.parse().unwrap());
        let text = u64::from(name.as_bytes()[0]);
        let mut job = job(text, prompt, 1, Some(output));
        let (mut arrives, mut drops) = (0, None);
        for word in words {
            if let Some(n) = word.strip_prefix('x') {
                let n = n.parse().unwrap();
                job.params.n = n;
                job.params.decoding = Decoding::Sample { best_of: n };
            } else if let Some(step) = word.strip_prefix('@') {
                arrives = step.parse().unwrap();
            } else if let Some(step) = word.strip_prefix("drop=") {
                drops = Some(step.parse().unwrap());
            } else if let Some(other) = word.strip_prefix("like=") {
                let start = &before.iter().find(|request| request.name == other).unwrap().job;
                let same = start.prompt.len().min(job.prompt.len());
                job.prompt[..same].copy_from_slice(&start.prompt[..same]);
            } else {
                assert_eq!(word, "scores");
                job.params.prompt_logprobs = Some(0);
            }
        }
        Self { name, job, arrives, drops, group: None, first_seq: 0 }
    }

    fn label(&self, seq: SeqId) -> Option<String> {
        let choice = seq.0.checked_sub(self.first_seq)?;
        let n = u64::from(self.job.params.n);
        (self.group.is_some() && choice < n)
            .then(|| if n == 1 { self.name.clone() } else { format!("{}.{choice}", self.name) })
    }

    fn runs(&self, server: &Server) -> bool {
        let mut seqs = (self.first_seq..).take(self.job.params.n as usize).map(SeqId);
        self.group.is_some() && seqs.any(|seq| server.scheduler.group_of(seq) == self.group)
    }
}

struct Scenario {
    server: Server,
    requests: Vec<Request>,
    next_seq: u64,
    table: String,
}

impl Scenario {
    fn parse(script: &str) -> Self {
        let mut parts = script.split(';');
        let mut limits = Limits { max_num_seqs: 4, max_num_batched_tokens: 16, ..wide() };
        let mut config = Config { prefix_caching: false, ..CACHED };
        for setting in parts.next().unwrap().split(',') {
            let (name, value) = setting.trim().split_once(' ').unwrap_or((setting.trim(), "1"));
            let value = value.parse().unwrap();
            match name {
                "size" => config.block_size = value,
                "blocks" => config.capacity = value,
                "tokens" => limits.max_num_batched_tokens = value,
                "seqs" => limits.max_num_seqs = value,
                "cache" => config.prefix_caching = true,
                _ => panic!("unknown setting {name}"),
            }
        }
        let mut requests = Vec::new();
        for line in parts {
            let request = Request::parse(line, &requests);
            requests.push(request);
        }
        let server = Server::new(limits, config);
        Self { server, requests, next_seq: 0, table: String::new() }
    }

    fn arrive(&mut self, step: u64) {
        for request in &mut self.requests {
            if request.arrives == step {
                request.group = Some(self.server.submit(request.job.clone()).unwrap());
                request.first_seq = self.next_seq;
                self.next_seq += u64::from(request.job.params.n);
            }
            if request.drops == Some(step) {
                self.server.abort(request.group.unwrap());
            }
        }
    }

    fn names(&self, wanted: impl Fn(&Request) -> bool) -> String {
        let names = self.requests.iter().filter(|request| wanted(request));
        names.map(|request| request.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn step(&mut self, step: u64) {
        let ran = self.names(|request| request.runs(&self.server));
        self.server.schedule();
        let mut line = self.rows();
        let mut note = |name: &str, what: String| {
            if !what.is_empty() {
                write!(line, "{name} {what}; ").unwrap();
            }
        };
        note("preempts", self.names(|r| ran.contains(&r.name) && !r.runs(&self.server)));
        let copies = self.server.plan.ops.len();
        note("copies", if copies == 0 { String::new() } else { copies.to_string() });
        note(
            "waiting",
            self.names(|r| {
                let over = r.group.is_none_or(|group| self.server.records[&group].is_over());
                !over && !r.runs(&self.server)
            }),
        );
        self.server.execute();
        self.server.commit();
        for event in &self.server.events {
            let name = self.names(|r| r.group == Some(event.group));
            match &event.kind {
                EventKind::Admitted { cached_tokens: 0 } | EventKind::Sampled { .. } => {}
                EventKind::Admitted { cached_tokens } => {
                    note("cached", format!("{name} {cached_tokens}"));
                }
                EventKind::PromptScored(scores) => {
                    note("scored", format!("{name} {}", scores.len()));
                }
                EventKind::Ranked { .. } => note("ranks", name),
                EventKind::Ended { .. } => note("ends", name),
                EventKind::Failed(_) => note("fails", name),
            }
        }
        let free = self.server.scheduler.stats().kv.free;
        writeln!(self.table, "{step:<4}{line}free {free}").unwrap();
    }

    fn rows(&self) -> String {
        let mut rows = String::new();
        for row in &self.server.plan.rows {
            let label = self.requests.iter().find_map(|request| request.label(row.seq)).unwrap();
            let end = row.start as usize + row.tokens.len();
            write!(rows, "{label}[{}..{end}]", row.start).unwrap();
            match row.draws.len() {
                0 => {}
                1 => rows.push('*'),
                draws => write!(rows, "*{draws}").unwrap(),
            }
            rows.push_str("  ");
        }
        format!("{rows:<44}| ")
    }
}

/// Runs `script` until everyone is served, and compares the table.
#[allow(clippy::needless_pass_by_value, reason = "reads better at the many callers")]
pub(crate) fn check(script: &str, expected: Expect) {
    let mut scenario = Scenario::parse(script);
    let last = scenario.requests.iter().map(|request| request.arrives).max().unwrap();
    let mut step = 0;
    while step <= last || !scenario.server.scheduler.is_idle() {
        scenario.arrive(step);
        scenario.step(step);
        step += 1;
        assert!(step < 100, "{}", scenario.table);
    }
    expected.assert_eq(&scenario.table);
    assert_eq!(scenario.server.scheduler.stats().kv.used, 0);
}
