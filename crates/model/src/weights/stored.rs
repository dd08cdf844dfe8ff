//! A stored tensor: floats, or codes of a few bits with what makes weights of them.

use std::fmt;
use std::sync::Arc;

use folio_kernels::{CodeFormat, CodeSource, Dtype, MappedFile, Raw, WeightFormat};

use crate::error::ModelError;

/// How a matrix is stored, in a file or in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// As floats.
    Floats(Dtype),
    /// As codes.
    Codes {
        /// How they are laid out.
        format: CodeFormat,
        /// What people call the kind.
        name: &'static str,
    },
}

impl Stored {
    /// How the kernels call it.
    #[must_use]
    pub fn format(self) -> WeightFormat {
        match self {
            Self::Floats(dtype) => WeightFormat::Float(dtype),
            Self::Codes { format, .. } => WeightFormat::Codes(format),
        }
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Floats(dtype) => dtype.name(),
            Self::Codes { name, .. } => name,
        }
    }
}

/// The contents of a tensor.
pub enum Elements<'a> {
    /// Floats, row-major.
    Floats(Raw<'a>),
    /// Codes, read row by row.
    Codes {
        /// Reads them.
        source: Box<dyn CodeSource + 'a>,
        /// What people call the kind.
        name: &'static str,
    },
    /// A part of a matrix that lies in a file as it will in memory.
    Packed {
        /// The whole matrix.
        matrix: PackedPlace<'a>,
        /// How this part of it is stored.
        stored: Stored,
    },
}

/// Where a packed matrix lies.
#[derive(Clone, Copy)]
pub struct PackedPlace<'a> {
    /// The file.
    pub file: &'a Arc<MappedFile>,
    /// The matrix' first byte.
    pub start: usize,
}

impl Elements<'_> {
    /// How they are stored.
    #[must_use]
    pub fn stored(&self) -> Stored {
        match self {
            Self::Floats(raw) => Stored::Floats(raw.dtype()),
            Self::Codes { source, name } => Stored::Codes { format: source.format(), name },
            Self::Packed { stored, .. } => *stored,
        }
    }
}

impl fmt::Debug for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stored().fmt(f)
    }
}

/// A stored tensor, where it lies.
#[derive(Debug)]
pub struct Tensor<'a> {
    /// The file, for messages.
    pub file: &'a str,
    /// The full name.
    pub name: String,
    /// The elements.
    pub elements: Elements<'a>,
}

impl<'a> Tensor<'a> {
    /// The elements of what is never quantised: norms and biases.
    ///
    /// # Errors
    /// When it is.
    pub fn floats(&self) -> Result<Raw<'a>, ModelError> {
        match self.elements {
            Elements::Floats(raw) => Ok(raw),
            Elements::Codes { .. } | Elements::Packed { .. } => Err(ModelError::tensor(
                self.file,
                &self.name,
                format!(
                    "is stored as {}; norms and biases must be F32, F16 or BF16",
                    self.elements.stored().name()
                ),
            )),
        }
    }
}
