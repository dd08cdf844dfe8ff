//! The executor: one plan in, one output up.
//!
//! Order within a step: cache operations, forward pass, then logits in slices of bounded size, only for the rows that a
//! draw or a score needs.

use folio_core::exec::{ExecError, Executor, StepOutput};
use folio_core::plan::StepPlan;
use folio_kernels::BatchRow;

use crate::ahead::Ahead;
use crate::backend::{Answer, Backend, Step, Task, Want};
use crate::check::Capacity;
use crate::checkpoint::Checkpoint;
use crate::error::ModelError;
use crate::forward::Model;
use crate::load::{Progress, load_model};
use crate::memory::MemoryPlan;
use crate::ops;
use crate::scratch::{Scratch, ScratchShape};
use crate::sizes::wide;
use crate::swap::SwapStore;

/// A model on a device, ready to run plans.
pub struct Runner<B: Backend> {
    backend: B,
    model: Model<B>,
    scratch: Scratch<B>,
    cache: B::Cache,
    ahead: Ahead,
    swap: Option<SwapStore>,
    capacity: Capacity,
    block_bytes: u64,
    logit_rows: usize,
    step: Step,
    wanted: Vec<Wanted>,
    picks: Vec<usize>,
    tasks: Vec<Task>,
    answers: Vec<Answer>,
}

/// Something wanted of the logits after one token of the step.
#[derive(Clone, Copy)]
struct Wanted {
    token: usize,
    want: Want,
}

impl<B: Backend> Runner<B> {
    /// Loads the weights and sets everything up that `plan` promises.
    ///
    /// # Errors
    /// When a tensor turns out damaged or memory is short.
    pub fn load(
        backend: B,
        checkpoint: &Checkpoint,
        plan: &MemoryPlan,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ModelError> {
        let model = load_model(&backend, checkpoint, plan, progress)?;
        let spec = checkpoint.spec();
        let shape = ScratchShape::new(spec, plan.max_num_batched_tokens, plan.max_num_seqs);
        let ahead = Ahead::new(spec.layers, plan.blocks, plan.kv_bytes_per_block);
        let cache = backend.cache(spec.kv_shape(plan.blocks, plan.block_size, plan.kv_dtype))?;
        let scratch = Scratch::new(&backend, &shape)?;
        let capacity = Capacity {
            vocab: spec.vocab,
            max_model_len: plan.max_model_len,
            max_num_batched_tokens: plan.max_num_batched_tokens,
            blocks: plan.blocks,
            block_size: plan.block_size,
            slots: 0,
        };
        Ok(Self {
            backend,
            model,
            scratch,
            cache,
            ahead,
            swap: None,
            capacity,
            block_bytes: plan.kv_bytes_per_block,
            logit_rows: shape.logit_rows(),
            step: Step::default(),
            wanted: Vec::new(),
            picks: Vec::new(),
            tasks: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// Lets plans swap to `store`, whose blocks are those of the plan this was loaded with.
    ///
    /// # Panics
    /// When they have another size.
    #[must_use]
    pub fn with_swap_store(mut self, store: SwapStore) -> Self {
        assert_eq!(wide(store.block_bytes()), self.block_bytes, "a store for other blocks");
        self.capacity.slots = store.slots();
        self.swap = Some(store);
        self
    }

    /// The device.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Turns the plan's rows into what the layers share.
    fn lay_out(&mut self, plan: &StepPlan) {
        let Step { tokens, positions, sequences, blocks, .. } = &mut self.step;
        tokens.clear();
        positions.clear();
        sequences.clear();
        blocks.clear();
        tokens.extend(plan.tokens.iter().map(|t| t.0));
        blocks.extend(plan.blocks.iter().map(|b| b.0));
        self.ahead.used(blocks);
        for row in &plan.rows {
            positions.extend((row.start..).take(row.tokens.len()));
            sequences.push(BatchRow {
                start: row.start as usize,
                tokens: row.tokens.clone(),
                blocks: row.blocks.clone(),
            });
        }
        self.model.place(&mut self.step);
    }

    /// Lists what is wanted, ordered by token: a row's scores, then its draws, which follow its last token.
    fn collect(&mut self, plan: &StepPlan) {
        self.wanted.clear();
        for row in &plan.rows {
            let first = row.tokens.start + row.first_target;
            let alternatives = row.target_alternatives as usize;
            for (place, target) in row.targets.clone().enumerate() {
                let want = Want::Score { target, alternatives };
                self.wanted.push(Wanted { token: first + place, want });
            }
            for draw in row.draws.clone() {
                self.wanted.push(Wanted { token: row.tokens.end - 1, want: Want::Draw(draw) });
            }
        }
    }

    /// Makes logits slice by slice and answers what is wanted of them.
    fn answer(&mut self, plan: &StepPlan) {
        self.answers.clear();
        let mut wanted = self.wanted.iter().peekable();
        while wanted.peek().is_some() {
            self.picks.clear();
            self.tasks.clear();
            while let Some(next) = wanted.peek() {
                if self.picks.last() != Some(&next.token) {
                    if self.picks.len() == self.logit_rows {
                        break;
                    }
                    self.picks.push(next.token);
                }
                self.tasks.push(Task { row: self.picks.len() - 1, want: next.want });
                wanted.next();
            }
            self.model.logits(&self.backend, &self.picks, &mut self.scratch);
            self.backend.answer(&self.scratch.logits, plan, &self.tasks, &mut self.answers);
        }
    }
}

impl<B: Backend> Executor for Runner<B> {
    fn execute(&mut self, plan: &StepPlan, out: &mut StepOutput) -> Result<(), ExecError> {
        self.capacity.check(plan)?;
        ops::run(&self.backend, &mut self.cache, self.swap.as_mut(), &plan.ops, out);
        if plan.rows.is_empty() {
            return Ok(());
        }
        self.lay_out(plan);
        self.model.forward(&self.backend, &self.step, &mut self.scratch, &mut self.cache);
        self.collect(plan);
        self.answer(plan);
        // `collect` went through the rows in order, and the check has seen that these tile draws and targets.
        for answer in self.answers.drain(..) {
            match answer {
                Answer::Draw(drawn) => out.draws.push(drawn),
                Answer::Score(score) => out.scores.push(score),
            }
        }
        Ok(())
    }

    fn prepare(&mut self) -> bool {
        let Some((layer, blocks)) = self.ahead.next() else { return false };
        self.backend.populate(layer, blocks, &mut self.cache);
        true
    }
}
