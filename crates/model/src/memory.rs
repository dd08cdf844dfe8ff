//! The memory plan: how every byte will be spent, decided and printed before weights are loaded.
//!
//! A plan always holds at least one sequence of the full context beside what is pinned: whatever the scheduler accepts can
//! then finish. What does not fit is refused with flags that were tried and do fit, not with guesses.

use std::fmt;

use folio_core::kv::MAX_BLOCK_SIZE;
use folio_kernels::{Dtype, KvDtype, KvShape, attend_workspace_bytes, linear_workspace_bytes};

use crate::advice::advise;
use crate::checkpoint::Checkpoint;
use crate::outline::Outline;
use crate::sample::WORK_BYTES_PER_TOKEN;
use crate::scratch::ScratchShape;
use crate::sizes::{WeightSizes, wide};
use crate::spec::ModelSpec;
use crate::swap;
use crate::weights::{Inventory, Keep, Quantization};

/// Without an explicit size the cache takes at most this share, in percent, of what weights and activations leave over.
const DEFAULT_SHARE_PERCENT: u64 = 80;
const MOST_THREADS: usize = 1024;
const MOST_TOKENS: usize = 1 << 20;

/// A swap space that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapRequest {
    /// Its size; `None`: as many blocks as the cache has.
    pub bytes: Option<u64>,
    /// Whether it is a file, which takes no memory but for blocks on their way.
    pub on_disk: bool,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRequest<'a> {
    /// Kind of the weights that are floats; `None`: as they are stored.
    pub dtype: Option<Dtype>,
    /// What float weights are quantised to, if anything.
    pub quantization: Option<Quantization>,
    /// Kind of keys and values; `None`: that of the weights.
    pub kv_dtype: Option<KvDtype>,
    /// Positions per block, 1 to 256; `None`: what suits the kind of keys and values, see
    /// [`KvDtype::default_block_size`].
    pub block_size: Option<usize>,
    /// Bytes for the cache; `None`: enough for all sequences at full context, but at most a share of what is left.
    pub kv_cache_memory_bytes: Option<u64>,
    /// Bytes that may be used in all.
    pub available_bytes: u64,
    /// Longest sequence; `None`: the model's context.
    pub max_model_len: Option<usize>,
    /// Most sequences at a time.
    pub max_num_seqs: usize,
    /// Most tokens of one step.
    pub max_num_batched_tokens: usize,
    /// Threads that will compute.
    pub threads: usize,
    /// Where preempted sequences may wait, if not only in the queue.
    pub swap: Option<SwapRequest>,
    /// Lengths, in tokens, of the prefixes whose full blocks always stay in the cache.
    pub pinned_prefixes: &'a [usize],
}

impl MemoryRequest<'_> {
    /// Kind of keys and values of a model whose weights are stored as `stored`.
    #[must_use]
    pub fn kv_dtype(&self, stored: Dtype) -> KvDtype {
        self.kv_dtype.unwrap_or(self.dtype.unwrap_or(stored).into())
    }
}

/// How memory will be spent. All sizes are in bytes unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Kind of the weights that are floats.
    pub dtype: Dtype,
    /// What float weights are quantised to, if anything.
    pub quantization: Option<Quantization>,
    /// The kinds of weights by name, such as `bfloat16` or `Q4_K + Q6_K`.
    pub weights: String,
    /// Kind of keys and values.
    pub kv_dtype: KvDtype,
    /// Positions per block.
    pub block_size: usize,
    /// Longest sequence, in tokens.
    pub max_model_len: usize,
    /// Most sequences at a time.
    pub max_num_seqs: usize,
    /// Most tokens of one step.
    pub max_num_batched_tokens: usize,
    /// Threads that will compute.
    pub threads: usize,
    /// The weights as they will lie in memory.
    pub weight_bytes: u64,
    /// Buffers of the forward pass and of sampling.
    pub activation_bytes: u64,
    /// Room the kernels may use while they run.
    pub workspace_bytes: u64,
    /// Keys and values of one position, in all layers.
    pub kv_bytes_per_token: u64,
    /// Keys and values of one block, in all layers.
    pub kv_bytes_per_block: u64,
    /// Blocks of the cache.
    pub blocks: usize,
    /// Blocks among them that pinned prefixes take.
    pub pinned_blocks: usize,
    /// Slots of the swap space; 0 without one.
    pub swap_slots: usize,
    /// What all slots take where they are: in memory, or in a file with each rounded up to whole pages.
    pub swap_bytes: u64,
    /// Memory that swapping takes: the slots, or blocks on their way to the file.
    pub swap_memory_bytes: u64,
}

impl MemoryPlan {
    /// Plans, or says which flag to change to what.
    ///
    /// # Errors
    /// When a value is out of range, or the whole does not fit into what is available.
    pub fn compute(
        checkpoint: &Checkpoint,
        request: &MemoryRequest<'_>,
    ) -> Result<Self, DoesNotFit> {
        let facts = Facts { spec: checkpoint.spec(), inventory: checkpoint.inventory() };
        Self::for_facts(&facts, request)
    }

    /// The same for a model that need not be there.
    ///
    /// # Errors
    /// When a value is out of range, or the whole does not fit into what is available.
    pub fn for_outline(outline: &Outline, request: &MemoryRequest<'_>) -> Result<Self, DoesNotFit> {
        Self::for_facts(&Facts { spec: &outline.spec, inventory: &outline.inventory }, request)
    }

    pub(crate) fn for_facts(
        facts: &Facts<'_>,
        request: &MemoryRequest<'_>,
    ) -> Result<Self, DoesNotFit> {
        Self::lay_out(facts, request).map_err(|misfit| match misfit {
            Misfit::Flag(refusal) => refusal,
            Misfit::Memory(shortage) => advise(facts, request, &shortage),
        })
    }

    /// The plan, or what is short, without advice.
    pub(crate) fn lay_out(facts: &Facts<'_>, request: &MemoryRequest<'_>) -> Result<Self, Misfit> {
        let mut plan = Self::fixed(facts, request)?;
        let context = wide(plan.blocks_of_full_context());
        let pinned = wide(plan.pinned_blocks);
        let need = context.saturating_add(pinned);
        let taken = plan.fixed_bytes();
        let left = request.available_bytes.saturating_sub(taken);
        let per_block = plan.kv_bytes_per_block;
        let blocks = match request.kv_cache_memory_bytes {
            Some(bytes) => bytes / per_block,
            None => {
                let share = left / 100 * DEFAULT_SHARE_PERCENT / per_block;
                // One full context always gets its room, even when it exceeds the share.
                let most = context.saturating_mul(wide(plan.max_num_seqs)).saturating_add(pinned);
                most.min(share.max(need))
            }
        };
        let blocks = blocks.min(u64::from(u32::MAX));
        let cache = blocks.saturating_mul(per_block);
        if blocks < need || taken.saturating_add(cache) > request.available_bytes {
            return Err(Misfit::Memory(Box::new(Shortage { need, blocks, plan })));
        }
        plan.blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
        if let Some(SwapRequest { bytes: None, on_disk: true }) = request.swap {
            plan.swap_slots = plan.blocks;
        }
        plan.swap_bytes = wide(plan.swap_slots).saturating_mul(plan.slot_bytes(request));
        Ok(plan)
    }

    /// What a block takes in the swap space.
    fn slot_bytes(&self, request: &MemoryRequest<'_>) -> u64 {
        match request.swap {
            Some(SwapRequest { on_disk: true, .. }) => swap::aligned(self.kv_bytes_per_block),
            _ => self.kv_bytes_per_block,
        }
    }

    /// Slots and memory of the swap space, except that a file's slots may be as many as the cache has blocks.
    fn plan_swap(&mut self, request: &MemoryRequest<'_>) -> Result<(), Misfit> {
        let Some(SwapRequest { bytes, on_disk }) = request.swap else { return Ok(()) };
        let slot = self.slot_bytes(request);
        if let Some(bytes) = bytes {
            let slots = (bytes / slot).min(u64::from(u32::MAX));
            self.swap_slots = usize::try_from(slots).unwrap_or(usize::MAX);
            if slots == 0 {
                let problem = format!("--swap-space of {bytes} bytes holds no block of {slot}");
                let remedies = vec![format!("--swap-space {}MiB", slot.div_ceil(1 << 20))];
                return Err(Misfit::Flag(DoesNotFit { problem, remedies }));
            }
        }
        self.swap_memory_bytes = if on_disk {
            swap::staging_bytes(self.kv_bytes_per_block)
        } else {
            wide(self.swap_slots).saturating_mul(slot)
        };
        Ok(())
    }

    /// Everything but the number of blocks, which stays 0.
    fn fixed(facts: &Facts<'_>, request: &MemoryRequest<'_>) -> Result<Self, Misfit> {
        let spec = facts.spec;
        let stored = facts.inventory.dtype();
        let dtype = request.dtype.unwrap_or(stored);
        let kv_dtype = request.kv_dtype(stored);
        let kept = facts.kept(request)?;
        let block_size = request.block_size.unwrap_or(kv_dtype.default_block_size());
        in_range("--block-size", block_size, MAX_BLOCK_SIZE as usize)?;
        in_range("--max-num-seqs", request.max_num_seqs, MOST_TOKENS)?;
        in_range("--max-num-batched-tokens", request.max_num_batched_tokens, MOST_TOKENS)?;
        in_range("--threads", request.threads, MOST_THREADS)?;
        let max_model_len = request.max_model_len.unwrap_or(spec.context);
        in_range("--max-model-len", max_model_len, spec.context)?;
        // A prefix is computed once by a request that generates one token.
        if let Some(len) = request.pinned_prefixes.iter().find(|&&len| len >= max_model_len) {
            let problem = format!(
                "a --pin-prefix of {len} tokens is longer than a prompt may be with --max-model-len \
                 {max_model_len}; shorten the file"
            );
            return Err(Misfit::Flag(DoesNotFit { problem, remedies: Vec::new() }));
        }
        let kv = spec.kv_shape(1, block_size, kv_dtype);
        let mut plan = Self {
            dtype,
            quantization: request.quantization,
            weights: kept.names(),
            kv_dtype,
            block_size,
            max_model_len,
            max_num_seqs: request.max_num_seqs,
            max_num_batched_tokens: request.max_num_batched_tokens,
            threads: request.threads,
            weight_bytes: WeightSizes::new(spec, &kept).total,
            activation_bytes: 0,
            workspace_bytes: 0,
            kv_bytes_per_token: kv.position_bytes().map_or(u64::MAX, wide),
            kv_bytes_per_block: kv.block_bytes().map_or(u64::MAX, wide).max(1),
            blocks: 0,
            pinned_blocks: request.pinned_prefixes.iter().map(|len| len / block_size).sum(),
            swap_slots: 0,
            swap_bytes: 0,
            swap_memory_bytes: 0,
        };
        plan.activation_bytes = plan.activations(spec);
        plan.workspace_bytes = plan.workspace(spec, &kv);
        plan.plan_swap(request)?;
        Ok(plan)
    }

    /// What becomes of the stored matrices.
    pub(crate) fn keep(&self) -> Keep {
        Keep { dtype: self.dtype, quantization: self.quantization }
    }

    fn activations(&self, spec: &ModelSpec) -> u64 {
        let scratch =
            ScratchShape::new(spec, self.max_num_batched_tokens, self.max_num_seqs).bytes();
        let sampling = wide(self.threads) * wide(spec.vocab) * wide(WORK_BYTES_PER_TOKEN);
        scratch.saturating_add(sampling)
    }

    fn workspace(&self, spec: &ModelSpec, kv: &KvShape) -> u64 {
        let inputs = spec.hidden.max(spec.query_width()).max(spec.intermediate);
        let attend = spec.attend(None);
        let tokens = self.max_num_batched_tokens;
        let rows = self.max_num_seqs.min(tokens);
        wide(linear_workspace_bytes(self.threads, tokens, inputs)).saturating_add(wide(
            attend_workspace_bytes(self.threads, rows, tokens, self.max_model_len, &attend, kv),
        ))
    }

    /// Everything but the cache.
    #[must_use]
    pub fn fixed_bytes(&self) -> u64 {
        let computing = self.activation_bytes.saturating_add(self.workspace_bytes);
        self.weight_bytes.saturating_add(computing).saturating_add(self.swap_memory_bytes)
    }

    /// The cache.
    #[must_use]
    pub fn kv_bytes(&self) -> u64 {
        wide(self.blocks).saturating_mul(self.kv_bytes_per_block)
    }

    /// Everything.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.fixed_bytes().saturating_add(self.kv_bytes())
    }

    /// Positions the cache holds.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        wide(self.blocks).saturating_mul(wide(self.block_size))
    }

    /// Blocks that one sequence of the longest length takes.
    #[must_use]
    pub fn blocks_of_full_context(&self) -> usize {
        self.max_model_len.div_ceil(self.block_size)
    }

    /// How many sequences of the longest length fit at a time, beside the pinned prefixes.
    #[must_use]
    pub fn full_context_sequences(&self) -> usize {
        self.blocks.saturating_sub(self.pinned_blocks) / self.blocks_of_full_context()
    }
}

/// What a plan needs to know of a model.
pub(crate) struct Facts<'a> {
    pub(crate) spec: &'a ModelSpec,
    pub(crate) inventory: &'a Inventory,
}

impl Facts<'_> {
    /// The matrices as they will lie in memory.
    fn kept(&self, request: &MemoryRequest<'_>) -> Result<Inventory, Misfit> {
        match self.inventory.keep(request.dtype, request.quantization) {
            Ok(keep) => Ok(self.inventory.kept(keep)),
            Err(problem) => Err(Misfit::Flag(DoesNotFit { problem, remedies: Vec::new() })),
        }
    }
}

/// Why there is no plan.
pub(crate) enum Misfit {
    /// A value is out of range whatever the memory.
    Flag(DoesNotFit),
    /// Memory is short.
    Memory(Box<Shortage>),
}

/// What is short.
pub(crate) struct Shortage {
    /// Blocks that one full context and the pinned prefixes take.
    pub(crate) need: u64,
    /// Blocks there would be.
    pub(crate) blocks: u64,
    /// The rest of the plan.
    pub(crate) plan: MemoryPlan,
}

/// A sentence on what does not fit, and the flags that would make it fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoesNotFit {
    /// What is wrong.
    pub problem: String,
    /// Flags with values that were tried and fit, each by itself enough.
    pub remedies: Vec<String>,
}

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        if let [first, others @ ..] = self.remedies.as_slice() {
            write!(f, "; use {first}")?;
            for other in others {
                write!(f, ", or {other}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for DoesNotFit {}

fn in_range(flag: &str, value: usize, most: usize) -> Result<(), Misfit> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    let problem = match flag {
        "--max-model-len" if value > most => {
            format!("--max-model-len {value} is beyond the model's context of {most} tokens")
        }
        _ => format!("{flag} must be from 1 to {most}, not {value}"),
    };
    let remedies = if value > most { vec![format!("{flag} {most}")] } else { Vec::new() };
    Err(Misfit::Flag(DoesNotFit { problem, remedies }))
}
