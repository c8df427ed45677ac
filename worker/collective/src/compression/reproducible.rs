//! A sum over replicas in 16-bit floats whose bits depend on nothing but the replicas' values.
//!
//! A replica's vector is rounded, and so is every node of the [tree](crate::algorithm::Replicas):
//! a node is the rounded sum, in f32, of its two halves. So the result depends on the replicas and
//! neither on the ranks that hold them nor on what is sent: every node fits in 16 bits. It differs
//! from the exact sum of `R` replicas' `x_i` by at most about `(1 + ⌈log2 R⌉) u Σ|x_i|`, `u` as in
//! [`Half`]. What f16 can't hold becomes infinite.

use std::ops::DerefMut;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ringfold_common::ids::Rank;

use super::half::{read_bf16, write_bf16};
use super::{Half, Traffic};
use crate::algorithm::Replicas;
use crate::{CollectiveError, Element, ReplicaBuffers, Ring};

/// The buffers of such a sum, of vectors of which a head is summed in 16-bit floats and the rest in
/// f32.
pub struct HalfSum {
    replicas: Replicas,
    head: usize,
    halves: Halves,
    rest: ReplicaBuffers<f32>,
    rest_len: usize,
}

enum Halves {
    Bf16(ReplicaBuffers<bf16>),
    F16(ReplicaBuffers<f16>),
}

impl HalfSum {
    /// For vectors of `head` elements in 16-bit floats, followed by `rest` elements in f32.
    ///
    /// # Errors
    /// [`RankOutsideWorld`](CollectiveError::RankOutsideWorld).
    pub fn new(
        half: Half,
        replicas: &Replicas,
        rank: Rank,
        head: usize,
        rest: usize,
    ) -> Result<Self, CollectiveError> {
        let halves = match half {
            Half::Bf16 => Halves::Bf16(ReplicaBuffers::new(replicas, rank, head)?),
            Half::F16 => Halves::F16(ReplicaBuffers::new(replicas, rank, head)?),
        };
        Ok(Self {
            head,
            halves,
            rest: ReplicaBuffers::new(replicas, rank, rest)?,
            replicas: replicas.clone(),
            rest_len: rest,
        })
    }

    /// Bytes of the vectors that are held.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let halves = match &self.halves {
            Halves::Bf16(halves) => halves.held_elements(),
            Halves::F16(halves) => halves.held_elements(),
        };
        (halves * 2 + self.rest.held_elements() * 4) as u64
    }

    /// [`Ring::reproducible_all_reduce`], but the head of every vector is sent as 16-bit floats. It
    /// must be [rounded](Half::round) already: when it was [pushed](ReplicaBuffers::push_with), and
    /// after every addition.
    ///
    /// # Errors
    /// As there; also [`ReplicaLength`](CollectiveError::ReplicaLength) if the vectors have another
    /// length than head and rest.
    pub fn all_reduce<V: DerefMut<Target = [f32]>>(
        &mut self,
        ring: &mut Ring,
        buffers: &mut ReplicaBuffers<f32, V>,
    ) -> Result<Traffic, CollectiveError> {
        let (head, len) = (self.head, self.head + self.rest_len);
        if buffers.elements() != len {
            return Err(CollectiveError::ReplicaLength {
                expected: len,
                got: buffers.elements(),
            });
        }
        let rest = &mut self.rest;
        match &mut self.halves {
            Halves::Bf16(halves) => sum_head(ring, halves, buffers, head, write_bf16, read_bf16)?,
            Halves::F16(halves) => {
                let write = |values: &[f32], halves: &mut [f16]| {
                    halves.convert_from_f32_slice(values);
                };
                let read = |halves: &[f16], values: &mut [f32]| {
                    halves.convert_to_f32_slice(values);
                };
                sum_head(ring, halves, buffers, head, write, read)?;
            }
        }
        if self.rest_len > 0 {
            let copy = |from: &V, to: &mut Vec<f32>| to.extend_from_slice(&from[head..]);
            rest.refill(buffers, copy);
            let sums = ring.reproducible_all_reduce(rest)?;
            buffers.sum()?[head..].copy_from_slice(sums);
        }
        let bytes = |elements, each| bytes(&self.replicas, elements, each);
        Ok(Traffic {
            sent_bytes: bytes(head, 2) + bytes(self.rest_len, 4),
            plain_bytes: bytes(head, 4) + bytes(self.rest_len, 4),
        })
    }
}

/// Sums the first `head` elements of the nodes of `buffers` as numbers of another type.
fn sum_head<T: Element, V: DerefMut<Target = [f32]>>(
    ring: &mut Ring,
    halves: &mut ReplicaBuffers<T>,
    buffers: &mut ReplicaBuffers<f32, V>,
    head: usize,
    write: impl Fn(&[f32], &mut [T]),
    read: impl Fn(&[T], &mut [f32]),
) -> Result<(), CollectiveError> {
    halves.refill(buffers, |from: &V, to: &mut Vec<T>| {
        to.resize(head, T::default());
        write(&from[..head], to);
    });
    let sums = ring.reproducible_all_reduce(halves)?;
    read(sums, &mut buffers.sum()?[..head]);
    Ok(())
}

/// Bytes that a rank sends, on average, in a reproducible sum of `elements` in a direct exchange.
pub(super) fn bytes(replicas: &Replicas, elements: usize, element_bytes: u64) -> u64 {
    let world = u64::from(replicas.world());
    let fast = 2 * elements as u64 * (world - 1);
    (fast + replicas.extra_elements(elements as u64)) * element_bytes / world
}
