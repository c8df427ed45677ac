//! The innermost loops: a tile of sums in registers, for each level of vector instructions.
//!
//! Both loops multiply one register of 16 output channels by one broadcast input element. The
//! *pixel tile* holds `R × C` output pixels and runs over taps and input channels; the *weight
//! tile* holds `T` taps of `I` input channels and runs over pixels.
//!
//! Invariants of the unsafe code:
//! - a function of this file is reached only through [`pixel_tiles`] and [`weight_tiles`], which
//!   want a [`Simd`], the proof that the processor has the level's instructions;
//! - every address that follows from a [`PixelTile`] or a [`WeightTile`] lies in memory that its
//!   maker borrows: see its fields.

#[cfg(target_arch = "x86_64")]
use super::lanes::x86::{TwoYmm, Zmm};
use super::lanes::{Lanes, Level, Simd};

/// Channels in a block, the lanes of a register.
pub(super) const BLOCK: usize = 16;

/// Operands of a pixel tile. Distances are in elements.
pub(super) struct PixelTile<'a> {
    /// The first input element of the first pixel. Readable at any of `steps` plus
    /// `row · r + i · c + e`, for row `r` and column `c` of the tile and element `e` of its `i`.
    pub input: *const f32,
    /// From the input of one row of pixels to that of the next.
    pub row: usize,
    /// Where each step's input lies.
    pub steps: &'a [u32],
    /// `steps.len() · i · 16` elements: for each step and element, 16 output channels.
    pub weights: *const f32,
    /// 16 elements that the sums start with.
    pub bias: *const f32,
    /// Replaces negative sums by 0.
    pub relu: bool,
    /// 16 elements are written at `out_row · r + out_col · c`.
    pub output: *mut f32,
    pub out_row: usize,
    pub out_col: usize,
}

/// Operands of a weight tile. Distances are in elements.
pub(super) struct WeightTile<'a> {
    /// Readable at any of `taps` plus `x_image · n + x_row · r + i · c + e`.
    pub x: *const f32,
    /// The tile's taps, `T` of them.
    pub taps: &'a [u32],
    pub x_image: usize,
    pub x_row: usize,
    /// 16 output channels for each pixel, `images · rows · cols` of them, with `y_image` from one
    /// image to the next.
    pub dy: *const f32,
    pub y_image: usize,
    pub images: usize,
    pub rows: usize,
    pub cols: usize,
    /// 16 elements are written at `tap · 16 · i + 16 · e` for each of the tile's taps and elements.
    pub dw: *mut f32,
    /// Adds to what `dw` holds.
    pub accumulate: bool,
}

pub(super) type PixelKernel = unsafe fn(&PixelTile<'_>);
pub(super) type WeightKernel = unsafe fn(&WeightTile<'_>);

/// A compiled size of the pixel tile.
#[derive(Clone, Copy)]
pub(super) struct PixelShape {
    pub rows: usize,
    pub cols: usize,
    /// For input blocks of 1 and of 16 channels.
    pub kernels: [PixelKernel; 2],
}

/// A compiled size of the weight tile.
#[derive(Clone, Copy)]
pub(super) struct WeightShape {
    pub taps: usize,
    pub channels: usize,
    pub kernel: WeightKernel,
}

#[inline(always)]
unsafe fn pixels<V: Lanes, const R: usize, const C: usize, const I: usize>(tile: &PixelTile<'_>) {
    // SAFETY: the level's instructions are there, and every address is one that the fields of
    // `tile` allow.
    unsafe {
        let mut sums = [[V::load(tile.bias); C]; R];
        let mut weights = tile.weights;
        for &step in tile.steps {
            let input = tile.input.add(step as usize);
            for e in 0..I {
                let w = V::load(weights.add(e * BLOCK));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let row = input.add(r * tile.row + e);
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.fma(V::splat(*row.add(c * I)), w);
                    }
                }
            }
            weights = weights.add(I * BLOCK);
        }
        if tile.relu {
            for sum in sums.as_flattened_mut() {
                *sum = sum.relu();
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let row = tile.output.add(r * tile.out_row);
            for (c, sum) in sums.iter().enumerate() {
                sum.store(row.add(c * tile.out_col));
            }
        }
    }
}

/// `B`: input channels of a block, of which the tile takes `I`.
#[inline(always)]
unsafe fn weights<V: Lanes, const T: usize, const I: usize, const B: usize>(tile: &WeightTile<'_>) {
    // SAFETY: the level's instructions are there, and every address is one that the fields of
    // `tile` allow.
    unsafe {
        if tile.accumulate {
            for t in 0..T {
                for e in 0..I {
                    V::fetch(tile.dw.add((t * B + e) * BLOCK));
                }
            }
        }
        let mut sums = [[V::splat(0.0); I]; T];
        for image in 0..tile.images {
            let mut dy = tile.dy.add(image * tile.y_image);
            for row in 0..tile.rows {
                let x = tile.x.add(image * tile.x_image + row * tile.x_row);
                let mut taps = [x; T];
                for (tap, &at) in taps.iter_mut().zip(tile.taps) {
                    *tap = x.add(at as usize);
                }
                for col in 0..tile.cols {
                    let y = V::load(dy);
                    dy = dy.add(BLOCK);
                    for (tap, sums) in taps.iter().zip(&mut sums) {
                        for (e, sum) in sums.iter_mut().enumerate() {
                            *sum = sum.fma(V::splat(*tap.add(col * B + e)), y);
                        }
                    }
                }
            }
        }
        for (t, sums) in sums.iter().enumerate() {
            for (e, &sum) in sums.iter().enumerate() {
                let to = tile.dw.add((t * B + e) * BLOCK);
                let sum = if tile.accumulate {
                    V::load(to).add(sum)
                } else {
                    sum
                };
                sum.store(to);
            }
        }
    }
}

macro_rules! level {
    ($module:ident, $lanes:ty, [$($feature:meta)?],
     pixels: $(($r:literal, $c:literal))*;
     blocked: $(($t:literal, $i:literal))*;
     planar: $($p:literal)*) => {
        mod $module {
            use super::*;

            $(#[$feature])?
            unsafe fn pixels<const R: usize, const C: usize, const I: usize>(t: &PixelTile<'_>) {
                // SAFETY: as for this function.
                unsafe { super::pixels::<$lanes, R, C, I>(t) }
            }

            $(#[$feature])?
            unsafe fn weights<const T: usize, const I: usize, const B: usize>(t: &WeightTile<'_>) {
                // SAFETY: as for this function.
                unsafe { super::weights::<$lanes, T, I, B>(t) }
            }

            pub const PIXELS: &[PixelShape] = &[$(PixelShape {
                rows: $r,
                cols: $c,
                kernels: [pixels::<$r, $c, 1>, pixels::<$r, $c, BLOCK>],
            }),*];
            pub const BLOCKED: &[WeightShape] = &[$(WeightShape {
                taps: $t,
                channels: $i,
                kernel: weights::<$t, $i, BLOCK>,
            }),*];
            pub const PLANAR: &[WeightShape] = &[$(WeightShape {
                taps: $p,
                channels: 1,
                kernel: weights::<$p, 1, 1>,
            }),*];
        }
    };
}

level!(portable, [f32; 16], [],
    pixels: (1, 2) (2, 1) (1, 1);
    blocked: (1, 2);
    planar: 2 1);
#[cfg(target_arch = "x86_64")]
level!(avx2, TwoYmm, [target_feature(enable = "avx2,fma")],
    pixels: (1, 6) (2, 3) (3, 2) (1, 5) (1, 4) (2, 2) (4, 1) (1, 3) (1, 2) (2, 1) (1, 1);
    blocked: (3, 2) (2, 2) (1, 4);
    planar: 6 5 4 3 2 1);
#[cfg(target_arch = "x86_64")]
level!(avx512, Zmm, [target_feature(enable = "avx512f")],
    pixels: (1, 28) (2, 14) (4, 7) (3, 8) (1, 24) (1, 20) (2, 10) (4, 5) (1, 16) (2, 8) (4, 4)
        (1, 14) (2, 7) (7, 2) (1, 12) (3, 4) (4, 3) (1, 10) (2, 5) (1, 8) (2, 4) (4, 2) (8, 1)
        (3, 3) (1, 7) (1, 6) (1, 5) (1, 4) (2, 2) (4, 1) (1, 3) (1, 2) (2, 1) (1, 1);
    blocked: (3, 8) (2, 8) (1, 16);
    planar: 12 11 10 9 8 7 6 5 4 3 2 1);

/// The sizes of pixel tile at this level; the last is one pixel.
pub(super) fn pixel_tiles(simd: Simd) -> &'static [PixelShape] {
    match simd.level() {
        Level::Portable => portable::PIXELS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::PIXELS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::PIXELS,
    }
}

/// The sizes of weight tile at this level, for input blocks of 1 or 16 channels: by falling number
/// of taps, down to 1.
pub(super) fn weight_tiles(simd: Simd, block: usize) -> &'static [WeightShape] {
    let [planar, blocked] = match simd.level() {
        Level::Portable => [portable::PLANAR, portable::BLOCKED],
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => [avx2::PLANAR, avx2::BLOCKED],
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => [avx512::PLANAR, avx512::BLOCKED],
    };
    if block == 1 { planar } else { blocked }
}
