//! How fast a core multiplies and adds when nothing else is in the way: the limit that benchmarks
//! compare with.
//!
//! Invariant of the unsafe code: a loop of this file is reached only through [`multiply_adds`], which
//! takes a [`Simd`], the proof that the processor has the level's instructions.

use std::hint::black_box;

#[cfg(target_arch = "x86_64")]
use super::lanes::x86::{TwoYmm, Zmm};
use super::lanes::{Lanes, Level, Simd};

/// Chains that don't wait for each other: more than any core has in flight.
const CHAINS: usize = 24;

/// Operations in a round of [`multiply_adds`].
pub const ROUND_FLOPS: usize = 2 * 16 * CHAINS;

#[inline(always)]
unsafe fn rounds<V: Lanes>(count: usize) -> [f32; 16] {
    // SAFETY: the level's instructions are there; the array holds 16 elements.
    unsafe {
        let mut sums = [V::splat(0.0); CHAINS];
        for sum in &mut sums {
            // So that they aren't one chain.
            *sum = V::splat(black_box(1.0));
        }
        // Unknown to the compiler, which would make one addition of them.
        let (a, b) = (V::splat(black_box(0.75)), V::splat(black_box(0.5)));
        for _ in 0..count {
            for sum in &mut sums {
                // x ← a · b + x: neither 0 nor infinite in any count that ends.
                *sum = sum.fma(a, b);
            }
        }
        let mut total = sums[0];
        for &sum in &sums[1..] {
            total = total.add(sum);
        }
        let mut out = [0.0; 16];
        total.store(out.as_mut_ptr());
        out
    }
}

macro_rules! level {
    ($module:ident, $lanes:ty $(, $feature:meta)?) => {
        mod $module {
            #[allow(unused_imports)] // the portable level needs no type
            use super::*;

            $(#[$feature])?
            pub unsafe fn rounds(count: usize) -> [f32; 16] {
                // SAFETY: as for this function.
                unsafe { super::rounds::<$lanes>(count) }
            }
        }
    };
}

level!(portable, [f32; 16]);
#[cfg(target_arch = "x86_64")]
level!(avx2, TwoYmm, target_feature(enable = "avx2,fma"));
#[cfg(target_arch = "x86_64")]
level!(avx512, Zmm, target_feature(enable = "avx512f"));

/// Runs `count` rounds of [`ROUND_FLOPS`] operations in registers; returns what they sum up to.
#[must_use]
pub fn multiply_adds(simd: Simd, count: usize) -> f32 {
    // SAFETY: `simd` is the proof of the instructions.
    let lanes = unsafe {
        match simd.level() {
            Level::Portable => portable::rounds(count),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::rounds(count),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::rounds(count),
        }
    };
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_counted() {
        for simd in Simd::levels() {
            let lanes = (16 * CHAINS) as f32;
            assert_eq!(multiply_adds(simd, 0), lanes);
            assert_eq!(multiply_adds(simd, 8), lanes * (1.0 + 8.0 * 0.375));
        }
    }
}
