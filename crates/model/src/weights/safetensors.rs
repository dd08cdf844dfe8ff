//! One safetensors file: eight bytes of header length, the header as JSON, the tensors.
//!
//! The crate `safetensors` reads the header and checks that tensors tile the data without gap or overlap; the lengths are
//! checked against the file here, before anything of their size is allocated, and every complaint names the tensor.

use folio_kernels::{Dtype, Raw};
use rustc_hash::FxHashMap;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::ModelError;
use crate::source::FileBytes;

/// Most bytes of a header; a model of a thousand layers needs about two million.
const MOST_HEADER_BYTES: usize = 32 << 20;
const LENGTH_BYTES: usize = 8;

pub(super) struct SafetensorsFile {
    pub(super) name: String,
    pub(super) bytes: FileBytes,
    data: usize,
    tensors: FxHashMap<String, TensorInfo>,
}

/// A tensor of any kind, for those who know what to make of it.
pub(super) struct Plain<'a> {
    pub(super) file: &'a str,
    pub(super) name: String,
    pub(super) dtype: safetensors::Dtype,
    pub(super) shape: &'a [usize],
    pub(super) bytes: &'a [u8],
}

impl SafetensorsFile {
    pub(super) fn open(name: &str, bytes: FileBytes) -> Result<Self, ModelError> {
        let bad = |problem: String| ModelError::file(name, problem);
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(bad("is not a safetensors file: it is shorter than 8 bytes".to_owned()));
        };
        let length = u64::from_le_bytes(*length);
        let length = usize::try_from(length)
            .ok()
            .filter(|&n| n <= MOST_HEADER_BYTES)
            .ok_or_else(|| {
                bad(format!(
                    "is not a safetensors file, or a damaged one: its header would have {length} bytes; at most {MOST_HEADER_BYTES} are read"
                ))
            })?;
        let Some(header) = rest.get(..length) else {
            return Err(bad(format!(
                "is truncated: its header has {length} bytes, the whole file {}",
                bytes.len()
            )));
        };
        let metadata: Metadata = serde_json::from_slice(header)
            .map_err(|e| bad(format!("has a damaged header: {e}")))?;
        let available = rest.len() - length;
        let tensors: FxHashMap<_, _> =
            metadata.tensors().into_iter().map(|(n, info)| (n, info.clone())).collect();
        let used = metadata.data_len();
        if used > available {
            let tensor = first_beyond(&tensors, available);
            return Err(ModelError::tensor(
                name,
                &tensor,
                format!(
                    "lies beyond the end of the file, which is truncated: {used} bytes of tensors are needed, {available} are there; download it again"
                ),
            ));
        }
        if used < available {
            return Err(bad(format!("has {} bytes after its last tensor", available - used)));
        }
        Ok(Self { name: name.to_owned(), data: LENGTH_BYTES + length, bytes, tensors })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor of any kind; `None` when the file has none of that name.
    pub(super) fn plain(&self, name: &str) -> Option<Result<Plain<'_>, ModelError>> {
        let info = self.tensors.get(name)?;
        let bytes = self.bytes_of(name, info);
        Some(bytes.map(|bytes| Plain {
            file: &self.name,
            name: name.to_owned(),
            dtype: info.dtype,
            shape: &info.shape,
            bytes,
        }))
    }

    /// Kind, shape and contents of a tensor; `None` when the file has none of that name.
    #[allow(clippy::type_complexity, reason = "one caller, which names the three at once")]
    pub(super) fn tensor(&self, name: &str) -> Option<Result<(&[usize], Raw<'_>), ModelError>> {
        let info = self.tensors.get(name)?;
        Some(self.read(name, info))
    }

    fn read<'a>(
        &'a self,
        name: &str,
        info: &'a TensorInfo,
    ) -> Result<(&'a [usize], Raw<'a>), ModelError> {
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => {
                return Err(ModelError::tensor(
                    &self.name,
                    name,
                    format!(
                        "is stored as {other:?}, which is not supported; F32, F16 and BF16 are"
                    ),
                ));
            }
        };
        Ok((&info.shape, Raw::new(dtype, self.bytes_of(name, info)?)))
    }

    fn bytes_of(&self, name: &str, info: &TensorInfo) -> Result<&[u8], ModelError> {
        let (from, to) = info.data_offsets;
        // `open` has seen that the last tensor ends with the file, and the crate that they tile it.
        let bytes = self.bytes.get(self.data..).and_then(|data| data.get(from..to));
        bytes.ok_or_else(|| ModelError::tensor(&self.name, name, "lies beyond the end of the file"))
    }
}

/// The first tensor, in file order, that ends beyond `available` bytes.
fn first_beyond(tensors: &FxHashMap<String, TensorInfo>, available: usize) -> String {
    tensors
        .iter()
        .filter(|(_, info)| info.data_offsets.1 > available)
        .min_by_key(|(_, info)| info.data_offsets)
        .map(|(name, _)| name.clone())
        .unwrap_or_default()
}
