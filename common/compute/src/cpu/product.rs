//! Products of `f32` matrices by a kernel of our own for AVX-512, faster on these shapes than the
//! `gemm` crate, whose kernel has vectors of half the width.
//!
//! The result is cut into tiles of at most [`ROWS`] × [`COLUMNS`] that stay in registers over a run of
//! the sum. A large or transposed `rhs` is packed first, in panels of [`COLUMNS`] columns; a large
//! transposed `lhs` in panels of [`ROWS`] rows. Others are read where they lie. Each element is one chain of fused
//! multiply-adds a run, whichever way, so bits depend neither on threads nor on the form.
//!
//! Invariants of the unsafe code:
//! - An [`Avx512`] is made only after the processor was found to have AVX-512F, so holding one is
//!   the proof that [`tile`] may run.
//! - A [`Tile`]'s pointers are good for its `rows` and `columns` at its strides over `depth` steps:
//!   [`multiply`] has asserted that the three matrices end within their slices, and cuts tiles inside
//!   them or inside the packed panels, which it has filled. The mask keeps loads and stores to the
//!   first `columns` elements of a row.

use std::arch::x86_64::{
    __mmask16, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
    _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};
use std::cell::RefCell;
use std::ops::Range;

use super::parallel::Shared;

/// Rows of a tile.
pub(crate) const ROWS: usize = 14;
/// Columns of a tile: two registers.
pub(super) const COLUMNS: usize = 32;
/// Panels of `lhs` that are taken at a time: they stay in the second-level cache.
pub(super) const LHS_PANELS: usize = 12;
/// Columns of `rhs` that are packed at a time.
pub(super) const RHS_COLUMNS: usize = 1536;
/// Below so many elements of `lhs` a run, and rows of the result, packing it doesn't pay.
const PACK_MIN: usize = 32 * 1024;

/// The proof that the processor has AVX-512F.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// `None` if the processor lacks it.
    pub(crate) fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

/// A matrix to read: element `(row, column)` lies at `row · strides.0 + column · strides.1`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub elements: &'a [f32],
    pub strides: (usize, usize),
}

impl View<'_> {
    pub(super) fn fits(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.strides.0 + (columns - 1) * self.strides.1 < self.elements.len()
    }

    /// The part from a row and a column on.
    pub(crate) fn from(&self, row: usize, column: usize) -> Self {
        let at = row * self.strides.0 + column * self.strides.1;
        Self {
            elements: &self.elements[at..],
            strides: self.strides,
        }
    }
}

/// What sums are added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// What the result holds.
    Result,
    /// This row, for every row of the result.
    Row(&'a [f32]),
}

/// What is done with the sums.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// From one row of the result to the next.
    pub stride: usize,
    pub start: Start<'a>,
    /// Factor of the sums.
    pub factor: f32,
    /// Is told of each block of rows and columns as soon as it is written; all together they are the
    /// result. It may use the elements of the block until it returns.
    pub written: Option<&'a dyn Fn(Range<usize>, Range<usize>)>,
}

/// Elements of a block that `written` is told of, in about: a part of the second-level cache.
const BLOCK: usize = 96 * 1024;
/// Columns of a block are a multiple of this, but for the last.
const BLOCK_COLUMNS: usize = 512;

/// The columns of a block of so many rows.
pub(super) fn block_columns(rows: usize) -> usize {
    (BLOCK / rows.max(1) / BLOCK_COLUMNS * BLOCK_COLUMNS).max(BLOCK_COLUMNS)
}

thread_local! {
    /// Panels of `lhs` and of `rhs`; they grow to what is needed and stay.
    static PANELS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// `dst [m, n] (+)= factor · lhs [m, k] · rhs [k, n]`, where the sum over k is one run. The result
/// begins at element `origin` of `dst`.
///
/// # Safety
/// Nobody else reaches the result's elements meanwhile; what lies between its rows is not touched.
///
/// # Panics
/// If a slice ends before its matrix, or rows of the result overlap.
pub(crate) unsafe fn multiply(
    proof: Avx512,
    [m, n, k]: [usize; 3],
    (dst, origin): (&Shared<'_, f32>, usize),
    to: Target<'_>,
    lhs: View<'_>,
    rhs: View<'_>,
) {
    assert!(
        lhs.fits(m, k) && rhs.fits(k, n),
        "operands of {m} × {k} × {n}"
    );
    let end = origin + m.saturating_sub(1) * to.stride + n;
    assert!(
        n <= to.stride && (m == 0 || end <= dst.len()),
        "result of {m} × {n}"
    );
    if let Start::Row(row) = to.start {
        assert_eq!(row.len(), n, "a row of {n}");
    }
    PANELS.with_borrow_mut(|[lhs_panels, rhs_panels]| {
        let pack_lhs = packs_lhs([m, n, k], lhs.strides.1 != 1);
        let pack_rhs = packs_rhs([m, n, k], rhs.strides.1 != 1);
        for first in (0..n).step_by(RHS_COLUMNS) {
            let columns = RHS_COLUMNS.min(n - first);
            let rhs = rhs.from(0, first);
            if pack_rhs {
                pack::<COLUMNS>(proof, rhs_panels, rhs, columns, k);
            }
            let block = LHS_PANELS * ROWS;
            for row in (0..m).step_by(block) {
                let rows = block.min(m - row);
                let lhs = lhs.from(row, 0);
                if pack_lhs {
                    let turned = View {
                        strides: (lhs.strides.1, lhs.strides.0),
                        ..lhs
                    };
                    pack::<ROWS>(proof, lhs_panels, turned, rows, k);
                }
                let mut begun = 0;
                for column in (0..columns).step_by(COLUMNS) {
                    let width = COLUMNS.min(columns - column);
                    let (b, b_step) = match pack_rhs {
                        true => (rhs_panels[column * k..].as_ptr(), COLUMNS),
                        false => (rhs.elements[column..].as_ptr(), rhs.strides.0),
                    };
                    let mut done = 0;
                    while done < rows {
                        let height = tile_rows(rows - done);
                        let (a, a_row, a_step) = match pack_lhs {
                            // Within a panel; a smaller tile begins inside it.
                            true => {
                                let at = done / ROWS * ROWS * k + done % ROWS;
                                (lhs_panels[at..].as_ptr(), 1, ROWS)
                            }
                            false => {
                                let (row, step) = lhs.strides;
                                (lhs.elements[done * row..].as_ptr(), row, step)
                            }
                        };
                        let at = origin + (row + done) * to.stride + first + column;
                        let tile = Tile {
                            depth: k,
                            columns: width,
                            a,
                            a_row,
                            a_step,
                            b,
                            b_step,
                            c: dst.pointer(at),
                            c_row: to.stride,
                            accumulate: matches!(to.start, Start::Result),
                            start: match to.start {
                                Start::Row(row) => row[first + column..].as_ptr(),
                                _ => std::ptr::null(),
                            },
                            factor: to.factor,
                        };
                        run(proof, &tile, height);
                        done += height;
                    }
                    let end = column + width;
                    if let Some(written) = to.written
                        && (end == columns || end - begun >= block_columns(rows))
                    {
                        written(row..row + rows, first + begun..first + end);
                        begun = end;
                    }
                }
            }
        }
    });
}

/// Whether `lhs` is packed, transposed or not.
fn packs_lhs([m, n, k]: [usize; 3], transposed: bool) -> bool {
    transposed && m * k >= PACK_MIN && n >= 2 * COLUMNS
}

/// Whether `rhs` is packed, transposed or not.
fn packs_rhs([m, n, k]: [usize; 3], transposed: bool) -> bool {
    transposed || (k * n >= PACK_MIN && m >= 2 * ROWS)
}

/// What a product costs a thread, in cycles for each step of the sum: two for each row of a tile,
/// and the packing of what it needs of both operands. For choosing how to share a product out.
pub(super) fn cycles(sizes: [usize; 3], lhs_transposed: bool, rhs_transposed: bool) -> f64 {
    /// Cycles to pack an element that lies beside its neighbours, and one that is turned.
    const PACK: [f64; 2] = [0.15, 0.4];
    let [m, n, _] = sizes;
    let mut cycles = 2.0 * (m * n.div_ceil(COLUMNS)) as f64;
    if packs_lhs(sizes, lhs_transposed) {
        cycles += PACK[0] * m as f64;
    }
    if packs_rhs(sizes, rhs_transposed) {
        cycles += PACK[usize::from(rhs_transposed)] * n as f64;
    }
    cycles
}

/// The rows of the next tile when so many are left.
pub(super) fn tile_rows(left: usize) -> usize {
    [ROWS, 8, 4, 2]
        .into_iter()
        .find(|&rows| rows <= left)
        .unwrap_or(1)
}

/// Packs `count` columns of a matrix of `k` rows in panels of `WIDTH`: each holds row after row of its
/// columns, 0 where there is none.
fn pack<const WIDTH: usize>(
    proof: Avx512,
    panels: &mut Vec<f32>,
    from: View<'_>,
    count: usize,
    k: usize,
) {
    let len = count.div_ceil(WIDTH) * WIDTH * k;
    if panels.len() < len {
        panels.resize(len, 0.0);
    }
    let (step, apart) = from.strides;
    for (panel, first) in panels[..len]
        .chunks_exact_mut(WIDTH * k)
        .zip((0..).step_by(WIDTH))
    {
        let width = WIDTH.min(count - first);
        let from = &from.elements[first * apart..];
        if apart == 1 {
            for (i, row) in panel.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
                let from = &from[i * step..];
                match from.first_chunk::<WIDTH>() {
                    Some(whole) if width == WIDTH => *row = *whole,
                    _ => {
                        row[..width].copy_from_slice(&from[..width]);
                        row[width..].fill(0.0);
                    }
                }
            }
        } else {
            let mut whole = 0;
            if WIDTH == COLUMNS && width == COLUMNS && step == 1 {
                whole = k / 16 * 16;
                turn(proof, panel, from, apart, whole);
            }
            let rows = &mut panel.as_chunks_mut::<WIDTH>().0[whole..];
            let from = &from[whole * step..];
            // Sixteen rows at a time, so that what is read and written stays near.
            for (block, rows) in rows.chunks_mut(16).enumerate() {
                for column in 0..width {
                    let from = &from[column * apart + block * 16 * step..];
                    for (row, x) in rows.iter_mut().zip(from.iter().step_by(step)) {
                        row[column] = *x;
                    }
                }
                for row in rows {
                    row[width..].fill(0.0);
                }
            }
        }
    }
}

/// Fills the first `k` rows, a multiple of 16, of a panel from [`COLUMNS`] columns whose elements
/// lie one after another, the columns `apart`.
fn turn(_: Avx512, panel: &mut [f32], from: &[f32], apart: usize, k: usize) {
    if k == 0 {
        return;
    }
    assert!(panel.len() >= k * COLUMNS && from.len() >= (COLUMNS - 1) * apart + k);
    for step in (0..k).step_by(16) {
        for half in (0..COLUMNS).step_by(16) {
            let from = from[half * apart + step..].as_ptr();
            let to = panel[step * COLUMNS + half..].as_mut_ptr();
            // SAFETY: the processor has AVX-512F; 16 columns of 16 elements lie in `from`, and 16 rows
            // in the panel, as asserted.
            unsafe { turn_16(from, apart, to, COLUMNS) };
        }
    }
}

/// Writes 16 columns of 16 elements, `apart` from each other, as 16 rows that lie `stride` apart.
///
/// # Safety
/// The pointers are good for that, and the processor has AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn turn_16(from: *const f32, apart: usize, to: *mut f32, stride: usize) {
    // No closures: they would lack the processor's features, and be called.
    let mut columns = [_mm512_setzero_ps(); 16];
    for (i, column) in columns.iter_mut().enumerate() {
        // SAFETY: column `i` has 16 elements.
        *column = unsafe { _mm512_loadu_ps(from.add(i * apart)) };
    }
    // Of each four columns, by 128-bit lane l: element 4 l + c of all four.
    let mut fours = [_mm512_setzero_ps(); 16];
    for g in [0, 4, 8, 12] {
        let [a, b, c, d] = [columns[g], columns[g + 1], columns[g + 2], columns[g + 3]];
        let low_ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
        let low_cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
        let high_ab = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
        let high_cd = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
        fours[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(low_ab, low_cd));
        fours[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low_ab, low_cd));
        fours[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high_ab, high_cd));
        fours[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high_ab, high_cd));
    }
    for c in 0..4 {
        let [x, y, z, w] = [fours[c], fours[c + 4], fours[c + 8], fours[c + 12]];
        let even_xy = _mm512_shuffle_f32x4::<0x88>(x, y);
        let even_zw = _mm512_shuffle_f32x4::<0x88>(z, w);
        let odd_xy = _mm512_shuffle_f32x4::<0xdd>(x, y);
        let odd_zw = _mm512_shuffle_f32x4::<0xdd>(z, w);
        let rows = [
            _mm512_shuffle_f32x4::<0x88>(even_xy, even_zw),
            _mm512_shuffle_f32x4::<0x88>(odd_xy, odd_zw),
            _mm512_shuffle_f32x4::<0xdd>(even_xy, even_zw),
            _mm512_shuffle_f32x4::<0xdd>(odd_xy, odd_zw),
        ];
        for (l, row) in rows.into_iter().enumerate() {
            // SAFETY: row `4 l + c` can be written.
            unsafe { _mm512_storeu_ps(to.add((4 * l + c) * stride), row) };
        }
    }
}

/// A tile of the result and where its operands lie.
struct Tile {
    /// Steps of the sum.
    depth: usize,
    columns: usize,
    a: *const f32,
    /// From one row of `lhs` to the next.
    a_row: usize,
    /// From one step of the sum to the next.
    a_step: usize,
    b: *const f32,
    b_step: usize,
    c: *mut f32,
    c_row: usize,
    /// The result is added to.
    accumulate: bool,
    /// What is added to each row, as many elements as columns; or null.
    start: *const f32,
    factor: f32,
}

fn run(_: Avx512, tile: &Tile, rows: usize) {
    let two = tile.columns > 16;
    // SAFETY: the processor has AVX-512F; the tile's pointers are good (see the head of the file).
    unsafe {
        match (rows, two) {
            (14, true) => self::tile::<14, 2>(tile),
            (8, true) => self::tile::<8, 2>(tile),
            (4, true) => self::tile::<4, 2>(tile),
            (2, true) => self::tile::<2, 2>(tile),
            (_, true) => self::tile::<1, 2>(tile),
            (14, false) => self::tile::<14, 1>(tile),
            (8, false) => self::tile::<8, 1>(tile),
            (4, false) => self::tile::<4, 1>(tile),
            (2, false) => self::tile::<2, 1>(tile),
            (_, false) => self::tile::<1, 1>(tile),
        }
    }
}

/// The block for each row of a tile, written out: a loop would keep the sums in memory.
macro_rules! each_row {
    ($rows:ident, |$i:ident| $block:block) => {
        each_row!(0 1 2 3 4 5 6 7 8 9 10 11 12 13, $rows, $i, $block);
    };
    ($($number:literal)*, $rows:ident, $i:ident, $block:block) => {
        $(if $number < $rows {
            #[allow(non_upper_case_globals, reason = "the row's number, as in a loop")]
            const $i: usize = $number;
            $block
        })*
    };
}
pub(super) use each_row;

/// One tile of `R` rows and `V` registers a row, 1 or 2, the last perhaps in part.
///
/// # Safety
/// See the head of the file.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const V: usize>(tile: &Tile) {
    let last: __mmask16 = ((1u32 << (tile.columns - (V - 1) * 16)) - 1) as u16;
    let first: __mmask16 = if V == 1 { last } else { !0 };
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let (mut a, mut b) = (tile.a, tile.b);
    let row = tile.a_row;
    for _ in 0..tile.depth {
        // SAFETY: this step of both operands lies within them, and masks cut off the columns that
        // there aren't.
        unsafe {
            let right = _mm512_maskz_loadu_ps(first, b);
            let second = match V {
                1 => right,
                _ => _mm512_maskz_loadu_ps(last, b.add(16)),
            };
            each_row!(R, |i| {
                // Few registers for addresses: three rows share a base.
                let left = _mm512_set1_ps(*a.add(i / 3 * 3 * row).add(i % 3 * row));
                sums[i][0] = _mm512_fmadd_ps(left, right, sums[i][0]);
                if V > 1 {
                    sums[i][1] = _mm512_fmadd_ps(left, second, sums[i][1]);
                }
            });
        }
        a = a.wrapping_add(tile.a_step);
        b = b.wrapping_add(tile.b_step);
    }
    let factor = _mm512_set1_ps(tile.factor);
    each_row!(R, |i| {
        for (v, mask) in [first, last].into_iter().enumerate().take(V) {
            // SAFETY: row `i` of the result and of the start has the columns that the mask names.
            unsafe {
                let to = tile.c.add(i * tile.c_row + v * 16);
                let mut sum = _mm512_mul_ps(sums[i][v], factor);
                if tile.accumulate {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to));
                } else if !tile.start.is_null() {
                    let start = _mm512_maskz_loadu_ps(mask, tile.start.add(v * 16));
                    sum = _mm512_add_ps(sum, start);
                }
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    });
}
