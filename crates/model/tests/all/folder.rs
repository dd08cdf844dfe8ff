//! Small model folders made in code, so that they can be made wrong.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use folio_model::ModelSource;
use serde_json::{Map, Value, json};

/// A folder that is removed when it is dropped.
pub(crate) struct TempFolder(pub(crate) PathBuf);

impl TempFolder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("folio-model-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    pub(crate) fn source(&self) -> ModelSource {
        ModelSource::Folder(self.0.clone())
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A stored tensor.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// A Llama of one layer.
#[derive(Clone)]
pub(crate) struct Tiny {
    pub(crate) config: Value,
    pub(crate) tensors: Vec<Stored>,
}

impl Tiny {
    pub(crate) fn new() -> Self {
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 10,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 32,
            "tie_word_embeddings": false,
        });
        let layer = "model.layers.0.";
        let shapes = [
            ("model.embed_tokens.weight".to_owned(), vec![10, 16]),
            (format!("{layer}input_layernorm.weight"), vec![16]),
            (format!("{layer}self_attn.q_proj.weight"), vec![16, 16]),
            (format!("{layer}self_attn.k_proj.weight"), vec![8, 16]),
            (format!("{layer}self_attn.v_proj.weight"), vec![8, 16]),
            (format!("{layer}self_attn.o_proj.weight"), vec![16, 16]),
            (format!("{layer}post_attention_layernorm.weight"), vec![16]),
            (format!("{layer}mlp.gate_proj.weight"), vec![24, 16]),
            (format!("{layer}mlp.up_proj.weight"), vec![24, 16]),
            (format!("{layer}mlp.down_proj.weight"), vec![16, 24]),
            ("model.norm.weight".to_owned(), vec![16]),
            ("lm_head.weight".to_owned(), vec![10, 16]),
        ];
        let tensors = shapes.into_iter().map(|(name, shape)| {
            let elements: usize = shape.iter().product();
            let value = |i: usize| ((i * 37 % 23) as f32 - 11.0) / 20.0;
            let bytes = (0..elements).flat_map(|i| value(i).to_le_bytes()).collect();
            Stored { name, dtype: "F32", shape, bytes }
        });
        Self { config, tensors: tensors.collect() }
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub(crate) fn header(&self) -> Map<String, Value> {
        let mut at = 0;
        let mut header = Map::new();
        for tensor in &self.tensors {
            let end = at + tensor.bytes.len();
            let info =
                json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]});
            header.insert(tensor.name.clone(), info);
            at = end;
        }
        header
    }

    pub(crate) fn data(&self) -> Vec<u8> {
        self.tensors.iter().flat_map(|t| t.bytes.clone()).collect()
    }

    /// The weights as one file.
    pub(crate) fn safetensors(&self) -> Vec<u8> {
        file(&self.header(), &self.data())
    }

    /// A folder with configuration and weights.
    pub(crate) fn write(&self) -> TempFolder {
        let folder = TempFolder::new();
        folder.write("config.json", self.config.to_string());
        folder.write("model.safetensors", self.safetensors());
        folder
    }
}

/// A safetensors file of any header and data.
pub(crate) fn file(header: &Map<String, Value>, data: &[u8]) -> Vec<u8> {
    let header = Value::Object(header.clone()).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(data);
    bytes
}
