//! One GGUF file, or one part of a split one: its header read and checked, its tensors where they lie.

use rustc_hash::FxHashMap;

use super::cursor::Cursor;
use super::kind::Kind;
use super::metadata::{FILE, Metadata};
use crate::error::ModelError;
use crate::source::FileBytes;

const MOST_TENSORS: usize = 1 << 20;
/// A name's length, the number of dimensions, one of them, the kind, the offset.
const LEAST_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;
const MOST_NAME_BYTES: usize = 1 << 10;
const DEFAULT_ALIGNMENT: usize = 32;
const MOST_ALIGNMENT: usize = 1 << 20;

/// A file whose tensors are all inside it.
pub(crate) struct GgufFile {
    pub(crate) name: String,
    pub(crate) metadata: Metadata,
    pub(crate) bytes: FileBytes,
    tensors: FxHashMap<String, Info>,
}

struct Info {
    kind: Kind,
    /// Outermost first, as everywhere else; the file has them the other way round.
    shape: Vec<usize>,
    /// From the start of the file.
    start: usize,
    length: usize,
}

/// A tensor, where it lies.
pub(crate) struct StoredTensor<'a> {
    pub(crate) kind: Kind,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl GgufFile {
    pub(crate) fn open(name: &str, bytes: FileBytes) -> Result<Self, ModelError> {
        let (metadata, tensors) = read(name, &bytes)?;
        Ok(Self { name: name.to_owned(), metadata, bytes, tensors })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let info = self.tensors.get(name)?;
        // `open` has compared every tensor with the file.
        let bytes = self.bytes.get(info.start..)?.get(..info.length)?;
        Some(StoredTensor { kind: info.kind, shape: &info.shape, bytes })
    }
}

/// The metadata of a file, and where they end.
pub(crate) fn read_metadata(name: &str, bytes: &[u8]) -> Result<(Metadata, usize), ModelError> {
    let cursor = &mut Cursor::new(name, bytes);
    let (_, metadata) = begin(cursor)?;
    Ok((metadata, cursor.position()))
}

/// A file's metadata as a GGUF file without tensors.
pub(crate) fn without_tensors(name: &str, bytes: &[u8]) -> Result<Vec<u8>, ModelError> {
    let (_, end) = read_metadata(name, bytes)?;
    let mut head = bytes.get(..end).unwrap_or_default().to_vec();
    // After the magic number and the version.
    if let Some(tensors) = head.get_mut(8..16) {
        tensors.fill(0);
    }
    Ok(head)
}

/// The number of tensors, and the metadata.
fn begin(cursor: &mut Cursor<'_>) -> Result<(usize, Metadata), ModelError> {
    if cursor.array::<4>().ok() != Some(*b"GGUF") {
        return Err(cursor.bad("is not a GGUF file: it does not begin with `GGUF`"));
    }
    match cursor.u32()? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 => {
            return Err(cursor.bad("is a big-endian GGUF file, which is not supported"));
        }
        version => {
            return Err(cursor.bad(format!(
                "is a GGUF file of version {version}, which is not supported; 2 and 3 are"
            )));
        }
    }
    let count = cursor.count("tensors", LEAST_TENSOR_BYTES, MOST_TENSORS)?;
    let (least, most) = Metadata::LIMITS;
    let values = cursor.count("metadata values", least, most)?;
    Ok((count, Metadata::read(cursor, values)?))
}

fn read(name: &str, bytes: &[u8]) -> Result<(Metadata, FxHashMap<String, Info>), ModelError> {
    let cursor = &mut Cursor::new(name, bytes);
    let (count, metadata) = begin(cursor)?;
    let alignment = alignment(&metadata)?;
    let mut tensors = FxHashMap::default();
    for _ in 0..count {
        let tensor = cursor.text("a tensor's name", MOST_NAME_BYTES)?.to_owned();
        if tensor.is_empty() {
            return Err(cursor.bad("is damaged, or no ordinary GGUF file: a tensor has no name"));
        }
        let info = read_info(cursor, name, &tensor, alignment)?;
        if tensors.contains_key(&tensor) {
            return Err(ModelError::tensor(name, &tensor, "is there twice"));
        }
        tensors.insert(tensor, info);
    }
    let data = cursor.position().next_multiple_of(alignment);
    place(name, &mut tensors, data, bytes.len())?;
    Ok((metadata, tensors))
}

fn alignment(metadata: &Metadata) -> Result<usize, ModelError> {
    let fields = metadata.fields();
    let stated = fields.count("general.alignment", 1..=MOST_ALIGNMENT)?;
    match stated.unwrap_or(DEFAULT_ALIGNMENT) {
        power if power.is_power_of_two() => Ok(power),
        other => Err(ModelError::Field {
            file: FILE,
            field: "general.alignment".to_owned(),
            problem: format!("must be a power of two, not {other}"),
        }),
    }
}

/// Everything about a tensor; its start counts from the data, which is not known yet.
fn read_info(
    cursor: &mut Cursor<'_>,
    file: &str,
    tensor: &str,
    alignment: usize,
) -> Result<Info, ModelError> {
    let bad = |problem: String| ModelError::tensor(file, tensor, problem);
    let dimensions = cursor.u32()?;
    if !(1..=4).contains(&dimensions) {
        return Err(bad(format!("has {dimensions} dimensions; 1 to 4 are possible")));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let stated = cursor.u64()?;
        let size = usize::try_from(stated).ok().filter(|&size| size > 0);
        shape.insert(0, size.ok_or_else(|| bad(format!("has a dimension of {stated}")))?);
    }
    let kind = Kind::of(cursor.u32()?).map_err(bad)?;
    let (elements, size) = kind.block();
    let row = shape.last().copied().unwrap_or_default();
    if !row.is_multiple_of(elements) {
        return Err(bad(format!(
            "has rows of {row} elements; those of {kind:?} are multiples of {elements}"
        )));
    }
    let all = shape.iter().try_fold(1_usize, |product, n| product.checked_mul(*n));
    let length = all.and_then(|all| (all / elements).checked_mul(size));
    let length = length.ok_or_else(|| bad(format!("has the impossible shape {shape:?}")))?;
    let offset = cursor.u64()?;
    let start = usize::try_from(offset).ok().filter(|start| start.is_multiple_of(alignment));
    let start = start.ok_or_else(|| {
        bad(format!("begins at {offset}, which is not a multiple of the alignment {alignment}"))
    })?;
    Ok(Info { kind, shape, start, length })
}

/// Makes starts count from the beginning of the file, and checks that tensors lie inside it and beside each other.
fn place(
    file: &str,
    tensors: &mut FxHashMap<String, Info>,
    data: usize,
    size: usize,
) -> Result<(), ModelError> {
    let mut places = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let start = info.start.checked_add(data);
        let end = start.and_then(|start| start.checked_add(info.length));
        let (Some(start), Some(end)) = (start, end.filter(|&end| end <= size)) else {
            return Err(ModelError::tensor(
                file,
                name,
                format!(
                    "lies beyond the end of the file, which has {size} bytes and is truncated; download it again"
                ),
            ));
        };
        info.start = start;
        places.push((start, end, name));
    }
    places.sort_unstable();
    for pair in places.windows(2) {
        if let [(_, end, first), (start, _, second)] = pair
            && start < end
        {
            return Err(ModelError::tensor(file, second, format!("overlaps tensor `{first}`")));
        }
    }
    Ok(())
}
