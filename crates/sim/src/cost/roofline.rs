//! The roofline: a step's matrices and its attention each take as long as their memory traffic or their arithmetic,
//! whichever is more.

use super::{Device, Shape, Step, StepCost};

/// Seconds that an exchange between devices takes beside its bytes.
const EXCHANGE_LATENCY: f64 = 10e-6;

/// A model on one or more devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofline {
    /// The model.
    pub shape: Shape,
    /// The kind of device.
    pub device: Device,
    /// How many devices share every layer; at least 1.
    pub devices: u32,
    /// Positions per block, for the cost of copies and swaps.
    pub block_size: u32,
}

#[allow(clippy::cast_precision_loss, reason = "counts of one step are far below 2^52")]
impl StepCost for Roofline {
    fn seconds(&self, step: &Step) -> f64 {
        let Self { shape, device, block_size, .. } = self;
        let devices = f64::from(self.devices.max(1));
        let bandwidth = device.bandwidth * device.bandwidth_share * devices;
        let flops = device.flops * device.flops_share * devices;
        let (tokens, draws) = (step.tokens as f64, step.draws as f64);
        let work = tokens * shape.layer_flops + draws * shape.head_flops;
        let matrices = if step.tokens == 0 {
            0.0
        } else {
            f64::max(work / flops, shape.weight_bytes / bandwidth)
        };
        let kv = (step.context as f64 + tokens) * shape.kv_bytes_per_token;
        let attention = f64::max(step.pairs as f64 * shape.pair_flops / flops, kv / bandwidth);
        let block = f64::from(*block_size) * shape.kv_bytes_per_token;
        let copies = step.copies as f64 * 2.0 * block / bandwidth;
        let swaps = step.swaps as f64 * block / (device.host_link * devices);
        device.step_overhead
            + device.row_overhead * step.rows as f64
            + device.request_overhead * step.requests as f64
            + matrices
            + attention
            + copies
            + swaps
            + self.exchange(tokens)
    }
}

impl Roofline {
    /// Two reductions per layer, around a ring.
    fn exchange(&self, tokens: f64) -> f64 {
        if self.devices <= 1 {
            return 0.0;
        }
        let around = 2.0 * (1.0 - 1.0 / f64::from(self.devices));
        let bytes = tokens * self.shape.exchange_bytes * around;
        2.0 * self.shape.layers * (EXCHANGE_LATENCY + bytes / self.device.link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thirteen(devices: u32) -> Roofline {
        let device = super::super::device("a100-40g").unwrap();
        Roofline { shape: Shape::opt_13b(), device, devices, block_size: 16 }
    }

    #[test]
    fn one_row_is_bound_by_bandwidth_and_many_by_arithmetic() {
        let model = thirteen(1);
        let of = |tokens| model.seconds(&Step { tokens, rows: tokens, ..Step::default() }) - 2e-3;
        // 25.7 GB at 80 % of 1.555 TB/s.
        assert!((of(1) - 25.68e9 / 1.244e12).abs() < 1e-3, "{}", of(1));
        assert!((of(8) - of(1)).abs() < 1e-3);
        assert!(of(2048) > 10.0 * of(1));
    }

    #[test]
    fn four_devices_are_faster_than_one_but_not_four_times() {
        let step =
            Step { tokens: 1, rows: 1, draws: 1, context: 500, pairs: 500, ..Step::default() };
        let (one, four) = (thirteen(1).seconds(&step), thirteen(4).seconds(&step));
        assert!(four < one && four > one / 4.0, "{one} {four}");
    }

    #[test]
    fn swaps_take_longer_than_copies() {
        let copy = thirteen(1).seconds(&Step { copies: 10, ..Step::default() });
        let swap = thirteen(1).seconds(&Step { swaps: 10, ..Step::default() });
        // 13 MB per block: 10 µs within the device, 524 µs to the host.
        assert!(swap - copy > 1e-3, "{copy} {swap}");
    }
}
