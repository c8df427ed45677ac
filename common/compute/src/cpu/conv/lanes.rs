//! Sixteen floats at a time, at the levels of vector instructions that exist.
//!
//! Invariants of the unsafe code:
//! - A [`Simd`] other than the portable one is made only after the processor was found to have its
//!   instructions, so holding one is the proof that functions compiled for its level may run.
//! - The methods of [`Lanes`] are called only from functions that are compiled for, and reached by,
//!   that level; pointers that they get are good for 16 elements, or for those that the mask names.

/// A level of vector instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// All levels of this processor, the narrowest first.
    pub fn levels() -> impl Iterator<Item = Self> {
        let portable = Some(Self(Level::Portable));
        #[cfg(target_arch = "x86_64")]
        let wider = {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma");
            [
                (avx2, Level::Avx2),
                (avx2 && has!("avx512f"), Level::Avx512),
            ]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let wider: [(bool, Level); 0] = [];
        let wider = wider.into_iter().filter(|(has, _)| *has);
        portable
            .into_iter()
            .chain(wider.map(|(_, level)| Self(level)))
    }

    /// The widest level of this processor.
    pub fn widest() -> Self {
        Self::levels().last().unwrap_or(Self(Level::Portable))
    }

    pub(super) fn level(self) -> Level {
        self.0
    }
}

/// Sixteen `f32`.
pub(super) trait Lanes: Copy {
    /// # Safety
    /// As all methods here: see the head of the file.
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(value: f32) -> Self;
    /// `a · b + self`; rounded once, except at the portable level.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    /// The larger of each element and 0; NaN stays.
    unsafe fn relu(self) -> Self;
    /// Has 16 elements brought near, to be written soon.
    #[inline(always)]
    unsafe fn fetch(_from: *const f32) {}
}

impl Lanes for [f32; 16] {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: 16 elements can be read; an array of `f32` is aligned as its elements.
        unsafe { from.cast::<Self>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: 16 elements can be written.
        unsafe { to.cast::<Self>().write(self) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; 16]
    }

    #[inline(always)]
    unsafe fn fma(mut self, a: Self, b: Self) -> Self {
        for i in 0..16 {
            self[i] += a[i] * b[i];
        }
        self
    }

    #[inline(always)]
    unsafe fn add(mut self, other: Self) -> Self {
        for i in 0..16 {
            self[i] += other[i];
        }
        self
    }

    #[inline(always)]
    unsafe fn sub(mut self, other: Self) -> Self {
        for i in 0..16 {
            self[i] -= other[i];
        }
        self
    }

    #[inline(always)]
    unsafe fn relu(mut self) -> Self {
        for lane in &mut self {
            *lane = if *lane <= 0.0 { 0.0 } else { *lane };
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// One register of AVX-512.
    #[derive(Clone, Copy)]
    pub struct Zmm(pub __m512);

    /// Two registers of AVX2.
    #[derive(Clone, Copy)]
    pub struct TwoYmm(__m256, __m256);

    impl Lanes for Zmm {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: 16 elements can be read; AVX-512 is there.
            Self(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: 16 elements can be written; AVX-512 is there.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        unsafe fn fetch(from: *const f32) {
            // SAFETY: a hint, which reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: AVX-512 is there.
            Self(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: AVX-512 is there.
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: AVX-512 is there.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: AVX-512 is there.
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // SAFETY: AVX-512 is there. The second operand is what NaN gives.
            Self(unsafe { _mm512_max_ps(_mm512_setzero_ps(), self.0) })
        }
    }

    impl Lanes for TwoYmm {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: 16 elements can be read; AVX2 is there.
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: 16 elements can be written; AVX2 is there.
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }

        #[inline(always)]
        unsafe fn fetch(from: *const f32) {
            // SAFETY: a hint, which reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: AVX2 is there.
            let half = unsafe { _mm256_set1_ps(value) };
            Self(half, half)
        }

        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: FMA is there.
            unsafe {
                Self(
                    _mm256_fmadd_ps(a.0, b.0, self.0),
                    _mm256_fmadd_ps(a.1, b.1, self.1),
                )
            }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: AVX2 is there.
            unsafe {
                Self(
                    _mm256_add_ps(self.0, other.0),
                    _mm256_add_ps(self.1, other.1),
                )
            }
        }

        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            // SAFETY: AVX2 is there.
            unsafe {
                Self(
                    _mm256_sub_ps(self.0, other.0),
                    _mm256_sub_ps(self.1, other.1),
                )
            }
        }

        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // SAFETY: AVX2 is there. The second operand is what NaN gives.
            unsafe {
                let zero = _mm256_setzero_ps();
                Self(_mm256_max_ps(zero, self.0), _mm256_max_ps(zero, self.1))
            }
        }
    }

    /// Transposes 16 × 16 floats.
    ///
    /// # Safety
    /// AVX-512 is there.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
        let mut a = rows;
        // Pairs of rows: elements 0 and 1, 2 and 3 of each quarter beside each other.
        for i in 0..8 {
            a[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        // Fours of rows: b[4·i + j] holds column 4·quarter + j of rows 4·i to 4·i + 3.
        let mut b = a;
        for i in 0..4 {
            let pd = |j: usize| _mm512_castps_pd(a[4 * i + j]);
            b[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(0), pd(2)));
            b[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(0), pd(2)));
            b[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(1), pd(3)));
            b[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(1), pd(3)));
        }
        let mut out = b;
        for j in 0..4 {
            // Quarters 0, 2 and 1, 3 of two fours.
            let low_even = _mm512_shuffle_f32x4(b[j], b[4 + j], 0b10_00_10_00);
            let low_odd = _mm512_shuffle_f32x4(b[j], b[4 + j], 0b11_01_11_01);
            let high_even = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0b10_00_10_00);
            let high_odd = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0b11_01_11_01);
            out[j] = _mm512_shuffle_f32x4(low_even, high_even, 0b10_00_10_00);
            out[4 + j] = _mm512_shuffle_f32x4(low_odd, high_odd, 0b10_00_10_00);
            out[8 + j] = _mm512_shuffle_f32x4(low_even, high_even, 0b11_01_11_01);
            out[12 + j] = _mm512_shuffle_f32x4(low_odd, high_odd, 0b11_01_11_01);
        }
        out
    }
}
