//! Sample order: a pure function of (seed, epoch, position).
//!
//! A format-preserving permutation: an alternating, unbalanced Feistel network over the smallest
//! power of two that holds `len`, with cycle walking (Black, Rogaway: "Ciphers with arbitrary
//! finite domains", CT-RSA 2002). Any rank finds the sample at any position in O(1): nothing is
//! materialised, and to resume is to know a number.

use crate::ids::Epoch;
use crate::random::{Domain, philox4x32, stream_key};

const ROUNDS: usize = 6;

/// The most elements that a permutation may have. Indices stay exact in signed 64-bit integers.
pub const LEN_MAX: u64 = 1 << 62;

/// A seeded permutation of `0..len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    low_bits: u32,
    high_bits: u32,
    round_keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..len` under `key`.
    ///
    /// # Panics
    /// If `len` exceeds [`LEN_MAX`].
    #[must_use]
    pub fn new(key: u64, len: u64) -> Self {
        assert!(
            len <= LEN_MAX,
            "a permutation of {len} elements: at most {LEN_MAX} are supported"
        );
        let bits = (64 - len.saturating_sub(1).leading_zeros()).max(2);
        let mut round_keys = [0; ROUNDS];
        for (round, round_key) in round_keys.iter_mut().enumerate() {
            let words = philox4x32(key, [round as u32, 0, 0, 0]);
            *round_key = u64::from(words[0]) | u64::from(words[1]) << 32;
        }
        Self {
            len,
            low_bits: bits / 2,
            high_bits: bits - bits / 2,
            round_keys,
        }
    }

    /// The order of `len` samples in one epoch of training under the job's seed.
    #[must_use]
    pub fn of_epoch(seed: u64, epoch: Epoch, len: u64) -> Self {
        Self::new(stream_key(seed, Domain::Order, epoch.0, 0), len)
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element at `position`. Distinct positions give distinct elements.
    ///
    /// # Panics
    /// If `position` is not below `len`.
    #[must_use]
    #[inline]
    pub fn at(&self, position: u64) -> u64 {
        assert!(
            position < self.len,
            "position {position} of {} elements",
            self.len
        );
        let mut value = self.encrypt(position);
        while value >= self.len {
            value = self.encrypt(value);
        }
        value
    }

    /// One pass of the network over `low_bits + high_bits` bits.
    #[inline]
    fn encrypt(&self, value: u64) -> u64 {
        let low_mask = (1u64 << self.low_bits) - 1;
        let high_mask = (1u64 << self.high_bits) - 1;
        let (mut low, mut high) = (value & low_mask, value >> self.low_bits);
        for pair in self.round_keys.chunks_exact(2) {
            high ^= mix(low ^ pair[0]) & high_mask;
            low ^= mix(high ^ pair[1]) & low_mask;
        }
        high << self.low_bits | low
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", OOPSLA 2014, variant 13 of Stafford).
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_permutation(key: u64, len: u64) {
        let order = Permutation::new(key, len);
        let mut seen = vec![false; len as usize];
        for position in 0..len {
            let element = order.at(position) as usize;
            assert!(
                !std::mem::replace(&mut seen[element], true),
                "{element} twice, len {len}"
            );
        }
    }

    #[test]
    fn every_small_length_is_a_permutation() {
        for len in 0..=300 {
            assert_permutation(len ^ 0x5eed, len);
        }
    }

    proptest! {
        #[test]
        fn any_length_and_seed_is_a_permutation(key: u64, len in 0u64..20_000) {
            assert_permutation(key, len);
        }

        #[test]
        fn huge_lengths_stay_in_range_and_distinct(
            key: u64,
            len in 1u64..LEN_MAX,
            a: u64,
            b: u64,
        ) {
            let order = Permutation::new(key, len);
            let (a, b) = (a % len, b % len);
            prop_assert!(order.at(a) < len);
            prop_assert_eq!(a == b, order.at(a) == order.at(b));
        }
    }

    #[test]
    fn seeds_and_epochs_give_different_orders() {
        let order = |seed, epoch| -> Vec<u64> {
            let permutation = Permutation::of_epoch(seed, Epoch(epoch), 1000);
            (0..1000).map(|position| permutation.at(position)).collect()
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }

    /// Over many keys each element lands on each position equally often: chi-square of the
    /// 16 x 16 table with 225 degrees of freedom stays near its mean.
    #[test]
    fn positions_are_uniform_over_keys() {
        const N: usize = 16;
        let trials = 16_000u64;
        let mut counts = [[0f64; N]; N];
        for key in 0..trials {
            let order = Permutation::of_epoch(key, Epoch(0), N as u64);
            for (position, row) in counts.iter_mut().enumerate() {
                row[order.at(position as u64) as usize] += 1.0;
            }
        }
        let expected = trials as f64 / N as f64;
        let chi_square: f64 = counts
            .iter()
            .flatten()
            .map(|count| (count - expected).powi(2) / expected)
            .sum();
        // Mean 225, deviation about 21.
        assert!(
            (150.0..320.0).contains(&chi_square),
            "chi-square {chi_square}"
        );
    }
}
