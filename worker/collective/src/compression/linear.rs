//! Products of a tall or wide matrix and a thin one, and Gram-Schmidt.
//!
//! All matrices lie row by row. Thin ones lie transposed, so that their columns are contiguous: `pt` is
//! `rank` rows of as many elements as `m` has rows, `qt` of as many as `m` has columns. Every sum is
//! taken in one order, whatever the machine's vectors.

use ringfold_common::simd::widest;

/// Partial sums of a dot product.
const LANES: usize = 16;

/// `P = M Q`.
pub(super) fn times(m: &[f32], qt: &[f32], pt: &mut [f32], rank: usize) {
    let (columns, rows) = (qt.len() / rank, pt.len() / rank);
    widest(|| {
        for (i, row) in m.chunks_exact(columns).enumerate() {
            for (k, q) in qt.chunks_exact(columns).enumerate() {
                pt[k * rows + i] = dot(row, q);
            }
        }
    });
}

/// `Q = M^T P`.
pub(super) fn transposed_times(m: &[f32], pt: &[f32], qt: &mut [f32], rank: usize) {
    let (columns, rows) = (qt.len() / rank, pt.len() / rank);
    widest(|| {
        qt.fill(0.0);
        for (i, row) in m.chunks_exact(columns).enumerate() {
            for (k, q) in qt.chunks_exact_mut(columns).enumerate() {
                add_scaled(q, pt[k * rows + i], row);
            }
        }
    });
}

/// `M = M - P Q^T`.
pub(super) fn subtract_product(m: &mut [f32], pt: &[f32], qt: &[f32], rank: usize) {
    let (columns, rows) = (qt.len() / rank, pt.len() / rank);
    widest(|| {
        for (i, row) in m.chunks_exact_mut(columns).enumerate() {
            for (k, q) in qt.chunks_exact(columns).enumerate() {
                add_scaled(row, -pt[k * rows + i], q);
            }
        }
    });
}

/// `M = P Q^T`.
pub(super) fn product(m: &mut [f32], pt: &[f32], qt: &[f32], rank: usize) {
    let (columns, rows) = (qt.len() / rank, pt.len() / rank);
    widest(|| {
        for (i, row) in m.chunks_exact_mut(columns).enumerate() {
            row.fill(0.0);
            for (k, q) in qt.chunks_exact(columns).enumerate() {
                add_scaled(row, pt[k * rows + i], q);
            }
        }
    });
}

/// Makes the columns, `rows` long each, orthonormal, from the first on: modified Gram-Schmidt, done
/// twice, which is enough for orthogonality up to rounding (Giraud et al. 2005). A column of which less
/// than 1e-5 is left is nothing but rounding and becomes zero.
pub(super) fn orthonormalise(pt: &mut [f32], rows: usize) {
    for k in 0..pt.len() / rows {
        let (before, rest) = pt.split_at_mut(k * rows);
        let column = &mut rest[..rows];
        let length = dot_f64(column, column).sqrt();
        for _ in 0..2 {
            for other in before.chunks_exact(rows) {
                let along = dot_f64(column, other) as f32;
                widest(|| add_scaled(column, -along, other));
            }
        }
        let left = dot_f64(column, column).sqrt();
        let by = if left > 1e-5 * length {
            1.0 / left
        } else {
            0.0
        };
        // In f64: of a tiny column the factor may be too great for f32.
        for value in column {
            *value = (f64::from(*value) * by) as f32;
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += a * b;
    }
    lanes.iter().sum()
}

fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    let terms = a.iter().zip(b);
    terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[inline(always)]
fn add_scaled(sums: &mut [f32], factor: f32, terms: &[f32]) {
    for (sum, term) in sums.iter_mut().zip(terms) {
        *sum += factor * term;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfold_common::random::Stream;

    fn random(elements: usize, seed: u64) -> Vec<f32> {
        let stream = Stream::new(seed, 0);
        (0..elements as u64)
            .map(|at| stream.normal(at) as f32)
            .collect()
    }

    #[test]
    fn products_are_those_of_the_definition() {
        let (rows, columns, rank) = (7, 37, 3);
        let (m, qt) = (random(rows * columns, 1), random(rank * columns, 2));
        let (mut pt, mut back) = (vec![0.0; rank * rows], vec![0.0; rank * columns]);
        times(&m, &qt, &mut pt, rank);
        transposed_times(&m, &pt, &mut back, rank);
        let mut whole = vec![9.0; rows * columns];
        product(&mut whole, &pt, &qt, rank);
        let mut rest = m.clone();
        subtract_product(&mut rest, &pt, &qt, rank);
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a} {b}");
        for k in 0..rank {
            for i in 0..rows {
                let terms = (0..columns).map(|j| m[i * columns + j] * qt[k * columns + j]);
                near(pt[k * rows + i], terms.sum());
            }
            for j in 0..columns {
                let terms = (0..rows).map(|i| m[i * columns + j] * pt[k * rows + i]);
                near(back[k * columns + j], terms.sum());
            }
        }
        for i in 0..rows {
            for j in 0..columns {
                let terms = (0..rank).map(|k| pt[k * rows + i] * qt[k * columns + j]);
                let (at, sum) = (i * columns + j, terms.sum::<f32>());
                near(whole[at], sum);
                near(rest[at], m[at] - sum);
            }
        }
    }

    #[test]
    fn columns_become_orthonormal_and_dependent_ones_zero() {
        for scale in [1e-25_f32, 1.0, 1e15] {
            let rows = 50;
            let mut pt: Vec<f32> = random(rows * 4, 3).iter().map(|x| x * scale).collect();
            // The third is the sum of the first two.
            for i in 0..rows {
                pt[2 * rows + i] = pt[i] + pt[rows + i];
            }
            orthonormalise(&mut pt, rows);
            for a in 0..4 {
                for b in 0..=a {
                    let (x, y) = (&pt[a * rows..(a + 1) * rows], &pt[b * rows..(b + 1) * rows]);
                    let expected = f64::from(u8::from(a == b && a != 2));
                    assert!((dot_f64(x, y) - expected).abs() < 1e-5, "{scale} {a} {b}");
                }
            }
            assert!(pt[2 * rows..3 * rows].iter().all(|&x| x == 0.0));
        }
        let mut none: Vec<f32> = vec![0.0; 6];
        orthonormalise(&mut none, 3);
        assert_eq!(none, [0.0; 6]);
    }
}
