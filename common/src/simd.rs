//! Running a loop with the widest vectors that the machine has.
//!
//! The build targets the oldest x86-64; [`widest`] compiles its closure again for AVX2 and for AVX-512
//! and picks at run time. The bits are the same either way: floating-point operations are never
//! reassociated or fused by the compiler, and kernels fix the order of their sums.
//!
//! Invariant of the unsafe code: [`with_avx2`] and [`with_avx512`] are called only after the processor
//! was found to have their features.

/// Calls `f`, compiled for the widest vectors. What `f` calls must be `#[inline(always)]` or a
/// closure to gain from it.
#[inline(always)]
pub fn widest<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the processor has the features.
        return unsafe { with_avx512(f) };
    } else if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { with_avx2(f) };
    }
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512vl")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}
