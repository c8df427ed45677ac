//! Activations from planes to blocks and back.
//!
//! The tiles read a *packed image*: its pixels lie where a [`Placement`] says, spread out so that
//! zeros stand where the padding is, and so that the pixels that neighbouring outputs multiply by
//! the same weight are neighbours whatever the stride. A pixel of a blocked packed image is 16
//! channels, `[channel / 16][pixel][channel % 16]`; of a planar one, one channel,
//! `[channel][pixel]`.
//!
//! Invariant of the unsafe code: every position of a [`Placement`] is below its `pixels`
//! ([`Placement::new`] checks), and each function checks first that its slices hold all planes, so
//! that position · 16 + 16 lies in the block; the AVX-512 functions run only where [`Simd`] says so.

use super::lanes::{Level, Simd};
use super::tile::BLOCK;

/// The position of a pixel that nothing reads.
const NOWHERE: u32 = u32::MAX;

/// Where the pixels of an image lie in a packed one.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    /// By pixel of the image.
    positions: Vec<u32>,
    /// Pixels that follow each other in both: first in the image, first in the packed one, length.
    runs: Vec<[usize; 3]>,
    /// Pixels of the packed image.
    pub pixels: usize,
}

impl Placement {
    /// `at(row, column)` is the position of a pixel, if anything reads it.
    pub fn new(
        [rows, cols]: [usize; 2],
        pixels: usize,
        at: impl Fn(usize, usize) -> Option<usize>,
    ) -> Self {
        let mut positions = Vec::with_capacity(rows * cols);
        let mut runs: Vec<[usize; 3]> = Vec::new();
        for row in 0..rows {
            for col in 0..cols {
                let Some(to) = at(row, col) else {
                    positions.push(NOWHERE);
                    continue;
                };
                assert!(to < pixels, "pixel ({row}, {col}) lies outside");
                let from = positions.len();
                positions.push(to as u32);
                match runs.last_mut() {
                    Some([a, b, len]) if *a + *len == from && *b + *len == to => *len += 1,
                    _ => runs.push([from, to, 1]),
                }
            }
        }
        Self {
            positions,
            runs,
            pixels,
        }
    }

    /// Pixels of the image.
    pub fn image(&self) -> usize {
        self.positions.len()
    }

    /// Packs the planes of `src` into `dst`, in blocks of `block` channels, 1 or 16. What lies
    /// between the pixels is left as it is; channels that fill up the last block are 0.
    pub fn pack(&self, simd: Simd, block: usize, dst: &mut [f32], src: &[f32]) {
        let image = self.image();
        if block == 1 {
            let planes = dst.chunks_exact_mut(self.pixels);
            for (dst, src) in planes.zip(src.chunks_exact(image)) {
                self.pack_plane(dst, src);
            }
            return;
        }
        let blocks = dst.chunks_exact_mut(self.pixels * BLOCK);
        for (dst, src) in blocks.zip(src.chunks(image * BLOCK)) {
            match simd.level() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `simd` is the proof of the instructions.
                Level::Avx512 => unsafe { self.pack_avx512(dst, src) },
                _ => self.pack_block(dst, src),
            }
        }
    }

    fn pack_plane(&self, dst: &mut [f32], src: &[f32]) {
        if self.runs.len() * 4 <= self.image() {
            for &[from, to, len] in &self.runs {
                dst[to..to + len].copy_from_slice(&src[from..from + len]);
            }
            return;
        }
        for (&to, &value) in self.positions.iter().zip(src) {
            if to != NOWHERE {
                dst[to as usize] = value;
            }
        }
    }

    fn pack_block(&self, dst: &mut [f32], src: &[f32]) {
        let image = self.image();
        for (pixel, &to) in self.positions.iter().enumerate() {
            if to == NOWHERE {
                continue;
            }
            let to = &mut dst[to as usize * BLOCK..][..BLOCK];
            to.fill(0.0);
            for (to, plane) in to.iter_mut().zip(src.chunks_exact(image)) {
                *to = plane[pixel];
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn pack_avx512(&self, dst: &mut [f32], src: &[f32]) {
        use std::arch::x86_64::*;

        let image = self.image();
        let channels = src.len() / image;
        assert!(channels <= BLOCK && dst.len() >= self.pixels * BLOCK);
        let (dst, src) = (dst.as_mut_ptr(), src.as_ptr());
        for (first, positions) in (0..).step_by(BLOCK).zip(self.positions.chunks(BLOCK)) {
            if positions.iter().all(|&to| to == NOWHERE) {
                continue;
            }
            let mask = mask(positions.len());
            let mut rows = [_mm512_setzero_ps(); BLOCK];
            for (channel, row) in rows.iter_mut().enumerate().take(channels) {
                // SAFETY: pixels `first` and on of a plane of `src`; the mask ends with the plane.
                *row = unsafe { _mm512_maskz_loadu_ps(mask, src.add(channel * image + first)) };
            }
            let columns = super::lanes::x86::transpose(rows);
            for (&to, column) in positions.iter().zip(columns) {
                if to != NOWHERE {
                    // SAFETY: positions are below `pixels`, and `dst` holds that many blocks.
                    unsafe { _mm512_storeu_ps(dst.add(to as usize * BLOCK), column) };
                }
            }
        }
    }
}

/// Writes a blocked image, `[pixel][16]`, to the planes of `dst`, up to 16 of them.
pub(super) fn unpack(simd: Simd, pixels: usize, dst: &mut [f32], src: &[f32]) {
    assert!(dst.len() <= pixels * BLOCK && src.len() >= pixels * BLOCK);
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `simd` is the proof of the instructions.
        Level::Avx512 => unsafe { unpack_avx512(pixels, dst, src) },
        _ => {
            for (channel, plane) in dst.chunks_exact_mut(pixels).enumerate() {
                for (to, from) in plane.iter_mut().zip(src.chunks_exact(BLOCK)) {
                    *to = from[channel];
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn unpack_avx512(pixels: usize, dst: &mut [f32], src: &[f32]) {
    use std::arch::x86_64::*;

    let channels = dst.len() / pixels;
    assert!(channels <= BLOCK && src.len() >= pixels * BLOCK);
    let (dst, src) = (dst.as_mut_ptr(), src.as_ptr());
    for first in (0..pixels).step_by(BLOCK) {
        let some = (pixels - first).min(BLOCK);
        let mask = mask(some);
        let mut rows = [_mm512_setzero_ps(); BLOCK];
        for (pixel, row) in rows.iter_mut().enumerate().take(some) {
            // SAFETY: pixel `first + pixel` of `src`.
            *row = unsafe { _mm512_loadu_ps(src.add((first + pixel) * BLOCK)) };
        }
        let planes = super::lanes::x86::transpose(rows);
        for (channel, plane) in planes.iter().enumerate().take(channels) {
            // SAFETY: pixels `first` and on of a plane of `dst`; the mask ends with the plane.
            unsafe { _mm512_mask_storeu_ps(dst.add(channel * pixels + first), mask, *plane) };
        }
    }
}

/// The first `len` of 16 lanes.
#[cfg(target_arch = "x86_64")]
fn mask(len: usize) -> u16 {
    if len >= BLOCK { !0 } else { (1 << len) - 1 }
}

/// The part of `scratch` that starts at a cache line.
pub(super) fn aligned(scratch: &mut [f32]) -> &mut [f32] {
    let skip = scratch.as_ptr().align_offset(64).min(scratch.len());
    &mut scratch[skip..]
}

/// What [`aligned`] may skip, in elements.
pub(super) const SLACK: usize = 15;
