//! The families as GGUF files describe them: what the metadata leaves unsaid, as a table.
//!
//! Writers of GGUF make families alike: norms hold what is multiplied (Gemma's have their one added), Conv1D matrices are
//! turned round, GPT-NeoX's heads untangled, and Llama's queries and keys reordered so that neighbouring channels turn
//! together. Which tensors are fused and which layers have biases is seen from the tensors themselves.

use serde_json::Value;

use super::shape::inverse_root;
use crate::error::ModelError;
use crate::fields::Fields;
use crate::gguf::METADATA;
use crate::names::{Names, QkvNames, UpNames};
use crate::rope::{Rope, RopeScaling, RopeStyle};
use crate::spec::{Activation, Biases, ModelSpec, NormKind, NormSpec, Placement, Position, bounds};

/// What a family's files need not say.
struct Family {
    /// `general.architecture`
    architecture: &'static str,
    norm: NormKind,
    placement: Placement,
    activation: Activation,
    gated: bool,
    /// `None`: positions are learned.
    rope: Option<RopeStyle>,
    query_key_norm: bool,
    /// Changes what only this family has.
    adjust: fn(&Described<'_>, &mut ModelSpec) -> Result<(), ModelError>,
}

const LLAMA: Family = Family {
    architecture: "llama",
    norm: NormKind::Rms,
    placement: Placement::Pre,
    activation: Activation::Silu,
    gated: true,
    rope: Some(RopeStyle::Interleaved),
    query_key_norm: false,
    adjust: all_slide,
};

const QWEN2: Family = Family { architecture: "qwen2", rope: Some(RopeStyle::Half), ..LLAMA };

const GPT2: Family = Family {
    architecture: "gpt2",
    norm: NormKind::Layer,
    activation: Activation::GeluTanh,
    gated: false,
    rope: None,
    ..LLAMA
};

const FAMILIES: &[Family] = &[
    LLAMA,
    QWEN2,
    Family { architecture: "qwen3", query_key_norm: true, ..QWEN2 },
    Family {
        architecture: "gemma2",
        placement: Placement::PreAndPost,
        activation: Activation::GeluTanh,
        adjust: gemma2,
        ..QWEN2
    },
    Family { architecture: "phi3", ..QWEN2 },
    Family {
        architecture: "phi2",
        placement: Placement::ParallelShared,
        rope: Some(RopeStyle::Half),
        ..GPT2
    },
    GPT2,
    Family {
        architecture: "gptneox",
        activation: Activation::Gelu,
        rope: Some(RopeStyle::Half),
        adjust: gpt_neox,
        ..GPT2
    },
];

const NAMES: Names = Names {
    prefixes: &[""],
    embed: "token_embd",
    positions: Some("position_embd"),
    final_norm: "output_norm",
    logits: "output",
    layer: "blk.",
    attention_norm: "attn_norm",
    post_attention_norm: None,
    mlp_norm: Some("ffn_norm"),
    post_mlp_norm: None,
    qkv: QkvNames::Split { query: "attn_q", key: "attn_k", value: "attn_v" },
    query_key_norms: Some(("attn_q_norm", "attn_k_norm")),
    output: "attn_output",
    up: UpNames::Split { gate: "ffn_gate", up: "ffn_up" },
    down: "ffn_down",
    transposed: false,
};

/// The factors of wavelengths, where a file has them.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// What a file says of its model.
pub(crate) struct Described<'a> {
    pub(crate) fields: &'a Fields,
    /// The shape of a tensor, if there is one of that name.
    pub(crate) shape: &'a dyn Fn(&str) -> Option<Vec<usize>>,
    /// The contents of [`ROPE_FACTORS`].
    pub(crate) rope_factors: Option<Vec<f32>>,
}

impl Described<'_> {
    fn architecture(&self) -> &str {
        self.fields.text("general.architecture").ok().flatten().unwrap_or_default()
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture())
    }

    fn has(&self, tensor: &str) -> bool {
        (self.shape)(tensor).is_some()
    }

    fn in_first_layer(&self, tensor: &str) -> bool {
        self.has(&NAMES.in_layer("", 0, tensor))
    }

    fn count(&self, name: &str, most: usize) -> Result<Option<usize>, ModelError> {
        self.fields.count(&self.key(name), 1..=most)
    }

    fn dimension(&self, name: &str, most: usize) -> Result<usize, ModelError> {
        let value = self.count(name, most)?;
        self.fields.required(&self.key(name), value)
    }

    fn bad(&self, name: &str, problem: impl Into<String>) -> ModelError {
        self.fields.bad(&self.key(name), problem)
    }

    #[allow(clippy::cast_possible_truncation, reason = "f32 is the kernels' width")]
    fn positive(&self, name: &str, most: f64) -> Result<Option<f32>, ModelError> {
        Ok(self.fields.positive(&self.key(name), most)?.map(|value| value as f32))
    }
}

/// Knobs and names of the model in a GGUF file.
///
/// # Errors
/// When the architecture is not served, or a value is missing, out of range or asks for what is not served.
pub(crate) fn read(described: &Described<'_>) -> Result<(ModelSpec, Names), ModelError> {
    let fields = described.fields;
    let named = fields.text("general.architecture")?;
    let named = fields.required("general.architecture", named)?;
    let Some(family) = FAMILIES.iter().find(|family| family.architecture == named) else {
        let served: Vec<_> = FAMILIES.iter().map(|family| family.architecture).collect();
        let problem = format!("is `{named}`, which is not supported; {} are", served.join(", "));
        return Err(fields.bad("general.architecture", problem));
    };
    if let Some(Value::String(kind)) = fields.value("general.type")
        && kind != "model"
    {
        return Err(fields.bad("general.type", format!("is `{kind}`: not a model by itself")));
    }
    if fields.count(&described.key("expert_count"), 0..=1 << 16)?.is_some_and(|n| n > 0) {
        return Err(described.bad("expert_count", "is set: mixtures of experts are not supported"));
    }
    let names = names(family, described);
    let mut spec = spec(family, described, &names)?;
    (family.adjust)(described, &mut spec)?;
    spec.check().map_err(|error| error.in_file(METADATA))?;
    Ok((spec, names))
}

fn names(family: &Family, described: &Described<'_>) -> Names {
    let post = family.placement == Placement::PreAndPost;
    let plain = UpNames::Plain("ffn_up");
    let fused = if family.gated { UpNames::Fused("ffn_up") } else { plain };
    Names {
        post_attention_norm: post.then_some("post_attention_norm"),
        post_mlp_norm: post.then_some("post_ffw_norm"),
        mlp_norm: NAMES.mlp_norm.filter(|_| family.placement != Placement::ParallelShared),
        qkv: if described.in_first_layer("attn_qkv.weight") {
            QkvNames::Fused("attn_qkv")
        } else {
            NAMES.qkv
        },
        up: if described.in_first_layer("ffn_gate.weight") { NAMES.up } else { fused },
        ..NAMES
    }
}

fn spec(
    family: &Family,
    described: &Described<'_>,
    names: &Names,
) -> Result<ModelSpec, ModelError> {
    let hidden = described.dimension("embedding_length", bounds::WIDTH)?;
    let heads = described.dimension("attention.head_count", bounds::HEADS)?;
    let layers = described.dimension("block_count", bounds::LAYERS)?;
    let head_dim = head_dim(described, hidden, heads)?;
    let epsilon = match family.norm {
        NormKind::Layer => "attention.layer_norm_epsilon",
        NormKind::Rms | NormKind::RmsUnitOffset => "attention.layer_norm_rms_epsilon",
    };
    let stated = described.positive(epsilon, 1.0)?;
    let epsilon = described.fields.required(&described.key(epsilon), stated)?;
    let position = match family.rope {
        Some(style) => Position::Rope(rope(described, style, head_dim)?),
        None => Position::Learned { offset: 0 },
    };
    Ok(ModelSpec {
        vocab: vocab(described)?,
        hidden,
        intermediate: described.dimension("feed_forward_length", bounds::WIDTH)?,
        layers,
        heads,
        kv_heads: described.count("attention.head_count_kv", bounds::HEADS)?.unwrap_or(heads),
        head_dim,
        context: described.dimension("context_length", bounds::CONTEXT)?,
        norm: NormSpec { kind: family.norm, epsilon },
        placement: family.placement,
        position,
        windows: vec![None; layers],
        query_key_norm: family.query_key_norm,
        attention_scale: inverse_root(head_dim),
        attention_cap: None,
        logit_cap: None,
        activation: family.activation,
        gated: family.gated,
        biases: biases(described, names),
        tied: !described.has("output.weight"),
        embed_scale: None,
    })
}

/// A model has as many tokens as embeddings.
fn vocab(described: &Described<'_>) -> Result<usize, ModelError> {
    let shape = (described.shape)("token_embd.weight");
    let rows = shape.as_deref().and_then(<[usize]>::first).copied();
    let missing = || {
        ModelError::Unsupported(
            "tensor `token_embd.weight` is missing: the file holds no whole language model"
                .to_owned(),
        )
    };
    let rows = rows.ok_or_else(missing)?;
    if rows > bounds::VOCAB {
        let problem = format!(
            "tensor `token_embd.weight` has {rows} rows; at most {} are served",
            bounds::VOCAB
        );
        return Err(ModelError::Unsupported(problem));
    }
    Ok(rows)
}

fn head_dim(described: &Described<'_>, hidden: usize, heads: usize) -> Result<usize, ModelError> {
    let key = described.count("attention.key_length", bounds::HEAD_DIM)?;
    let value = described.count("attention.value_length", bounds::HEAD_DIM)?;
    if key.is_some() && value.is_some() && key != value {
        return Err(described.bad(
            "attention.value_length",
            "differs from attention.key_length, which is not supported",
        ));
    }
    match key.or(value) {
        Some(dim) => Ok(dim),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => Err(described.bad(
            "attention.head_count",
            format!("({heads}) must divide the embedding length ({hidden})"),
        )),
    }
}

/// Which layers have biases: as the first one has.
fn biases(described: &Described<'_>, names: &Names) -> Biases {
    let has = |name: &str| described.in_first_layer(&format!("{name}.bias"));
    Biases {
        qkv: match names.qkv {
            QkvNames::Split { query, .. } => has(query),
            QkvNames::Fused(name) | QkvNames::Interleaved(name) => has(name),
        },
        output: has(names.output),
        up: match names.up {
            UpNames::Split { up, .. } => has(up),
            UpNames::Plain(name) | UpNames::Fused(name) => has(name),
        },
        down: has(names.down),
        logits: described.has("output.bias"),
    }
}

fn rope(described: &Described<'_>, style: RopeStyle, head_dim: usize) -> Result<Rope, ModelError> {
    if described.has("rope_factors_long.weight") || described.has("rope_factors_short.weight") {
        return Err(described.bad(
            "rope.scaling.type",
            "is `longrope`, which is not supported; serve the variant with the short context",
        ));
    }
    let fields = described.fields;
    let theta = fields.positive(&described.key("rope.freq_base"), 1e18)?;
    let dims = described.count("rope.dimension_count", bounds::HEAD_DIM)?.unwrap_or(head_dim);
    let scaling = match &described.rope_factors {
        Some(factors) => RopeScaling::PerPair(factors.clone()),
        None => scaling(described)?,
    };
    Ok(Rope { theta: theta.unwrap_or(10_000.0), dims, style, scaling })
}

fn scaling(described: &Described<'_>) -> Result<RopeScaling, ModelError> {
    let fields = described.fields;
    let kind = described.key("rope.scaling.type");
    // What files had before there was a kind.
    let older = fields.positive(&described.key("rope.scale_linear"), 1e9)?;
    match fields.text(&kind)? {
        None => Ok(older.map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor })),
        Some("none") => Ok(RopeScaling::None),
        Some("linear") => {
            let key = described.key("rope.scaling.factor");
            let factor = fields.positive(&key, 1e9)?.or(older);
            Ok(RopeScaling::Linear { factor: fields.required(&key, factor)? })
        }
        Some(other) => Err(fields
            .bad(&kind, format!("is `{other}`, which is not supported; `none` and `linear` are"))),
    }
}

/// A window in every layer, where one is stated.
fn all_slide(described: &Described<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    // Zero says that there is none.
    let key = described.key("attention.sliding_window");
    let window = described.fields.count(&key, 0..=bounds::CONTEXT)?.filter(|&window| window > 0);
    spec.windows = vec![window; spec.layers];
    Ok(())
}

/// Capped scores and logits, a window in every other layer, embeddings multiplied by the root of their width.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a bounded width")]
fn gemma2(described: &Described<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    /// Layers of the 27B model, the only one whose scores are divided by something else than the size of a head. No value
    /// in the file says so.
    const LAYERS_OF_27B: usize = 46;
    let window = described.count("attention.sliding_window", bounds::CONTEXT)?.unwrap_or(4096);
    let slides = |layer: usize| layer.is_multiple_of(2).then_some(window);
    spec.windows = (0..spec.layers).map(slides).collect();
    spec.attention_cap = Some(described.positive("attn_logit_softcapping", 1e6)?.unwrap_or(50.0));
    spec.logit_cap = Some(described.positive("final_logit_softcapping", 1e6)?.unwrap_or(30.0));
    spec.embed_scale = Some((spec.hidden as f64).sqrt() as f32);
    if spec.layers == LAYERS_OF_27B {
        spec.attention_scale = inverse_root(spec.hidden / spec.heads);
    }
    Ok(())
}

fn gpt_neox(described: &Described<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let parallel = described.fields.flag(&described.key("use_parallel_residual"))?;
    if parallel.unwrap_or(true) {
        spec.placement = Placement::ParallelSeparate;
    }
    Ok(())
}
