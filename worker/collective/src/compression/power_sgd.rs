//! Low-rank factors of matrices.
//!
//! PowerSGD (Vogels, Karimireddy, Jaggi 2019, algorithms 1 and 2). Of every matrix `M_i`, rank `i`'s
//! gradient with what it kept, `rows` by `columns`, all ranks hold the same `Q`, `columns` by `r`:
//!
//! 1. `P = Σ M_i Q`: an all-reduce of `r * rows`, with all that isn't compressed.
//! 2. The columns of `P` are made orthonormal, by Gram-Schmidt in their order.
//! 3. `Q_i = M_i^T P`, and rank `i` keeps `M_i - P Q_i^T`.
//! 4. `Q = Σ Q_i`: an all-reduce of `r * columns`. The sum of the matrices is `P Q^T`, and `Q` is the
//!    start of the next call: one step of a power iteration a call.
//!
//! `Q` starts as normal numbers from the counter-based generator; so does a column again that became
//! zero, since a power iteration would never leave it. A matrix that its factors are no shorter than
//! is not compressed, and neither is what lies between matrices.

use std::ops::Range;

use ringfold_common::random::{Domain, Stream, stream_key};

use super::exchange::{add_up, check_finite};
use super::linear::{orthonormalise, product, subtract_product, times, transposed_times};
use super::of_all_reduce;
use crate::{CollectiveError, Ring};

/// A matrix within a vector, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Its first element.
    pub start: usize,
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
}

impl Matrix {
    /// That it is inside a vector of `whole` elements, and has some.
    pub(super) fn check(&self, whole: usize) -> Result<(), CollectiveError> {
        let elements = self.rows.checked_mul(self.columns);
        let end = elements.and_then(|elements| self.start.checked_add(elements));
        match end.filter(|&end| self.start < end && end <= whole) {
            Some(_) => Ok(()),
            None => Err(CollectiveError::CompressedRange {
                start: self.start,
                elements: elements.unwrap_or(usize::MAX),
                whole,
            }),
        }
    }

    fn range(&self) -> Range<usize> {
        self.start..self.start + self.rows * self.columns
    }
}

/// One rank's part.
#[derive(Debug)]
pub(super) struct PowerSgd {
    seed: u64,
    /// In the order of their places.
    factors: Vec<Factor>,
    kept: Vec<f32>,
    /// What isn't compressed, then the factors `P`.
    first: Vec<f32>,
    /// The factors `Q`.
    second: Vec<f32>,
}

/// What is known of a matrix.
#[derive(Debug)]
struct Factor {
    matrix: Matrix,
    rank: usize,
    /// `Q`, transposed.
    qt: Vec<f32>,
}

impl Factor {
    /// Draws the columns that are zero.
    fn revive(&mut self, seed: u64) {
        let columns = self.matrix.columns;
        let key = stream_key(seed, Domain::Compression, self.matrix.start as u64, 0);
        for (k, column) in self.qt.chunks_exact_mut(columns).enumerate() {
            if column.iter().all(|&value| value == 0.0) {
                let stream = Stream::new(key, k as u64);
                for (at, value) in column.iter_mut().enumerate() {
                    *value = stream.normal(at as u64) as f32;
                }
            }
        }
    }
}

impl PowerSgd {
    /// `matrices` are inside the vector and overlap nowhere.
    pub fn new(rank: usize, seed: u64, elements: usize, matrices: &[Matrix]) -> Self {
        let factor = |matrix: &Matrix| {
            let rank = rank.min(matrix.rows).min(matrix.columns);
            let shorter = rank * (matrix.rows + matrix.columns) < matrix.rows * matrix.columns;
            shorter.then(|| {
                let mut factor = Factor {
                    matrix: *matrix,
                    rank,
                    qt: vec![0.0; rank * matrix.columns],
                };
                factor.revive(seed);
                factor
            })
        };
        let mut factors: Vec<Factor> = matrices.iter().filter_map(factor).collect();
        factors.sort_by_key(|factor| factor.matrix.start);
        Self {
            seed,
            factors,
            kept: vec![0.0; elements],
            first: Vec::new(),
            second: Vec::new(),
        }
    }

    pub fn held_bytes(&self) -> u64 {
        let factors: usize = self.factors.iter().map(|factor| factor.qt.len()).sum();
        let buffers = self.first.capacity() + self.second.capacity();
        ((self.kept.len() + factors + buffers) * size_of::<f32>()) as u64
    }

    pub fn kept(&self) -> &[f32] {
        &self.kept
    }

    /// The factors of the matrices in `range`.
    pub fn check(&self, range: &Range<usize>) -> Result<Range<usize>, CollectiveError> {
        let from = |end: usize| move |factor: &Factor| factor.matrix.range().end <= end;
        let start = self.factors.partition_point(from(range.start));
        let end = self.factors.partition_point(from(range.end));
        let reaches_in = |factor: &&Factor| {
            let matrix = factor.matrix.range();
            matrix.start < range.end
                && range.start < matrix.end
                && (matrix.start < range.start || range.end < matrix.end)
        };
        match self.factors[start..].iter().find(reaches_in) {
            None => Ok(start..end),
            Some(cut) => Err(CollectiveError::MatrixCut {
                start: range.start,
                end: range.end,
                matrix: cut.matrix.range(),
            }),
        }
    }

    /// Sums `values`, the elements of `range`, of which `factors` says which matrices are in it.
    /// Returns the bytes that this rank sent.
    pub fn all_reduce(
        &mut self,
        ring: &mut Ring,
        (range, factors): (Range<usize>, Range<usize>),
        values: &mut [f32],
    ) -> Result<u64, CollectiveError> {
        let factors = &mut self.factors[factors];
        let kept = &mut self.kept[range.clone()];
        let gaps = gaps(&range, factors);
        let place = |matrix: &Matrix| matrix.start - range.start..matrix.range().end - range.start;
        // Zero but in matrices.
        add_up(values, kept);
        check_finite(values)?;

        // 1. P.
        self.first.clear();
        for gap in &gaps {
            self.first.extend_from_slice(&values[gap.clone()]);
        }
        let plain = self.first.len();
        for factor in &*factors {
            let (start, rank) = (self.first.len(), factor.rank);
            self.first.resize(start + rank * factor.matrix.rows, 0.0);
            let m = &values[place(&factor.matrix)];
            times(m, &factor.qt, &mut self.first[start..], rank);
        }
        ring.all_reduce_sum_f32(&mut self.first)?;
        check_finite(&self.first)?;

        // 2., 3. Q, and what its factors leave.
        self.second.clear();
        let mut pts = &mut self.first[plain..];
        for factor in &*factors {
            let (rank, rows) = (factor.rank, factor.matrix.rows);
            let (pt, rest) = pts.split_at_mut(rank * rows);
            pts = rest;
            orthonormalise(pt, rows);
            let start = self.second.len();
            self.second.resize(start + factor.qt.len(), 0.0);
            let (qt, place) = (&mut self.second[start..], place(&factor.matrix));
            transposed_times(&values[place.clone()], pt, qt, rank);
            kept[place.clone()].copy_from_slice(&values[place.clone()]);
            subtract_product(&mut kept[place], pt, qt, rank);
        }

        // 4. The sum of all.
        ring.all_reduce_sum_f32(&mut self.second)?;
        check_finite(&self.second)?;
        let (mut pts, mut qts) = (&self.first[plain..], &self.second[..]);
        for factor in factors {
            let (pt, pt_rest) = pts.split_at(factor.rank * factor.matrix.rows);
            let (qt, qt_rest) = qts.split_at(factor.qt.len());
            (pts, qts) = (pt_rest, qt_rest);
            product(&mut values[place(&factor.matrix)], pt, qt, factor.rank);
            factor.qt.copy_from_slice(qt);
            factor.revive(self.seed);
        }
        let mut sums = &self.first[..plain];
        for gap in gaps {
            let (own, rest) = sums.split_at(gap.len());
            values[gap].copy_from_slice(own);
            sums = rest;
        }
        let floats = [self.first.len(), self.second.len()];
        let bytes = floats.map(|floats| of_all_reduce(floats as u64 * 4, ring.world()));
        Ok(bytes.iter().sum())
    }
}

/// What of `range` is in no matrix, counted from its start.
fn gaps(range: &Range<usize>, factors: &[Factor]) -> Vec<Range<usize>> {
    let mut gaps = Vec::new();
    let mut at = range.start;
    for factor in factors {
        let matrix = factor.matrix.range();
        gaps.push(at - range.start..matrix.start - range.start);
        at = matrix.end;
    }
    gaps.push(at - range.start..range.end - range.start);
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(start: usize, rows: usize, columns: usize) -> Matrix {
        Matrix {
            start,
            rows,
            columns,
        }
    }

    #[test]
    fn what_its_factors_are_no_shorter_than_is_left_alone() {
        let matrices = [matrix(100, 8, 8), matrix(0, 20, 3), matrix(70, 1, 16)];
        let ranks = |rank: usize| -> Vec<(usize, usize)> {
            let factors = PowerSgd::new(rank, 1, 200, &matrices).factors;
            factors.iter().map(|f| (f.matrix.start, f.rank)).collect()
        };
        assert_eq!(ranks(1), [(0, 1), (100, 1)]);
        assert_eq!(ranks(2), [(0, 2), (100, 2)]);
        assert_eq!(ranks(3), [(100, 3)]);
        assert_eq!(ranks(4), []);
    }

    #[test]
    fn ranges_hold_whole_matrices() {
        let matrices = [matrix(10, 10, 10), matrix(110, 10, 10), matrix(300, 10, 10)];
        let sgd = PowerSgd::new(1, 1, 500, &matrices);
        for (range, factors) in [
            (0..10, 0..0),
            (0..500, 0..3),
            (110..210, 1..2),
            (110..500, 1..3),
            (210..300, 2..2),
            (400..500, 3..3),
        ] {
            assert_eq!(sgd.check(&range).unwrap(), factors, "{range:?}");
        }
        for range in [0..11, 109..200, 20..30, 0..350, 399..500] {
            let error = sgd.check(&range).unwrap_err();
            assert!(
                error.is_argument() && error.to_string().contains("matrix"),
                "{error}"
            );
        }
        let gaps = gaps(&(110..400), &sgd.factors[1..]);
        assert_eq!(gaps, [0..0, 100..190, 290..290]);
    }
}
