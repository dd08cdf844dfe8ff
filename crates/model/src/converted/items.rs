//! What a converted model consists of, by name: written from the tensors of the original, asked for by the model's configuration.

use crate::backend::Form;
use crate::spec::ModelSpec;
use crate::weights::{Keep, Kept, LinearTensors, MatrixLayout, ModelTensors, NormTensors};

pub(super) const EMBED: &str = "embed";
pub(super) const POSITIONS: &str = "positions";
pub(super) const LOGITS: &str = "logits";
pub(super) const FINAL_NORM: &str = "final_norm";
pub(super) const ROPE_FACTORS: &str = "rope_factors";

/// `layers.3.qkv`
pub(super) fn in_layer(layer: usize, name: &str) -> String {
    format!("layers.{layer}.{name}")
}

pub(super) fn bias(name: &str) -> String {
    format!("{name}.bias")
}

pub(super) fn weight(name: &str) -> String {
    format!("{name}.weight")
}

/// Everything to write.
#[derive(Default)]
pub(super) struct Items<'a> {
    /// With how each will lie in memory.
    pub(super) matrices: Vec<(String, &'a LinearTensors<'a>, MatrixLayout)>,
    pub(super) vectors: Vec<(String, &'a [f32])>,
}

impl<'a> Items<'a> {
    pub(super) fn new(tensors: &'a ModelTensors<'a>, spec: &ModelSpec, keep: Keep) -> Self {
        let mut items = Self::default();
        if !spec.tied {
            items.linear(EMBED, &tensors.embed, Form::Plain, keep.tables());
        }
        if let Some(positions) = &tensors.positions {
            items.linear(POSITIONS, positions, Form::Plain, keep.positions());
        }
        let up = if spec.gated { Form::Gated } else { Form::Plain };
        for (number, layer) in tensors.layers.iter().enumerate() {
            let name = |name| in_layer(number, name);
            items.linear(&name("qkv"), &layer.qkv, Form::Plain, keep.layers());
            items.linear(&name("output"), &layer.output, Form::Plain, keep.layers());
            items.linear(&name("up"), &layer.up, up, keep.layers());
            items.linear(&name("down"), &layer.down, Form::Plain, keep.layers());
            items.norm(&name("attention_norm"), Some(&layer.attention_norm));
            items.norm(&name("post_attention_norm"), layer.post_attention_norm.as_ref());
            items.norm(&name("mlp_norm"), layer.mlp_norm.as_ref());
            items.norm(&name("post_mlp_norm"), layer.post_mlp_norm.as_ref());
            if let Some((query, key)) = &layer.query_key_norms {
                items.vectors.push((name("query_norm"), query));
                items.vectors.push((name("key_norm"), key));
            }
        }
        items.norm(FINAL_NORM, Some(&tensors.final_norm));
        items.linear(LOGITS, &tensors.logits, Form::Plain, keep.tables());
        items
    }

    fn linear(&mut self, name: &str, tensors: &'a LinearTensors<'a>, form: Form, kept: Kept) {
        let layout = MatrixLayout::new(tensors, form).kept(kept);
        self.matrices.push((name.to_owned(), tensors, layout));
        if let Some(values) = &tensors.bias {
            self.vectors.push((bias(name), values));
        }
    }

    fn norm(&mut self, name: &str, norm: Option<&'a NormTensors>) {
        let Some(norm) = norm else { return };
        self.vectors.push((weight(name), &norm.weight));
        if let Some(values) = &norm.bias {
            self.vectors.push((bias(name), values));
        }
    }
}
