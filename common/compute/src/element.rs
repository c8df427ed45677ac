//! The float types of kernels: `f32` and `f64`.

use std::fmt::{Debug, Display};
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

use ringfold_graph::DType;

use crate::cpu::math;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A float that kernels can compute with: `f32` or `f64`.
///
/// The functions are computed by this crate or by `libm`, never by the platform's C library, so
/// that their bits are those of the instruction set alone.
pub trait Element:
    sealed::Sealed
    + Copy
    + Debug
    + Display
    + Default
    + PartialEq
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
    + 'static
{
    /// The type in graphs.
    const DTYPE: DType;
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;

    /// The slice, if this type is `f32`.
    fn as_f32(slice: &[Self]) -> Option<&[f32]>;
    /// The slice to change, if this type is `f32`.
    fn as_f32_mut(slice: &mut [Self]) -> Option<&mut [f32]>;
    /// The nearest number of this type.
    fn from_f64(value: f64) -> Self;
    /// The same number as `f64`.
    fn to_f64(self) -> f64;
    /// True for NaN.
    fn is_nan(self) -> bool;
    /// `a` or `b`, without a branch.
    fn select(condition: bool, a: Self, b: Self) -> Self;
    /// `e` to this power.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// `log(1 + self)`.
    fn ln_1p(self) -> Self;
    /// The sine.
    fn sin(self) -> Self;
    /// The cosine.
    fn cos(self) -> Self;
    /// True if [`Self::sin_near`] and [`Self::cos_near`] hold.
    fn is_near(self) -> bool;
    /// The bits of [`Self::sin`], without a branch.
    fn sin_near(self) -> Self;
    /// The bits of [`Self::cos`], without a branch.
    fn cos_near(self) -> Self;
    /// What is left of this by `divisor`, with the sign of this (C's `fmod`).
    fn fmod(self, divisor: Self) -> Self;
    /// This to the power of `exponent`.
    fn pow(self, exponent: Self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The absolute value.
    fn abs(self) -> Self;
    /// The next integer below.
    fn floor(self) -> Self;
    /// The next integer above.
    fn ceil(self) -> Self;
    /// The nearest integer, ties to even.
    fn round(self) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline(always)]
    fn as_f32(slice: &[Self]) -> Option<&[f32]> {
        Some(slice)
    }

    #[inline(always)]
    fn as_f32_mut(slice: &mut [Self]) -> Option<&mut [f32]> {
        Some(slice)
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }

    #[inline(always)]
    fn select(condition: bool, a: Self, b: Self) -> Self {
        math::select_f32(condition, a, b)
    }

    #[inline(always)]
    fn exp(self) -> Self {
        math::exp_f32(self)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        math::ln_f32(self)
    }

    #[inline(always)]
    fn tanh(self) -> Self {
        math::tanh_f32(self)
    }

    #[inline(always)]
    fn erf(self) -> Self {
        math::erf_f32(self)
    }

    #[inline(always)]
    fn ln_1p(self) -> Self {
        math::ln_1p_f32(self)
    }

    #[inline(always)]
    fn sin(self) -> Self {
        if self.is_near() {
            self.sin_near()
        } else {
            libm::sinf(self)
        }
    }

    #[inline(always)]
    fn cos(self) -> Self {
        if self.is_near() {
            self.cos_near()
        } else {
            libm::cosf(self)
        }
    }

    #[inline(always)]
    fn is_near(self) -> bool {
        f32::abs(self) < math::NEAR
    }

    #[inline(always)]
    fn sin_near(self) -> Self {
        math::sin_f32(self)
    }

    #[inline(always)]
    fn cos_near(self) -> Self {
        math::cos_f32(self)
    }

    #[inline(always)]
    fn fmod(self, divisor: Self) -> Self {
        libm::fmodf(self, divisor)
    }

    #[inline(always)]
    fn pow(self, exponent: Self) -> Self {
        math::pow_f32(self, exponent)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        f32::abs(self)
    }

    #[inline(always)]
    fn floor(self) -> Self {
        f32::floor(self)
    }

    #[inline(always)]
    fn ceil(self) -> Self {
        f32::ceil(self)
    }

    #[inline(always)]
    fn round(self) -> Self {
        f32::round_ties_even(self)
    }
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline(always)]
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }

    #[inline(always)]
    fn as_f32_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }

    #[inline(always)]
    fn select(condition: bool, a: Self, b: Self) -> Self {
        math::select_f64(condition, a, b)
    }

    #[inline(always)]
    fn exp(self) -> Self {
        libm::exp(self)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        libm::log(self)
    }

    #[inline(always)]
    fn tanh(self) -> Self {
        libm::tanh(self)
    }

    #[inline(always)]
    fn erf(self) -> Self {
        libm::erf(self)
    }

    #[inline(always)]
    fn ln_1p(self) -> Self {
        libm::log1p(self)
    }

    #[inline(always)]
    fn sin(self) -> Self {
        libm::sin(self)
    }

    #[inline(always)]
    fn cos(self) -> Self {
        libm::cos(self)
    }

    #[inline(always)]
    fn is_near(self) -> bool {
        true
    }

    #[inline(always)]
    fn sin_near(self) -> Self {
        libm::sin(self)
    }

    #[inline(always)]
    fn cos_near(self) -> Self {
        libm::cos(self)
    }

    #[inline(always)]
    fn fmod(self, divisor: Self) -> Self {
        libm::fmod(self, divisor)
    }

    #[inline(always)]
    fn pow(self, exponent: Self) -> Self {
        libm::pow(self, exponent)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        f64::abs(self)
    }

    #[inline(always)]
    fn floor(self) -> Self {
        f64::floor(self)
    }

    #[inline(always)]
    fn ceil(self) -> Self {
        f64::ceil(self)
    }

    #[inline(always)]
    fn round(self) -> Self {
        f64::round_ties_even(self)
    }
}
