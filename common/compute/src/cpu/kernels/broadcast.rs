//! Walking tensors that broadcast to one shape.
//!
//! Adjacent dimensions that every operand walks alike are merged, so that two tensors of one shape
//! are one run; a row against rows, a column against rows and a scalar are runs in which each
//! operand moves by 1 or stands still. The inner loops over a run vectorise.

use super::Source;
use crate::cpu::simd::widest;
use crate::element::Element;
use crate::plan::RANK_MAX;

/// How `N` operands walk along a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk<const N: usize> {
    /// Outer dimensions, outermost first, with the operands' strides.
    outer: Vec<(usize, [usize; N])>,
    /// The length of a run.
    run: usize,
    /// What the operands move by in a run: 1 or 0.
    steps: [usize; N],
}

impl<const N: usize> Walk<N> {
    /// The walk of operands of these shapes along a result of shape `to`, to which they broadcast.
    #[must_use]
    pub fn new(to: &[usize], operands: [&[usize]; N]) -> Self {
        let strides = operands.map(|shape| strides_to(shape, to));
        let mut merged: Vec<(usize, [usize; N])> = Vec::new();
        for (axis, &dim) in to.iter().enumerate().filter(|&(_, &dim)| dim != 1) {
            let here: [usize; N] = std::array::from_fn(|i| strides[i][axis]);
            match merged.last_mut() {
                Some((before, outer)) if (0..N).all(|i| outer[i] == here[i] * dim) => {
                    *before *= dim;
                    *outer = here;
                }
                _ => merged.push((dim, here)),
            }
        }
        let (run, steps) = merged.pop().unwrap_or((1, [0; N]));
        Self {
            outer: merged,
            run,
            steps,
        }
    }

    /// Calls `f` for each run with the first element in the result and in the operands.
    #[inline(always)]
    pub fn runs(&self, mut f: impl FnMut(usize, [usize; N])) {
        let mut index = [0usize; RANK_MAX];
        let mut at = [0usize; N];
        let mut start = 0;
        'runs: loop {
            f(start, at);
            start += self.run;
            for (axis, (dim, strides)) in self.outer.iter().enumerate().rev() {
                index[axis] += 1;
                (0..N).for_each(|i| at[i] += strides[i]);
                if index[axis] < *dim {
                    continue 'runs;
                }
                index[axis] = 0;
                (0..N).for_each(|i| at[i] -= strides[i] * dim);
            }
            break;
        }
    }

    /// The length of a run.
    #[must_use]
    pub fn run(&self) -> usize {
        self.run
    }

    /// What the operands move by in a run: 1 or 0.
    #[must_use]
    pub fn steps(&self) -> [usize; N] {
        self.steps
    }
}

impl Walk<1> {
    /// Where the operand has the elements `start .. start + len` of the result, one after another;
    /// `None` if it hasn't.
    #[must_use]
    pub fn piece(&self, start: usize, len: usize) -> Option<usize> {
        let within = start % self.run;
        (self.steps == [1] && within + len <= self.run).then(|| self.outer_at(start) + within)
    }

    /// The first element of the run in which an element of the result lies.
    fn outer_at(&self, start: usize) -> usize {
        let mut rest = start / self.run;
        let mut at = 0;
        for (dim, [stride]) in self.outer.iter().rev() {
            at += rest % dim * stride;
            rest /= dim;
        }
        at
    }

    /// Copies the elements that the operand has at `start ..` of the result.
    pub fn copy<T: Element>(&self, start: usize, to: &mut [T], src: &[T]) {
        let mut done = 0;
        while done < to.len() {
            let within = (start + done) % self.run;
            let at = self.outer_at(start + done);
            let len = (self.run - within).min(to.len() - done);
            let piece = &mut to[done..done + len];
            if self.steps == [0] {
                piece.fill(src[at]);
            } else {
                piece.copy_from_slice(&src[at + within..at + within + len]);
            }
            done += len;
        }
    }
}

/// The strides of a dense tensor, seen as one of shape `to`: 0 where it is repeated.
#[must_use]
pub fn strides_to(shape: &[usize], to: &[usize]) -> Vec<usize> {
    let missing = to.len() - shape.len();
    let mut strides = vec![0; to.len()];
    let mut stride = 1;
    for axis in (0..shape.len()).rev() {
        if shape[axis] != 1 {
            strides[missing + axis] = stride;
        }
        stride *= shape[axis];
    }
    strides
}

/// `dst = f(a, b)` along the walk.
#[inline]
pub fn zip<T: Element>(
    walk: &Walk<2>,
    dst: &mut [T],
    a: Source<'_, T>,
    b: Source<'_, T>,
    f: impl Fn(T, T) -> T,
) {
    widest(
        #[inline(always)]
        || {
            walk.runs(
                #[inline(always)]
                |start, [i, j]| {
                    let dst = &mut dst[start..start + walk.run];
                    match (a, b) {
                        (Source::Apart(a), Source::Apart(b)) => match walk.steps {
                            [0, 0] => dst.fill(f(a[i], b[j])),
                            [0, _] => {
                                let a = a[i];
                                for (d, &b) in dst.iter_mut().zip(&b[j..]) {
                                    *d = f(a, b);
                                }
                            }
                            [_, 0] => {
                                let b = b[j];
                                for (d, &a) in dst.iter_mut().zip(&a[i..]) {
                                    *d = f(a, b);
                                }
                            }
                            _ => {
                                for ((d, &a), &b) in dst.iter_mut().zip(&a[i..]).zip(&b[j..]) {
                                    *d = f(a, b);
                                }
                            }
                        },
                        (Source::InPlace, Source::Apart(b)) if walk.steps[1] == 0 => {
                            let b = b[j];
                            for d in dst {
                                *d = f(*d, b);
                            }
                        }
                        (Source::InPlace, Source::Apart(b)) => {
                            for (d, &b) in dst.iter_mut().zip(&b[j..]) {
                                *d = f(*d, b);
                            }
                        }
                        (Source::Apart(a), Source::InPlace) if walk.steps[0] == 0 => {
                            let a = a[i];
                            for d in dst {
                                *d = f(a, *d);
                            }
                        }
                        (Source::Apart(a), Source::InPlace) => {
                            for (d, &a) in dst.iter_mut().zip(&a[i..]) {
                                *d = f(a, *d);
                            }
                        }
                        (Source::InPlace, Source::InPlace) => {
                            for d in dst {
                                *d = f(*d, *d);
                            }
                        }
                    }
                },
            );
        },
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The element of an operand at a position in the result.
    fn reference(shape: &[usize], to: &[usize], mut position: usize) -> usize {
        let strides = strides_to(shape, to);
        let mut at = 0;
        for axis in (0..to.len()).rev() {
            at += position % to[axis] * strides[axis];
            position /= to[axis];
        }
        at
    }

    proptest! {
        #[test]
        fn walks_visit_what_broadcasting_says(
            dims in proptest::collection::vec((1usize..5, any::<bool>(), any::<bool>()), 0..5),
            cut in 0usize..3,
        ) {
            let to: Vec<usize> = dims.iter().map(|&(dim, ..)| dim).collect();
            let pick = |stretch: &dyn Fn(&(usize, bool, bool)) -> bool| -> Vec<usize> {
                dims.iter().map(|d| if stretch(d) { 1 } else { d.0 }).collect()
            };
            let a = pick(&|d| d.1);
            let b = pick(&|d| d.2);
            let b = &b[cut.min(b.len())..];
            let walk = Walk::new(&to, [&a, b]);
            let mut seen = 0;
            walk.runs(|start, at| {
                for k in 0..walk.run() {
                    let [i, j] = [0, 1].map(|n| at[n] + k * walk.steps()[n]);
                    assert_eq!(i, reference(&a, &to, start + k));
                    assert_eq!(j, reference(b, &to, start + k));
                    seen += 1;
                }
            });
            prop_assert_eq!(seen, to.iter().product::<usize>());
        }
    }

    #[test]
    fn a_copy_of_a_part_is_what_broadcasting_says() {
        let to = [2usize, 3, 4, 5];
        for shape in [
            &[3usize, 1, 5][..],
            &[2, 1, 4, 1],
            &[5],
            &[2, 3, 4, 5],
            &[1, 4, 1],
        ] {
            let src: Vec<f32> = (0..shape.iter().product())
                .map(|i: usize| i as f32)
                .collect();
            let walk = Walk::new(&to, [shape]);
            for (start, len) in [(0, 120), (7, 50), (119, 1), (41, 20)] {
                let mut part = vec![f32::NAN; len];
                walk.copy(start, &mut part, &src);
                let piece = walk.piece(start, len);
                for (k, &x) in part.iter().enumerate() {
                    assert_eq!(x, src[reference(shape, &to, start + k)]);
                    assert!(piece.is_none_or(|at| src[at + k] == x));
                }
            }
        }
    }

    #[test]
    fn common_forms_are_long_runs() {
        assert_eq!(Walk::new(&[3, 4], [&[3, 4], &[3, 4]]).run(), 12);
        assert_eq!(Walk::new(&[3, 4, 5], [&[3, 4, 5], &[]]).run(), 60);
        let row = Walk::new(&[3, 4], [&[3, 4], &[4]]);
        assert_eq!((row.run(), row.steps()), (4, [1, 1]));
        let column = Walk::new(&[3, 4, 5], [&[3, 4, 5], &[4, 1]]);
        assert_eq!((column.run(), column.steps()), (5, [1, 0]));
    }
}
