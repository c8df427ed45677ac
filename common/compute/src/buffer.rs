//! Flat, aligned memory.
//!
//! Alignment comes from over-allocation and an offset. Large arenas ask for large pages: kernels walk
//! planes that are pages apart, and the table of small ones doesn't reach that far.
//!
//! Invariant of the unsafe code: the advice covers bytes of a vector that was just made, and changes
//! none of them.

use crate::element::Element;
use crate::error::ComputeError;

/// The alignment of arenas and of every tensor in them, in bytes: one cache line, one AVX-512
/// register.
pub const ALIGNMENT_BYTES: usize = 64;

/// The most elements in one arena (2^40): sums of a few such numbers never overflow.
pub const ARENA_ELEMENTS_MAX: usize = 1 << 40;

/// A flat buffer of elements whose first one is at a multiple of [`ALIGNMENT_BYTES`].
#[derive(Debug)]
pub struct Arena<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Element> Arena<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`] above [`ARENA_ELEMENTS_MAX`].
    pub fn zeros(len: usize) -> Result<Self, ComputeError> {
        if len > ARENA_ELEMENTS_MAX {
            return Err(ComputeError::TooLarge {
                what: "an arena",
                elements_max: ARENA_ELEMENTS_MAX,
            });
        }
        let slack = elements_per_line::<T>();
        let memory = vec![T::ZERO; len + slack];
        advise_large_pages(&memory);
        // `align_offset` may decline (it does under Miri); then the buffer is merely unaligned.
        let start = memory.as_ptr().align_offset(ALIGNMENT_BYTES).min(slack);
        Ok(Self { memory, start, len })
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The elements, to change.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl<T: Element> std::ops::Deref for Arena<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T: Element> std::ops::DerefMut for Arena<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.as_mut_slice()
    }
}

/// The intermediate values and outputs of a run.
#[derive(Debug)]
pub struct Workspace<T> {
    pub(crate) arena: Arena<T>,
}

impl<T: Element> Workspace<T> {
    /// A workspace for every plan that needs at most `elements`.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`] above [`ARENA_ELEMENTS_MAX`].
    pub fn new(elements: usize) -> Result<Self, ComputeError> {
        Ok(Self {
            arena: Arena::zeros(elements)?,
        })
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.arena.len()
    }

    /// True if there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.arena.is_empty()
    }
}

/// Asks for large pages where whole ones fit. Whether the system grants them changes nothing else.
#[cfg(target_os = "linux")]
fn advise_large_pages<T>(memory: &[T]) {
    const PAGE_BYTES: usize = 2 << 20;
    let start = memory.as_ptr().cast::<u8>();
    let skip = start.align_offset(PAGE_BYTES);
    let rest = size_of_val(memory).saturating_sub(skip);
    let len = rest - rest % PAGE_BYTES;
    if len > 0 && !cfg!(miri) {
        let at = start.wrapping_add(skip).cast_mut().cast();
        // SAFETY: `len` bytes from `at` lie in `memory`; the advice leaves their contents alone.
        let _ = unsafe { rustix::mm::madvise(at, len, rustix::mm::Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_large_pages<T>(_: &[T]) {}

/// Elements in [`ALIGNMENT_BYTES`].
pub(crate) fn elements_per_line<T: Element>() -> usize {
    ALIGNMENT_BYTES / T::DTYPE.size_bytes()
}

/// `len` rounded up to whole lines; `None` if it overflows.
pub(crate) fn padded<T: Element>(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(elements_per_line::<T>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_are_aligned_and_zero() {
        for len in [0, 1, 15, 16, 17, 1000, 3 << 20] {
            let mut arena = Arena::<f32>::zeros(len).unwrap();
            assert_eq!(arena.as_ptr() as usize % ALIGNMENT_BYTES, 0);
            assert_eq!(arena.len(), len);
            assert!(arena.iter().all(|&x| x == 0.0));
            arena.fill(1.0);
            let arena = Arena::<f64>::zeros(len).unwrap();
            assert_eq!(arena.as_ptr() as usize % ALIGNMENT_BYTES, 0);
        }
    }

    #[test]
    fn arenas_have_a_limit() {
        assert!(matches!(
            Arena::<f32>::zeros(ARENA_ELEMENTS_MAX + 1),
            Err(ComputeError::TooLarge { .. })
        ));
    }
}
