//! Matrix products: those of `f32` by [`super::product`] where the processor has AVX-512, others by the
//! `gemm` crate.
//!
//! Invariants of this module: the pieces that [`by_product`] cuts a result into have no element in
//! common, nor have the blocks of a piece; and [`rows_by_crate`] is the only caller of `gemm::gemm`, and before the
//! call [`matmul_strided`] has asserted that each of the three row-major matrices ends within its slice. Every
//! address that the callee computes is base + row · row stride + column · column stride within those
//! dimensions; the destination is borrowed mutably, so it overlaps neither operand.
//!
//! The sum over `k` is cut here into runs of [`K_RUN`]. The callee cuts longer sums at a length
//! that it derives from the machine's cache sizes; up to 512 it doesn't cut. So the order of
//! additions, and with it every bit, is the same for all cache sizes and thread counts.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use gemm::Parallelism;

use super::parallel::{Shared, for_units};
#[cfg(target_arch = "x86_64")]
use super::{product, product_bf16, team};
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
    matmul_then(spec, dst, [lhs, rhs], None, None);
}

/// A block of a result that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Where its first element lies in the slice that comes with it.
    pub at: usize,
    /// From one row to the next.
    pub stride: usize,
    /// Its rows of the result.
    pub rows: Range<usize>,
    /// Its columns.
    pub columns: Range<usize>,
}

/// What is done with each block of a result as soon as it is written, on the thread that computed it,
/// which alone reaches the block's elements until this returns. The blocks together are the result, and
/// they don't overlap. By the kernels for AVX-512 a block is a part of the second-level cache; by the
/// `gemm` crate it is all that a thread computes.
pub(crate) type Written<'a, T> = &'a (dyn Fn(&Shared<'_, T>, Block) + Sync);

/// Computes the product, to each row of which `bias`, of n elements, is added if there is one; then
/// `written` takes its blocks.
///
/// # Panics
/// If a slice's length isn't that of its matrix, or `spec` says to accumulate beside a bias.
pub(crate) fn matmul_then<T: Element>(
    spec: &MatMul,
    dst: &mut [T],
    [lhs, rhs]: [&[T]; 2],
    bias: Option<&[T]>,
    written: Option<Written<'_, T>>,
) {
    let &MatMul { m, n, k, .. } = spec;
    assert_eq!(dst.len(), m * n, "destination of {spec:?}");
    assert_eq!(lhs.len(), m * k, "left operand of {spec:?}");
    assert_eq!(rhs.len(), k * n, "right operand of {spec:?}");
    let dense = spec.dense();
    let Some(bias) = bias else {
        return compute(spec, &dense, T::ONE, (dst, written), lhs, rhs);
    };
    assert_eq!(bias.len(), n, "bias of {spec:?}");
    assert!(!spec.accumulate, "a bias beside what {spec:?} accumulates");
    #[cfg(target_arch = "x86_64")]
    if let (Some(proof), Some(lhs), Some(rhs), Some(bias)) = (
        product::Avx512::detect().filter(|_| k > 0),
        T::as_f32(lhs),
        T::as_f32(rhs),
        T::as_f32(bias),
    ) {
        #[cfg(test)]
        let _inside = crate::cpu::counting::inside_gemm();
        let start = product::Start::Row(bias);
        return by_product(proof, spec, &dense, (start, 1.0), (dst, written), lhs, rhs);
    }
    for row in dst.chunks_exact_mut(n.max(1)) {
        row.copy_from_slice(bias);
    }
    let spec = MatMul {
        accumulate: true,
        ..*spec
    };
    compute(&spec, &dense, T::ONE, (dst, written), lhs, rhs);
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
    compute(spec, strides, factor, (dst, None), lhs, rhs);
}

/// [`matmul_strided`]; then `written` takes the result's blocks.
fn compute<T: Element>(
    spec: &MatMul,
    strides: &RowStrides,
    factor: T,
    (dst, written): (&mut [T], Option<Written<'_, T>>),
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
    if let (Some(proof), Some(lhs), Some(rhs), Some(factor)) = (
        product::Avx512::detect(),
        T::as_f32(lhs),
        T::as_f32(rhs),
        T::as_f32(&[factor]),
    ) {
        let start = match spec.accumulate {
            true => product::Start::Result,
            false => product::Start::Zero,
        };
        let how = (start, factor[0]);
        return by_product(proof, spec, strides, how, (dst, written), lhs, rhs);
    }
    assert_eq!(
        spec.precision,
        Precision::Full,
        "AVX-512 and f32 for {spec:?}"
    );
    by_crate(spec, strides, factor, (dst, written), lhs, rhs);
}

/// By the kernels of our own: the result is cut into a piece a thread, of rows and columns.
#[cfg(target_arch = "x86_64")]
fn by_product<T: Element>(
    proof: product::Avx512,
    spec: &MatMul,
    strides: &RowStrides,
    (first, factor): (product::Start<'_>, f32),
    (dst, written): (&mut [T], Option<Written<'_, T>>),
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
    let floats = dst.as_f32().unwrap_or_else(|| panic!("f32 for {spec:?}"));
    team::run(across * down, |unit| {
        let (row, column) = (unit / across * rows, unit % across * columns);
        let (rows, columns) = (rows.min(m - row), columns.min(n - column));
        let hand_over = |rows: Range<usize>, columns: Range<usize>| {
            let rows = row + rows.start..row + rows.end;
            let columns = column + columns.start..column + columns.end;
            if let Some(written) = written {
                let block = Block {
                    at: rows.start * strides.dst + columns.start,
                    stride: strides.dst,
                    rows,
                    columns,
                };
                written(&dst, block);
            }
        };
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
                // Whole after the last run.
                written: match written {
                    Some(_) if start + K_RUN >= k => Some(&hand_over),
                    _ => None,
                },
            };
            let sizes = [rows, columns, K_RUN.min(k - start)];
            let (lhs, rhs) = (lhs.from(row, start), rhs.from(start, column));
            let to_piece = (&floats, row * strides.dst + column);
            // SAFETY: the pieces of the result have no element in common, and each is one unit's. So
            // are the blocks that it hands over.
            unsafe {
                match bf16 {
                    Some(proof) => product_bf16::multiply(proof, sizes, to_piece, to, lhs, rhs),
                    None => product::multiply(proof, sizes, to_piece, to, lhs, rhs),
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
/// Results of so many elements, or fewer, the `gemm` crate may sum in another order, as dot products: no
/// piece of a larger one has so few.
const CRATE_DOTS: usize = 256;

/// By the `gemm` crate, rows of the result cut into a piece a thread. A piece that would have fewer
/// than [`CRATE_ROWS`] rows, or [`CRATE_DOTS`] elements, belongs to the one before.
fn by_crate<T: Element>(
    spec: &MatMul,
    strides: &RowStrides,
    factor: T,
    (dst, written): (&mut [T], Option<Written<'_, T>>),
    lhs: &[T],
    rhs: &[T],
) {
    let row_step = if spec.lhs_transposed { 1 } else { strides.lhs };
    let compute = |row: usize, count: usize, dst: &mut [T]| {
        let piece = MatMul { m: count, ..*spec };
        rows_by_crate(&piece, strides, factor, dst, &lhs[row * row_step..], rhs);
        if let Some(written) = written {
            let block = Block {
                at: 0,
                stride: strides.dst,
                rows: row..row + count,
                columns: 0..spec.n,
            };
            written(&Shared::new(dst), block);
        }
    };
    let least = (CRATE_DOTS / spec.n.max(1) + 1).next_multiple_of(CRATE_ROWS);
    let blocks = spec.m / least;
    let threads = spec.threads.min(blocks);
    if threads <= 1 {
        return compute(0, spec.m, dst);
    }
    let rows = blocks.div_ceil(threads) * least;
    let pieces = (blocks * least).div_ceil(rows);
    let whole = (pieces - 1) * rows;
    let (most, last) = dst.split_at_mut(whole * strides.dst);
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
#[path = "gemm_tests.rs"]
mod tests;
