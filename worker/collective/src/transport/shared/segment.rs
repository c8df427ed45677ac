//! The mapping that all ranks of a ring share, and its layout.
//!
//! ```text
//! rank 0's counters, 256 bytes | rank 1's | … | to a page | rank 0's half 0 | half 1 | rank 1's …
//! ```
//!
//! Invariant, on which every `unsafe` block here stands: the mapping is `len` bytes, never moves or
//! shrinks (a memfd is sealed) while this value lives, counters are only touched as atomics, and a
//! slot's bytes are written by its own rank only, at times that the ticks of [`super::board`] keep
//! apart from every read: after all peers have posted the tick that says that they have read what
//! the bytes held before, and before its own tick that says that they may be read.

use std::io;
use std::ops::Range;
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

#[cfg(target_os = "linux")]
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// The most ranks that share one segment.
pub const SHARED_WORLD_MAX: u32 = 64;

const COUNTERS_BYTES: usize = 256;
const PAGE_BYTES: usize = 4096;
const HALF_BYTES_MIN: usize = 64 << 10;

/// What a counter is for.
#[derive(Clone, Copy)]
pub(super) enum Counter {
    /// Ticks posted, and whether the rank has left.
    Posted = 0,
    /// Peers that sleep until `Posted` changes.
    Sleepers = 64,
}

/// Words that describe a call.
pub(super) const CALL_WORDS: usize = 3;
const CALLS_AT: usize = 128;

/// Shared memory of one ring.
pub(super) struct Segment {
    start: NonNull<u8>,
    len: usize,
    half_bytes: usize,
    slots_at: usize,
}

// SAFETY: by the invariant, what is behind the pointer is only accessed as atomics or at times
// that ticks keep apart.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

/// The bytes of shared memory that a ring of `world` ranks maps.
#[must_use]
pub fn shared_bytes(world: u32, segment_bytes: usize) -> usize {
    slots_at(world) + world as usize * 2 * half_bytes(segment_bytes)
}

/// The bytes of half a slot.
pub(crate) fn half_bytes(segment_bytes: usize) -> usize {
    segment_bytes
        .max(HALF_BYTES_MIN)
        .next_multiple_of(PAGE_BYTES)
}

fn slots_at(world: u32) -> usize {
    (world as usize * COUNTERS_BYTES).next_multiple_of(PAGE_BYTES)
}

impl Segment {
    /// Memory of this process.
    pub fn in_process(world: u32, segment_bytes: usize) -> io::Result<Self> {
        let start = Self::reserve(shared_bytes(world, segment_bytes))?;
        Self::over(start, world, segment_bytes)
    }

    /// New memory, all zero.
    #[cfg(not(miri))]
    fn reserve(len: usize) -> io::Result<*mut u8> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }?;
        Ok(start.cast())
    }

    /// Miri knows no mappings.
    #[cfg(miri)]
    fn reserve(len: usize) -> io::Result<*mut u8> {
        // SAFETY: the length isn't zero.
        Ok(unsafe { std::alloc::alloc_zeroed(Self::layout(len)) })
    }

    #[cfg(miri)]
    fn layout(len: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len, PAGE_BYTES).unwrap()
    }

    /// Memory behind a new descriptor, all zero, that can neither shrink nor grow.
    #[cfg(target_os = "linux")]
    pub fn create(world: u32, segment_bytes: usize) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("ringfold-ring", flags)?;
        rustix::fs::ftruncate(&fd, shared_bytes(world, segment_bytes) as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(fd)
    }

    /// Maps what `create` made.
    ///
    /// # Errors
    /// Also if the descriptor is another file, or one that could shrink.
    #[cfg(target_os = "linux")]
    pub fn map(fd: impl AsFd, world: u32, segment_bytes: usize) -> io::Result<Self> {
        let len = shared_bytes(world, segment_bytes);
        let size = rustix::fs::fstat(&fd)?.st_size;
        let sealed = rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK);
        if u64::try_from(size) != Ok(len as u64) || !sealed {
            let what = format!("a segment of {size} bytes where a sealed one of {len} was due");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        // SAFETY: a new mapping at an address of the kernel's choice, of a file of at least that
        // length, which can't shrink.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        Self::over(start.cast(), world, segment_bytes)
    }

    fn over(start: *mut u8, world: u32, segment_bytes: usize) -> io::Result<Self> {
        Ok(Self {
            start: NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?,
            len: shared_bytes(world, segment_bytes),
            half_bytes: half_bytes(segment_bytes),
            slots_at: slots_at(world),
        })
    }

    /// The length of one half of a slot. All that is folded in one shot fits.
    pub fn half_bytes(&self) -> usize {
        self.half_bytes
    }

    pub fn counter(&self, rank: u32, counter: Counter) -> &AtomicU32 {
        let at = rank as usize * COUNTERS_BYTES + counter as usize;
        assert!(at + 4 <= self.slots_at, "a rank of the ring");
        // SAFETY: inside of the mapping, aligned, and only ever accessed as this atomic.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(at).cast()) }
    }

    /// Word `word` of the call that `rank` is in, if its number has this `parity`.
    pub fn call_word(&self, rank: u32, parity: u64, word: usize) -> &AtomicU64 {
        assert!(parity < 2 && word < CALL_WORDS, "a word of a call");
        let at = rank as usize * COUNTERS_BYTES + CALLS_AT + (parity as usize * 4 + word) * 8;
        assert!(at + 8 <= self.slots_at, "a rank of the ring");
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(at).cast()) }
    }

    /// Writes `bytes` into the slot of `rank`.
    ///
    /// # Safety
    /// `rank` is the caller's, and the ticks say that nobody reads these bytes now.
    pub unsafe fn write(&self, rank: u32, half: u32, offset: usize, bytes: &[u8]) {
        let at = self.place(rank, half, &(offset..offset + bytes.len()));
        // SAFETY: inside of the mapping by `place`; by contract nobody else accesses it; `bytes`
        // is borrowed from elsewhere, as slices of a slot aren't given out while it is written.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(at), bytes.len());
        }
    }

    /// Bytes of the slot of `rank`.
    ///
    /// # Safety
    /// The ticks say that `rank` has written these bytes and won't again before the slice is gone.
    pub unsafe fn read(&self, rank: u32, half: u32, range: Range<usize>) -> &[u8] {
        let at = self.place(rank, half, &range);
        // SAFETY: inside of the mapping by `place`, initialised (by zeros at first), and by
        // contract not written while borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(at), range.len()) }
    }

    fn place(&self, rank: u32, half: u32, range: &Range<usize>) -> usize {
        assert!(half < 2 && range.start <= range.end && range.end <= self.half_bytes);
        let at = self.slots_at + (rank as usize * 2 + half as usize) * self.half_bytes;
        assert!(at + self.half_bytes <= self.len, "a rank of the ring");
        at + range.start
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        #[cfg(miri)]
        // SAFETY: the memory is this value's, by `reserve`, and no reference into it outlives it.
        unsafe {
            std::alloc::dealloc(self.start.as_ptr(), Self::layout(self.len));
        }
        #[cfg(not(miri))]
        // SAFETY: the mapping is this value's, and no reference into it outlives it.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        #[cfg(not(miri))]
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_are_one_memory() {
        let fd = Segment::create(3, 64).unwrap();
        let (a, b) = (
            Segment::map(&fd, 3, 64).unwrap(),
            Segment::map(&fd, 3, 64).unwrap(),
        );
        assert_eq!(a.half_bytes(), HALF_BYTES_MIN);
        // SAFETY: one thread, first writes and then reads.
        unsafe {
            a.write(2, 1, HALF_BYTES_MIN - 3, &[1, 2, 3]);
            assert_eq!(
                b.read(2, 1, HALF_BYTES_MIN - 4..HALF_BYTES_MIN),
                [0, 1, 2, 3]
            );
        }
        a.counter(2, Counter::Sleepers)
            .store(7, std::sync::atomic::Ordering::Release);
        let sleepers = b.counter(2, Counter::Sleepers);
        assert_eq!(sleepers.load(std::sync::atomic::Ordering::Acquire), 7);
    }

    #[test]
    fn a_segment_of_another_length_is_refused() {
        let fd = Segment::create(2, 64).unwrap();
        let error = Segment::map(&fd, 3, 64).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(Segment::map(std::fs::File::open("/dev/null").unwrap(), 2, 64).is_err());
    }
}
