//! The counter-based generator behind shuffling, dropout and initialisers.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011): the *n*-th number is a pure function of (key, counter). Nothing is carried from one
//! draw to the next, so that any rank draws any number without drawing those before it.

const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;
const ROUNDS: usize = 10;

/// What a stream of random numbers is for. Streams of different domains never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Domain {
    /// The order of an epoch's samples.
    Order = 1,
    /// The seeded split of a dataset into training and test records.
    Split = 2,
    /// Initial values of parameters.
    Initialiser = 3,
    /// Dropout masks.
    Dropout = 4,
    /// Tokens that a language model is asked for.
    Sampling = 5,
    /// The first factors of compressed gradients.
    Compression = 6,
}

/// Four 32-bit words from a 64-bit key and a 128-bit counter.
#[must_use]
pub fn philox4x32(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for round in 0..ROUNDS {
        if round > 0 {
            k0 = k0.wrapping_add(WEYL_0);
            k1 = k1.wrapping_add(WEYL_1);
        }
        let product_0 = u64::from(MULTIPLIER_0) * u64::from(c0);
        let product_1 = u64::from(MULTIPLIER_1) * u64::from(c2);
        (c0, c1, c2, c3) = (
            (product_1 >> 32) as u32 ^ c1 ^ k0,
            product_1 as u32,
            (product_0 >> 32) as u32 ^ c3 ^ k1,
            product_0 as u32,
        );
    }
    [c0, c1, c2, c3]
}

/// A key for one stream: a pure function of the job's seed, what the stream is for, and two
/// numbers that name the stream (for example step and replica).
#[must_use]
pub fn stream_key(seed: u64, domain: Domain, a: u64, b: u64) -> u64 {
    let first = philox4x32(seed, [domain as u32, a as u32, (a >> 32) as u32, 0]);
    let key = join(first[0], first[1]);
    let second = philox4x32(key, [b as u32, (b >> 32) as u32, domain as u32, 1]);
    join(second[0], second[1])
}

/// Random access into one stream of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: u64,
    substream: u64,
}

impl Stream {
    /// The stream `substream` under `key`. Streams that differ in either are independent.
    #[must_use]
    pub fn new(key: u64, substream: u64) -> Self {
        Self { key, substream }
    }

    /// The words `4 * block .. 4 * block + 4`.
    #[must_use]
    pub fn block(&self, block: u64) -> [u32; 4] {
        philox4x32(
            self.key,
            [
                block as u32,
                (block >> 32) as u32,
                self.substream as u32,
                (self.substream >> 32) as u32,
            ],
        )
    }

    /// The word at `index`.
    #[must_use]
    pub fn word(&self, index: u64) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// A number in [0, 1) with 24 random bits, exact in `f32`, at `index`.
    #[must_use]
    pub fn uniform(&self, index: u64) -> f64 {
        f64::from(self.word(index) >> 8) / f64::from(1u32 << 24)
    }

    /// A standard normal number at `index`, by the Box-Muller transform of one block's words. The
    /// same on every platform.
    #[must_use]
    pub fn normal(&self, index: u64) -> f64 {
        let words = self.block(index);
        // (0, 1], so that the logarithm is finite.
        let u = (join(words[0], words[1]) >> 11) as f64 + 1.0;
        let v = (join(words[2], words[3]) >> 11) as f64;
        let scale = (1u64 << 53) as f64;
        (-2.0 * libm::log(u / scale)).sqrt() * libm::cos(std::f64::consts::TAU * (v / scale))
    }
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(
            philox4x32(0, [0; 4]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32(u64::MAX, [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                0x299f_31d0_a409_3822,
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn streams_of_different_domains_differ() {
        let keys = [
            Domain::Order,
            Domain::Split,
            Domain::Initialiser,
            Domain::Dropout,
        ]
        .map(|domain| stream_key(7, domain, 1, 2));
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let stream = Stream::new(stream_key(1, Domain::Initialiser, 0, 0), 0);
        let n = 100_000;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        assert!((mean(&|i| stream.uniform(i)) - 0.5).abs() < 5e-3);
        assert!((mean(&|i| stream.uniform(i).powi(2)) - 1.0 / 3.0).abs() < 5e-3);
        assert!(mean(&|i| stream.normal(i)).abs() < 1e-2);
        assert!((mean(&|i| stream.normal(i).powi(2)) - 1.0).abs() < 2e-2);
    }
}
