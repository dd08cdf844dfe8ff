//! Drives an executor by hand-made plans, as a scheduler would: chunks, batches, scattered and shuffled block tables.

use folio_core::exec::{Drawn, Executor, Score, StepOutput};
use folio_core::ids::{BlockId, SeqId, Token};
use folio_core::params::{ParamLimits, Params, Requested, Sampling};
use folio_core::plan::{Draw, Row, StepPlan};
use folio_model::{
    Checkpoint, Cpu, Dtype, Isa, KvDtype, MemoryPlan, MemoryRequest, ModelSource, Quantization,
    Runner,
};

/// A small generator, so that shuffles are the same everywhere.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next()).unwrap() % n
    }

    /// In `[-1, 1)`.
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() as f64 / f64::from(1_u32 << 30) - 1.0) as f32
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) dtype: Option<Dtype>,
    pub(crate) quantization: Option<Quantization>,
    pub(crate) kv_dtype: Option<KvDtype>,
    pub(crate) block_size: usize,
    pub(crate) threads: usize,
    pub(crate) batched_tokens: usize,
    /// Most prompt tokens of one sequence in one step.
    pub(crate) chunk: usize,
    /// Most sequences in one step; others wait.
    pub(crate) together: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            dtype: None,
            quantization: None,
            kv_dtype: None,
            block_size: 16,
            threads: 1,
            batched_tokens: 512,
            chunk: usize::MAX,
            together: 1,
        }
    }
}

pub(crate) fn open(folder: &std::path::Path) -> Checkpoint {
    Checkpoint::open(&ModelSource::at(folder.to_owned()))
        .unwrap_or_else(|e| panic!("{folder:?}: {e}"))
}

pub(crate) fn request(setup: &Setup) -> MemoryRequest<'static> {
    MemoryRequest {
        dtype: setup.dtype,
        quantization: setup.quantization,
        kv_dtype: setup.kv_dtype,
        block_size: Some(setup.block_size),
        kv_cache_memory_bytes: None,
        available_bytes: 1 << 30,
        max_model_len: None,
        max_num_seqs: 16,
        max_num_batched_tokens: setup.batched_tokens,
        threads: setup.threads,
        swap: None,
        pinned_prefixes: &[],
    }
}

pub(crate) fn cpu_runner(checkpoint: &Checkpoint, setup: &Setup) -> (Runner<Cpu>, MemoryPlan) {
    let plan = MemoryPlan::compute(checkpoint, &request(setup)).unwrap();
    let cpu = Cpu::new(setup.threads, Isa::detect()).unwrap();
    (Runner::load(cpu, checkpoint, &plan, &mut |_| {}).unwrap(), plan)
}

/// What one sequence is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) prompt: Vec<u32>,
    pub(crate) new_tokens: usize,
    pub(crate) sampling: Sampling,
    pub(crate) score_prompt: bool,
}

impl Job {
    pub(crate) fn greedy(prompt: &[u32], new_tokens: usize) -> Self {
        Self { prompt: prompt.to_vec(), new_tokens, sampling: greedy(), score_prompt: true }
    }
}

pub(crate) fn greedy() -> Sampling {
    sampling(&Requested { temperature: Some(0.0), logprobs: Some(5), ..Requested::default() })
}

/// Sampling through the same door that requests take.
pub(crate) fn sampling(asked: &Requested) -> Sampling {
    let limits = ParamLimits {
        vocab: 1 << 20,
        max_n: 1,
        max_logprobs: 20,
        max_logit_bias: 300,
        max_stop_token_ids: 0,
        eos: Vec::new(),
    };
    Params::parse(asked, &limits, 0).unwrap().sampling
}

/// What one sequence did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Scores of the prompt's tokens from the second on.
    pub(crate) prompt_scores: Vec<Score>,
    pub(crate) drawn: Vec<Drawn>,
}

impl Outcome {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.drawn.iter().map(|d| d.token.0).collect()
    }
}

struct Live {
    job: usize,
    tokens: Vec<Token>,
    computed: usize,
    blocks: Vec<BlockId>,
}

/// Runs jobs to their end; blocks are taken from a shuffled list and given back at random places.
pub(crate) struct Driver<'a> {
    pub(crate) executor: &'a mut dyn Executor,
    pub(crate) block_size: usize,
    pub(crate) free: Vec<BlockId>,
    pub(crate) random: Random,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(executor: &'a mut dyn Executor, plan: &MemoryPlan, seed: u64) -> Self {
        let mut free: Vec<_> =
            (0..plan.blocks).map(|b| BlockId(u32::try_from(b).unwrap())).collect();
        let mut random = Random(seed);
        random.shuffle(&mut free);
        Self { executor, block_size: plan.block_size, free, random }
    }

    pub(crate) fn run(&mut self, jobs: &[Job], setup: &Setup) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::default(); jobs.len()];
        let mut waiting = (0..jobs.len()).rev().collect::<Vec<_>>();
        let mut running: Vec<Live> = Vec::new();
        while !(waiting.is_empty() && running.is_empty()) {
            while running.len() < setup.together
                && let Some(job) = waiting.pop()
            {
                let tokens = jobs[job].prompt.iter().map(|&t| Token(t)).collect();
                running.push(Live { job, tokens, computed: 0, blocks: Vec::new() });
            }
            self.step(jobs, setup, &mut running, &mut outcomes);
            let finished =
                |live: &Live| outcomes[live.job].drawn.len() == jobs[live.job].new_tokens;
            for live in running.extract_if(.., |live| finished(live)) {
                self.free.extend(live.blocks);
                self.random.shuffle(&mut self.free);
            }
        }
        outcomes
    }

    fn step(
        &mut self,
        jobs: &[Job],
        setup: &Setup,
        running: &mut [Live],
        outcomes: &mut [Outcome],
    ) {
        let mut plan = StepPlan::default();
        let mut budget = setup.batched_tokens;
        let mut rows = Vec::new();
        for (place, live) in running.iter_mut().enumerate() {
            let todo = (live.tokens.len() - live.computed).min(setup.chunk).min(budget);
            if todo == 0 {
                continue;
            }
            budget -= todo;
            while live.blocks.len() * self.block_size < live.computed + todo {
                live.blocks.push(self.free.pop().expect("enough blocks"));
            }
            push_row(&mut plan, &jobs[live.job], live, todo);
            rows.push((place, todo));
        }
        let mut out = StepOutput::default();
        self.executor.execute(&plan, &mut out).unwrap();
        assert_eq!((out.draws.len(), out.scores.len()), (plan.draws.len(), plan.targets.len()));
        for (row, (place, todo)) in plan.rows.iter().zip(rows) {
            let live = &mut running[place];
            live.computed += todo;
            outcomes[live.job].prompt_scores.extend_from_slice(&out.scores[row.targets.clone()]);
            for drawn in &out.draws[row.draws.clone()] {
                let drawn = drawn.clone().unwrap();
                live.tokens.push(drawn.token);
                outcomes[live.job].drawn.push(drawn);
            }
        }
    }
}

fn push_row(plan: &mut StepPlan, job: &Job, live: &Live, todo: usize) {
    let (start, end) = (live.computed, live.computed + todo);
    let tokens = plan.tokens.len()..plan.tokens.len() + todo;
    plan.tokens.extend_from_slice(&live.tokens[start..end]);
    let blocks = plan.blocks.len()..plan.blocks.len() + live.blocks.len();
    plan.blocks.extend_from_slice(&live.blocks);
    let first_draw = plan.draws.len();
    if end == live.tokens.len() {
        let history = if job.sampling.needs_history() { live.tokens.as_slice() } else { &[] };
        let from = plan.history.len();
        plan.history.extend_from_slice(history);
        plan.draws.push(Draw {
            seq: SeqId(live.job as u64),
            choice: 0,
            position: u32::try_from(end).unwrap(),
            sampling: plan.samplings.len(),
            history: from..plan.history.len(),
            history_prompt: job.prompt.len().min(history.len()),
            banned: 0..0,
            mask: 0..0,
        });
        plan.samplings.push(job.sampling.clone());
    }
    let first_target = plan.targets.len();
    if job.score_prompt {
        let known = (start + 1).min(job.prompt.len())..(end + 1).min(job.prompt.len());
        plan.targets.extend_from_slice(&live.tokens[known]);
    }
    plan.rows.push(Row {
        seq: SeqId(live.job as u64),
        start: u32::try_from(start).unwrap(),
        tokens,
        blocks,
        draws: first_draw..plan.draws.len(),
        targets: first_target..plan.targets.len(),
        first_target: 0,
        target_alternatives: 2,
    });
}
