//! Products of `f32` matrices whose operands are rounded to bfloat16, by AVX-512 BF16.
//!
//! # Contract
//! - Each element of both operands is rounded to bfloat16, to nearest, ties to even. Subnormal
//!   numbers become 0; NaN stays NaN.
//! - Sums are `f32`. The elements of a run are taken two at a time, in order, an odd last one beside
//!   a 0; `vdpbf16ps` adds both products of a pair to the sum. It rounds to nearest even, takes
//!   subnormal numbers for 0 and makes none; the order within a pair is the instruction's. The factor
//!   and what the sum starts from are applied in `f32` at the end of a run, as in [`super::product`].
//! - An element of the result is one chain of pairs a run, wherever it stands: bits don't depend on
//!   threads. They are those of the processor's instruction.
//!
//! Operands are rounded while they are packed: pairs of steps of the sum become one 32-bit word, the
//! first in the lower half. `rhs` is packed in panels of [`COLUMNS`] columns, a transposed `lhs` in
//! panels of [`ROWS`] rows; any other `lhs` row by row.
//!
//! Invariants of the unsafe code:
//! - An [`Avx512Bf16`] is made only after the processor was found to have AVX-512 F, BW and BF16, so
//!   holding one is the proof that the functions with these features may run.
//! - A [`Tile`]'s pointers are good for its rows and columns at its strides over `pairs` steps:
//!   [`multiply`] has asserted that the three matrices end within their slices, and cuts tiles inside
//!   the result and the packed panels, which hold whole rows of [`COLUMNS`]. Masks keep what is read of
//!   operands and of the start, and what is written, to what there is.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps,
    _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
};
use std::cell::RefCell;

use super::parallel::Shared;
use super::product::{
    COLUMNS, LHS_PANELS, RHS_COLUMNS, ROWS, Start, Target, View, block_columns, each_row,
    tile_rows, turn_16,
};

/// The proof that the processor has AVX-512 F, BW and BF16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Bf16(());

impl Avx512Bf16 {
    /// What the processor lacks first.
    ///
    /// # Errors
    /// The missing feature's name.
    pub(crate) fn detect() -> Result<Self, &'static str> {
        if !std::arch::is_x86_feature_detected!("avx512f") {
            return Err("AVX-512 F");
        }
        if !std::arch::is_x86_feature_detected!("avx512bw") {
            return Err("AVX-512 BW");
        }
        if !std::arch::is_x86_feature_detected!("avx512bf16") {
            return Err("AVX-512 BF16");
        }
        Ok(Self(()))
    }
}

thread_local! {
    /// Rounded pairs of `lhs` and of `rhs`; they grow to what is needed and stay.
    static PANELS: RefCell<[Vec<u32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// `dst [m, n] (+)= factor · bf16(lhs [m, k]) · bf16(rhs [k, n])`, where the sum over k is one run.
/// The result begins at element `origin` of `dst`.
///
/// # Safety
/// Nobody else reaches the result's elements meanwhile; what lies between its rows is not touched.
///
/// # Panics
/// If a slice ends before its matrix, rows of the result overlap, or neither stride of an operand
/// is 1.
pub(crate) unsafe fn multiply(
    proof: Avx512Bf16,
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
    for View { strides, .. } in [lhs, rhs] {
        assert!(strides.0 == 1 || strides.1 == 1, "strides {strides:?}");
    }
    let end = origin + m.saturating_sub(1) * to.stride + n;
    assert!(
        n <= to.stride && (m == 0 || end <= dst.len()),
        "result of {m} × {n}"
    );
    if let Start::Row(row) = to.start {
        assert_eq!(row.len(), n, "a row of {n}");
    }
    let pairs = k.div_ceil(2);
    PANELS.with_borrow_mut(|[lhs_panels, rhs_panels]| {
        let lhs_lies = lhs.strides.1 == 1;
        for first in (0..n).step_by(RHS_COLUMNS) {
            let columns = RHS_COLUMNS.min(n - first);
            pack::<COLUMNS>(proof, rhs_panels, rhs.from(0, first), columns, k);
            let block = LHS_PANELS * ROWS;
            for row in (0..m).step_by(block) {
                let rows = block.min(m - row);
                let lhs = lhs.from(row, 0);
                if lhs_lies {
                    round_rows(proof, lhs_panels, lhs, rows, k);
                } else {
                    let turned = View {
                        strides: (lhs.strides.1, lhs.strides.0),
                        ..lhs
                    };
                    pack::<ROWS>(proof, lhs_panels, turned, rows, k);
                }
                let mut begun = 0;
                for column in (0..columns).step_by(COLUMNS) {
                    let width = COLUMNS.min(columns - column);
                    let b = rhs_panels[column * pairs..].as_ptr();
                    let mut done = 0;
                    while done < rows {
                        let height = tile_rows(rows - done);
                        let (at, a_row, a_step) = match lhs_lies {
                            true => (done * pairs, pairs, 1),
                            // Within a panel; a smaller tile begins inside it.
                            false => (done / ROWS * ROWS * pairs + done % ROWS, 1, ROWS),
                        };
                        let to_tile = origin + (row + done) * to.stride + first + column;
                        let tile = Tile {
                            pairs,
                            columns: width,
                            a: lhs_panels[at..].as_ptr(),
                            a_row,
                            a_step,
                            b,
                            c: dst.pointer(to_tile),
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

/// Makes room for so many words.
fn grow(panels: &mut Vec<u32>, len: usize) -> &mut [u32] {
    if panels.len() < len {
        panels.resize(len, 0);
    }
    &mut panels[..len]
}

/// The mask of the first `count` elements of a register.
fn first_of(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as u16
}

/// Packs `rows` rows of `k` elements that lie one after another: pairs row by row.
fn round_rows(_: Avx512Bf16, panels: &mut Vec<u32>, from: View<'_>, rows: usize, k: usize) {
    if k == 0 {
        return;
    }
    let pairs = k.div_ceil(2);
    let panels = grow(panels, rows * pairs);
    for (row, to) in panels.chunks_exact_mut(pairs).enumerate() {
        let from = &from.elements[row * from.strides.0..][..k];
        for step in (0..k).step_by(32) {
            let from = &from[step..];
            let to = &mut to[step / 2..];
            // SAFETY: the processor has the features; so many elements and words are there.
            unsafe { round_32(from.as_ptr(), from.len(), to.as_mut_ptr(), to.len()) };
        }
    }
}

/// Packs `count` columns of a matrix of `k` rows in panels of `WIDTH`: each holds pair after pair of
/// rows of its columns, 0 where there is none.
fn pack<const WIDTH: usize>(
    _: Avx512Bf16,
    panels: &mut Vec<u32>,
    from: View<'_>,
    count: usize,
    k: usize,
) {
    let pairs = k.div_ceil(2);
    if pairs == 0 {
        return;
    }
    let panels = grow(panels, count.div_ceil(WIDTH) * WIDTH * pairs);
    let (step, apart) = from.strides;
    for (panel, first) in panels
        .chunks_exact_mut(WIDTH * pairs)
        .zip((0..).step_by(WIDTH))
    {
        let width = WIDTH.min(count - first);
        let from = &from.elements[first * apart..];
        for half in (0..WIDTH).step_by(16) {
            let room = (WIDTH - half).min(16);
            let there = width.saturating_sub(half).min(16);
            if there == 0 || apart == 1 {
                let masks = (first_of(there), first_of(room));
                for (pair, row) in panel.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
                    let at = |i: usize| match there > 0 && i < k {
                        true => from[i * step + half..].as_ptr(),
                        false => from.as_ptr(),
                    };
                    let second = if 2 * pair + 1 < k { masks.0 } else { 0 };
                    let (low, high) = (at(2 * pair), at(2 * pair + 1));
                    let to = row[half..].as_mut_ptr();
                    // SAFETY: the processor has the features; the masks name elements of both rows
                    // and words of the panel's row.
                    unsafe { interleave((low, masks.0), (high, second), to, masks.1) };
                }
            } else {
                let from = &from[half * apart..];
                turn_pairs::<WIDTH>(panel, half, (from, apart), there, k);
            }
        }
    }
}

/// Fills up to 16 columns of a panel, from `half` on, from `there` columns whose elements lie one after
/// another.
fn turn_pairs<const WIDTH: usize>(
    panel: &mut [u32],
    half: usize,
    (from, apart): (&[f32], usize),
    there: usize,
    k: usize,
) {
    let mut columns = [[0u32; 16]; 16];
    let mut rows = [[0u32; 16]; 16];
    let (panel, _) = panel.as_chunks_mut::<WIDTH>();
    for (step, panel) in (0..k).step_by(32).zip(panel.chunks_mut(16)) {
        for (i, column) in columns.iter_mut().enumerate().take(there) {
            let from = &from[i * apart + step..i * apart + k];
            // SAFETY: the caller has the proof of the features; so many elements and words are there.
            unsafe { round_32(from.as_ptr(), from.len(), column.as_mut_ptr(), 16) };
        }
        let (from, to) = (
            columns.as_ptr().cast::<f32>(),
            rows.as_mut_ptr().cast::<f32>(),
        );
        // SAFETY: the processor has AVX-512F; both hold 16 × 16 words, which are moved, not computed.
        unsafe { turn_16(from, 16, to, 16) };
        for (to, row) in panel.iter_mut().zip(&rows) {
            let to = &mut to[half..];
            let room = to.len().min(16);
            to[..room].copy_from_slice(&row[..room]);
        }
    }
}

/// Rounds at most 32 of `count` elements; writes 16 pairs of them, at most `room`. 0 where there is
/// none.
///
/// # Safety
/// The pointers are good for that, and the processor has AVX-512 F, BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn round_32(from: *const f32, count: usize, to: *mut u32, room: usize) {
    // SAFETY: masks name what is there.
    unsafe {
        let low = _mm512_maskz_loadu_ps(first_of(count), from);
        let high_mask = first_of(count.saturating_sub(16));
        let high = _mm512_maskz_loadu_ps(high_mask, from.wrapping_add(16));
        let pairs = words(_mm512_cvtne2ps_pbh(high, low));
        _mm512_mask_storeu_epi32(to.cast(), first_of(room), pairs);
    }
}

/// Rounds the masked elements of two rows; writes them as pairs, as many as the last mask names.
///
/// # Safety
/// Pointers are good for what their masks name, and the processor has AVX-512 F, BW and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn interleave(
    (low, low_mask): (*const f32, __mmask16),
    (high, high_mask): (*const f32, __mmask16),
    to: *mut u32,
    to_mask: __mmask16,
) {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 16 {
            order[2 * i] = i as u16;
            order[2 * i + 1] = 16 + i as u16;
            i += 1;
        }
        order
    };
    // SAFETY: masks name what is there; the order has 64 bytes.
    unsafe {
        let low = _mm512_maskz_loadu_ps(low_mask, low);
        let high = _mm512_maskz_loadu_ps(high_mask, high);
        let halves = words(_mm512_cvtne2ps_pbh(high, low));
        let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
        _mm512_mask_storeu_epi32(to.cast(), to_mask, _mm512_permutexvar_epi16(order, halves));
    }
}

/// The register's bits as words.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn words(pairs: __m512bh) -> __m512i {
    // SAFETY: both types are 512 bits of which every pattern is valid.
    unsafe { std::mem::transmute(pairs) }
}

/// The register's bits as pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both types are 512 bits of which every pattern is valid.
    unsafe { std::mem::transmute(words) }
}

/// A tile of the result and where its operands lie, in words.
struct Tile {
    /// Steps of the sum, two elements each.
    pairs: usize,
    columns: usize,
    a: *const u32,
    /// From one row of `lhs` to the next.
    a_row: usize,
    /// From one pair to the next.
    a_step: usize,
    /// A panel.
    b: *const u32,
    c: *mut f32,
    c_row: usize,
    /// The result is added to.
    accumulate: bool,
    /// What is added to each row, as many elements as columns; or null.
    start: *const f32,
    factor: f32,
}

fn run(_: Avx512Bf16, tile: &Tile, rows: usize) {
    let two = tile.columns > 16;
    // SAFETY: the processor has the features; the tile's pointers are good (see the head of the
    // file).
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

/// One tile of `R` rows and `V` registers a row, 1 or 2, the last perhaps in part.
///
/// # Safety
/// See the head of the file.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tile<const R: usize, const V: usize>(tile: &Tile) {
    let mut sums: [[__m512; 2]; R] = [[_mm512_setzero_ps(); 2]; R];
    let (mut a, mut b) = (tile.a, tile.b);
    let row = tile.a_row;
    for _ in 0..tile.pairs {
        // SAFETY: this pair of both operands lies within the panels.
        unsafe {
            let right = pairs(_mm512_loadu_si512(b.cast()));
            let second = match V {
                1 => right,
                _ => pairs(_mm512_loadu_si512(b.add(16).cast())),
            };
            each_row!(R, |i| {
                // Few registers for addresses: three rows share a base.
                let word = *a.add(i / 3 * 3 * row).add(i % 3 * row);
                let left = pairs(_mm512_set1_epi32(word.cast_signed()));
                sums[i][0] = _mm512_dpbf16_ps(sums[i][0], left, right);
                if V > 1 {
                    sums[i][1] = _mm512_dpbf16_ps(sums[i][1], left, second);
                }
            });
        }
        a = a.wrapping_add(tile.a_step);
        b = b.wrapping_add(COLUMNS);
    }
    let factor = _mm512_set1_ps(tile.factor);
    let last = first_of(tile.columns - (V - 1) * 16);
    let first = if V == 1 { last } else { !0 };
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rounded to bfloat16, to nearest, ties to even, by its bits.
    fn rounded(x: f32) -> f32 {
        let bits = x.to_bits();
        if x.is_nan() {
            return x;
        }
        if x.is_subnormal() {
            return 0.0f32.copysign(x);
        }
        let up = 0x7fff + ((bits >> 16) & 1);
        f32::from_bits((bits + up) & 0xffff_0000)
    }

    fn detect() -> Option<Avx512Bf16> {
        let found = Avx512Bf16::detect();
        found
            .inspect_err(|missing| println!("skipped: the processor lacks {missing}"))
            .ok()
    }

    /// A product with transposed operands or not, against f64 sums of the rounded operands.
    fn check(
        proof: Avx512Bf16,
        [m, n, k]: [usize; 3],
        [lhs_turned, rhs_turned]: [bool; 2],
        start: usize,
        number: impl Fn(usize) -> f32,
    ) {
        let lhs: Vec<f32> = (0..m * k).map(&number).collect();
        let rhs: Vec<f32> = (0..k * n).map(|i| number(i + 1009)).collect();
        let row: Vec<f32> = (0..n).map(|i| number(i + 71)).collect();
        let strides = |turned, rows, columns| if turned { (1, rows) } else { (columns, 1) };
        let lhs = View {
            elements: &lhs,
            strides: strides(lhs_turned, m, k),
        };
        let rhs = View {
            elements: &rhs,
            strides: strides(rhs_turned, k, n),
        };
        let stride = n + 3;
        let before: Vec<f32> = (0..m * stride).map(|i| number(i + 5)).collect();
        let to = Target {
            stride,
            start: [Start::Zero, Start::Result, Start::Row(&row)][start],
            factor: 0.5,
            written: None,
        };
        let mut got = before.clone();
        // SAFETY: nobody else reaches the result.
        unsafe { multiply(proof, [m, n, k], (&Shared::new(&mut got), 0), to, lhs, rhs) };
        let at = |view: View<'_>, i: usize, j: usize| {
            let x = view.elements[i * view.strides.0 + j * view.strides.1];
            f64::from(rounded(x))
        };
        for (i, (got, before)) in got.iter().zip(&before).enumerate() {
            let (i, j) = (i / stride, i % stride);
            if j >= n {
                assert_eq!(got, before, "beside the result");
                continue;
            }
            let first = [0.0, *before, row[j]][start];
            let products = (0..k).map(|l| at(lhs, i, l) * at(rhs, l, j));
            let size: f64 = products.clone().map(f64::abs).sum();
            let sum = f64::from(first) + 0.5 * products.sum::<f64>();
            // A rounding error a product, and the last two.
            let ulp = f64::from(f32::EPSILON);
            let bound = (k + 2) as f64 * ulp * size + ulp * f64::from(first).abs();
            let error = (f64::from(*got) - sum).abs();
            assert!(error <= bound, "{error} > {bound} at {i}, {j}");
        }
    }

    /// Numbers that bfloat16 doesn't hold.
    fn number(i: usize) -> f32 {
        ((i * 7919 + 13) % 2003) as f32 / 997.0 - 1.0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn products_are_those_of_rounded_operands(
            m in 1usize..50, n in 1usize..80, k in 1usize..80,
            lhs_turned: bool, rhs_turned: bool, start in 0usize..3,
        ) {
            if let Some(proof) = detect() {
                check(proof, [m, n, k], [lhs_turned, rhs_turned], start, number);
            }
        }
    }

    #[test]
    fn large_products_are_those_of_rounded_operands() {
        let Some(proof) = detect() else { return };
        for turned in [[false, false], [false, true], [true, false], [true, true]] {
            check(proof, [201, 1601, 40], turned, 0, number);
            check(proof, [35, 70, 511], turned, 1, number);
        }
    }

    /// `[1, 1] · [1, 1]`: what the operand became.
    fn through(proof: Avx512Bf16, x: f32) -> f32 {
        let view = |elements| View {
            elements,
            strides: (1, 1),
        };
        let to = Target {
            stride: 1,
            start: Start::Zero,
            factor: 1.0,
            written: None,
        };
        let mut got = [0.0];
        let dst = Shared::new(&mut got);
        // SAFETY: nobody else reaches the result.
        unsafe { multiply(proof, [1, 1, 1], (&dst, 0), to, view(&[x]), view(&[1.0])) };
        got[0]
    }

    #[test]
    fn operands_are_rounded_to_nearest_even() {
        let Some(proof) = detect() else { return };
        let one = |low: u32| f32::from_bits(0x3f80_0000 + low);
        assert_eq!(through(proof, one(0x7fff)), 1.0);
        assert_eq!(through(proof, one(0x8000)), 1.0);
        assert_eq!(through(proof, one(0x8001)), 1.0078125);
        assert_eq!(through(proof, one(0x1_8000)), 1.015625);
        for i in 0..20_000u32 {
            let x = f32::from_bits(i.wrapping_mul(0x9e37_79b9));
            let (got, expected) = (through(proof, x), rounded(x));
            assert!(
                got == expected || (got.is_nan() && !x.is_finite()) || x.is_nan(),
                "{x}: {got}"
            );
        }
        assert!(through(proof, f32::NAN).is_nan());
        assert_eq!(through(proof, f32::from_bits(0x7f_ffff)), 0.0);
        assert_eq!(through(proof, f32::MAX), f32::INFINITY);
    }
}
