//! Matrix products: those of `f32` by [`super::product`] where the processor has AVX-512, others by the
//! `gemm` crate.
//!
//! Invariants of this module: the pieces that [`by_product`] cuts a result into have no element in
//! common; and [`rows_by_crate`] is the only caller of `gemm::gemm`, and before the
//! call [`matmul_strided`] has asserted that each of the three row-major matrices ends within its slice. Every
//! address that the callee computes is base + row · row stride + column · column stride within those
//! dimensions; the destination is borrowed mutably, so it overlaps neither operand.
//!
//! The sum over `k` is cut here into runs of [`K_RUN`]. The callee cuts longer sums at a length
//! that it derives from the machine's cache sizes; up to 512 it doesn't cut. So the order of
//! additions, and with it every bit, is the same for all cache sizes and thread counts.

use std::sync::{Mutex, PoisonError};

use gemm::Parallelism;

use super::parallel::for_units;
#[cfg(target_arch = "x86_64")]
use super::{parallel::Shared, product, product_bf16, team};
use crate::backend::Precision;
use crate::element::Element;
use crate::error::ComputeError;

/// The longest sum that is handed over in one piece.
pub const K_RUN: usize = 512;

/// `dst [m, n] (+)= lhs [m, k] · rhs [k, n]`, all row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMul {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// The length of the sums.
    pub k: usize,
    /// `lhs` is stored as `[k, m]`.
    pub lhs_transposed: bool,
    /// `rhs` is stored as `[n, k]`.
    pub rhs_transposed: bool,
    /// Adds to what `dst` holds.
    pub accumulate: bool,
    /// 1: the calling thread alone; more: its team, in this many parts.
    pub threads: usize,
    /// What the operands are rounded to; only `f32` where [`check_bf16`] finds nothing missing.
    pub precision: Precision,
}

/// Whether operands of this type can be rounded to bfloat16 here.
///
/// # Errors
/// [`ComputeError::Bf16`].
pub fn check_bf16<T: Element>() -> Result<(), ComputeError> {
    let missing = |missing| Err(ComputeError::Bf16 { missing });
    if T::as_f32(&[]).is_none() {
        return missing("the element type f32");
    }
    #[cfg(target_arch = "x86_64")]
    return match product_bf16::Avx512Bf16::detect() {
        Ok(_) => Ok(()),
        Err(feature) => missing(feature),
    };
    #[cfg(not(target_arch = "x86_64"))]
    missing("an x86-64 processor")
}

/// How far apart the rows of the three matrices lie, as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowStrides {
    /// Of the result.
    pub dst: usize,
    /// Of `lhs`.
    pub lhs: usize,
    /// Of `rhs`.
    pub rhs: usize,
}

impl MatMul {
    /// Rows and columns of `lhs` as it is stored.
    fn lhs(&self) -> (usize, usize) {
        match self.lhs_transposed {
            true => (self.k, self.m),
            false => (self.m, self.k),
        }
    }

    /// The strides of matrices without gaps.
    fn dense(&self) -> RowStrides {
        RowStrides {
            dst: self.n,
            lhs: self.lhs().1,
            rhs: self.rhs().1,
        }
    }

    /// Rows and columns of `rhs` as it is stored.
    fn rhs(&self) -> (usize, usize) {
        match self.rhs_transposed {
            true => (self.n, self.k),
            false => (self.k, self.n),
        }
    }
}

/// Computes the product.
///
/// # Panics
/// If a slice's length isn't that of its matrix, or operands can't be rounded as `spec` says.
pub fn matmul<T: Element>(spec: &MatMul, dst: &mut [T], lhs: &[T], rhs: &[T]) {
    let &MatMul { m, n, k, .. } = spec;
    assert_eq!(dst.len(), m * n, "destination of {spec:?}");
    assert_eq!(lhs.len(), m * k, "left operand of {spec:?}");
    assert_eq!(rhs.len(), k * n, "right operand of {spec:?}");
    matmul_strided(spec, &spec.dense(), T::ONE, dst, lhs, rhs);
}

/// Computes the product and adds `bias`, of n elements, to every row.
///
/// # Panics
/// If a slice's length isn't that of its matrix, or `spec` says to accumulate.
pub fn matmul_bias<T: Element>(spec: &MatMul, dst: &mut [T], lhs: &[T], rhs: &[T], bias: &[T]) {
    let &MatMul { m, n, k, .. } = spec;
    assert_eq!(dst.len(), m * n, "destination of {spec:?}");
    assert_eq!(lhs.len(), m * k, "left operand of {spec:?}");
    assert_eq!(rhs.len(), k * n, "right operand of {spec:?}");
    assert_eq!(bias.len(), n, "bias of {spec:?}");
    assert!(!spec.accumulate, "a bias beside what {spec:?} accumulates");
    #[cfg(target_arch = "x86_64")]
    if let (Some(proof), Some(lhs), Some(rhs), Some(bias), Some(dst)) = (
        product::Avx512::detect().filter(|_| k > 0),
        T::as_f32(lhs),
        T::as_f32(rhs),
        T::as_f32(bias),
        T::as_f32_mut(&mut *dst),
    ) {
        #[cfg(test)]
        let _inside = crate::cpu::counting::inside_gemm();
        let start = product::Start::Row(bias);
        return by_product(proof, spec, &spec.dense(), (start, 1.0), dst, lhs, rhs);
    }
    for row in dst.chunks_exact_mut(n.max(1)) {
        row.copy_from_slice(bias);
    }
    let spec = MatMul {
        accumulate: true,
        ..*spec
    };
    matmul(&spec, dst, lhs, rhs);
}

/// Computes `dst (+)= factor · lhs · rhs` for matrices whose rows may lie apart.
///
/// # Panics
/// If a slice ends before its matrix, or rows overlap.
pub fn matmul_strided<T: Element>(
    spec: &MatMul,
    strides: &RowStrides,
    factor: T,
    dst: &mut [T],
    lhs: &[T],
    rhs: &[T],
) {
    let &MatMul { m, n, .. } = spec;
    let fits = |len: usize, (rows, columns): (usize, usize), stride: usize| {
        rows == 0 || (columns <= stride && (rows - 1) * stride + columns <= len)
    };
    assert!(
        fits(dst.len(), (m, n), strides.dst),
        "destination of {spec:?}"
    );
    assert!(
        fits(lhs.len(), spec.lhs(), strides.lhs),
        "left operand of {spec:?}"
    );
    assert!(
        fits(rhs.len(), spec.rhs(), strides.rhs),
        "right operand of {spec:?}"
    );
    #[cfg(test)]
    let _inside = crate::cpu::counting::inside_gemm();
    #[cfg(target_arch = "x86_64")]
    if let (Some(proof), Some(lhs), Some(rhs), Some(dst), Some(factor)) = (
        product::Avx512::detect(),
        T::as_f32(lhs),
        T::as_f32(rhs),
        T::as_f32_mut(dst),
        T::as_f32(&[factor]),
    ) {
        let start = match spec.accumulate {
            true => product::Start::Result,
            false => product::Start::Zero,
        };
        return by_product(proof, spec, strides, (start, factor[0]), dst, lhs, rhs);
    }
    assert_eq!(
        spec.precision,
        Precision::Full,
        "AVX-512 and f32 for {spec:?}"
    );
    by_crate(spec, strides, factor, dst, lhs, rhs);
}

/// By the kernels of our own: the result is cut into a piece a thread, of rows and columns.
#[cfg(target_arch = "x86_64")]
fn by_product(
    proof: product::Avx512,
    spec: &MatMul,
    strides: &RowStrides,
    (first, factor): (product::Start<'_>, f32),
    dst: &mut [f32],
    lhs: &[f32],
    rhs: &[f32],
) {
    let &MatMul { m, n, k, .. } = spec;
    let view = |elements, transposed, stride| product::View {
        elements,
        strides: if transposed { (1, stride) } else { (stride, 1) },
    };
    let lhs = view(lhs, spec.lhs_transposed, strides.lhs);
    let rhs = view(rhs, spec.rhs_transposed, strides.rhs);
    let bf16 = (spec.precision == Precision::Bf16).then(|| {
        product_bf16::Avx512Bf16::detect()
            .unwrap_or_else(|missing| panic!("{missing} for {spec:?}"))
    });
    let [rows, columns] = piece(spec);
    let (across, down) = (n.div_ceil(columns), m.div_ceil(rows));
    let dst = Shared::new(dst);
    team::run(across * down, |unit| {
        let (row, column) = (unit / across * rows, unit % across * columns);
        let (rows, columns) = (rows.min(m - row), columns.min(n - column));
        for start in (0..k).step_by(K_RUN) {
            let to = product::Target {
                stride: strides.dst,
                start: match first {
                    _ if start > 0 => product::Start::Result,
                    product::Start::Row(bias) => {
                        product::Start::Row(&bias[column..column + columns])
                    }
                    first => first,
                },
                factor,
            };
            let sizes = [rows, columns, K_RUN.min(k - start)];
            let (lhs, rhs) = (lhs.from(row, start), rhs.from(start, column));
            let dst = (&dst, row * strides.dst + column);
            // SAFETY: the pieces of the result have no element in common, and each is one unit's.
            unsafe {
                match bf16 {
                    Some(proof) => product_bf16::multiply(proof, sizes, dst, to, lhs, rhs),
                    None => product::multiply(proof, sizes, dst, to, lhs, rhs),
                }
            }
        }
    });
}

/// Rows and columns of the piece of the result that each of `spec.threads` threads has, at least 1:
/// those that take the slowest thread the least time.
#[cfg(target_arch = "x86_64")]
fn piece(spec: &MatMul) -> [usize; 2] {
    let &MatMul { m, n, k, .. } = spec;
    let threads = spec.threads.max(1);
    let pieces = (1..=threads).filter(|across| threads.is_multiple_of(*across));
    let pieces = pieces.map(|across| {
        // Two rows at least share what is loaded of `rhs`.
        let rows = m.div_ceil(threads / across).next_multiple_of(2).min(m);
        let columns = n.div_ceil(across).next_multiple_of(product::COLUMNS).min(n);
        let sizes = [rows, columns, K_RUN.min(k)];
        let cycles = product::cycles(sizes, spec.lhs_transposed, spec.rhs_transposed);
        ([rows.max(1), columns.max(1)], cycles)
    });
    let least = pieces.min_by(|(_, a), (_, b)| a.total_cmp(b));
    least.map_or([m.max(1), n.max(1)], |(piece, _)| piece)
}

/// Rows that a thread of the `gemm` crate has, at least: a product of one row is summed in another
/// order.
const CRATE_ROWS: usize = 16;

/// By the `gemm` crate, rows of the result cut into a piece a thread. A piece that would have fewer
/// than [`CRATE_ROWS`] rows belongs to the one before.
fn by_crate<T: Element>(
    spec: &MatMul,
    strides: &RowStrides,
    factor: T,
    dst: &mut [T],
    lhs: &[T],
    rhs: &[T],
) {
    let blocks = spec.m / CRATE_ROWS;
    let threads = spec.threads.min(blocks);
    if threads <= 1 {
        return rows_by_crate(spec, strides, factor, dst, lhs, rhs);
    }
    let row_step = if spec.lhs_transposed { 1 } else { strides.lhs };
    let rows = blocks.div_ceil(threads) * CRATE_ROWS;
    let pieces = (blocks * CRATE_ROWS).div_ceil(rows);
    let whole = (pieces - 1) * rows;
    let (most, last) = dst.split_at_mut(whole * strides.dst);
    let compute = |row: usize, count: usize, dst: &mut [T]| {
        let piece = MatMul { m: count, ..*spec };
        rows_by_crate(&piece, strides, factor, dst, &lhs[row * row_step..], rhs);
    };
    let last = Mutex::new(last);
    let steps = [rows * strides.dst];
    for_units(0..pieces, [most], steps, threads, &|unit, [dst]| {
        if unit + 1 < pieces {
            return compute(unit * rows, rows, dst);
        }
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        compute(whole, spec.m - whole, &mut last);
    });
}

/// By the `gemm` crate on this thread.
fn rows_by_crate<T: Element>(
    spec: &MatMul,
    strides: &RowStrides,
    factor: T,
    dst: &mut [T],
    lhs: &[T],
    rhs: &[T],
) {
    let &MatMul { m, n, k, .. } = spec;
    // (column stride, row stride)
    let both = |transposed, stride| if transposed { (stride, 1) } else { (1, stride) };
    let lhs_strides = both(spec.lhs_transposed, strides.lhs);
    let rhs_strides = both(spec.rhs_transposed, strides.rhs);
    let mut start = 0;
    while start < k {
        let run = (k - start).min(K_RUN);
        let accumulate = spec.accumulate || start > 0;
        // The first element of the run: column `start` of lhs, row `start` of rhs.
        let lhs = &lhs[start * lhs_strides.0..];
        let rhs = &rhs[start * rhs_strides.1..];
        // SAFETY: the matrices have these strides and, as asserted, end within their slices; columns
        // `start .. start + run` of lhs and rows `start .. start + run` of rhs lie within them,
        // and `dst` is a unique borrow. `T` is `f32` or `f64`, which the callee supports.
        unsafe {
            gemm::gemm(
                m,
                n,
                run,
                dst.as_mut_ptr(),
                1,
                strides.dst as isize,
                accumulate,
                lhs.as_ptr(),
                lhs_strides.0 as isize,
                lhs_strides.1 as isize,
                rhs.as_ptr(),
                rhs_strides.0 as isize,
                rhs_strides.1 as isize,
                T::ONE,
                factor,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        start += run;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::team::Team;

    fn element(i: usize) -> f64 {
        ((i * 37 + 11) % 19) as f64 - 9.0
    }

    fn reference(spec: &MatMul, dst: &mut [f64], lhs: &[f64], rhs: &[f64]) {
        let &MatMul { m, n, k, .. } = spec;
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k)
                    .map(|l| {
                        let a = if spec.lhs_transposed {
                            l * m + i
                        } else {
                            i * k + l
                        };
                        let b = if spec.rhs_transposed {
                            j * k + l
                        } else {
                            l * n + j
                        };
                        lhs[a] * rhs[b]
                    })
                    .sum();
                let before = if spec.accumulate { dst[i * n + j] } else { 0.0 };
                dst[i * n + j] = before + sum;
            }
        }
    }

    /// Small integers: sums are exact in both types, whatever their order.
    fn assert_exact(spec: &MatMul) {
        let &MatMul { m, n, k, .. } = spec;
        let lhs: Vec<f64> = (0..m * k).map(element).collect();
        let rhs: Vec<f64> = (0..k * n).map(|i| element(i + 5)).collect();
        let start: Vec<f64> = (0..m * n).map(|i| element(i + 3)).collect();
        let mut expected = start.clone();
        reference(spec, &mut expected, &lhs, &rhs);
        let mut got = start.clone();
        matmul(spec, &mut got, &lhs, &rhs);
        assert_eq!(got, expected, "{spec:?}");
        let single = |slice: &[f64]| slice.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let mut got = single(&start);
        matmul(spec, &mut got, &single(&lhs), &single(&rhs));
        assert_eq!(got, single(&expected), "{spec:?}");
        // What machines without our own kernel do.
        let mut got = single(&start);
        by_crate(
            spec,
            &spec.dense(),
            1.0,
            &mut got,
            &single(&lhs),
            &single(&rhs),
        );
        assert_eq!(got, single(&expected), "{spec:?}");
    }

    /// Operands large enough to be packed, in every form, with rows apart and a factor.
    #[test]
    fn large_products_are_exact() {
        for (lhs_transposed, rhs_transposed) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            for (m, n, k) in [(201, 1601, 40), (300, 131, 530), (35, 70, 1000)] {
                let spec = MatMul {
                    m,
                    n,
                    k,
                    lhs_transposed,
                    rhs_transposed,
                    accumulate: true,
                    threads: 2,
                    precision: Precision::Full,
                };
                let mut team = Team::new(2).unwrap();
                team.install(|| assert_exact(&spec));
                let strides = RowStrides {
                    dst: n + 3,
                    lhs: spec.lhs().1 + 1,
                    rhs: spec.rhs().1 + 2,
                };
                let number = |i: usize| element(i) as f32;
                let lhs: Vec<f32> = (0..spec.lhs().0 * strides.lhs).map(number).collect();
                let rhs: Vec<f32> = (0..spec.rhs().0 * strides.rhs).map(number).collect();
                let mut got = vec![1.0; m * strides.dst];
                let mut expected = got.clone();
                matmul_strided(&spec, &strides, 0.5, &mut got, &lhs, &rhs);
                team.install(|| by_crate(&spec, &strides, 0.5, &mut expected, &lhs, &rhs));
                assert_eq!(got, expected, "{spec:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn agrees_with_the_definition(
            m in 1usize..70, n in 1usize..70, k in 1usize..70,
            lhs_transposed: bool, rhs_transposed: bool, accumulate: bool, threads in 1usize..3,
        ) {
            assert_exact(&MatMul {
                m, n, k, lhs_transposed, rhs_transposed, accumulate, threads, precision: Precision::Full,
            });
        }
    }

    /// The crate sums a single row in another order: no thread gets one.
    #[test]
    fn bits_by_the_crate_do_not_depend_on_threads() {
        for (m, n, k) in [(17, 33, 300), (33, 7, 511), (97, 40, 600), (1, 70, 90)] {
            for lhs_transposed in [false, true] {
                let fraction = |i: usize| 1.0 / (element(i) + 30.5);
                let lhs: Vec<f64> = (0..m * k).map(fraction).collect();
                let rhs: Vec<f64> = (0..k * n).map(|i| fraction(i + 5)).collect();
                let product = |threads| {
                    let spec = MatMul {
                        precision: Precision::Full,
                        m,
                        n,
                        k,
                        lhs_transposed,
                        rhs_transposed: false,
                        accumulate: false,
                        threads,
                    };
                    let mut dst = vec![0.0; m * n];
                    let mut team = Team::new(threads).unwrap();
                    team.install(|| matmul(&spec, &mut dst, &lhs, &rhs));
                    dst.into_iter().map(f64::to_bits).collect::<Vec<_>>()
                };
                let one = product(1);
                for threads in 2..6 {
                    assert!(
                        product(threads) == one,
                        "{m} × {n} × {k}, {threads} threads"
                    );
                }
            }
        }
    }

    #[test]
    fn biases_are_added_to_every_row() {
        for k in [7, K_RUN + 9] {
            let spec = MatMul {
                m: 35,
                n: 41,
                k,
                lhs_transposed: false,
                rhs_transposed: true,
                accumulate: false,
                threads: 2,
                precision: Precision::Full,
            };
            let lhs: Vec<f64> = (0..35 * k).map(element).collect();
            let rhs: Vec<f64> = (0..k * 41).map(|i| element(i + 5)).collect();
            let bias: Vec<f64> = (0..41).map(|i| element(i + 2)).collect();
            let mut expected = bias.repeat(35);
            let sum = MatMul {
                accumulate: true,
                ..spec
            };
            reference(&sum, &mut expected, &lhs, &rhs);
            let mut got = vec![f64::NAN; 35 * 41];
            matmul_bias(&spec, &mut got, &lhs, &rhs, &bias);
            assert_eq!(got, expected);
            let [lhs, rhs, bias] = [lhs, rhs, bias].map(|x| {
                let x = x.iter().map(|&x| x as f32);
                x.collect::<Vec<_>>()
            });
            let mut got = vec![f32::NAN; 35 * 41];
            matmul_bias(&spec, &mut got, &lhs, &rhs, &bias);
            assert!(got.iter().zip(&expected).all(|(&x, &y)| f64::from(x) == y));
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn pieces_are_even_and_cover_the_result() {
        let spec = |m, n, threads, lhs_transposed, rhs_transposed| MatMul {
            m,
            n,
            k: 512,
            lhs_transposed,
            rhs_transposed,
            accumulate: false,
            threads,
            precision: Precision::Full,
        };
        // Columns of the weights are turned once, not by each thread.
        assert_eq!(piece(&spec(128, 512, 2, false, true)), [128, 256]);
        // Few columns, or few rows.
        assert_eq!(piece(&spec(128, 10, 2, false, true)), [64, 10]);
        assert_eq!(piece(&spec(10, 512, 2, true, false)), [10, 256]);
        assert_eq!(piece(&spec(1, 1, 3, false, false)), [1, 1]);
        for threads in 1..9 {
            for (m, n) in [(1, 7), (13, 40), (128, 512), (515, 784), (1000, 10)] {
                let [rows, columns] = piece(&spec(m, n, threads, true, false));
                assert!((1..=m).contains(&rows) && (1..=n).contains(&columns));
                assert!(m.div_ceil(rows) * n.div_ceil(columns) <= threads);
            }
        }
    }

    #[test]
    fn long_sums_are_cut() {
        for (lhs_transposed, rhs_transposed) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            assert_exact(&MatMul {
                m: 20,
                n: 30,
                k: 2 * K_RUN + 7,
                lhs_transposed,
                rhs_transposed,
                accumulate: true,
                threads: 1,
                precision: Precision::Full,
            });
        }
    }

    #[test]
    #[should_panic(expected = "left operand")]
    fn lengths_are_checked() {
        let spec = MatMul {
            m: 2,
            n: 2,
            k: 2,
            lhs_transposed: false,
            rhs_transposed: false,
            accumulate: false,
            threads: 1,
            precision: Precision::Full,
        };
        matmul(&spec, &mut [0.0f32; 4], &[0.0; 3], &[0.0; 4]);
    }
}
