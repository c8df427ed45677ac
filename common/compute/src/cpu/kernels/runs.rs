//! Cutting a kernel's work into runs of pieces (images, channels, rows, elements) for the rayon pool.
//!
//! The pieces are independent, so that the bits don't depend on the cut. One thread never enters the
//! pool; nothing is allocated.
//!
//! Invariant of the unsafe code: a [`Shared`] slice is borrowed mutably for as long as it is there, and
//! no element of it is reached by two threads at once: its callers promise that.

use std::marker::PhantomData;
use std::ops::{AddAssign, Range};

use rayon::prelude::*;

/// Elements that are worth another thread, at least: waking one takes some 40 µs.
const RUN_MIN: usize = 1 << 14;

/// Calls `f(first piece, pieces)` for runs of whole pieces of `piece` elements.
pub(crate) fn each_run<T: Send>(
    threads: usize,
    to: &mut [T],
    piece: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    each_run_with(threads, to, piece, &mut [], 0, |first, to, _| f(first, to));
}

/// As [`each_run`], with `own` elements of `scratch` for each run: as many as there are threads.
pub(crate) fn each_run_with<T: Send>(
    threads: usize,
    to: &mut [T],
    piece: usize,
    scratch: &mut [T],
    own: usize,
    f: impl Fn(usize, &mut [T], &mut [T]) + Sync,
) {
    let threads = threads.min(to.len() / RUN_MIN);
    if threads <= 1 || piece == 0 {
        return f(0, to, scratch);
    }
    let run = (to.len() / piece).div_ceil(threads);
    let runs = to.par_chunks_mut(run * piece).enumerate();
    if own == 0 {
        let runs = runs.with_max_len(1);
        return runs.for_each(|(i, to)| f(i * run, to, &mut []));
    }
    let runs = runs.zip(scratch.par_chunks_mut(own)).with_max_len(1);
    runs.for_each(|((i, to), scratch)| f(i * run, to, scratch));
}

/// Calls `f` for runs of `count` pieces of `piece` elements.
pub(crate) fn each_index(
    threads: usize,
    count: usize,
    piece: usize,
    f: impl Fn(Range<usize>) + Sync,
) {
    let threads = threads.min(count * piece / RUN_MIN).min(count);
    if threads <= 1 {
        return f(0..count);
    }
    let runs = (0..threads).into_par_iter().with_max_len(1);
    runs.for_each(|i| f(count * i / threads..count * (i + 1) / threads));
}

/// A slice whose parts several threads write: for pieces that don't lie side by side.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: threads reach different elements, as the callers of its methods promise.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            of: PhantomData,
        }
    }

    /// A part, to write.
    ///
    /// # Safety
    /// Nobody reaches an element of it while it is borrowed.
    // The borrow is of the slice, not of `self`.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range lies in the slice, and nobody else reaches it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Writes an element.
    ///
    /// # Safety
    /// Nobody else reaches it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn set(&self, i: usize, value: T) {
        // SAFETY: as for this function.
        unsafe { self.range(i..i + 1)[0] = value };
    }

    /// Adds to an element.
    ///
    /// # Safety
    /// Nobody else reaches it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn add(&self, i: usize, value: T)
    where
        T: AddAssign,
    {
        // SAFETY: as for this function.
        unsafe { self.range(i..i + 1)[0] += value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_whole_pieces_and_cover_all() {
        for (len, piece) in [(0, 5), (35, 7), (RUN_MIN * 4, 8), (RUN_MIN * 7, 7)] {
            for threads in 1..5 {
                let mut to = vec![usize::MAX; len];
                let mut scratch = vec![0; threads];
                each_run_with(
                    threads,
                    &mut to,
                    piece,
                    &mut scratch,
                    1,
                    |first, to, own| {
                        assert!(to.len() % piece == 0 && !own.is_empty());
                        for (i, to) in to.iter_mut().enumerate() {
                            *to = first * piece + i;
                        }
                    },
                );
                assert!(to.iter().copied().eq(0..len));
                to.fill(0);
                let shared = Shared::new(&mut to);
                each_index(threads, len / piece, piece, |pieces| {
                    for i in pieces.start * piece..pieces.end * piece {
                        // SAFETY: the runs have no piece in common.
                        unsafe { shared.add(i, i) };
                    }
                });
                assert!(to.iter().copied().eq(0..len));
            }
        }
    }
}
