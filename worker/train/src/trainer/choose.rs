//! What `auto` stands for, which all ranks decide alike; and how a job was computed in the end.

use std::time::Duration;

use ringfold_collective::Ring;
use ringfold_collective::algorithm::Replicas;
use ringfold_common::ids::{Rank, Step};
use ringfold_common::job::{Execution, FoldMode, Overlap};

use super::{Run, summed};
use crate::buckets::Buckets;
use crate::compression::GradientSum;
use crate::error::TrainError;
use crate::memory;
use crate::state::TrainingState;

/// What a reproducible sum may cost beyond a fast one for `auto` to choose it.
const REPRODUCIBLE_OVERHEAD_MAX: f64 = 0.1;

/// What a sum should take for `auto` to hide it: a thread is started each step, and each bucket is
/// handed over.
const HIDDEN_MIN: Duration = Duration::from_micros(200);

impl Run<'_> {
    /// Decides what `auto` stands for, once: a state is gone on from in the mode that it was made in.
    /// All ranks decide alike.
    pub(super) fn choose_mode(
        &mut self,
        ring: &Ring,
        state: &TrainingState,
    ) -> Result<(), TrainError> {
        let (spec, world) = (self.job.spec, self.job.world);
        let count = spec.cluster.replicas;
        let replicas = Replicas::new(count, world).ok_or(TrainError::Replicas {
            replicas: count,
            world,
        })?;
        let compression = spec.cluster.compression;
        if self.mode == FoldMode::Auto && state.step() > Step(0) {
            self.mode = state.origin().mode;
        }
        if self.mode == FoldMode::Auto {
            self.mode = match compression {
                Some(compression) if !compression.method.is_reproducible() => FoldMode::Fast,
                _ => self.auto_mode(ring, &replicas),
            };
        }
        let summed = summed(self.job, &self.network, replicas, self.mode);
        self.sum = GradientSum::new(compression, &summed)?;
        Ok(())
    }

    fn auto_mode(&self, ring: &Ring, replicas: &Replicas) -> FoldMode {
        let overhead = ring.reproducible_overhead(replicas);
        let mode = if overhead < REPRODUCIBLE_OVERHEAD_MAX {
            FoldMode::Reproducible
        } else {
            FoldMode::Fast
        };
        if self.job.rank == Rank(0) {
            tracing::info!(
                ?mode,
                "a reproducible sum should cost {:.0} % more than a fast one",
                overhead * 100.0
            );
        }
        mode
    }

    /// Decides whether sums are hidden behind the backward pass; all ranks decide alike.
    pub(super) fn choose_overlap(&mut self, ring: &mut Ring) -> Result<(), TrainError> {
        let (cluster, layout) = (&self.job.spec.cluster, self.network.layout());
        if cluster.overlap == Overlap::Off || self.job.world == 1 || layout.is_empty() {
            return Ok(());
        }
        let chosen = match cluster.bucket_bytes {
            0 => None,
            bytes => Some(usize::try_from(bytes).unwrap_or(usize::MAX)),
        };
        let parts = ring.explain_parts(layout.len() * size_of::<f32>(), chosen);
        let buckets = Buckets::new(layout, parts.bytes_max);
        let count = buckets.ends().len();
        let why_not = match cluster.overlap {
            Overlap::On => None,
            _ if count == 1 => Some("they are one bucket"),
            _ if parts.whole < HIDDEN_MIN => Some("their sum is too short to be hidden"),
            _ if ring.is_shared() && !cores_are_left(ring, self.job.threads)? => {
                Some("no core is left")
            }
            _ => None,
        };
        if self.job.rank == Rank(0) {
            match why_not {
                None => tracing::info!(
                    "gradients are summed in {count} buckets while others are computed: {parts}"
                ),
                Some(why) => tracing::info!("gradients are summed at once, since {why}: {parts}"),
            }
        }
        if why_not.is_none() {
            self.buckets = Some(buckets);
        }
        Ok(())
    }

    /// How this rank computed the job.
    pub(super) fn execution(&self, state: &TrainingState) -> Execution {
        let split = self.lanes.split();
        let floats = state.held_elements() + self.fold.held_elements();
        Execution {
            mode: self.mode,
            replicas: self.job.part.replicas.len() as u32,
            replicas_at_once: split.at_once as u32,
            threads: split.threads as u32,
            arena_bytes: (floats * size_of::<f32>()) as u64
                + self.lanes.bytes()
                + self.sum.held_bytes(),
            resident_bytes_max: memory::resident_bytes_max().unwrap_or(0),
            gradient_bytes: self.sum.total(),
            buckets: self.buckets.as_ref().map_or(0, |b| b.ends().len() as u32),
            bucket_bytes_max: self.buckets.as_ref().map_or(0, |b| b.bytes_max() as u64),
        }
    }
}

/// True if the ranks of this host, all of them, compute on fewer threads than there are cores. All
/// ranks get the same answer.
fn cores_are_left(ring: &mut Ring, threads: u32) -> Result<bool, TrainError> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let mine = [u64::from(threads), cores as u64].map(u64::to_le_bytes);
    let mut all = vec![[[0; 8]; 2]; ring.world() as usize];
    ring.all_gather(
        mine.as_flattened(),
        all.as_flattened_mut().as_flattened_mut(),
    )?;
    let threads = all.iter().map(|rank| u64::from_le_bytes(rank[0]));
    let cores = all.iter().map(|rank| u64::from_le_bytes(rank[1]));
    Ok(threads.sum::<u64>() < cores.min().unwrap_or(0))
}
