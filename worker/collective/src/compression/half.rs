//! 16-bit floats.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ringfold_common::simd::widest;

use super::exchange::Codec;
use super::payload::PayloadFault;
use crate::element::{bytes_of, bytes_of_mut};

/// Elements that are converted at a time.
const STRIP: usize = 256;

/// A 16-bit float that values are rounded to, to nearest, ties to even.
///
/// # Error of a sum
/// Let `u` be the unit roundoff, 2⁻⁸ for bf16 and 2⁻¹¹ for f16, and `x_i` the values of the ranks.
/// A [compressed sum](super::Compressor::all_reduce) rounds every value once and the sum once, and
/// adds in f32, so it differs from the exact sum by at most `(2u + u²) Σ|x_i|`, plus `w 2⁻²⁴ Σ|x_i|`
/// of f32, while nothing under- or overflows.
///
/// f16 holds no number beyond 65504: finite values and sums beyond it become ±65504, infinities stay.
/// Those under 6e-5 lose precision, those under 3e-8 become 0: where gradients are so small, bf16, which
/// has the range of f32, is the better choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The upper half of a 32-bit float: 8 exponent bits, 8 bits of precision.
    Bf16,
    /// IEEE 754 half precision: 5 exponent bits, 11 bits of precision.
    F16,
}

impl Half {
    /// Rounds `values`, to nearest even. What f16 can't hold becomes infinite: a fold of numbers of
    /// 16 bits, unlike a codec, doesn't saturate.
    pub fn round(self, values: &mut [f32]) {
        match self {
            Self::Bf16 => widest(|| {
                for value in values {
                    *value = from_bf16(to_bf16(*value));
                }
            }),
            Self::F16 => {
                let mut halves = [f16::ZERO; STRIP];
                for strip in values.chunks_mut(STRIP) {
                    let halves = &mut halves[..strip.len()];
                    halves.convert_from_f32_slice(strip);
                    halves.convert_to_f32_slice(strip);
                }
            }
        }
    }

    fn check(block: &[u8], elements: usize) -> Result<(), PayloadFault> {
        let (got, expected) = (block.len(), elements * 2);
        match got == expected {
            true => Ok(()),
            false => Err(PayloadFault::Length { got, expected }),
        }
    }
}

/// The nearest bf16, its bits. A NaN stays one: its highest fraction bit is set, lest the cut leave
/// none.
#[inline(always)]
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    (if is_nan { bits >> 16 | 0x40 } else { rounded }) as u16
}

#[inline(always)]
fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Values as bf16, for a fold of those.
pub(super) fn write_bf16(values: &[f32], halves: &mut [bf16]) {
    widest(|| {
        for (half, value) in halves.iter_mut().zip(values) {
            *half = bf16::from_bits(to_bf16(*value));
        }
    });
}

/// And back.
pub(super) fn read_bf16(halves: &[bf16], values: &mut [f32]) {
    widest(|| {
        for (half, value) in halves.iter().zip(values) {
            *value = from_bf16(half.to_bits());
        }
    });
}

/// The value that f16 saturates to: infinities and NaN stay.
#[inline(always)]
fn saturated(value: f32) -> f32 {
    let max = f16::MAX.to_f32_const();
    if value.is_finite() {
        value.clamp(-max, max)
    } else {
        value
    }
}

/// Calls `each` with strips of the values of a block of f16 and of `values`.
fn read_f16(block: &[u8], values: &mut [f32], each: impl Fn(&mut [f32], &[f32])) {
    let (mut halves, mut floats) = ([f16::ZERO; STRIP], [0.0; STRIP]);
    for (strip, bytes) in values.chunks_mut(STRIP).zip(block.chunks(STRIP * 2)) {
        let (halves, floats) = (&mut halves[..strip.len()], &mut floats[..strip.len()]);
        bytes_of_mut(halves).copy_from_slice(bytes);
        halves.convert_to_f32_slice(floats);
        each(strip, floats);
    }
}

impl Codec for Half {
    fn granule(&self) -> usize {
        1
    }

    fn bytes(&self, elements: usize) -> usize {
        elements * 2
    }

    fn encode(&self, values: &[f32], block: &mut [u8]) {
        match self {
            Self::Bf16 => widest(|| {
                let halves = block.as_chunks_mut::<2>().0;
                for (half, value) in halves.iter_mut().zip(values) {
                    *half = to_bf16(*value).to_le_bytes();
                }
            }),
            Self::F16 => {
                let (mut halves, mut floats) = ([f16::ZERO; STRIP], [0.0; STRIP]);
                for (strip, bytes) in values.chunks(STRIP).zip(block.chunks_mut(STRIP * 2)) {
                    let (halves, floats) = (&mut halves[..strip.len()], &mut floats[..strip.len()]);
                    widest(|| {
                        for (float, value) in floats.iter_mut().zip(strip) {
                            *float = saturated(*value);
                        }
                    });
                    halves.convert_from_f32_slice(floats);
                    bytes.copy_from_slice(bytes_of(halves));
                }
            }
        }
    }

    fn decode(&self, block: &[u8], values: &mut [f32]) -> Result<(), PayloadFault> {
        Self::check(block, values.len())?;
        match self {
            Self::Bf16 => widest(|| {
                for (half, value) in block.as_chunks::<2>().0.iter().zip(values) {
                    *value = from_bf16(u16::from_le_bytes(*half));
                }
            }),
            Self::F16 => read_f16(block, values, |strip, floats| strip.copy_from_slice(floats)),
        }
        Ok(())
    }

    fn add(&self, block: &[u8], sums: &mut [f32]) -> Result<(), PayloadFault> {
        Self::check(block, sums.len())?;
        match self {
            Self::Bf16 => widest(|| {
                for (half, sum) in block.as_chunks::<2>().0.iter().zip(sums) {
                    *sum += from_bf16(u16::from_le_bytes(*half));
                }
            }),
            Self::F16 => read_f16(block, sums, super::exchange::add_up),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(half: Half, value: f32) -> f32 {
        let (mut block, mut back) = ([0; 2], [0.0]);
        half.encode(&[value], &mut block);
        half.decode(&block, &mut back).unwrap();
        back[0]
    }

    proptest! {
        #[test]
        fn bf16_is_rounded_to_nearest_even(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            let expected = bf16::from_f32(value);
            let got = bf16::from_bits(to_bf16(value));
            prop_assert_eq!(got.is_nan(), value.is_nan());
            prop_assert!(value.is_nan() || got == expected, "{value}: {got} and {expected}");
        }

        #[test]
        fn f16_is_rounded_to_nearest_even_and_saturates(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            let got = through(Half::F16, value);
            prop_assert_eq!(got.is_nan(), value.is_nan());
            if value.is_finite() {
                let expected = f16::from_f32(value).to_f32().clamp(-65504.0, 65504.0);
                prop_assert_eq!(got, expected);
            }
        }

        #[test]
        fn a_strip_is_what_its_elements_are(
            values in prop::collection::vec(-1e5_f32..1e5, 0..600),
            is_bf16 in any::<bool>(),
        ) {
            let half = if is_bf16 { Half::Bf16 } else { Half::F16 };
            let mut block = vec![0; half.bytes(values.len())];
            half.encode(&values, &mut block);
            let (mut back, mut sums) = (vec![0.0; values.len()], values.clone());
            half.decode(&block, &mut back).unwrap();
            half.add(&block, &mut sums).unwrap();
            let mut rounded = values.clone();
            half.round(&mut rounded);
            for (at, value) in values.iter().enumerate() {
                prop_assert_eq!(back[at], through(half, *value));
                prop_assert_eq!(sums[at], value + back[at]);
                if value.abs() < 65504.0 {
                    prop_assert_eq!(rounded[at], back[at]);
                }
            }
        }
    }

    #[test]
    fn what_has_no_place_in_f16() {
        assert_eq!(through(Half::F16, 1e9), 65504.0);
        assert_eq!(through(Half::F16, -65520.0), -65504.0);
        assert_eq!(through(Half::F16, f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert!(through(Half::F16, f32::NAN).is_nan());
        assert_eq!(through(Half::F16, 2e-8), 0.0);
        assert_eq!(through(Half::Bf16, f32::INFINITY), f32::INFINITY);
        assert!(through(Half::Bf16, f32::from_bits(0x7f80_0001)).is_nan());
        let mut values = [1e9];
        Half::F16.round(&mut values);
        assert_eq!(values, [f32::INFINITY]);
    }

    #[test]
    fn blocks_of_another_length_are_refused() {
        for half in [Half::Bf16, Half::F16] {
            let fault = half.decode(&[0; 5], &mut [0.0; 3]).unwrap_err();
            assert_eq!(fault.to_string(), "5 bytes: expected 6");
            assert!(half.add(&[0; 8], &mut [0.0; 3]).is_err());
        }
    }
}
