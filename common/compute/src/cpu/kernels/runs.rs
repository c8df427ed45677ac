//! Cutting a kernel's work into runs of pieces (images, channels, rows, elements) for the team.
//!
//! The pieces are independent, so that the bits don't depend on the cut. Nothing is allocated.
//!
//! Invariant of the unsafe code: the runs of one region have no piece in common.

use std::ops::Range;

pub(crate) use crate::cpu::parallel::Shared;
use crate::cpu::parallel::for_units;
use crate::cpu::team;

/// Elements that are worth another thread, at least: waking one that parks takes some 40 µs.
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
    let steps = [run * piece, own];
    let runs = to.len().div_ceil(run * piece);
    for_units(
        0..runs,
        [to, scratch],
        steps,
        threads,
        &|i, [to, scratch]| {
            f(i * run, to, scratch);
        },
    );
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
    team::run(threads, |i| {
        f(count * i / threads..count * (i + 1) / threads)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::team::Team;

    #[test]
    fn runs_are_whole_pieces_and_cover_all() {
        for (len, piece) in [(0, 5), (35, 7), (RUN_MIN * 4, 8), (RUN_MIN * 7, 7)] {
            for threads in 1..5 {
                let mut to = vec![usize::MAX; len];
                let mut scratch = vec![0; threads];
                let mut team = Team::new(threads).unwrap();
                let number = |first, to: &mut [usize], own: &mut [usize]| {
                    assert!(to.len().is_multiple_of(piece) && !own.is_empty());
                    for (i, to) in to.iter_mut().enumerate() {
                        *to = first * piece + i;
                    }
                };
                team.install(|| each_run_with(threads, &mut to, piece, &mut scratch, 1, number));
                assert!(to.iter().copied().eq(0..len));
                to.fill(0);
                let shared = Shared::new(&mut to);
                let add = |pieces: Range<usize>| {
                    for i in pieces.start * piece..pieces.end * piece {
                        // SAFETY: the runs have no piece in common.
                        unsafe { shared.add(i, i) };
                    }
                };
                team.install(|| each_index(threads, len / piece, piece, add));
                assert!(to.iter().copied().eq(0..len));
            }
        }
    }
}
