//! The sum of vectors whose parts are encoded one by one.
//!
//! The vector is cut into a part a rank, all of one length but the last ones.
//!
//! 1. Every rank encodes all parts of its vector and sends each to its owner: all-to-all.
//! 2. The owner decodes what came, its own part included, and adds it up as f32 in the order of ranks.
//! 3. The owner encodes the sum; all ranks get all sums, all-gather, and decode them, the owner's too.
//!
//! So each value is encoded once, and each sum once, whatever the number of ranks: a ring whose every
//! hop rounded would do it `w - 1` times. With error feedback a rank keeps what its encodings lost:
//! of its own vector, and of the sums of its part.

use std::ops::Range;

use ringfold_common::ids::Rank;
use ringfold_common::simd::widest;

use super::payload::PayloadFault;
use crate::{CollectiveError, Ring};

/// How a part becomes bytes and comes back.
pub(super) trait Codec {
    /// Parts start at multiples of so many elements.
    fn granule(&self) -> usize;

    /// Bytes of `elements`.
    fn bytes(&self, elements: usize) -> usize;

    /// Writes `values` to `block`, which has [`bytes`](Self::bytes) of them.
    fn encode(&self, values: &[f32], block: &mut [u8]);

    /// Reads as many values as there is room for.
    fn decode(&self, block: &[u8], values: &mut [f32]) -> Result<(), PayloadFault>;

    /// Adds them.
    fn add(&self, block: &[u8], sums: &mut [f32]) -> Result<(), PayloadFault>;
}

/// The buffers of an exchange.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// A block a rank: first the parts for each, then those from each.
    parts: Vec<u8>,
    /// A block a rank: the sums of each.
    all: Vec<u8>,
    sums: Vec<f32>,
}

impl Exchange {
    pub fn held_bytes(&self) -> u64 {
        let sums = self.sums.capacity() * size_of::<f32>();
        (self.parts.capacity() + self.all.capacity() + sums) as u64
    }

    /// Sums `values`, one or more, over the ranks of a ring of two or more. With `kept`, which is as
    /// long, its numbers are added first, and hold afterwards what was lost. Returns the bytes that
    /// this rank sent.
    pub fn all_reduce(
        &mut self,
        codec: &impl Codec,
        ring: &mut Ring,
        values: &mut [f32],
        mut kept: Option<&mut [f32]>,
    ) -> Result<u64, CollectiveError> {
        let (world, me) = (ring.world() as usize, ring.rank().0 as usize);
        let part = values.len().div_ceil(world);
        let part = part.next_multiple_of(codec.granule());
        let len = values.len();
        let part_of = |rank: usize| (rank * part).min(len)..((rank + 1) * part).min(len);
        let block = codec.bytes(part);
        self.parts.resize(world * block, 0);
        self.all.resize(world * block, 0);

        // 1. What goes to each owner.
        if let Some(kept) = &mut kept {
            add_up(values, kept);
            check_finite(values)?;
        }
        for (rank, out) in self.parts.chunks_exact_mut(block).enumerate() {
            let part = &values[part_of(rank)];
            codec.encode(part, &mut out[..codec.bytes(part.len())]);
        }
        if let Some(kept) = &mut kept {
            for (rank, sent) in self.parts.chunks_exact(block).enumerate() {
                let range = part_of(rank);
                let sent = &sent[..codec.bytes(range.len())];
                lost(codec, &values[range.clone()], sent, &mut kept[range]).map_err(of(me))?;
            }
        }
        ring.all_to_all(&mut self.parts)?;

        // 2. The sums of this rank's part.
        let own = part_of(me);
        self.sums.clear();
        self.sums.resize(own.len(), 0.0);
        for (rank, block) in self.parts.chunks_exact(block).enumerate() {
            let terms = &block[..codec.bytes(own.len())];
            match rank {
                0 => codec.decode(terms, &mut self.sums),
                _ => codec.add(terms, &mut self.sums),
            }
            .map_err(of(rank))?;
        }

        // 3. What all ranks get.
        let mine = &mut self.parts[..block];
        let encoded = &mut mine[..codec.bytes(own.len())];
        if let Some(kept) = kept {
            check_finite(&self.sums)?;
            codec.encode(&self.sums, encoded);
            let kept = &mut kept[own];
            // Added to what was kept of the rank's own vector.
            let lost = &mut values[..kept.len()];
            lost_of_sums(codec, &self.sums, encoded, lost, kept).map_err(of(me))?;
        } else {
            codec.encode(&self.sums, encoded);
        }
        ring.all_gather(mine, &mut self.all)?;
        for (rank, block) in self.all.chunks_exact(block).enumerate() {
            let range: Range<usize> = part_of(rank);
            let sums = &block[..codec.bytes(range.len())];
            codec.decode(sums, &mut values[range]).map_err(of(rank))?;
        }
        Ok(2 * (world as u64 - 1) * block as u64)
    }
}

/// Writes to `lost` what the encoding of `values` as `block` lost.
fn lost(
    codec: &impl Codec,
    values: &[f32],
    block: &[u8],
    lost: &mut [f32],
) -> Result<(), PayloadFault> {
    codec.decode(block, lost)?;
    widest(|| {
        for (lost, value) in lost.iter_mut().zip(values) {
            *lost = value - *lost;
        }
    });
    Ok(())
}

/// [`lost`] of `sums`, added to `kept`. `scratch` is as long.
fn lost_of_sums(
    codec: &impl Codec,
    sums: &[f32],
    block: &[u8],
    scratch: &mut [f32],
    kept: &mut [f32],
) -> Result<(), PayloadFault> {
    lost(codec, sums, block, scratch)?;
    add_up(kept, scratch);
    Ok(())
}

/// The error of a block that came from `rank`.
pub(super) fn of(rank: usize) -> impl Fn(PayloadFault) -> CollectiveError {
    move |fault| CollectiveError::Payload {
        rank: Rank(rank as u32),
        fault,
    }
}

/// Adds `terms` to `sums`.
pub(super) fn add_up(sums: &mut [f32], terms: &[f32]) {
    widest(|| {
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum += term;
        }
    });
}

/// [`NotFinite`](CollectiveError::NotFinite) with the first value that is not.
pub(super) fn check_finite(values: &[f32]) -> Result<(), CollectiveError> {
    // The exponent of infinity and NaN is all ones. No early end, so that it is done in vectors.
    let all = widest(|| {
        let bad = |value: &f32| u32::from(value.to_bits() & 0x7f80_0000 == 0x7f80_0000);
        values.iter().map(bad).fold(0, |any, one| any | one) == 0
    });
    match values.iter().position(|value| !value.is_finite()) {
        _ if all => Ok(()),
        None => Ok(()),
        Some(element) => Err(CollectiveError::NotFinite {
            element,
            value: values[element],
        }),
    }
}
