//! AWQ and GPTQ: layers packed as their tools pack them are the weights that were packed, and what is not served is refused.

use folio_model::{Checkpoint, KvDtype, MemoryPlan, Runner};
use serde_json::{Value, json};

use crate::driver::{Driver, Job, Outcome, Random, Setup, cpu_runner, open, request};
use crate::folder::{Stored, TempFolder, Tiny};
use crate::naive::Naive;
use crate::rounding::Activations;

const GROUP: usize = 8;

/// A layer quantised to four bits.
struct Layer {
    outputs: usize,
    inputs: usize,
    /// `[outputs][inputs]`
    codes: Vec<Vec<u32>>,
    /// `[groups][outputs]`
    zeros: Vec<Vec<u32>>,
    scales: Vec<Vec<half::f16>>,
}

impl Layer {
    /// Zeros from `least` to `least + 14`.
    fn random(random: &mut Random, outputs: usize, inputs: usize, least: u32) -> Self {
        let mut code = |n: usize| random.below(n) as u32;
        let codes = (0..outputs).map(|_| (0..inputs).map(|_| code(16)).collect()).collect();
        let groups = inputs / GROUP;
        let zeros = (0..groups).map(|_| (0..outputs).map(|_| least + code(15)).collect()).collect();
        let scale = |_| half::f16::from_f32(0.01 + random.float().abs() / 20.0);
        let scales: Vec<half::f16> = (0..groups * outputs).map(scale).collect();
        let scales = scales.chunks(outputs).map(<[half::f16]>::to_vec).collect();
        Self { outputs, inputs, codes, zeros, scales }
    }

    /// The reference: `(code − zero) · scale`.
    fn floats(&self) -> Vec<f32> {
        let one = |output: usize, input: usize| {
            let group = input / GROUP;
            let steps = self.codes[output][input] as f32 - self.zeros[group][output] as f32;
            steps * self.scales[group][output].to_f32()
        };
        (0..self.outputs).flat_map(|o| (0..self.inputs).map(move |i| one(o, i))).collect()
    }

    fn scales(&self) -> Vec<u8> {
        self.scales.concat().iter().flat_map(|scale| scale.to_le_bytes()).collect()
    }

    /// `[inputs, outputs / 8]` and `[groups, outputs / 8]`: AutoAWQ's `WQLinear_GEMM.from_linear`.
    fn awq(&self) -> (Vec<u32>, Vec<u32>) {
        let order = [0, 2, 4, 6, 1, 3, 5, 7];
        let word = |values: &dyn Fn(usize) -> u32, column: usize| {
            (0..8).fold(0, |word, i| word | values(column * 8 + order[i]) << (4 * i))
        };
        let columns = 0..self.outputs / 8;
        let codes = (0..self.inputs).flat_map(|input| {
            columns.clone().map(move |column| word(&|output| self.codes[output][input], column))
        });
        let zeros = (0..self.inputs / GROUP).flat_map(|group| {
            columns.clone().map(move |column| word(&|output| self.zeros[group][output], column))
        });
        (codes.collect(), zeros.collect())
    }

    /// `[inputs / 8, outputs]` and `[groups, outputs / 8]`: AutoGPTQ's `QuantLinear.pack`, which stores zeros less `less`.
    fn gptq(&self, less: u32) -> (Vec<u32>, Vec<u32>) {
        let codes = (0..self.inputs / 8).flat_map(|row| {
            (0..self.outputs).map(move |output| {
                (0..8).fold(0, |word, i| word | self.codes[output][row * 8 + i] << (4 * i))
            })
        });
        let zeros = (0..self.inputs / GROUP).flat_map(|group| {
            (0..self.outputs / 8).map(move |column| {
                let zero = |i: usize| self.zeros[group][column * 8 + i] - less;
                (0..8).fold(0, |word, i| word | zero(i) << (4 * i))
            })
        });
        (codes.collect(), zeros.collect())
    }
}

fn stored(name: String, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Stored {
    Stored { name, dtype, shape: shape.to_vec(), bytes }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What the configuration says.
fn awq() -> Value {
    json!({"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": true})
}

fn gptq(format: &str) -> Value {
    json!({
        "quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": false, "sym": false,
        "checkpoint_format": format,
    })
}

/// The tiny model with quantised layers, and the same with the floats these stand for.
fn both(config: &Value) -> (Tiny, Tiny) {
    let (mut packed, mut floats) = (Tiny::new(), Tiny::new());
    packed.config["quantization_config"] = config.clone();
    let random = &mut Random(11);
    let less = u32::from(config["checkpoint_format"] == "gptq");
    for tensor in std::mem::take(&mut packed.tensors) {
        let Some(name) = tensor.name.strip_suffix("_proj.weight") else {
            packed.tensors.push(tensor);
            continue;
        };
        let (outputs, inputs) = (tensor.shape[0], tensor.shape[1]);
        let layer = Layer::random(random, outputs, inputs, less);
        let bytes = layer.floats().iter().flat_map(|x| x.to_le_bytes()).collect();
        floats.tensor(&tensor.name).bytes = bytes;
        let full = |suffix: &str| format!("{name}_proj.{suffix}");
        let (codes, zeros) = if config["quant_method"] == "awq" {
            let (codes, zeros) = layer.awq();
            (stored(full("qweight"), "I32", &[inputs, outputs / 8], words(&codes)), zeros)
        } else {
            let order: Vec<u32> = (0..inputs).map(|input| (input / GROUP) as u32).collect();
            packed.tensors.push(stored(full("g_idx"), "I32", &[inputs], words(&order)));
            let (codes, zeros) = layer.gptq(less);
            (stored(full("qweight"), "I32", &[inputs / 8, outputs], words(&codes)), zeros)
        };
        let groups = inputs / GROUP;
        packed.tensors.extend([
            codes,
            stored(full("qzeros"), "I32", &[groups, outputs / 8], words(&zeros)),
            stored(full("scales"), "F16", &[groups, outputs], layer.scales()),
        ]);
    }
    (packed, floats)
}

fn jobs() -> [Job; 2] {
    [Job::greedy(&[1, 2, 3, 9, 4], 5), Job::greedy(&[7], 3)]
}

fn setup() -> Setup {
    Setup { kv_dtype: Some(KvDtype::F32), ..Setup::default() }
}

fn naive(folder: &TempFolder, activations: Activations) -> Vec<Outcome> {
    let (checkpoint, setup) = (open(&folder.0), setup());
    let plan = MemoryPlan::compute(&checkpoint, &request(&setup)).unwrap();
    let mut runner = Runner::load(Naive(activations), &checkpoint, &plan, &mut |_| {}).unwrap();
    Driver::new(&mut runner, &plan, 4).run(&jobs(), &setup)
}

#[test]
fn packed_layers_are_the_weights_that_were_packed() {
    for config in [awq(), gptq("gptq"), gptq("gptq_v2")] {
        let (packed, floats) = both(&config);
        let (packed, floats) = (packed.write(), floats.write());
        // The oracle computes with what it read, exactly.
        let exact = Activations::Exact;
        assert_eq!(naive(&packed, exact), naive(&floats, exact), "{config}");
        let (setup, theirs) = (setup(), naive(&packed, Activations::Kernels));
        let (mut runner, plan) = cpu_runner(&open(&packed.0), &setup);
        let ours = Driver::new(&mut runner, &plan, 4).run(&jobs(), &setup);
        let pairs = ours
            .iter()
            .zip(&theirs)
            .flat_map(|(a, b)| a.prompt_scores.iter().zip(&b.prompt_scores));
        let most = pairs.map(|(a, b)| (a.logprob - b.logprob).abs()).fold(0.0, f32::max);
        println!("{}: {most:.1e} from the oracle", config["quant_method"]);
        assert!(most < 1e-5, "{config}: {most}");
        let name = if config["quant_method"] == "awq" { "AWQ int4" } else { "GPTQ int4" };
        assert!(plan.weights.starts_with(name) || plan.weights.ends_with(name), "{}", plan.weights);
    }
}

fn refused(config: &Value, change: impl FnOnce(&mut Tiny), parts: &[&str]) {
    let (mut packed, _) = both(config);
    change(&mut packed);
    let folder = packed.write();
    let sentence = Checkpoint::open(&folder.source()).expect_err("a refusal").to_string();
    for part in parts {
        assert!(sentence.contains(part), "{sentence:?} does not contain {part:?}");
    }
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    let field = |field: &str, value: Value, parts: &[&str]| {
        let set = |tiny: &mut Tiny| tiny.config["quantization_config"][field] = value;
        refused(&gptq("gptq"), set, parts);
    };
    for method in ["fp8", "bitsandbytes", "compressed-tensors", "mxfp4"] {
        let named = format!("`{method}`");
        field("quant_method", json!(method), &["quantization_config.quant_method", &named, "AWQ"]);
    }
    field("quant_method", Value::Null, &["quant_method", "missing"]);
    field("bits", json!(8), &["quantization_config.bits", "`8`"]);
    field("bits", json!("4"), &["bits"]);
    field("checkpoint_format", json!("marlin"), &["checkpoint_format", "`marlin`"]);
    field("group_size", json!(0), &["group_size"]);
    field("group_size", json!(5), &["qzeros", "shape"]);
    field("group_size", json!(16), &["qzeros", "shape"]);
    let gemv = |tiny: &mut Tiny| tiny.config["quantization_config"]["version"] = json!("gemv");
    refused(&awq(), gemv, &["version", "`gemv`"]);
    let name = |what: &str| format!("model.layers.0.self_attn.q_proj.{what}");
    let scattered = |tiny: &mut Tiny| tiny.tensor(&name("g_idx")).bytes[0] = 1;
    refused(&gptq("gptq"), scattered, &["g_idx", "desc_act"]);
    let renamed = |tiny: &mut Tiny| tiny.tensor(&name("qzeros")).name.push('x');
    refused(&gptq("gptq"), renamed, &["qzeros"]);
    let floats = |tiny: &mut Tiny| tiny.tensor(&name("qweight")).dtype = "F32";
    refused(&gptq("gptq"), floats, &["qweight", "F32", "I32"]);
}
