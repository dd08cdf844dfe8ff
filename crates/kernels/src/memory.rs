//! The two kinds of memory kernels work in: big zeroed pages for weights and KV, small aligned buffers for scratch.
//!
//! Why not `Vec`: pages are touched lazily (a KV cache costs what it holds, not what it may hold), are asked for in huge pages
//! where the system has them (10 % at memory bandwidth), and are aligned, so that no vector straddles two cache lines.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;

/// There is not that much memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} bytes of memory could not be had", .bytes.map_or("more than 2^64".to_owned(), |b| b.to_string()))]
pub struct AllocError {
    /// How much was asked for; `None` when the size does not even fit a number.
    pub bytes: Option<usize>,
}

/// `len` elements, zero at first, in anonymous pages.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    map: MmapMut,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    pub(crate) fn zeroed(len: usize) -> Result<Self, AllocError> {
        let bytes = len.checked_mul(size_of::<T>());
        let error = AllocError { bytes };
        // A map of no bytes is an error; one byte stands for it.
        let map =
            MmapMut::map_anon(bytes.ok_or_else(|| error.clone())?.max(1)).map_err(|_| error)?;
        #[cfg(target_os = "linux")]
        if map.len() >= HUGE {
            // Only a wish: without huge pages everything works, a little slower.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { map, len, kind: PhantomData })
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &bytemuck::cast_slice(&self.map[..self.len * size_of::<T>()])[..self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        let bytes = self.len * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.map[..bytes])
    }
}

impl Pages<u8> {
    /// Takes pages for these bytes from the system now, where it knows how (Linux 5.14 and later); elsewhere the first write
    /// takes them. What the bytes hold stays.
    pub(crate) fn populate(&mut self, bytes: Range<usize>) {
        #[cfg(target_os = "linux")]
        {
            let _ = self.map.advise_range(memmap2::Advice::PopulateWrite, bytes.start, bytes.len());
        }
        #[cfg(not(target_os = "linux"))]
        let _ = bytes;
    }
}

/// Below this a huge page would waste more than it gains.
#[cfg(target_os = "linux")]
const HUGE: usize = 8 << 20;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

// SAFETY: sixteen f32 without padding; all bits zero is a value.
unsafe impl Zeroable for Line {}
// SAFETY: as above; every bit pattern is a value.
unsafe impl Pod for Line {}

/// A growing buffer of floats, aligned to cache lines. What it holds between uses is unspecified.
#[derive(Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// The first `len` floats, growing if needed.
    pub(crate) fn take(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::zeroed());
        }
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..len]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }
}

/// Hands disjoint parts of one slice to several threads.
///
/// The borrow checker cannot see that tasks write different parts; the caller of [`Parts::part`] promises it.
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: access to the elements goes through `part`, whose caller promises that no two parts overlap; so sharing this
// is sending elements, which `T: Send` allows.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Elements `at .. at + len`.
    ///
    /// # Safety
    /// While the part lives, no other part that overlaps it may be used.
    #[expect(
        clippy::mut_from_ref,
        reason = "handing out disjoint parts through a shared reference is the purpose"
    )]
    pub(crate) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(inside, "part {at}..+{len} of {}", self.len);
        // SAFETY: inside the slice, which is borrowed for 'a; the caller promises that nobody else uses these elements.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// Where the system tells which pages have memory, and how large they are is known.
#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    const PAGE: usize = 4096;

    /// Whether the page that holds this byte has memory.
    fn is_present(byte: &u8) -> bool {
        let page = std::ptr::from_ref(byte).addr() / PAGE;
        let mut entry = [0; 8];
        let map = File::open("/proc/self/pagemap").expect("a map of pages");
        map.read_exact_at(&mut entry, page as u64 * 8).expect("an entry");
        u64::from_le_bytes(entry) >> 63 == 1
    }

    #[test]
    fn pages_that_are_populated_have_memory_and_keep_what_they_held() {
        let mut pages = Pages::<u8>::zeroed(1 << 20).expect("a MiB");
        pages.as_mut_slice()[300_000] = 7;
        assert!(!is_present(&pages.as_slice()[500_000]), "nobody has written there");
        pages.populate(200_000..600_000);
        let bytes = pages.as_slice();
        assert!((200_000..600_000).step_by(PAGE).all(|at| is_present(&bytes[at])));
        assert!(!is_present(&bytes[900_000]));
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).collect::<Vec<_>>(), [&7]);
    }
}
