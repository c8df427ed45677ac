//! Bytes with a scale a block.
//!
//! A block of values becomes one scale, a 32-bit float, and a byte a value: the scale is the greatest
//! absolute value over 127, a byte the value by the scale, rounded to nearest, ties to even. So an
//! element is off by at most 1/254 of the greatest of its block. A block whose greatest value is under
//! 1.5e-36 becomes zeros.
//!
//! On the wire: the scales of all blocks, then all bytes. A scale that is negative, NaN or so great that
//! 127 times it is infinite, and the byte -128, which no encoder makes, are refused.

use ringfold_common::simd::widest;

use super::exchange::Codec;
use super::payload::PayloadFault;

/// 1.5 * 2^23: a number of less than 2^22 that is added to it is rounded to a whole one, ties to even,
/// which its low bits then are.
const ROUNDER: f32 = 12_582_912.0;
const QUANTA: f32 = 127.0;
/// 127 times it is finite.
const SCALE_MAX: f32 = (f32::MAX / QUANTA).next_down();

/// The codec.
#[derive(Clone, Copy, Debug)]
pub(super) struct Int8 {
    /// Elements that share a scale.
    pub block: usize,
}

impl Int8 {
    fn scales(self, elements: usize) -> usize {
        elements.div_ceil(self.block) * size_of::<f32>()
    }

    /// Calls `each` with every value's place and what was sent for it.
    #[inline(always)]
    fn read(
        self,
        block: &[u8],
        values: &mut [f32],
        each: impl Fn(&mut f32, f32),
    ) -> Result<(), PayloadFault> {
        let (got, expected) = (block.len(), self.bytes(values.len()));
        if got != expected {
            return Err(PayloadFault::Length { got, expected });
        }
        let (scales, quanta) = block.split_at(self.scales(values.len()));
        let scales = scales.as_chunks::<4>().0;
        for (block, scale) in scales.iter().enumerate() {
            let scale = f32::from_le_bytes(*scale);
            if !(0.0..=SCALE_MAX).contains(&scale) {
                let max = SCALE_MAX;
                return Err(PayloadFault::Scale { block, scale, max });
            }
        }
        let any = widest(|| {
            let bad = |&byte: &u8| u8::from(byte == 0x80);
            quanta.iter().map(bad).fold(0, |any, one| any | one)
        });
        if any != 0 {
            let element = quanta.iter().position(|&byte| byte == 0x80).unwrap_or(0);
            return Err(PayloadFault::Quantum { element });
        }
        widest(|| {
            let blocks = values.chunks_mut(self.block);
            for ((values, quanta), scale) in blocks.zip(quanta.chunks(self.block)).zip(scales) {
                let scale = f32::from_le_bytes(*scale);
                for (value, quantum) in values.iter_mut().zip(quanta) {
                    each(value, f32::from(*quantum as i8) * scale);
                }
            }
        });
        Ok(())
    }
}

impl Codec for Int8 {
    fn granule(&self) -> usize {
        self.block
    }

    fn bytes(&self, elements: usize) -> usize {
        self.scales(elements) + elements
    }

    fn encode(&self, values: &[f32], block: &mut [u8]) {
        let (scales, quanta) = block.split_at_mut(self.scales(values.len()));
        let scales = scales.as_chunks_mut::<4>().0;
        widest(|| {
            let blocks = values.chunks(self.block);
            for ((values, quanta), to) in blocks.zip(quanta.chunks_mut(self.block)).zip(scales) {
                // Of numbers without a sign, the greater has the greater bits.
                let size = |value: &f32| value.to_bits() & 0x7fff_ffff;
                let greatest = f32::from_bits(values.iter().map(size).fold(0, u32::max));
                let mut scale = (greatest / QUANTA).min(SCALE_MAX);
                let mut by = QUANTA / greatest;
                if scale < f32::MIN_POSITIVE {
                    (scale, by) = (0.0, 0.0);
                }
                *to = scale.to_le_bytes();
                for (quantum, value) in quanta.iter_mut().zip(values) {
                    *quantum = (value * by + ROUNDER).to_bits() as u8;
                }
            }
        });
    }

    fn decode(&self, block: &[u8], values: &mut [f32]) -> Result<(), PayloadFault> {
        self.read(block, values, |value, sent| *value = sent)
    }

    fn add(&self, block: &[u8], sums: &mut [f32]) -> Result<(), PayloadFault> {
        self.read(block, sums, |sum, sent| *sum += sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(codec: Int8, values: &[f32]) -> Vec<f32> {
        let mut block = vec![0; codec.bytes(values.len())];
        codec.encode(values, &mut block);
        let mut back = vec![0.0; values.len()];
        codec.decode(&block, &mut back).unwrap();
        let mut sums = vec![1.0; values.len()];
        codec.add(&block, &mut sums).unwrap();
        assert!(sums.iter().zip(&back).all(|(sum, back)| *sum == 1.0 + back));
        back
    }

    proptest! {
        #[test]
        fn an_element_is_off_by_at_most_half_a_quantum_of_its_block(
            values in prop::collection::vec(-1e3_f32..1e3, 0..700),
            exponent in -30_i32..30,
            block in 1_usize..300,
        ) {
            let values: Vec<f32> = values.iter().map(|x| x * 10f32.powi(exponent)).collect();
            let back = through(Int8 { block }, &values);
            for (values, back) in values.chunks(block).zip(back.chunks(block)) {
                let greatest = values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                for (value, back) in values.iter().zip(back) {
                    let bound = f64::from(greatest) / 254.0 * (1.0 + 1e-4);
                    let error = (f64::from(*value) - f64::from(*back)).abs();
                    prop_assert!(error <= bound, "{value} {back} {greatest}");
                }
            }
        }

        #[test]
        fn no_bytes_of_another_rank_make_anything_but_finite_numbers_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            elements in 0_usize..150,
        ) {
            let codec = Int8 { block: 16 };
            let mut values = vec![0.0; elements];
            let mut bytes = bytes;
            bytes.resize(codec.bytes(elements), 3);
            if codec.decode(&bytes, &mut values).is_ok() {
                prop_assert!(values.iter().all(|x| x.is_finite()));
            }
        }
    }

    #[test]
    fn small_and_large_blocks() {
        let codec = Int8 { block: 4 };
        let values = [0.0, 1e-38, -1e-38, 0.0, f32::MAX, -f32::MAX, 1.0, 0.0, -3.0];
        let back = through(codec, &values);
        assert_eq!(back[..4], [0.0; 4]);
        assert!((back[4] / f32::MAX - 1.0).abs() < 1e-6 && back[5] == -back[4]);
        assert_eq!(back[6..8], [0.0; 2]);
        assert_eq!(back[8], -3.0);
    }

    #[test]
    fn what_no_encoder_makes_is_refused() {
        let codec = Int8 { block: 4 };
        let mut block = vec![0; codec.bytes(6)];
        codec.encode(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut block);
        let fault = |block: &[u8]| codec.decode(block, &mut [0.0; 6]).unwrap_err();
        assert_eq!(fault(&block[1..]).to_string(), "13 bytes: expected 14");
        for scale in [f32::NAN, f32::INFINITY, f32::MAX, -1.0] {
            let mut bad = block.clone();
            bad[4..8].copy_from_slice(&scale.to_le_bytes());
            let expected = format!("the scale of block 1 is {scale}: expected 0 to 2.6793884e36");
            assert_eq!(fault(&bad).to_string(), expected);
        }
        block[8 + 5] = 0x80;
        assert_eq!(
            fault(&block).to_string(),
            "element 5 is -128: expected -127 to 127"
        );
    }
}
