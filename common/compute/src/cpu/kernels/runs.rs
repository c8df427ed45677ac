//! Cutting a kernel's work into runs of pieces (images, channels, rows, elements) for the rayon pool.
//!
//! The pieces are independent, so that the bits don't depend on the cut. One thread never enters the
//! pool; nothing is allocated.

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
            }
        }
    }
}
