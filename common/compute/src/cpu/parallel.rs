//! Work on units: slices of results that are cut alike, one piece a unit.
//!
//! What a unit is follows from shapes alone; threads only choose which runs where, so that the bits
//! don't depend on them.
//!
//! Invariant of the unsafe code: a [`Shared`] slice is borrowed mutably for as long as it is there, and
//! no element of it is reached by two threads at once: its callers promise that.

use std::any::TypeId;
use std::marker::PhantomData;
use std::ops::{AddAssign, Range};

use super::team;

/// Calls `work` for each unit with its piece of each slice: `steps[i]` elements of slice `i`, the
/// last unit what remains. 1 thread: one after another; more: in so many runs of adjacent units on
/// the calling thread's [`team`].
pub fn for_units<T: Send, const N: usize>(
    units: Range<usize>,
    slices: [&mut [T]; N],
    steps: [usize; N],
    threads: usize,
    work: &(impl Fn(usize, [&mut [T]; N]) + Sync),
) {
    let runs = threads.min(units.len()).max(1);
    let (lens, slices) = (
        slices.each_ref().map(|slice| slice.len()),
        slices.map(Shared::new),
    );
    team::run(runs, |run| {
        for i in units.len() * run / runs..units.len() * (run + 1) / runs {
            let piece = std::array::from_fn(|slice| {
                let (step, len) = (steps[slice], lens[slice]);
                let start = (i * step).min(len);
                let end = (start + step).min(len);
                // SAFETY: the pieces of different units have no element in common, and each unit is
                // in one run.
                unsafe { slices[slice].range(start..end) }
            });
            work(units.start + i, piece);
        }
    });
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

    /// The same slice, if its elements are `f32`. What is promised of one is promised of both.
    pub(crate) fn as_f32(&self) -> Option<Shared<'a, f32>>
    where
        T: 'static,
    {
        (TypeId::of::<T>() == TypeId::of::<f32>()).then(|| Shared {
            start: self.start.cast(),
            len: self.len,
            of: PhantomData,
        })
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

    /// Elements of the slice.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where element `at` lies, good for reads and writes up to the slice's end by whoever is the
    /// only one to reach what it touches.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline(always)]
    pub(crate) fn pointer(&self, at: usize) -> *mut T {
        assert!(at < self.len);
        self.start.wrapping_add(at)
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
    use crate::cpu::team::Team;

    #[test]
    fn units_get_their_pieces() {
        for threads in 1..5 {
            let (mut a, mut b) = ([0usize; 10], [0usize; 5]);
            Team::new(threads).unwrap().install(|| {
                for_units(0..5, [&mut a, &mut b], [2, 1], threads, &|unit, [a, b]| {
                    a.fill(unit);
                    b[0] = a.len();
                });
            });
            assert_eq!(a, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
            assert_eq!(b, [2; 5]);
        }
        let mut short = [0usize; 5];
        for_units(0..3, [&mut short], [2], 2, &|unit, [piece]| {
            piece.fill(unit + 1)
        });
        assert_eq!(short, [1, 1, 2, 2, 3]);
    }
}
