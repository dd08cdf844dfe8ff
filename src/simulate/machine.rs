//! What steps cost, and how large the cache is.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use folio_kernels::{Context, Dtype, measure};
use folio_model::MemoryRequest;
use folio_sim::cost::{self, DEVICES, Device, Fitted, Roofline, Shape, StepCost};

use super::args::SimulateArgs;
use crate::shapes::Described;
use crate::{machine, plan, settings, trace};

/// Longest file that is read, in bytes.
const MOST_BYTES: u64 = 1 << 20;
/// Threads do not matter to the plan of a device; some number must be given.
const THREADS: usize = 1;

/// A model on a machine.
pub(super) struct Machine {
    pub(super) described: Described,
    shape: Shape,
    device: Device,
    devices: u32,
    fit: Option<Fitted>,
    utilization: f64,
}

impl Machine {
    pub(super) fn new(args: &SimulateArgs) -> Result<Self> {
        let described = Described::find(args.model.as_deref(), None)?;
        let mut device = device(&args.device, described.outline.stored_dtype())?;
        let seconds = |flag: &str, micros: f64| {
            ensure!((0.0..=1e9).contains(&micros), "{flag} must not be below 0, nor {micros}");
            Ok(micros / 1e6)
        };
        if let Some(micros) = args.step_overhead_us {
            device.step_overhead = seconds("--step-overhead-us", micros)?;
        }
        if let Some(micros) = args.row_overhead_us {
            device.row_overhead = seconds("--row-overhead-us", micros)?;
        }
        if let Some(micros) = args.request_overhead_us {
            device.request_overhead = seconds("--request-overhead-us", micros)?;
        }
        let fit = match &args.fit {
            None => None,
            Some(file) => {
                let fit = trace::read_text(file, MOST_BYTES)
                    .and_then(|text| Ok(Fitted::parse(&text)?))
                    .with_context(|| format!("--fit {}", file.display()))?;
                Some(fit)
            }
        };
        let utilization = args.gpu_memory_utilization;
        ensure!(
            (0.01..=1.0).contains(&utilization),
            "--gpu-memory-utilization must be from 0.01 to 1, not {utilization}"
        );
        let devices = args.tensor_parallel_size;
        Ok(Self { shape: described.shape(), described, device, devices, fit, utilization })
    }

    /// What steps are timed by, in a few words.
    pub(super) fn describe(&self) -> String {
        match &self.fit {
            Some(fit) if fit.machine.is_empty() => "measured steps".to_owned(),
            Some(fit) => format!("measured steps of {}", fit.machine),
            None if self.devices == 1 => self.device.name.clone(),
            None => format!("{} x {}", self.devices, self.device.name),
        }
    }

    /// The cost of steps with blocks of this size.
    pub(super) fn cost(&self, block_size: u32) -> Box<dyn StepCost> {
        match &self.fit {
            Some(fit) => Box::new(fit.clone()),
            None => Box::new(Roofline {
                shape: self.shape.clone(),
                device: self.device.clone(),
                devices: self.devices,
                block_size,
            }),
        }
    }

    /// Blocks that the memory has room for beside weights and activations, by the plan of the server.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a device's memory, in bytes"
    )]
    pub(super) fn blocks(&self, args: &SimulateArgs, block_size: u32) -> Result<u32> {
        let memory = self.device.memory_bytes * f64::from(self.devices) * self.utilization;
        let request = MemoryRequest {
            dtype: None,
            quantization: None,
            kv_dtype: None,
            block_size: Some(usize::try_from(block_size)?),
            kv_cache_memory_bytes: None,
            available_bytes: memory as u64,
            max_model_len: args.max_model_len.map(usize::try_from).transpose()?,
            max_num_seqs: usize::try_from(args.max_num_seqs)?,
            max_num_batched_tokens: usize::try_from(args.max_num_batched_tokens)?,
            threads: THREADS,
            swap: None,
            pinned_prefixes: &[],
        };
        let plan = plan::plan(&self.described, &request, true)?;
        u32::try_from(plan.blocks).context("the cache has more blocks than can be counted")
    }

    /// Bytes of one block.
    pub(super) fn block_bytes(&self, block_size: u32) -> f64 {
        self.shape.kv_bytes_per_token * f64::from(block_size)
    }
}

/// This machine, by what it reads and, with weights of such floats, computes now. The shares are what the kernels reach of both, and the overheads what
/// a step takes outside of them; see docs/performance.md.
#[allow(clippy::cast_precision_loss, reason = "bytes of memory")]
fn this_machine(dtype: Dtype) -> Result<Device> {
    let context = Context::new(machine::threads(), settings::isa()?)
        .context("the threads that measure this machine cannot be started")?;
    let bandwidth =
        measure::read_bandwidth(&context).context("measuring the memory's bandwidth")?;
    Ok(Device {
        name: "cpu".to_owned(),
        memory_bytes: machine::available_memory().unwrap_or(settings::ASSUMED_MEMORY) as f64,
        bandwidth,
        flops: match dtype {
            Dtype::Bf16 => measure::bf16_peak(&context),
            Dtype::F16 | Dtype::F32 => measure::f32_peak(&context),
        },
        // The only neighbour is the same memory: what is moved is read and written.
        link: bandwidth / 2.0,
        host_link: bandwidth / 2.0,
        bandwidth_share: 0.9,
        flops_share: 0.8,
        step_overhead: 2e-4,
        row_overhead: 3e-5,
        request_overhead: 0.0,
    })
}

/// One that is known, or that of a file.
fn device(name: &str, dtype: Dtype) -> Result<Device> {
    if let Some(device) = cost::device(name) {
        return Ok(device);
    }
    if name == "cpu" {
        return this_machine(dtype);
    }
    let names = DEVICES.map(|device| device.0).join(", ");
    if !Path::new(name).is_file() {
        bail!("--device {name} is not known; there are {names}, cpu, or give a JSON file");
    }
    let text = trace::read_text(Path::new(name), MOST_BYTES)?;
    Device::parse(&text).with_context(|| format!("--device {name}"))
}
