//! The greatest elements of each rank's vector.
//!
//! A rank sends the `k` elements of greatest absolute value of its vector, of equal ones those of the
//! lowest index, and keeps the others for its next vector (Stich et al. 2018, "Sparsified SGD with
//! memory"). Every rank gets the elements of all, all-gather, and adds them up as f32 in the order of
//! ranks. An element is 8 bytes: its index, then, after all indices, its value.
//!
//! The `k`-th greatest is found by counting, digit by digit from the highest: three passes over the
//! vector and no memory that grows with it. The bits of floats without their signs are in the order of
//! their values.

use super::exchange::{add_up, check_finite, of};
use super::payload::PayloadFault;
use crate::{CollectiveError, Ring};

/// Bytes of an element on the wire.
const ELEMENT_BYTES: usize = 8;
/// The digits of an absolute value's 31 bits: where each begins, and its bits.
const DIGITS: [(u32, u32); 3] = [(20, 11), (10, 10), (0, 10)];

/// One rank's part.
#[derive(Debug)]
pub(super) struct TopK {
    fraction: f64,
    kept: Vec<f32>,
    mine: Vec<u8>,
    all: Vec<u8>,
}

impl TopK {
    pub fn new(fraction: f64, elements: usize) -> Self {
        Self {
            fraction,
            kept: vec![0.0; elements],
            mine: Vec::new(),
            all: Vec::new(),
        }
    }

    pub fn held_bytes(&self) -> u64 {
        let kept = self.kept.capacity() * size_of::<f32>();
        (kept + self.mine.capacity() + self.all.capacity()) as u64
    }

    pub fn kept(&self) -> &[f32] {
        &self.kept
    }

    /// Sums `values`, one or more, the vector's elements from `start` on. Returns the bytes that this
    /// rank sent.
    pub fn all_reduce(
        &mut self,
        ring: &mut Ring,
        start: usize,
        values: &mut [f32],
    ) -> Result<u64, CollectiveError> {
        let world = ring.world() as usize;
        let count = count(self.fraction, values.len());
        let kept = &mut self.kept[start..start + values.len()];
        add_up(kept, values);
        check_finite(kept)?;
        self.mine.resize(count * ELEMENT_BYTES, 0);
        self.all.resize(world * count * ELEMENT_BYTES, 0);
        take(kept, count, &mut self.mine);
        ring.all_gather(&self.mine, &mut self.all)?;
        values.fill(0.0);
        let blocks = self.all.chunks_exact(self.mine.len());
        for (rank, block) in blocks.enumerate() {
            add(block, values).map_err(of(rank))?;
        }
        Ok((world as u64 - 1) * self.mine.len() as u64)
    }
}

/// How many of `elements` are sent: at least one.
fn count(fraction: f64, elements: usize) -> usize {
    let count = (fraction * elements as f64).ceil() as usize;
    count.clamp(1, elements.max(1))
}

/// Moves the `count` greatest of `values` to `block`, in ascending order of indices, and leaves zeros
/// in their places. `1 <= count <= values.len()`.
fn take(values: &mut [f32], count: usize, block: &mut [u8]) {
    let size = |value: f32| value.to_bits() & 0x7fff_ffff;
    // The size of the least that is taken, and how many of that size are.
    let (mut least, mut left) = (0, count);
    for (shift, bits) in DIGITS {
        let mut counts = vec![0_usize; 1 << bits];
        let known = least >> (shift + bits);
        for &value in &*values {
            let size = size(value);
            if size >> (shift + bits) == known {
                counts[(size >> shift) as usize & ((1 << bits) - 1)] += 1;
            }
        }
        // From the greatest digit down, to that of the one that is sought.
        for (digit, &count) in counts.iter().enumerate().rev() {
            if count >= left {
                least |= (digit as u32) << shift;
                break;
            }
            left -= count;
        }
    }
    let (indices, numbers) = block.split_at_mut(count * 4);
    let places = indices.as_chunks_mut::<4>().0.iter_mut();
    let mut places = places.zip(numbers.as_chunks_mut::<4>().0);
    for (at, value) in values.iter_mut().enumerate() {
        let size = size(*value);
        if size < least || size == least && left == 0 {
            continue;
        }
        left -= usize::from(size == least);
        if let Some((index, number)) = places.next() {
            *index = (at as u32).to_le_bytes();
            *number = value.to_le_bytes();
            *value = 0.0;
        }
    }
}

/// Adds the elements of `block` to `sums`.
fn add(block: &[u8], sums: &mut [f32]) -> Result<(), PayloadFault> {
    let (got, elements) = (block.len(), sums.len());
    if !got.is_multiple_of(ELEMENT_BYTES) || got / ELEMENT_BYTES > elements {
        return Err(PayloadFault::Length {
            got,
            expected: elements * ELEMENT_BYTES,
        });
    }
    let (indices, numbers) = block.split_at(got / 2);
    let mut before = None;
    let pairs = indices.as_chunks::<4>().0.iter();
    for (place, (index, number)) in pairs.zip(numbers.as_chunks::<4>().0).enumerate() {
        let (index, value) = (u32::from_le_bytes(*index), f32::from_le_bytes(*number));
        let sum = sums.get_mut(index as usize);
        let Some(sum) = sum.filter(|_| before.is_none_or(|before| index > before)) else {
            return Err(PayloadFault::Index {
                place,
                index,
                before,
                elements,
            });
        };
        if !value.is_finite() {
            return Err(PayloadFault::Value { place, value });
        }
        *sum += value;
        before = Some(index);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is sent, and what stays.
    fn taken(values: &[f32], count: usize) -> (Vec<f32>, Vec<f32>) {
        let mut stays = values.to_vec();
        let mut block = vec![0; count * ELEMENT_BYTES];
        take(&mut stays, count, &mut block);
        let mut sent = vec![0.0; values.len()];
        add(&block, &mut sent).unwrap();
        (sent, stays)
    }

    proptest! {
        #[test]
        fn the_greatest_are_sent_and_the_others_stay(
            values in prop::collection::vec(
                prop_oneof![-1e3_f32..1e3, -1e-30_f32..1e-30, Just(2.0), Just(-2.0)],
                1..400,
            ),
            share in 0.0_f64..1.0,
        ) {
            let count = count(share, values.len());
            let (sent, stays) = taken(&values, count);
            let mut order: Vec<usize> = (0..values.len()).collect();
            // Stable: of equal ones the lower index comes first.
            order.sort_by(|&a, &b| values[b].abs().total_cmp(&values[a].abs()));
            for (place, &at) in order.iter().enumerate() {
                let (goes, keeps) = if place < count { (values[at], 0.0) } else { (0.0, values[at]) };
                prop_assert_eq!((sent[at], stays[at]), (goes, keeps));
            }
        }

        #[test]
        fn no_bytes_of_another_rank_do_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            elements in 0_usize..20,
        ) {
            let mut sums = vec![0.0; elements];
            let _ = add(&bytes, &mut sums);
            prop_assert!(sums.iter().all(|sum| sum.is_finite()));
        }
    }

    #[test]
    fn a_fraction_of_the_elements_and_at_least_one() {
        assert_eq!(count(0.01, 1), 1);
        assert_eq!(count(0.01, 1000), 10);
        assert_eq!(count(0.01, 1001), 11);
        assert_eq!(count(1.0, 7), 7);
    }

    #[test]
    fn what_no_encoder_makes_is_refused() {
        let block = |pairs: &[(u32, f32)]| -> Vec<u8> {
            let indices = pairs.iter().flat_map(|pair| pair.0.to_le_bytes());
            let numbers = pairs.iter().flat_map(|pair| pair.1.to_le_bytes());
            indices.chain(numbers).collect()
        };
        let fault = |block: &[u8]| add(block, &mut [0.0; 5]).unwrap_err().to_string();
        assert_eq!(
            fault(&block(&[(0, 1.0), (5, 1.0)])),
            "index 1 is 5: expected one above 0 and below 5"
        );
        assert_eq!(
            fault(&block(&[(3, 1.0), (3, 1.0)])),
            "index 1 is 3: expected one above 3 and below 5"
        );
        assert_eq!(
            fault(&block(&[(u32::MAX, 1.0)])),
            "index 0 is 4294967295: expected one below 5"
        );
        assert_eq!(
            fault(&block(&[(3, f32::NAN)])),
            "value 0 is NaN: expected a finite number"
        );
        assert_eq!(fault(&[0; 7]), "7 bytes: expected 40");
        assert_eq!(fault(&[0; 48]), "48 bytes: expected 40");
    }
}
