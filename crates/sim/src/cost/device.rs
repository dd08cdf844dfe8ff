//! Machines by their published figures, and what of them programs reach.

use serde::{Deserialize, Serialize};

/// One device; several of them share a model by tensor parallelism.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// A device that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadDevice {
    /// Not what a device looks like.
    #[error("is no device: {0}")]
    Json(String),
    /// A number that no machine has.
    #[error("{field} must be from {least:?} to {most:?}, not {value:?}")]
    Field {
        /// Its name.
        field: &'static str,
        /// The smallest it may be.
        least: f64,
        /// The largest it may be.
        most: f64,
        /// What it is.
        value: f64,
    },
}

impl Device {
    /// Reads a device from JSON, with the names of the fields; `request_overhead` may be left out. Numbers are within what any
    /// machine has, and far more, so that what is computed from them is a time.
    ///
    /// # Errors
    /// [`BadDevice`] names the field.
    pub fn parse(text: &str) -> Result<Self, BadDevice> {
        const RATE: (f64, f64) = (1.0, 1e24);
        const SHARE: (f64, f64) = (1e-6, 1.0);
        const SECONDS: (f64, f64) = (0.0, 1e3);
        let device: Self =
            serde_json::from_str(text).map_err(|error| BadDevice::Json(error.to_string()))?;
        let fields = [
            ("memory_bytes", device.memory_bytes, (1.0, 1e18)),
            ("bandwidth", device.bandwidth, RATE),
            ("flops", device.flops, RATE),
            ("link", device.link, RATE),
            ("host_link", device.host_link, RATE),
            ("bandwidth_share", device.bandwidth_share, SHARE),
            ("flops_share", device.flops_share, SHARE),
            ("step_overhead", device.step_overhead, SECONDS),
            ("row_overhead", device.row_overhead, SECONDS),
            ("request_overhead", device.request_overhead, SECONDS),
        ];
        let wrong =
            fields.into_iter().find(|(_, value, (least, most))| !(least..=most).contains(&value));
        match wrong {
            None => Ok(device),
            Some((field, value, (least, most))) => {
                Err(BadDevice::Field { field, least, most, value })
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{Roofline, Shape, Step, StepCost as _};

    #[test]
    fn whatever_a_file_says_steps_take_a_time_or_the_field_is_named() {
        let text = serde_json::to_string(&device("a100-40g").unwrap()).unwrap();
        let plain: serde_json::Value = serde_json::from_str(&text).unwrap();
        let fields: Vec<String> = plain.as_object().unwrap().keys().cloned().collect();
        let values = ["1e-300", "1e300", "-1", "0", "1e-6", "1e3", "1e18", "1", "1e999", "\"x\""];
        let mut read = 0;
        for field in fields.iter().filter(|field| *field != "name") {
            for value in values {
                let mut changed = plain.clone();
                changed[field] = "HERE".into();
                let text = changed.to_string().replace("\"HERE\"", value);
                let device = match Device::parse(&text) {
                    Ok(device) => device,
                    Err(BadDevice::Field { field: named, .. }) => {
                        assert_eq!(named, field, "{value}");
                        continue;
                    }
                    Err(BadDevice::Json(said)) => {
                        assert!(["1e999", "\"x\""].contains(&value), "{field} = {value}: {said}");
                        continue;
                    }
                };
                read += 1;
                let most = Step {
                    tokens: 1 << 40,
                    rows: 1 << 30,
                    requests: 1 << 30,
                    draws: 1 << 30,
                    context: 1 << 50,
                    pairs: 1 << 62,
                    copies: 1 << 40,
                    swaps: 1 << 40,
                };
                for step in [Step::default(), most] {
                    let cost = Roofline {
                        shape: Shape::opt_13b(),
                        device: device.clone(),
                        devices: 8,
                        block_size: 256,
                    };
                    let seconds = cost.seconds(&step);
                    assert!(seconds.is_finite() && seconds >= 0.0, "{field} = {value}: {seconds}");
                }
            }
        }
        assert!(read > 20, "{read}");
    }

    #[test]
    fn a_field_that_is_not_known_is_told() {
        let said = Device::parse(r#"{"name": "x", "row_overhed": 1}"#).unwrap_err().to_string();
        assert!(said.contains("row_overhed"), "{said}");
    }
}
