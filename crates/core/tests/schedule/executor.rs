//! An executor whose output depends on everything a scheduler can get wrong.
//!
//! A slot of its cache holds a token and a *state*, a hash of the token, its position and the states of all positions
//! before it, **read through the block table**, as the deeper layers of a model depend on all that came before. A token is
//! drawn as a hash of the last state, the seed, the choice, the position and the history. So a wrong table, a copy that is
//! missing, a block that was published before it was written or a token at the wrong place changes what is generated,
//! while chunks, batches, preemptions and cached prefixes do not.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use folio_core::exec::{Drawn, ExecError, Executor, Score, StepOutput};
use folio_core::ids::{BlockId, SwapSlot, Token};
use folio_core::plan::{CacheOp, Draw, Row, StepPlan};

/// What a position's KV is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kv {
    token: Token,
    state: u64,
}

pub(crate) struct HashExecutor {
    block_size: usize,
    vocab: u32,
    slots: Vec<Option<Kv>>,
    swapped: HashMap<SwapSlot, Vec<Option<Kv>>>,
    /// One swapped block in so many is lost; 0 loses none.
    pub(crate) loses_one_in: u64,
    swap_ins: u64,
}

impl HashExecutor {
    pub(crate) fn new(block_size: u32, capacity: u32, vocab: u32) -> Self {
        let slots = vec![None; (block_size * capacity) as usize];
        Self {
            block_size: block_size as usize,
            vocab,
            slots,
            swapped: HashMap::new(),
            loses_one_in: 0,
            swap_ins: 0,
        }
    }

    fn slot(&self, plan: &StepPlan, row: &Row, position: usize) -> usize {
        let block = plan.blocks[row.blocks.clone()][position / self.block_size];
        block.index() * self.block_size + position % self.block_size
    }

    fn run_ops(&mut self, ops: &[CacheOp], out: &mut StepOutput) {
        for &op in ops {
            match op {
                CacheOp::Copy { source, destination } => {
                    let (from, to) = (self.block(source), self.block(destination));
                    self.slots.copy_within(from, to.start);
                }
                CacheOp::SwapOut { source, slot } => {
                    let contents = self.slots[self.block(source)].to_vec();
                    self.swapped.insert(slot, contents);
                }
                CacheOp::SwapIn { slot, destination } => {
                    let block = self.block(destination);
                    self.swap_ins += 1;
                    let lost =
                        self.loses_one_in > 0 && self.swap_ins.is_multiple_of(self.loses_one_in);
                    if lost {
                        out.lost.push(slot);
                        // Whatever is computed from it must not count.
                        let rubbish = Kv { token: Token(0), state: 0 };
                        self.slots[block].fill(Some(rubbish));
                    } else {
                        self.slots[block].copy_from_slice(&self.swapped[&slot]);
                    }
                }
            }
        }
    }

    fn block(&self, block: BlockId) -> Range<usize> {
        let first = block.index() * self.block_size;
        first..first + self.block_size
    }

    /// The KV of a row's positions: the earlier ones from the cache as it was before the step's rows, then its own.
    fn forward(&self, plan: &StepPlan, row: &Row) -> Vec<Kv> {
        let mut all: Vec<Kv> = (0..row.start as usize)
            .map(|position| {
                let slot = self.slot(plan, row, position);
                self.slots[slot].unwrap_or_else(|| {
                    panic!("position {position} of sequence {} was never computed", row.seq)
                })
            })
            .collect();
        for &token in &plan.tokens[row.tokens.clone()] {
            let state = hash(&(token, all.len(), &all));
            all.push(Kv { token, state });
        }
        all
    }

    fn draw(&self, plan: &StepPlan, draw: &Draw, last: Kv) -> Drawn {
        let sampling = &plan.samplings[draw.sampling];
        let history = &plan.history[draw.history.clone()];
        assert_eq!(history.is_empty(), !sampling.needs_history());
        // Greedy samples are all alike.
        let luck =
            (sampling.temperature > 0.0).then_some((sampling.seed, draw.choice, draw.position));
        let token = Token(self.below_vocab(hash(&(last, luck, history, draw.history_prompt))));
        let score = sampling.logprobs.map(|top| self.score(last, token, top));
        Drawn { token, score }
    }

    fn score(&self, before: Kv, token: Token, alternatives: u32) -> Score {
        let logprob = |token: Token| -f32::from(hash(&(before, token)).to_le_bytes()[0]) / 64.0;
        let mut top: Vec<_> = (0..self.vocab).map(Token).map(|t| (t, logprob(t))).collect();
        top.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        top.truncate(alternatives as usize);
        Score { logprob: logprob(token), top }
    }

    fn below_vocab(&self, hash: u64) -> u32 {
        u32::try_from(hash % u64::from(self.vocab)).unwrap()
    }
}

impl Executor for HashExecutor {
    fn execute(&mut self, plan: &StepPlan, out: &mut StepOutput) -> Result<(), ExecError> {
        self.run_ops(&plan.ops, out);
        let mut writes = HashMap::new();
        for row in &plan.rows {
            let all = self.forward(plan, row);
            let first = row.start as usize;
            for (position, &kv) in all.iter().enumerate().skip(first) {
                let before = writes.insert(self.slot(plan, row, position), kv);
                assert!(before.is_none(), "two sequences write to one slot");
            }
            let last = *all.last().unwrap();
            let draws = plan.draws[row.draws.clone()].iter();
            out.draws.extend(draws.map(|draw| Ok(self.draw(plan, draw, last))));
            for (i, &target) in plan.targets[row.targets.clone()].iter().enumerate() {
                let before = all[first + row.first_target + i];
                out.scores.push(self.score(before, target, row.target_alternatives));
            }
        }
        for (slot, kv) in writes {
            self.slots[slot] = Some(kv);
        }
        Ok(())
    }
}

pub(crate) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
