//! What this machine can do at most, and which share of it a model's rates are.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use folio_kernels::{Context, measure};
use serde_json::{Value, json};

use crate::startup::Running;

/// The machine's limits, and what a model asks of it.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    threads: usize,
    /// Bytes per second.
    read: f64,
    /// Operations per second; a multiply-add is two.
    float: f64,
    bf16: f64,
    int8: f64,
    /// Bytes of weights that a step reads, however few tokens it computes.
    weights: f64,
    /// Bytes of keys and values of one position.
    kv_token: f64,
    /// Multiply-adds per token in all layers.
    layers: f64,
    /// Multiply-adds per row of logits.
    head: f64,
}

impl Limits {
    /// Measures the machine with the threads and instructions that the model runs on. The engine must be idle.
    #[allow(clippy::cast_precision_loss, reason = "shown in three digits")]
    pub(crate) fn measure(running: &Running) -> Result<Self> {
        let (plan, spec) = (&running.plan, &running.spec);
        let context = Context::new(plan.threads, running.isa)
            .with_context(|| format!("{} threads cannot be started", plan.threads))?;
        let (layers, head) = (spec.layer_products() as f64, spec.head_products() as f64);
        // A table of its own is only looked up.
        let stored = layers + if spec.tied { head } else { 2.0 * head };
        Ok(Self {
            threads: plan.threads,
            read: measure::read_bandwidth(&context).context("measuring the memory's bandwidth")?,
            float: measure::f32_peak(&context),
            bf16: measure::bf16_peak(&context),
            int8: measure::int8_peak(&context),
            weights: plan.weight_bytes as f64 * (layers + head) / stored,
            kv_token: plan.kv_bytes_per_token as f64,
            layers,
            head,
        })
    }

    /// The machine, in a line or two.
    pub(crate) fn describe(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "this machine, {} threads: reads {:.1} GB/s, computes {:.0} GFLOP/s (f32), {:.0} GFLOP/s (bf16) and {:.0} GOP/s (int8)",
            self.threads,
            self.read / 1e9,
            self.float / 1e9,
            self.bf16 / 1e9,
            self.int8 / 1e9
        );
        let _ = writeln!(
            out,
            "a step reads {:.2} GB of weights and {:.1} KB per position of context; a token takes {:.2} GFLOP",
            self.weights / 1e9,
            self.kv_token / 1e3,
            2.0 * (self.layers + self.head) / 1e9
        );
        out
    }

    /// The share of the bandwidth that `steps` steps per second take, each of which sees `positions` positions in all.
    pub(crate) fn bandwidth(&self, steps: f64, positions: f64) -> f64 {
        steps * (self.weights + positions * self.kv_token) / self.read
    }

    /// Operations per second of the linear layers at `rate` tokens per second, with logits for one of `tokens` tokens.
    pub(crate) fn operations(&self, rate: f64, tokens: f64) -> f64 {
        2.0 * rate * (self.layers + self.head / tokens)
    }

    /// The shares of the f32, bf16 and int8 peaks that the same rate takes.
    pub(crate) fn peak_shares(&self, rate: f64, tokens: f64) -> [f64; 3] {
        let operations = self.operations(rate, tokens);
        [self.float, self.bf16, self.int8].map(|peak| operations / peak)
    }

    /// The shares, in words.
    pub(crate) fn arithmetic(&self, rate: f64, tokens: f64) -> String {
        let [float, bf16, int8] = self.peak_shares(rate, tokens).map(|share| share * 100.0);
        format!(
            "{:.0} GFLOP/s in linear layers: {float:.0} % of the f32 peak, {bf16:.0} % of the bf16 peak, {int8:.0} % of the \
             int8 peak",
            self.operations(rate, tokens) / 1e9
        )
    }

    /// The machine's numbers.
    pub(crate) fn json(&self) -> Value {
        json!({
            "threads": self.threads,
            "read_bytes_per_second": self.read,
            "f32_operations_per_second": self.float,
            "bf16_operations_per_second": self.bf16,
            "int8_operations_per_second": self.int8,
            "weight_bytes_per_step": self.weights,
            "kv_bytes_per_token": self.kv_token,
            "operations_per_token": 2.0 * (self.layers + self.head),
        })
    }
}
