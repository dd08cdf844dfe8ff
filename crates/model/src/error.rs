//! Why a folder cannot be served: one sentence that names the file, the field or the tensor, and what to do.
//!
//! Everything that is read here was made by somebody else, so every refusal is a value, never a panic.

use folio_kernels::AllocError;

use crate::file_names::CONFIG;
use crate::memory::DoesNotFit;

/// What is wrong with a model folder, or with serving it here.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file is missing, unreadable, or not what its name says.
    #[error("{file}: {problem}")]
    File {
        /// Name inside the folder.
        file: String,
        /// A sentence.
        problem: String,
    },
    /// A field of a configuration file has a value that cannot be served.
    #[error("{file}: `{field}` {problem}")]
    Field {
        /// Name inside the folder.
        file: &'static str,
        /// The JSON key.
        field: String,
        /// The rest of the sentence.
        problem: String,
    },
    /// A tensor is missing or not as the configuration says.
    #[error("{file}: tensor `{tensor}` {problem}")]
    Tensor {
        /// Name inside the folder.
        file: String,
        /// The tensor's name in the file.
        tensor: String,
        /// The rest of the sentence.
        problem: String,
    },
    /// The model is well formed and of a kind that is not served.
    #[error("{0}")]
    Unsupported(String),
    /// The model needs more memory than it may use.
    #[error(transparent)]
    DoesNotFit(#[from] DoesNotFit),
    /// The machine could not run what was asked for, for example an instruction set it lacks.
    #[error("{0}")]
    Machine(String),
}

impl ModelError {
    pub(crate) fn file(file: &str, problem: impl Into<String>) -> Self {
        Self::File { file: file.to_owned(), problem: problem.into() }
    }

    pub(crate) fn config(field: &str, problem: impl Into<String>) -> Self {
        Self::Field { file: CONFIG, field: field.to_owned(), problem: problem.into() }
    }

    /// The same about a field of another file.
    pub(crate) fn in_file(self, file: &'static str) -> Self {
        match self {
            Self::Field { field, problem, .. } => Self::Field { file, field, problem },
            other => other,
        }
    }

    pub(crate) fn tensor(file: &str, tensor: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { file: file.to_owned(), tensor: tensor.to_owned(), problem: problem.into() }
    }
}

impl From<AllocError> for ModelError {
    fn from(error: AllocError) -> Self {
        Self::Machine(error.to_string())
    }
}
