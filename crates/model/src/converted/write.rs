//! Converting: every matrix packed once, as loading would, and written instead of kept.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use folio_kernels::{Dtype, Isa};
use xxhash_rust::xxh3::xxh3_64;

use super::header::{Header, Matrix, Vector};
use super::items::{Items, ROPE_FACTORS};
use super::unfinished::Unfinished;
use super::{
    ALIGNMENT, FILE, MAGIC, METADATA_FILE, MOST_HEADER_BYTES, PAGE, PREFIX_BYTES, VERSION,
};
use crate::backend::Backend;
use crate::checkpoint::{Checkpoint, rope_factors};
use crate::cpu::Cpu;
use crate::error::ModelError;
use crate::load::Progress;
use crate::sizes::wide;
use crate::weights::Quantization;
use crate::{file_names, gguf};

/// How weights are to be converted, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    /// Kind of the weights that are floats; `None`: as they are stored.
    pub dtype: Option<Dtype>,
    /// What float weights are quantised to, if anything.
    pub quantization: Option<Quantization>,
    /// Threads that pack.
    pub threads: usize,
    /// The instructions to use; the result does not depend on them.
    pub isa: Isa,
}

/// Writes `checkpoint` as a converted model into the new folder `out`; `progress` is told after every matrix, and may stop the conversion. Files
/// appear when all are complete; otherwise nothing is left of them, or, of a process that was killed, what the next conversion removes.
///
/// # Errors
/// When `out` is there already and not empty, another conversion writes it, it cannot be written, the weights cannot be converted so, or `progress` said to stop.
pub fn convert(
    checkpoint: &Checkpoint,
    conversion: &Conversion,
    out: &Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), ModelError> {
    let shown = out.display().to_string();
    let failed = |e: io::Error| ModelError::file(&shown, format!("cannot be written: {e}"));
    let unfinished = Unfinished::new(out)?;
    copy_small_files(checkpoint, unfinished.folder(), &failed)?;
    write_weights(checkpoint, conversion, unfinished.folder(), &failed, progress)?;
    unfinished.finish().map_err(failed)
}

fn copy_small_files(
    checkpoint: &Checkpoint,
    folder: &Path,
    failed: &dyn Fn(io::Error) -> ModelError,
) -> Result<(), ModelError> {
    let source = checkpoint.source();
    if checkpoint.metadata().is_some() {
        let found = gguf::find(source)?;
        let first = found.as_ref().and_then(|found| found.files.first());
        if let Some(name) = first
            && let Some(bytes) = source.map(name)?
        {
            let head = gguf::without_tensors(name, &bytes)?;
            fs::write(folder.join(METADATA_FILE), head).map_err(failed)?;
        }
        return Ok(());
    }
    for name in file_names::SMALL {
        if let Some(bytes) = source.read_file(name)? {
            fs::write(folder.join(name), bytes).map_err(failed)?;
        }
    }
    Ok(())
}

fn write_weights(
    checkpoint: &Checkpoint,
    conversion: &Conversion,
    folder: &Path,
    failed: &dyn Fn(io::Error) -> ModelError,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), ModelError> {
    let Some(files) = checkpoint.stored() else {
        let problem = "the model has been converted already; convert the original".to_owned();
        return Err(ModelError::Unsupported(problem));
    };
    let inventory = checkpoint.inventory();
    let keep = inventory
        .keep(conversion.dtype, conversion.quantization)
        .map_err(ModelError::Unsupported)?;
    let factors = rope_factors(files)?;
    let tensors = checkpoint.tensors()?;
    let mut items = Items::new(&tensors, checkpoint.spec(), keep);
    if let Some(factors) = &factors {
        items.vectors.push((ROPE_FACTORS.to_owned(), factors));
    }
    let mut header = lay_out(&items, keep.dtype)?;
    header.gguf_shapes =
        files.gguf_shapes().map(|(name, shape)| (name.to_owned(), shape)).collect();
    let total = header.content_bytes;
    let cpu = Cpu::new(conversion.threads, conversion.isa)?;
    let file = File::create(folder.join(FILE)).map_err(failed)?;
    let mut writer = Writer { to: BufWriter::new(file), at: 0 };
    writer.header(&header, failed)?;
    let begin = writer.at;
    let mut tell = |done| match progress(Progress { done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ModelError::Machine("stopped before it was done".to_owned())),
    };
    tell(0)?;
    for (_, tensors, layout) in &items.matrices {
        let matrix = cpu.matrix(tensors, layout)?;
        writer.section(matrix.bytes()).map_err(failed)?;
        files.release();
        tell(writer.at - begin)?;
    }
    for (_, values) in &items.vectors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.section(&bytes).map_err(failed)?;
    }
    tell(total)?;
    debug_assert_eq!(writer.at - begin, total, "sections are as long as they were planned");
    let file = writer.to.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)
}

/// Gives everything its place.
fn lay_out(items: &Items<'_>, dtype: Dtype) -> Result<Header, ModelError> {
    let too_large = || ModelError::Machine("the model is too large to be counted".to_owned());
    let mut at = 0_usize;
    let mut place = |bytes: Option<usize>| {
        let start = at;
        let end = at.checked_add(bytes?)?;
        at = end.checked_next_multiple_of(ALIGNMENT)?;
        Some(wide(start))
    };
    let mut header = Header {
        made_by: concat!("folio ", env!("CARGO_PKG_VERSION")).to_owned(),
        dtype: dtype.into(),
        content_bytes: 0,
        matrices: Default::default(),
        vectors: Default::default(),
        gguf_shapes: Default::default(),
    };
    for (name, _, layout) in &items.matrices {
        let start = place(layout.packed_bytes()).ok_or_else(too_large)?;
        header.matrices.insert(name.clone(), Matrix::new(layout, start));
    }
    for (name, values) in &items.vectors {
        let start = place(values.len().checked_mul(size_of::<f32>())).ok_or_else(too_large)?;
        header.vectors.insert(name.clone(), Vector { start, length: values.len() });
    }
    header.content_bytes = wide(at);
    Ok(header)
}

struct Writer {
    to: BufWriter<File>,
    at: u64,
}

impl Writer {
    fn header(
        &mut self,
        header: &Header,
        failed: &dyn Fn(io::Error) -> ModelError,
    ) -> Result<(), ModelError> {
        let json = serde_json::to_vec(header).map_err(|e| failed(e.into()))?;
        if json.len() > MOST_HEADER_BYTES {
            return Err(ModelError::Unsupported("the model has too many tensors".to_owned()));
        }
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + json.len());
        bytes.extend(MAGIC);
        bytes.extend(u64::from(VERSION).to_le_bytes());
        bytes.extend(wide(json.len()).to_le_bytes());
        bytes.extend(xxh3_64(&json).to_le_bytes());
        bytes.extend(json);
        self.padded(&bytes, PAGE).map_err(failed)
    }

    fn section(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.padded(bytes, ALIGNMENT)
    }

    fn padded(&mut self, bytes: &[u8], alignment: usize) -> io::Result<()> {
        self.to.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(alignment) - bytes.len();
        self.to.write_all(&vec![0; padding])?;
        self.at += wide(bytes.len() + padding);
        Ok(())
    }
}
