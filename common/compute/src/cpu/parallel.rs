//! Work on units: slices of results that are cut alike, one piece a unit.
//!
//! What a unit is follows from shapes alone; threads only choose which runs where, so that the bits
//! don't depend on them.

use std::ops::Range;

/// Calls `work` for each unit with its piece of each slice: `steps[i]` elements of slice `i`, the
/// last unit what remains. 1 thread: one after another; more: in so many runs of adjacent units on
/// the current rayon pool.
pub(crate) fn for_units<T: Send, const N: usize>(
    units: Range<usize>,
    mut slices: [&mut [T]; N],
    steps: [usize; N],
    threads: usize,
    work: &(impl Fn(usize, [&mut [T]; N]) + Sync),
) {
    if threads > 1 && units.len() > 1 {
        let first = units.len().div_ceil(2);
        let middle = units.start + first;
        let (left, right) = split(slices, steps.map(|step| step * first));
        rayon::join(
            || for_units(units.start..middle, left, steps, threads.div_ceil(2), work),
            || for_units(middle..units.end, right, steps, threads / 2, work),
        );
        return;
    }
    for unit in units {
        let (piece, rest) = split(slices, steps);
        work(unit, piece);
        slices = rest;
    }
}

/// Each slice cut at a length, or at its end.
fn split<T, const N: usize>(
    mut slices: [&mut [T]; N],
    at: [usize; N],
) -> ([&mut [T]; N], [&mut [T]; N]) {
    let left = std::array::from_fn(|i| {
        let at = at[i].min(slices[i].len());
        slices[i].split_off_mut(..at).unwrap_or_default()
    });
    (left, slices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_get_their_pieces() {
        for threads in 1..5 {
            let (mut a, mut b) = ([0usize; 10], [0usize; 5]);
            for_units(0..5, [&mut a, &mut b], [2, 1], threads, &|unit, [a, b]| {
                a.fill(unit);
                b[0] = a.len();
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
