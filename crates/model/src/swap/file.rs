//! Slots in a file, written by a thread of their own.
//!
//! Whoever keeps a block copies it into a staging buffer and goes on; the thread writes it. A slot whose write is still to come
//! is served from its buffer, so reads never wait for writes and need not be ordered after them. Reads come before writes:
//! a step waits for them. All transfers are whole slots, at multiples of a page.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustc_hash::FxHashMap;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::SwapFault;
use crate::sizes::wide;

/// Transfers start and end at multiples of this.
const PAGE: u64 = 4096;
/// Memory for blocks on their way to the file, unless two blocks need more.
const MOST_STAGED_BYTES: u64 = 64 << 20;
const MOST_STAGED: u64 = 32;
/// Blocks that are read before they are asked for.
const READ_AHEAD: usize = 4;

/// What a block takes in the file.
pub(crate) fn aligned(block_bytes: u64) -> u64 {
    block_bytes.max(1).div_ceil(PAGE).saturating_mul(PAGE)
}

/// Blocks that may be on their way to the file.
fn most_staged(block_bytes: u64) -> u64 {
    (MOST_STAGED_BYTES / aligned(block_bytes)).clamp(2, MOST_STAGED)
}

/// The most memory a file store takes.
pub(crate) fn staging_bytes(block_bytes: u64) -> u64 {
    aligned(block_bytes).saturating_mul(most_staged(block_bytes) + wide(READ_AHEAD))
}

/// A new file without a name, for this user only.
pub(super) fn create(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    for attempt in 0.. {
        let path = folder.join(format!(".folio-swap-{}-{attempt}", std::process::id()));
        match options.open(&path) {
            Ok(file) => {
                fs::remove_file(&path)?;
                return Ok(file);
            }
            // Left behind by a process of the same number that was killed between the two lines above.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempt < 100 => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Sets disk space aside; `false` where the file system cannot, and the file is only made as long.
pub(super) fn preallocate(file: &File, bytes: u64) -> io::Result<bool> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return file.set_len(bytes).map(|()| false),
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) struct FileStore {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    file: File,
    block_bytes: usize,
    /// Bytes from slot to slot.
    stride: usize,
    most_staged: u64,
    desk: Mutex<Desk>,
    /// The thread has something to do.
    ordered: Condvar,
    /// The thread has done something.
    finished: Condvar,
}

/// What both sides see.
#[derive(Default)]
struct Desk {
    /// The newest contents of slots whose writes are not done.
    staged: FxHashMap<usize, Arc<Vec<u8>>>,
    writes: VecDeque<(usize, Arc<Vec<u8>>)>,
    /// Buffers in `writes` or being written.
    staging: u64,
    /// Slots whose last write failed.
    failed: FxHashMap<usize, io::ErrorKind>,
    reads: VecDeque<usize>,
    /// Results of reads, in the order they were asked for.
    read: VecDeque<Result<Vec<u8>, SwapFault>>,
    spare: Vec<Vec<u8>>,
    closing: bool,
}

/// Where a slot's contents will come from.
enum Source {
    Staged(Arc<Vec<u8>>),
    File,
    Failed(io::ErrorKind),
}

/// What was ordered and not taken yet.
struct Ahead<'a> {
    shared: &'a Shared,
    sources: VecDeque<Source>,
}

impl Drop for Ahead<'_> {
    /// Takes what is left after a panic, lest the next to read gets it for its own.
    fn drop(&mut self) {
        for source in self.sources.drain(..) {
            if let Source::File = source {
                drop(self.shared.next_read());
            }
        }
    }
}

impl FileStore {
    pub(super) fn new(file: File, block_bytes: usize) -> io::Result<Self> {
        let stride = usize::try_from(aligned(wide(block_bytes)))
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let shared = Arc::new(Shared {
            file,
            block_bytes,
            stride,
            most_staged: most_staged(wide(block_bytes)),
            desk: Mutex::default(),
            ordered: Condvar::new(),
            finished: Condvar::new(),
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("folio-swap".to_owned())
            .spawn(move || worker.work())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn put(&self, slot: usize, fill: impl FnOnce(&mut [u8])) {
        let Shared { block_bytes, most_staged, .. } = *self.shared;
        let mut desk = self.shared.desk();
        while desk.staging >= most_staged {
            desk = self.shared.wait(desk);
        }
        let spare = desk.spare.pop();
        drop(desk);
        let mut buffer = self.shared.buffer(spare);
        fill(&mut buffer[..block_bytes]);
        let buffer = Arc::new(buffer);
        let mut desk = self.shared.desk();
        // Not before it is filled: what panics in between would never be written, nor counted off.
        desk.staging += 1;
        desk.staged.insert(slot, Arc::clone(&buffer));
        desk.writes.push_back((slot, buffer));
        self.shared.ordered.notify_one();
    }

    pub(super) fn take(
        &self,
        slots: &[usize],
        mut each: impl FnMut(usize, Result<&[u8], SwapFault>),
    ) {
        let mut ahead = Ahead { shared: &self.shared, sources: VecDeque::new() };
        let mut next = slots.iter();
        for place in 0..slots.len() {
            while ahead.sources.len() < READ_AHEAD
                && let Some(&slot) = next.next()
            {
                ahead.sources.push_back(self.order(slot));
            }
            let block = ..self.shared.block_bytes;
            match ahead.sources.pop_front() {
                Some(Source::Staged(bytes)) => each(place, Ok(&bytes[block])),
                Some(Source::Failed(kind)) => each(place, Err(SwapFault::Write(kind))),
                Some(Source::File) => match self.shared.next_read() {
                    Ok(bytes) => {
                        each(place, Ok(&bytes[block]));
                        self.shared.desk().spare.push(bytes);
                    }
                    Err(fault) => each(place, Err(fault)),
                },
                None => each(place, Err(SwapFault::Empty)),
            }
        }
    }

    fn order(&self, slot: usize) -> Source {
        let mut desk = self.shared.desk();
        if let Some(bytes) = desk.staged.get(&slot) {
            return Source::Staged(Arc::clone(bytes));
        }
        if let Some(&kind) = desk.failed.get(&slot) {
            return Source::Failed(kind);
        }
        desk.reads.push_back(slot);
        self.shared.ordered.notify_one();
        Source::File
    }

    pub(super) fn settle(&self) {
        let mut desk = self.shared.desk();
        while desk.staging > 0 {
            desk = self.shared.wait(desk);
        }
    }
}

impl Drop for FileStore {
    /// What is not written yet is not needed any more.
    fn drop(&mut self) {
        self.shared.desk().closing = true;
        self.shared.ordered.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and nothing follows from it any more.
            let _ = thread.join();
        }
    }
}

enum Order {
    Read(usize),
    Write(usize, Arc<Vec<u8>>),
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, desk: MutexGuard<'a, Desk>) -> MutexGuard<'a, Desk> {
        self.finished.wait(desk).unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self, spare: Option<Vec<u8>>) -> Vec<u8> {
        spare.unwrap_or_else(|| vec![0; self.stride])
    }

    fn next_read(&self) -> Result<Vec<u8>, SwapFault> {
        let mut desk = self.desk();
        loop {
            if let Some(read) = desk.read.pop_front() {
                return read;
            }
            desk = self.wait(desk);
        }
    }

    /// The thread.
    fn work(&self) {
        while let Some(order) = self.next_order() {
            match order {
                Order::Read(slot) => self.read(slot),
                Order::Write(slot, bytes) => self.write(slot, bytes),
            }
            self.finished.notify_one();
        }
    }

    fn next_order(&self) -> Option<Order> {
        let mut desk = self.desk();
        loop {
            if desk.closing {
                return None;
            }
            if let Some(slot) = desk.reads.pop_front() {
                return Some(Order::Read(slot));
            }
            if let Some((slot, bytes)) = desk.writes.pop_front() {
                return Some(Order::Write(slot, bytes));
            }
            desk = self.ordered.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn offset(&self, slot: usize) -> u64 {
        wide(slot).saturating_mul(wide(self.stride))
    }

    fn read(&self, slot: usize) {
        let spare = self.desk().spare.pop();
        let mut buffer = self.buffer(spare);
        let read = self.file.read_exact_at(&mut buffer, self.offset(slot));
        let mut desk = self.desk();
        match read {
            Ok(()) => desk.read.push_back(Ok(buffer)),
            Err(error) => {
                desk.spare.push(buffer);
                desk.read.push_back(Err(SwapFault::Read(error.kind())));
            }
        }
    }

    fn write(&self, slot: usize, bytes: Arc<Vec<u8>>) {
        let newest = |desk: &Desk| desk.staged.get(&slot).is_some_and(|b| Arc::ptr_eq(b, &bytes));
        // What has been overwritten while it waited need not be written at all.
        let wanted = newest(&self.desk());
        let written =
            if wanted { self.file.write_all_at(&bytes, self.offset(slot)) } else { Ok(()) };
        let mut desk = self.desk();
        if newest(&desk) {
            desk.staged.remove(&slot);
            match written {
                Ok(()) => desk.failed.remove(&slot),
                Err(error) => desk.failed.insert(slot, error.kind()),
            };
        }
        if let Some(buffer) = Arc::into_inner(bytes) {
            desk.spare.push(buffer);
        }
        desk.staging -= 1;
    }
}
