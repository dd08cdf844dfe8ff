//! Columns of a row-major matrix: how q, k and v are picked out of one fused projection without a copy.

use std::ops::Range;

/// Columns of every row of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: &'a [f32],
    stride: usize,
    columns: (usize, usize),
}

/// Columns of every row of a matrix, to be written.
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) columns: (usize, usize),
}

fn check(len: usize, stride: usize, columns: &Range<usize>) -> (usize, usize) {
    assert!(
        stride > 0 && len.is_multiple_of(stride),
        "{len} numbers are not whole rows of {stride}"
    );
    assert!(
        columns.start <= columns.end && columns.end <= stride,
        "columns {columns:?} are not inside rows of {stride}"
    );
    (columns.start, columns.end)
}

impl<'a> View<'a> {
    /// `columns` of a `[rows, stride]` matrix.
    ///
    /// # Panics
    /// When the data is not whole rows, or the columns are not inside a row.
    #[must_use]
    pub fn new(data: &'a [f32], stride: usize, columns: Range<usize>) -> Self {
        Self { data, stride, columns: check(data.len(), stride, &columns) }
    }

    /// All columns of a `[rows, width]` matrix.
    ///
    /// # Panics
    /// When the data is not whole rows.
    #[must_use]
    pub fn dense(data: &'a [f32], width: usize) -> Self {
        Self::new(data, width, 0..width)
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.data.len() / self.stride
    }

    /// How many columns.
    #[must_use]
    pub fn width(&self) -> usize {
        self.columns.1 - self.columns.0
    }

    /// The columns of one row.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> &'a [f32] {
        let start = row * self.stride;
        &self.data[start + self.columns.0..start + self.columns.1]
    }
}

impl<'a> ViewMut<'a> {
    /// `columns` of a `[rows, stride]` matrix.
    ///
    /// # Panics
    /// When the data is not whole rows, or the columns are not inside a row.
    #[must_use]
    pub fn new(data: &'a mut [f32], stride: usize, columns: Range<usize>) -> Self {
        let columns = check(data.len(), stride, &columns);
        Self { data, stride, columns }
    }

    /// All columns of a `[rows, width]` matrix.
    ///
    /// # Panics
    /// When the data is not whole rows.
    #[must_use]
    pub fn dense(data: &'a mut [f32], width: usize) -> Self {
        Self::new(data, width, 0..width)
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.data.len() / self.stride
    }

    /// How many columns.
    #[must_use]
    pub fn width(&self) -> usize {
        self.columns.1 - self.columns.0
    }
}
