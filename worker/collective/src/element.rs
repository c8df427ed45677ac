//! Numbers as bytes, and how they are folded.
//!
//! Invariant: every [`Element`] is a number without padding for which every bit pattern is a
//! value, so that its memory may be read and written as bytes. The trait is sealed: only this file
//! implements it.

use std::fmt;

use half::{bf16, f16};

/// The type of the numbers in an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// The upper half of a 32-bit float.
    Bf16,
    /// IEEE 754 half precision.
    F16,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// Byte.
    U8,
}

/// How the terms of all ranks become one value.
///
/// | | floats | integers |
/// |---|---|---|
/// | `Sum` | rounded after every term; `bf16` and `f16` add in `f32` and round | wraps around |
/// | `Mean` | the sum divided by the number of ranks | the wrapped sum divided, towards zero |
/// | `Min`, `Max` | NaN if a term is NaN; of two zeros, either | exact |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Their sum.
    Sum,
    /// Their sum, divided by their number.
    Mean,
    /// The least.
    Min,
    /// The greatest.
    Max,
}

/// Folds the elements of the second argument into those of the first. Both have the same length,
/// a multiple of the element's.
pub(crate) type Fold = fn(&mut [u8], &[u8]);

/// A number that can be folded over ranks: `f32`, `f64`, [`bf16`], [`f16`], `i32`, `i64`, `u8`.
///
/// # Safety
/// The type has no padding, and every bit pattern is a value of it.
pub unsafe trait Element: sealed::Sealed + Copy + Default + Send + Sync + 'static {
    /// Its name at run time.
    const TYPE: ElementType;
}

mod sealed {
    use super::{Fold, Reduce};

    pub trait Sealed {
        /// How two are folded. A mean is folded as a sum.
        fn fold(reduce: Reduce) -> Fold;
        /// Divides each by `count`.
        fn divide(values: &mut [u8], count: u32);
    }
}

impl ElementType {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::F32,
        Self::F64,
        Self::Bf16,
        Self::F16,
        Self::I32,
        Self::I64,
        Self::U8,
    ];

    /// Bytes of one.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
        })
    }
}

impl Reduce {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sum, Self::Mean, Self::Min, Self::Max];
}

impl fmt::Display for Reduce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
        })
    }
}

/// How `reduce` folds two elements of type `T`.
pub(crate) fn fold_of<T: Element>(reduce: Reduce) -> Fold {
    T::fold(reduce)
}

/// Turns a sum of `count` terms into their mean.
pub(crate) fn divide<T: Element>(values: &mut [T], count: u32) {
    T::divide(bytes_of_mut(values), count);
}

/// Implements the traits for a number by its length, sum, quotient, least and greatest.
macro_rules! element {
    ($number:ty, $type:ident, $bytes:literal, $add:expr, $divide:expr, $min:expr, $max:expr) => {
        // SAFETY: a primitive number, or a transparent wrapper of one, has no padding, and every
        // bit pattern is a value.
        unsafe impl Element for $number {
            const TYPE: ElementType = ElementType::$type;
        }

        impl sealed::Sealed for $number {
            fn fold(reduce: Reduce) -> Fold {
                fn each(
                    folded: &mut [u8],
                    terms: &[u8],
                    two: impl Fn($number, $number) -> $number,
                ) {
                    let (folded, []) = folded.as_chunks_mut::<$bytes>() else {
                        unreachable!("operands are cut at elements")
                    };
                    let (terms, []) = terms.as_chunks::<$bytes>() else {
                        unreachable!("operands are cut at elements")
                    };
                    for (a, b) in folded.iter_mut().zip(terms) {
                        let (one, other) =
                            (<$number>::from_le_bytes(*a), <$number>::from_le_bytes(*b));
                        *a = two(one, other).to_le_bytes();
                    }
                }
                match reduce {
                    Reduce::Sum | Reduce::Mean => |a, b| each(a, b, $add),
                    Reduce::Min => |a, b| each(a, b, $min),
                    Reduce::Max => |a, b| each(a, b, $max),
                }
            }

            fn divide(values: &mut [u8], count: u32) {
                let (values, []) = values.as_chunks_mut::<$bytes>() else {
                    unreachable!("operands are cut at elements")
                };
                let divide = $divide;
                for value in values {
                    let number: $number = divide(<$number>::from_le_bytes(*value), count);
                    *value = number.to_le_bytes();
                }
            }
        }
    };
}

macro_rules! float {
    ($number:ty, $type:ident, $bytes:literal) => {
        element!(
            $number,
            $type,
            $bytes,
            |a, b| a + b,
            |a: $number, count: u32| (f64::from(a) / f64::from(count)) as $number,
            |a, b| if a < b || a.is_nan() { a } else { b },
            |a, b| if a > b || a.is_nan() { a } else { b }
        );
    };
}

macro_rules! half_float {
    ($number:ty, $type:ident) => {
        element!(
            $number,
            $type,
            2,
            |a, b| <$number>::from_f32(a.to_f32() + b.to_f32()),
            |a: $number, count: u32| <$number>::from_f32(a.to_f32() / count as f32),
            |a, b| if a < b || a.is_nan() { a } else { b },
            |a, b| if a > b || a.is_nan() { a } else { b }
        );
    };
}

macro_rules! integer {
    ($number:ty, $type:ident, $bytes:literal) => {
        element!(
            $number,
            $type,
            $bytes,
            |a, b| a.wrapping_add(b),
            // The quotient is no greater than the dividend.
            |a: $number, count: u32| (i128::from(a) / i128::from(count)) as $number,
            |a, b| a.min(b),
            |a, b| a.max(b)
        );
    };
}

float!(f32, F32, 4);
float!(f64, F64, 8);
half_float!(bf16, Bf16);
half_float!(f16, F16);
integer!(i32, I32, 4);
integer!(i64, I64, 8);
integer!(u8, U8, 1);

/// The memory of `numbers`, in the machine's order of bytes, which is little-endian (checked at
/// the crate's root).
pub(crate) fn bytes_of_mut<T: Element>(numbers: &mut [T]) -> &mut [u8] {
    let len = size_of_val(numbers);
    // SAFETY: the pointer and length are those of a live, exclusively borrowed slice, for whose
    // lifetime the result borrows it; bytes need no alignment; by the contract of `Element` all
    // bytes are initialised, and whatever is written to them is a value of `T`.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast::<u8>(), len) }
}

/// [`bytes_of_mut`], to read only.
pub(crate) fn bytes_of<T: Element>(numbers: &[T]) -> &[u8] {
    let len = size_of_val(numbers);
    // SAFETY: as in `bytes_of_mut`, of a shared borrow.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast::<u8>(), len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded<T: Element>(reduce: Reduce, a: T, b: T) -> T {
        let mut values = [a; 3];
        fold_of::<T>(reduce)(bytes_of_mut(&mut values), bytes_of(&[b; 3]));
        values[2]
    }

    #[test]
    fn bytes_are_those_of_the_wire() {
        let mut numbers = [1.5_f32, -2.0];
        let expected: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(bytes_of(&numbers), &expected[..]);
        assert_eq!(bytes_of_mut(&mut numbers), &expected[..]);
        assert_eq!(bytes_of_mut::<f64>(&mut []), &[] as &[u8]);
    }

    #[test]
    fn integers_wrap_and_means_are_cut_towards_zero() {
        assert_eq!(folded(Reduce::Sum, 200_u8, 100), 44);
        assert_eq!(folded(Reduce::Sum, i32::MAX, 1), i32::MIN);
        assert_eq!(folded(Reduce::Sum, i64::MIN, -1), i64::MAX);
        let mut values = [-7_i64, 7, i64::MIN];
        divide(&mut values, 2);
        assert_eq!(values, [-3, 3, i64::MIN / 2]);
        let mut bytes = [255_u8];
        divide(&mut bytes, 4096);
        assert_eq!(bytes, [0]);
    }

    #[test]
    fn halves_are_added_in_f32_and_rounded() {
        // 256 + 1 needs nine bits, of which bf16 has eight: to even.
        let of = |v: f32| bf16::from_f32(v);
        assert_eq!(folded(Reduce::Sum, of(256.0), of(1.0)), of(256.0));
        assert_eq!(folded(Reduce::Sum, of(256.0), of(3.0)), of(260.0));
        let big = f16::from_f32(60_000.0);
        assert_eq!(folded(Reduce::Sum, big, big), f16::INFINITY);
    }

    #[test]
    fn a_nan_is_the_least_and_the_greatest() {
        for reduce in [Reduce::Min, Reduce::Max] {
            assert!(folded(reduce, f32::NAN, 1.0).is_nan());
            assert!(folded(reduce, 1.0, f64::NAN).is_nan());
            assert!(folded(reduce, f16::ONE, f16::NAN).is_nan());
        }
        assert_eq!(folded(Reduce::Min, 1.0_f32, -2.0), -2.0);
        assert_eq!(folded(Reduce::Max, bf16::ONE, bf16::ZERO), bf16::ONE);
    }
}
