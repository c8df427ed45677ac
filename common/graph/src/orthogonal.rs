//! Random matrices with orthonormal rows or columns.
//!
//! The columns of a matrix of independent normal numbers are made orthonormal one after the other,
//! which gives the Q of its QR decomposition with a positive diagonal of R: uniform over such
//! matrices (Mezzadri: "How to generate random matrices from the classical compact groups", 2007).
//! Every column is projected twice on those before it, which keeps them orthogonal to rounding
//! (Giraud et al.: "The loss of orthogonality in the Gram-Schmidt orthogonalization process", 2005).
//! Sums run in one order in `f64`: the bits are the same everywhere.

/// Orthonormal rows if there are no more of them than columns, else orthonormal columns; row-major.
/// `normal` gives the independent normal numbers.
pub(crate) fn orthogonal(rows: usize, columns: usize, normal: impl Fn(u64) -> f64) -> Vec<f64> {
    let (count, len) = (rows.min(columns), rows.max(columns));
    // `count` vectors of `len` elements, one after the other.
    let mut vectors: Vec<f64> = (0..(count * len) as u64).map(normal).collect();
    for i in 0..count {
        let (before, rest) = vectors.split_at_mut(i * len);
        let vector = &mut rest[..len];
        for _ in 0..2 {
            for other in before.chunks_exact(len) {
                let along = dot(other, vector);
                for (x, y) in vector.iter_mut().zip(other) {
                    *x -= along * y;
                }
            }
        }
        let norm = dot(vector, vector).sqrt();
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    if rows <= columns {
        return vectors;
    }
    let element = |i: usize| vectors[(i % columns) * len + i / columns];
    (0..rows * columns).map(element).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use ringfold_common::random::Stream;

    use super::*;

    fn check(rows: usize, columns: usize, seed: u64) {
        let stream = Stream::new(seed, 0);
        let q = orthogonal(rows, columns, |i| stream.normal(i));
        assert_eq!(q.len(), rows * columns);
        let wide = rows <= columns;
        let count = rows.min(columns);
        let at = |vector: usize, i: usize| {
            if wide {
                q[vector * columns + i]
            } else {
                q[i * columns + vector]
            }
        };
        for a in 0..count {
            for b in 0..=a {
                let product: f64 = (0..rows.max(columns)).map(|i| at(a, i) * at(b, i)).sum();
                let expected = f64::from(u8::from(a == b));
                assert!(
                    (product - expected).abs() < 1e-12,
                    "{rows} {columns} {a} {b}"
                );
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn vectors_are_orthonormal(rows in 1usize..24, columns in 1usize..24, seed: u64) {
            check(rows, columns, seed);
        }
    }

    /// The sign of an element is that of a fair coin, and its square has mean 1 / len.
    #[test]
    fn elements_are_spread_evenly() {
        let (mut positive, mut squares) = (0, 0.0);
        for seed in 0..400 {
            let stream = Stream::new(seed, 1);
            let q = orthogonal(5, 5, |i| stream.normal(i));
            positive += usize::from(q[0] > 0.0);
            squares += q[7] * q[7];
        }
        assert!((150..250).contains(&positive), "{positive}");
        assert!((squares / 400.0 - 0.2).abs() < 0.03, "{squares}");
    }
}
