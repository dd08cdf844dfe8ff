//! Little-endian numbers, strings and counts off a byte slice, none of them trusted.

use crate::error::ModelError;

/// Where reading has come to in a file.
pub(super) struct Cursor<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a str, bytes: &'a [u8]) -> Self {
        Self { file, bytes, at: 0 }
    }

    /// Bytes from the start of the file.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn bad(&self, problem: impl Into<String>) -> ModelError {
        ModelError::file(self.file, problem)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ModelError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..count).ok_or_else(|| {
            self.bad(format!(
                "is truncated or damaged: {count} bytes are needed from byte {}, {} are there",
                self.at,
                rest.len()
            ))
        })?;
        self.at += count;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things of which each takes at least `least` bytes of what follows, and of which there are at most `most`.
    pub(super) fn count(
        &mut self,
        what: &str,
        least: usize,
        most: usize,
    ) -> Result<usize, ModelError> {
        let stated = self.u64()?;
        let room = (self.bytes.len() - self.at) / least;
        let count = usize::try_from(stated).ok().filter(|&count| count <= room.min(most));
        count.ok_or_else(|| {
            self.bad(format!(
                "is truncated or damaged: it promises {stated} {what}; there is room for {room}, and at most {most} are read"
            ))
        })
    }

    /// A string of at most `most` bytes.
    pub(super) fn text(&mut self, what: &str, most: usize) -> Result<&'a str, ModelError> {
        let length = self.count(&format!("bytes of {what}"), 1, most)?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes)
            .map_err(|_| self.bad(format!("is damaged: {what} at byte {} is not UTF-8", self.at)))
    }
}
