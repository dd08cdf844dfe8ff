//! The swap space: a place outside the cache for the blocks of sequences that had to leave it.
//!
//! A store keeps whole blocks in numbered slots, in host memory or in a file. Keeping cannot fail where it happens: the step
//! goes on, and what could not be kept is reported as a [`SwapFault`] when it is wanted back. Every slot has a checksum, taken
//! before the bytes leave and compared when they return, so that what comes back is what left or a fault, never something
//! else. Who is told of a fault computes again.

mod file;
mod host;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64;

use self::file::FileStore;
use self::host::HostStore;
use crate::sizes::wide;

pub(crate) use self::file::{aligned, staging_bytes};

/// Most bytes that the measurement at start moves in each direction.
const TRIAL_BYTES: usize = 4 << 20;

/// Why a slot's contents cannot be brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapFault {
    /// Nothing was kept there.
    Empty,
    /// There was no memory to keep it in.
    Memory,
    /// It could not be written.
    Write(io::ErrorKind),
    /// It could not be read.
    Read(io::ErrorKind),
    /// What was read is not what was written.
    Damaged,
}

impl fmt::Display for SwapFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("nothing was kept in the slot"),
            Self::Memory => f.write_str("there was no memory to keep a block in"),
            Self::Write(kind) => write!(f, "a block could not be written: {kind}"),
            Self::Read(kind) => write!(f, "a block could not be read: {kind}"),
            Self::Damaged => f.write_str("a block came back changed: its checksum differs"),
        }
    }
}

impl std::error::Error for SwapFault {}

/// Where a store keeps its slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwapPlace {
    /// Memory of the host, taken when a slot is first used.
    Host,
    /// A file that has no name any more, so that it disappears with the process, however that ends.
    File {
        /// The folder it was made in.
        folder: PathBuf,
        /// Whether its whole size is set aside on the disk. If not, writes may fail when the disk fills up.
        preallocated: bool,
    },
}

/// How fast a store moved a few MiB, in bytes per second. A file is measured as it is used: through the system's file cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwapRates {
    /// Into the store, until everything is written.
    pub write: f64,
    /// Back out of it.
    pub read: f64,
}

/// Keeps blocks outside the cache.
pub struct SwapStore {
    place: SwapPlace,
    slots: usize,
    block_bytes: usize,
    medium: Medium,
    /// Checksum of what was kept in each slot that was used, or why it was not kept.
    kept: FxHashMap<usize, Result<u64, SwapFault>>,
    /// How often each kind of fault was told of.
    faults: Vec<(SwapFault, u64)>,
}

enum Medium {
    Host(HostStore),
    File(FileStore),
}

impl SwapStore {
    /// A store of `slots` blocks of `block_bytes` bytes in host memory.
    #[must_use]
    pub fn host(slots: usize, block_bytes: usize) -> Self {
        Self::new(SwapPlace::Host, slots, block_bytes, Medium::Host(HostStore::new(block_bytes)))
    }

    /// A store in a new file in `folder`, readable by this user only, which is unlinked at once. The disk space is set aside
    /// now where the file system can.
    ///
    /// # Errors
    /// When there is no such folder, no right to write there, not enough space, or no thread to do the writing.
    pub fn file(folder: &Path, slots: usize, block_bytes: usize) -> io::Result<Self> {
        let file = file::create(folder)?;
        let bytes = wide(slots).saturating_mul(aligned(wide(block_bytes)));
        let preallocated = file::preallocate(&file, bytes)?;
        let place = SwapPlace::File { folder: folder.to_owned(), preallocated };
        let medium = Medium::File(FileStore::new(file, block_bytes)?);
        Ok(Self::new(place, slots, block_bytes, medium))
    }

    /// A store over a file that is there already, from its beginning; for tests of faults.
    ///
    /// # Errors
    /// When there is no thread to do the writing.
    pub fn over(file: File, slots: usize, block_bytes: usize) -> io::Result<Self> {
        let place = SwapPlace::File { folder: PathBuf::new(), preallocated: false };
        let medium = Medium::File(FileStore::new(file, block_bytes)?);
        Ok(Self::new(place, slots, block_bytes, medium))
    }

    fn new(place: SwapPlace, slots: usize, block_bytes: usize, medium: Medium) -> Self {
        let (kept, faults) = (FxHashMap::default(), Vec::new());
        Self { place, slots, block_bytes, medium, kept, faults }
    }

    /// Where the slots are.
    #[must_use]
    pub fn place(&self) -> &SwapPlace {
        &self.place
    }

    /// How many there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Keeps what `fill` writes, [`SwapStore::block_bytes`] long, in `slot` and forgets what was there. Waits only when more
    /// is on its way to the file than may be.
    pub fn put(&mut self, slot: usize, fill: impl FnOnce(&mut [u8])) {
        let mut sum = 0;
        let fill = |bytes: &mut [u8]| {
            fill(bytes);
            sum = xxh3_64(bytes);
        };
        let kept = match &mut self.medium {
            Medium::Host(host) => host.put(slot, fill),
            Medium::File(file) => {
                file.put(slot, fill);
                Ok(())
            }
        };
        self.kept.insert(slot, kept.map(|()| sum));
    }

    /// Brings the contents of `slots` back: calls `each` once per entry, in order, with its place in `slots` and what was kept
    /// there. Reads are made ahead, so one call for many slots is quicker than many calls.
    pub fn take(&mut self, slots: &[usize], mut each: impl FnMut(usize, Result<&[u8], SwapFault>)) {
        let Self { kept, faults, medium, .. } = self;
        let mut check = |place: usize, found: Result<&[u8], SwapFault>| {
            let sum = slots.get(place).and_then(|slot| kept.get(slot)).copied();
            let checked = match (sum.unwrap_or(Err(SwapFault::Empty)), found) {
                (Err(fault), _) | (Ok(_), Err(fault)) => Err(fault),
                (Ok(sum), Ok(bytes)) if xxh3_64(bytes) == sum => Ok(bytes),
                (Ok(_), Ok(_)) => Err(SwapFault::Damaged),
            };
            if let Err(fault) = checked {
                count(faults, fault);
            }
            each(place, checked);
        };
        match medium {
            Medium::Host(host) => {
                for (place, &slot) in slots.iter().enumerate() {
                    check(place, host.get(slot));
                }
            }
            Medium::File(file) => file.take(slots, check),
        }
    }

    /// Waits until everything that was kept has been written or has failed to be.
    pub fn settle(&mut self) {
        if let Medium::File(file) = &mut self.medium {
            file.settle();
        }
    }

    /// The kinds of faults so far and how often each was told of.
    #[must_use]
    pub fn faults(&self) -> &[(SwapFault, u64)] {
        &self.faults
    }

    /// Moves a few MiB out and back and measures it. Forgets whatever is kept.
    ///
    /// # Errors
    /// When what went out does not come back.
    pub fn measure(&mut self) -> Result<SwapRates, SwapFault> {
        let blocks = (TRIAL_BYTES / self.block_bytes.max(1)).clamp(1, self.slots.max(1));
        let slots: Vec<usize> = (0..blocks).collect();
        let moved = wide(blocks).saturating_mul(wide(self.block_bytes));
        let began = Instant::now();
        for &slot in &slots {
            self.put(slot, |bytes| bytes.fill(0xA5));
        }
        self.settle();
        let write = rate(moved, began);
        let mut fault = None;
        let mut back = vec![0; self.block_bytes];
        let began = Instant::now();
        self.take(&slots, |_, found| match found {
            Ok(bytes) => back.copy_from_slice(bytes),
            Err(found) => fault = Some(found),
        });
        let read = rate(moved, began);
        self.kept.clear();
        if let Medium::Host(host) = &mut self.medium {
            *host = HostStore::new(self.block_bytes);
        }
        fault.map_or(Ok(SwapRates { write, read }), Err)
    }
}

/// The first fault of a kind is logged, all are counted.
fn count(faults: &mut Vec<(SwapFault, u64)>, fault: SwapFault) {
    match faults.iter_mut().find(|(known, _)| *known == fault) {
        Some((_, times)) => *times += 1,
        None => {
            tracing::warn!("swap space: {fault}; what it held is computed again");
            faults.push((fault, 1));
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate is shown with two digits")]
fn rate(bytes: u64, began: Instant) -> f64 {
    bytes as f64 / began.elapsed().as_secs_f64().max(1e-9)
}
