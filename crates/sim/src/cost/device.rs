//! Machines by their published figures, and what of them programs reach.

use serde::{Deserialize, Serialize};

/// One device; several of them share a model by tensor parallelism.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// What it is called on the command line.
    pub name: String,
    /// Its memory, in bytes.
    pub memory_bytes: f64,
    /// Bytes per second that it reads from its memory.
    pub bandwidth: f64,
    /// 16-bit operations per second of its matrix units.
    pub flops: f64,
    /// Bytes per second to one neighbour, in one direction.
    pub link: f64,
    /// Bytes per second to the host's memory.
    pub host_link: f64,
    /// Share of the bandwidth that is reached.
    pub bandwidth_share: f64,
    /// Share of the operations that is reached.
    pub flops_share: f64,
    /// Seconds that every step takes beside its work: planning, launching, waiting.
    pub step_overhead: f64,
    /// Seconds that every sequence of a step takes beside its work: sampling.
    pub row_overhead: f64,
    /// Seconds that every request of a step takes beside its sequences: bookkeeping, text, answers.
    #[serde(default)]
    pub request_overhead: f64,
}

/// Name, GiB, bandwidth in TB/s, 16-bit Tflop/s, link and host link in GB/s: from the makers' data sheets.
pub const DEVICES: [(&str, f64, f64, f64, f64, f64); 4] = [
    ("a100-40g", 40.0, 1.555, 312.0, 300.0, 25.0),
    ("a100-80g", 80.0, 2.039, 312.0, 300.0, 25.0),
    ("h100", 80.0, 3.35, 989.0, 450.0, 50.0),
    ("h200", 141.0, 4.8, 989.0, 450.0, 50.0),
];

/// The device of this name. Four fifths of the bandwidth, 55 % of the arithmetic and 2 ms per step are what good engines
/// reach; they are assumptions, and can be changed.
#[must_use]
pub fn device(name: &str) -> Option<Device> {
    let (name, gib, bandwidth, flops, link, host_link) =
        *DEVICES.iter().find(|(known, ..)| *known == name)?;
    Some(Device {
        name: name.to_owned(),
        memory_bytes: gib * f64::from(1 << 30),
        bandwidth: bandwidth * 1e12,
        flops: flops * 1e12,
        link: link * 1e9,
        host_link: host_link * 1e9,
        bandwidth_share: 0.8,
        flops_share: 0.55,
        step_overhead: 2e-3,
        row_overhead: 0.0,
        request_overhead: 0.0,
    })
}
