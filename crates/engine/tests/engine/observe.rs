//! The loop as an observer sees it: every step whole and in order, and only those that had something to do.

use std::sync::mpsc::{Sender, channel};

use crate::common::*;
use folio_core::plan::StepPlan;
use folio_core::schedule::Scheduler;
use folio_engine::{Observer, Part, start_observed};

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Began,
    Ended(Part),
    Finished { tokens: usize, rows: usize },
}

struct Teller(Sender<Seen>);

impl Observer for Teller {
    fn began(&mut self) {
        self.0.send(Seen::Began).unwrap();
    }

    fn ended(&mut self, part: Part) {
        self.0.send(Seen::Ended(part)).unwrap();
    }

    fn finished(&mut self, plan: &StepPlan) {
        let (tokens, rows) = (plan.tokens.len(), plan.rows.len());
        self.0.send(Seen::Finished { tokens, rows }).unwrap();
    }
}

#[test]
fn every_step_is_seen_part_by_part() {
    let (sender, seen) = channel();
    let scheduler = Scheduler::new(limits(), memory(32));
    let executor = Box::new(executor(32));
    let (handle, thread) = start_observed(scheduler, executor, config(), Teller(sender)).unwrap();
    let generation = handle.generate(plain(1, 10, 3)).unwrap();
    assert_eq!(block_on(read(generation)).finished()[0].len(), 3);
    finish(&handle, thread);
    let seen: Vec<Seen> = seen.iter().collect();
    let steps: Vec<&[Seen]> = seen
        .split_inclusive(|seen| matches!(seen, Seen::Finished { .. }))
        .filter(|step| step.len() > 2)
        .collect();
    // The prompt, then a token for each but the last.
    let sizes = [10, 1, 1];
    assert_eq!(steps.len(), sizes.len(), "{seen:?}");
    for (step, tokens) in steps.iter().zip(sizes) {
        let parts = [Part::Receive, Part::Schedule, Part::Execute, Part::Commit, Part::Publish];
        let mut whole = vec![Seen::Began];
        whole.extend(parts.map(Seen::Ended));
        whole.push(Seen::Finished { tokens, rows: 1 });
        assert!(step.ends_with(&whole), "{step:?}");
    }
}
