//! Requests whose tokens are restricted: the restriction follows the tokens that were committed, whatever happens to the
//! sequences, and what goes wrong with one ends that request alone.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::common::*;
use folio_core::ids::Token;
use folio_core::params::Requested;
use folio_core::plan::allows;
use folio_core::schedule::{Job, PreemptionMode, Scheduler};
use folio_engine::{Canceller, Cause, Constraint, EngineConfig, Refused, Update, start};
use folio_sim::Gate;

/// What a restriction does after its first tokens.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Sound,
    Fails(usize),
    Panics(usize),
    Hangs(usize),
    Starves(usize),
}

/// Allows some tokens, which depend on all tokens so far, and checks that it is told every one of them.
struct Picky {
    tokens: Vec<Token>,
    mood: Mood,
    gone: Arc<(Mutex<bool>, Condvar)>,
}

impl Picky {
    fn boxed(mood: Mood) -> Box<dyn Constraint> {
        Box::new(Self { tokens: Vec::new(), mood, gone: Arc::default() })
    }

    /// A third of the vocabulary, and the end.
    fn words(tokens: &[Token]) -> Vec<u32> {
        let mut state = tokens.iter().fold(7_u32, |state, t| state.rotate_left(5) ^ (t.0 + 3));
        let mut words = vec![0_u32; 1_000_usize.div_ceil(32)];
        for id in 0..VOCAB {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            words[id as usize / 32] |= u32::from(state >> 24 < 85) << (id % 32);
        }
        words[0] |= 1 << EOS.0;
        words
    }
}

impl Constraint for Picky {
    fn advance(&mut self, token: Token) -> Result<(), String> {
        if !allows(&Self::words(&self.tokens), token) {
            return Err(format!("{token:?} was not allowed after {:?}", self.tokens));
        }
        self.tokens.push(token);
        Ok(())
    }

    fn mask(&mut self, mask: &mut Vec<u32>) -> Result<(), String> {
        let now = self.tokens.len();
        match self.mood {
            Mood::Fails(after) if now >= after => return Err("it is over".to_owned()),
            Mood::Panics(after) => assert!(now < after, "it is over"),
            Mood::Hangs(after) if now >= after => {
                let (gone, changed) = &*self.gone;
                let gone = gone.lock().unwrap();
                drop(changed.wait_while(gone, |gone| !*gone).unwrap());
                return Err("it was cancelled".to_owned());
            }
            Mood::Starves(after) if now >= after => {
                mask.push(0);
                return Ok(());
            }
            _ => {}
        }
        mask.extend(Self::words(&self.tokens));
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        let &Self { ref tokens, mood, .. } = self;
        Box::new(Self { tokens: tokens.clone(), mood, gone: Arc::default() })
    }

    fn canceller(&self) -> Canceller {
        let gone = Arc::clone(&self.gone);
        Canceller::new(move || {
            *gone.0.lock().unwrap() = true;
            gone.1.notify_all();
        })
    }
}

/// What a request gets that has the engine for itself.
fn alone(job: &Job) -> Vec<Vec<Token>> {
    let (handle, thread) = engine(64, limits(), |executor| executor);
    let generation =
        handle.generate_constrained(0, job.clone(), Picky::boxed(Mood::Sound)).unwrap();
    let tokens = block_on(read(generation)).finished();
    finish(&handle, thread);
    tokens
}

/// All choices obey, and they are the same in a crowd that is preempted and recovered either way.
#[test]
fn restricted_requests_get_the_same_tokens_in_any_company() {
    for mode in [PreemptionMode::Recompute, PreemptionMode::Swap] {
        let scheduler =
            Scheduler::new(limits(), memory(26).with_swap_space(64)).with_preemption(mode);
        let (handle, thread) = start(scheduler, Box::new(executor(26)), config()).unwrap();
        let jobs: Vec<Job> = (0..48).map(varied).collect();
        let restricted = |i: usize| !i.is_multiple_of(3);
        let streams: Vec<_> = jobs
            .iter()
            .enumerate()
            .map(|(i, job)| match restricted(i) {
                true => {
                    handle.generate_constrained(0, job.clone(), Picky::boxed(Mood::Sound)).unwrap()
                }
                false => handle.generate(job.clone()).unwrap(),
            })
            .collect();
        for (i, stream) in streams.into_iter().enumerate() {
            let tokens = block_on(read(stream)).finished();
            if restricted(i) {
                for choice in &tokens {
                    for (place, &token) in choice.iter().enumerate() {
                        assert!(allows(&Picky::words(&choice[..place]), token));
                    }
                }
                if mode == PreemptionMode::Swap {
                    assert_eq!(tokens, alone(&jobs[i]), "request {i}");
                }
            } else {
                assert_eq!(tokens, expected(&jobs[i]), "request {i}");
            }
        }
        assert!(handle.snapshot().stats.totals.preemptions > 0, "nothing was preempted");
        finish(&handle, thread);
    }
}

#[test]
fn a_restriction_that_goes_wrong_ends_its_own_request() {
    let moods = [Mood::Fails(0), Mood::Fails(3), Mood::Panics(0), Mood::Panics(2), Mood::Hangs(1)];
    let config =
        EngineConfig { mask_time: Duration::from_millis(500), mask_threads: 1, ..config() };
    let scheduler = Scheduler::new(limits(), memory(64));
    let (handle, thread) = start(scheduler, Box::new(executor(64)), config).unwrap();
    let asked =
        Requested { n: Some(2), max_tokens: Some(9), ignore_eos: true, ..Requested::default() };
    for mood in moods.into_iter().chain([Mood::Starves(2)]) {
        let sound = job(0..6, &asked);
        let before =
            handle.generate_constrained(0, sound.clone(), Picky::boxed(Mood::Sound)).unwrap();
        let wrong = handle.generate_constrained(0, job(1..9, &asked), Picky::boxed(mood)).unwrap();
        let after =
            handle.generate_constrained(0, sound.clone(), Picky::boxed(Mood::Sound)).unwrap();
        let last = block_on(read(wrong)).last;
        let cause = match last {
            Some(Update::Failed(cause)) => cause,
            other => panic!("{other:?}"),
        };
        let starved = mood == Mood::Starves(2);
        assert!(
            matches!(
                (&cause, starved),
                (Cause::NothingAllowed, true) | (Cause::Constraint(_), false)
            ),
            "{cause:?}"
        );
        let wanted = alone(&sound);
        for neighbour in [before, after] {
            assert_eq!(block_on(read(neighbour)).finished(), wanted);
        }
    }
    finish(&handle, thread);
}

#[test]
fn who_leaves_takes_the_restriction_along() {
    let gate = Gate::closed();
    let held = gate.clone();
    let (handle, thread) = engine(64, limits(), |executor| executor.with_gate(held));
    let leaves =
        handle.generate_constrained(0, plain(1, 8, 20), Picky::boxed(Mood::Hangs(1))).unwrap();
    let stays = handle.generate_constrained(0, plain(2, 8, 20), Picky::boxed(Mood::Sound)).unwrap();
    gate.wait_for_arrivals(1);
    drop(leaves);
    gate.open();
    assert_eq!(block_on(read(stays)).finished()[0].len(), 20);
    finish(&handle, thread);
}

#[test]
fn a_beam_search_cannot_be_restricted() {
    let (handle, thread) = engine(64, limits(), |executor| executor);
    let asked = Requested { use_beam_search: true, beam_width: Some(3), ..Requested::default() };
    let refused = handle.generate_constrained(0, job(0..4, &asked), Picky::boxed(Mood::Sound));
    assert_eq!(refused.unwrap_err(), Refused::ConstrainedBeams);
    finish(&handle, thread);
}
