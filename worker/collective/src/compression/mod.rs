//! A sum of 32-bit floats over all ranks that sends fewer bytes than they have.
//!
//! # Contract
//!
//! A [`Compressor`] belongs to one rank and to one vector, such as a model's gradient, which is
//! summed again and again, whole or in ranges. [`Compressor::all_reduce`] is made of operations of
//! the [`Ring`], so it works on every transport, fails as they do, and must be called by all ranks
//! in the same order with ranges of the same place and length, and with the same [`Method`].
//!
//! **Afterwards all ranks hold identical bytes**: whatever is rounded is rounded by one rank and
//! sent, by it too, in the rounded form.
//!
//! | method | what a rank sends for `n` elements among `w` ranks, bytes | what is lost |
//! |---|---|---|
//! | none | `8n(w-1)/w` | f32 rounding |
//! | [`Bf16`](Method::Bf16), [`F16`](Method::F16) | `4n(w-1)/w` | two roundings, see [`Half`] |
//! | [`Int8`](Method::Int8) | `2(1 + 4/block)n(w-1)/w` | made up for in later sums |
//! | [`TopK`](Method::TopK) | `8k(w-1)`, `k = fraction * n` | made up for in later sums |
//! | [`PowerSgd`](Method::PowerSgd) | `8r(rows+columns)(w-1)/w` a matrix | made up for in later sums |
//!
//! **Error feedback** (Karimireddy et al. 2019, "Error feedback fixes SignSGD", algorithm 1): what a
//! rank's encoding loses is kept and added to its next vector, so that over any number of calls
//! the sums plus what all ranks still keep are the sum of what all ranks put in, but for f32 rounding.
//! It is `n` floats a rank ([`Compressor::held_bytes`]). It lives in memory only: who makes a
//! compressor anew loses what was kept, and nothing else: with bytes less than the rounding of a
//! call, with the greatest elements what the small ones came to since they were last sent, some
//! `1 / fraction` calls; PowerSGD also loses its warm start.
//!
//! **Numbers that are not finite** pass through 16-bit floats. The other methods refuse them before
//! anything is sent ([`CollectiveError::NotFinite`]), since they would stay in the error feedback.
//!
//! **Hostile payloads.** Everything that comes from another rank is checked before it is used: scales
//! and values must be finite, indices ascending and inside the vector. If not, the sum fails with
//! [`CollectiveError::Payload`], which names the rank. Lengths are those of the ring's operations,
//! which refuse others.
//!
//! A world of one sends nothing, so nothing is compressed and values stay as they are. A call that
//! fails leaves the values and what is kept unspecified.

mod exchange;
mod half;
mod int8;
mod linear;
mod payload;
mod power_sgd;
mod reproducible;
mod top_k;

use std::ops::Range;

pub use self::half::Half;
pub use self::payload::PayloadFault;
pub use self::power_sgd::Matrix;
pub use self::reproducible::HalfSum;

use self::exchange::Exchange;
use self::int8::Int8;
use self::power_sgd::PowerSgd;
use self::top_k::TopK;
use crate::algorithm::Replicas;
use crate::{CollectiveError, Ring};

/// How a vector is compressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// As bfloat16: the range of f32, 8 bits of precision.
    Bf16,
    /// As IEEE half precision: 11 bits of precision from 6e-5 to 65504.
    F16,
    /// As bytes, with a scale a block.
    Int8 {
        /// Elements that share a scale, from 8 to 65536.
        block: u32,
    },
    /// The elements of greatest absolute value, with their indices.
    TopK {
        /// The share of elements that a rank sends, above 0, up to 1.
        fraction: f64,
    },
    /// Matrices as products of thin ones; all else as it is.
    PowerSgd {
        /// The columns of the thin ones, from 1 to 64.
        rank: u32,
        /// Of the first thin matrices. All ranks must have the same.
        seed: u64,
    },
}

impl Method {
    fn check(self) -> Result<(), CollectiveError> {
        let refuse = |option, got: String, allowed: &str| {
            Err(CollectiveError::OptionOutOfRange {
                option,
                got,
                allowed: allowed.to_owned(),
            })
        };
        match self {
            Self::Int8 { block } if !(8..=1 << 16).contains(&block) => {
                refuse("block", block.to_string(), "8 to 65536")
            }
            Self::TopK { fraction } if !(fraction > 0.0 && fraction <= 1.0) => {
                refuse("fraction", fraction.to_string(), "above 0, up to 1")
            }
            Self::PowerSgd { rank, .. } if !(1..=64).contains(&rank) => {
                refuse("rank", rank.to_string(), "1 to 64")
            }
            _ => Ok(()),
        }
    }
}

/// What a rank sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of payload that it handed on, if every block takes the shortest way.
    pub sent_bytes: u64,
    /// What it would have been for the same elements as 32-bit floats.
    pub plain_bytes: u64,
}

impl Traffic {
    /// That of `elements` 32-bit floats that are summed over `world` ranks as they are.
    #[must_use]
    pub fn plain(elements: usize, world: u32) -> Self {
        let bytes = of_all_reduce(elements as u64 * 4, world);
        Self {
            sent_bytes: bytes,
            plain_bytes: bytes,
        }
    }

    /// That of `elements` 32-bit floats that are [summed](Ring::reproducible_all_reduce) over
    /// `replicas` as they are: on average over ranks, in a direct exchange.
    #[must_use]
    pub fn reproducible(elements: usize, replicas: &Replicas) -> Self {
        let bytes = reproducible::bytes(replicas, elements, 4);
        Self {
            sent_bytes: bytes,
            plain_bytes: bytes,
        }
    }

    /// What was saved; less than 0 if more was sent than without compression.
    #[must_use]
    pub fn saved_bytes(&self) -> i64 {
        self.plain_bytes as i64 - self.sent_bytes as i64
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.sent_bytes += other.sent_bytes;
        self.plain_bytes += other.plain_bytes;
    }
}

/// Bytes that a rank sends in an all-reduce of a vector of `bytes`: `2(w-1)/w` of it.
fn of_all_reduce(bytes: u64, world: u32) -> u64 {
    let world = u64::from(world.max(1));
    2 * bytes * (world - 1) / world
}

/// One rank's part in compressed sums of one vector.
#[derive(Debug)]
pub struct Compressor {
    scheme: Scheme,
    elements: usize,
}

#[derive(Debug)]
enum Scheme {
    Half(Half, Exchange),
    Int8(Int8, Exchange, Vec<f32>),
    TopK(TopK),
    PowerSgd(PowerSgd),
}

impl Compressor {
    /// For a vector of `elements`, in which `matrices` lie: what [`Method::PowerSgd`] compresses.
    ///
    /// # Errors
    /// [`OptionOutOfRange`](CollectiveError::OptionOutOfRange), and
    /// [`CompressedRange`](CollectiveError::CompressedRange) for a matrix that is outside the vector.
    pub fn new(
        method: Method,
        elements: usize,
        matrices: &[Matrix],
    ) -> Result<Self, CollectiveError> {
        method.check()?;
        let scheme = match method {
            Method::Bf16 => Scheme::Half(Half::Bf16, Exchange::default()),
            Method::F16 => Scheme::Half(Half::F16, Exchange::default()),
            Method::Int8 { block } => {
                let codec = Int8 {
                    block: block as usize,
                };
                Scheme::Int8(codec, Exchange::default(), vec![0.0; elements])
            }
            Method::TopK { fraction } => Scheme::TopK(TopK::new(fraction, elements)),
            Method::PowerSgd { rank, seed } => {
                for matrix in matrices {
                    matrix.check(elements)?;
                }
                Scheme::PowerSgd(PowerSgd::new(rank as usize, seed, elements, matrices))
            }
        };
        Ok(Self { scheme, elements })
    }

    /// The length of the whole vector.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Bytes that are kept between calls: buffers and error feedback.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        match &self.scheme {
            Scheme::Half(_, exchange) => exchange.held_bytes(),
            Scheme::Int8(_, exchange, kept) => {
                exchange.held_bytes() + size_of_val(&kept[..]) as u64
            }
            Scheme::TopK(top_k) => top_k.held_bytes(),
            Scheme::PowerSgd(sgd) => sgd.held_bytes(),
        }
    }

    /// What this rank's encodings have lost so far and its next vector makes up for, as long as the
    /// vector; `None` without error feedback.
    #[must_use]
    pub fn kept(&self) -> Option<&[f32]> {
        match &self.scheme {
            Scheme::Half(..) => None,
            Scheme::Int8(_, _, kept) => Some(kept),
            Scheme::TopK(top_k) => Some(top_k.kept()),
            Scheme::PowerSgd(sgd) => Some(sgd.kept()),
        }
    }

    /// The operations of the ring that a sum of `elements` takes among `world` ranks.
    #[must_use]
    pub fn operations(&self, elements: usize, world: u32) -> u32 {
        match self.scheme {
            _ if world == 1 || elements == 0 => 0,
            Scheme::TopK(_) => 1,
            _ => 2,
        }
    }

    /// Sums `values`, which are the elements from `start` on of the vector, over all ranks.
    ///
    /// # Errors
    /// Also [`CompressedRange`](CollectiveError::CompressedRange) and, with [`Method::PowerSgd`],
    /// [`MatrixCut`](CollectiveError::MatrixCut), having done nothing, and
    /// [`NotFinite`](CollectiveError::NotFinite) and [`Payload`](CollectiveError::Payload), which
    /// close the ring.
    pub fn all_reduce(
        &mut self,
        ring: &mut Ring,
        start: usize,
        values: &mut [f32],
    ) -> Result<Traffic, CollectiveError> {
        let range = self.check_range(start, values.len())?;
        let plain = Traffic::plain(values.len(), ring.world());
        if ring.world() == 1 || range.is_empty() {
            return Ok(plain);
        }
        let result = match &mut self.scheme {
            Scheme::Half(half, exchange) => exchange.all_reduce(half, ring, values, None),
            Scheme::Int8(codec, exchange, kept) => {
                exchange.all_reduce(codec, ring, values, Some(&mut kept[range]))
            }
            Scheme::TopK(top_k) => top_k.all_reduce(ring, start, values),
            Scheme::PowerSgd(sgd) => {
                let factors = sgd.check(&range)?;
                sgd.all_reduce(ring, (range, factors), values)
            }
        };
        match result {
            Ok(sent_bytes) => Ok(Traffic {
                sent_bytes,
                ..plain
            }),
            Err(error) => {
                ring.fail(&error);
                Err(error)
            }
        }
    }

    fn check_range(&self, start: usize, len: usize) -> Result<Range<usize>, CollectiveError> {
        let end = start.checked_add(len);
        match end.filter(|&end| end <= self.elements) {
            Some(end) => Ok(start..end),
            None => Err(CollectiveError::CompressedRange {
                start,
                elements: len,
                whole: self.elements,
            }),
        }
    }
}
