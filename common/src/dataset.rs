//! What a dataset is known to hold, and the part of it that a rank owns.
//!
//! Invariants:
//! - the micro-batches of all replicas partition the global batch, in their order, and differ by at
//!   most one sample in length; which ranks hold which replicas is [`ReplicaShares`]' choice;
//! - the evaluation shards of all ranks partition the test records, likewise;
//! - where a step's samples stand is a pure function of (records, global batch, step).

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Rank, Step};
use crate::job::{LastBatch, TrainDuration};
use crate::replicas::ReplicaShares;
use crate::vocabulary::Vocabulary;

/// What the coordinator learned about a job's dataset when the job was submitted. Workers check
/// that they see the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// Training records.
    pub train_records: u64,
    /// Test records; zero if the job names no test data.
    pub test_records: u64,
    /// Numbers in one record, without its label; of text, tokens.
    pub features: u32,
    /// What a label is.
    pub target: Target,
    /// BLAKE3 over the decompressed bytes of the dataset's files, in the order of the job file.
    pub fingerprint: [u8; 32],
}

/// What a label is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One of these class names; a class's number is its position.
    Classes(Vec<String>),
    /// This many real numbers.
    Values(u32),
    /// For every token of the record the one that follows it, of this vocabulary.
    Tokens(Vocabulary),
}

impl Target {
    /// The number of outputs that a model needs: one a class, one a value, or one a token of the
    /// vocabulary.
    #[must_use]
    pub fn outputs(&self) -> u32 {
        match self {
            Self::Classes(names) => u32::try_from(names.len()).unwrap_or(u32::MAX),
            Self::Values(count) => *count,
            Self::Tokens(vocabulary) => u32::try_from(vocabulary.len()).unwrap_or(u32::MAX),
        }
    }
}

/// The part of a job that one rank owns, as the coordinator assigns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankPart {
    /// The replicas that it hosts.
    pub replicas: Range<u32>,
    /// The test records that it evaluates.
    pub test_records: Range<u64>,
}

impl RankPart {
    /// The parts of all ranks of a world of `world` that host `replicas`, in rank order. Where there
    /// are no [`ReplicaShares`], as with fewer replicas than ranks, shares are as even as can be, and
    /// some are empty.
    #[must_use]
    pub fn of_all(world: u32, replicas: u32, test_records: u64) -> Vec<Self> {
        let shares = ReplicaShares::new(replicas, world);
        let hosted = |rank| match &shares {
            Some(shares) => shares.of(rank),
            None => {
                let even = share(replicas.into(), world, rank);
                even.start as u32..even.end as u32
            }
        };
        let part = |rank| Self {
            replicas: hosted(rank),
            test_records: share(test_records, world, rank),
        };
        (0..world).map(Rank).map(part).collect()
    }

    /// The part of one rank, for whoever needs no other's.
    ///
    /// # Panics
    /// If `rank` is not below `world`.
    #[must_use]
    pub fn of(rank: Rank, world: u32, replicas: u32, test_records: u64) -> Self {
        Self::of_all(world, replicas, test_records).swap_remove(rank.0 as usize)
    }
}

/// The contiguous share of `0..len` that falls to `rank` of `world`: shares are in rank order,
/// partition `0..len`, and differ in length by at most one.
///
/// # Panics
/// If `rank` is not below `world`.
#[must_use]
pub fn share(len: u64, world: u32, rank: Rank) -> Range<u64> {
    assert!(rank.0 < world, "rank {rank} of a world of {world}");
    let bound = |r: u32| (u128::from(len) * u128::from(r) / u128::from(world)) as u64;
    bound(rank.0)..bound(rank.0 + 1)
}

/// How the steps of a job walk over its training records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepPlan {
    records: u64,
    global_batch: u64,
    steps_per_epoch: u64,
}

/// The samples of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSamples {
    /// The pass over the data that the step belongs to.
    pub epoch: Epoch,
    /// The positions in that epoch's order. Never empty.
    pub positions: Range<u64>,
    /// True for the last step of its epoch.
    pub ends_epoch: bool,
}

/// A dataset and a batch size that give no step at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepPlanError {
    /// There is nothing to train on.
    #[error("the dataset has no training records")]
    NoRecords,
    /// The only batch of an epoch would be partial, and partial batches are dropped.
    #[error(
        "train.global_batch is {global_batch}, the dataset has {records} training records and \
         train.last_batch is \"drop\": no batch would be full"
    )]
    EveryBatchDropped {
        /// Training records.
        records: u64,
        /// The batch size asked for.
        global_batch: u32,
    },
    /// More steps than can be counted.
    #[error("{epochs} epochs of {steps_per_epoch} steps: more steps than can be counted")]
    TooManySteps {
        /// Epochs asked for.
        epochs: u64,
        /// Steps of each.
        steps_per_epoch: u64,
    },
}

impl StepPlanError {
    /// The key of the job file that can't be right.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::NoRecords => "data",
            Self::EveryBatchDropped { .. } => "train.global_batch",
            Self::TooManySteps { .. } => "train.epochs",
        }
    }
}

impl StepPlan {
    /// A plan over `records` training records.
    ///
    /// # Errors
    /// If an epoch would have no step.
    pub fn new(
        records: u64,
        global_batch: u32,
        last_batch: LastBatch,
    ) -> Result<Self, StepPlanError> {
        if records == 0 {
            return Err(StepPlanError::NoRecords);
        }
        let batch = u64::from(global_batch.max(1));
        let steps_per_epoch = match last_batch {
            LastBatch::Keep => records.div_ceil(batch),
            LastBatch::Drop => records / batch,
        };
        if steps_per_epoch == 0 {
            return Err(StepPlanError::EveryBatchDropped {
                records,
                global_batch,
            });
        }
        Ok(Self {
            records,
            global_batch: batch,
            steps_per_epoch,
        })
    }

    /// Steps in one epoch; at least one.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// Steps of a job that trains so long.
    ///
    /// # Errors
    /// [`StepPlanError::TooManySteps`].
    pub fn steps_total(&self, duration: TrainDuration) -> Result<u64, StepPlanError> {
        let steps_per_epoch = self.steps_per_epoch;
        match duration {
            TrainDuration::Steps(steps) => Ok(steps),
            TrainDuration::Epochs(epochs) => {
                epochs
                    .checked_mul(steps_per_epoch)
                    .ok_or(StepPlanError::TooManySteps {
                        epochs,
                        steps_per_epoch,
                    })
            }
        }
    }

    /// The samples of `step`, which counts from 1.
    ///
    /// # Panics
    /// If `step` is zero.
    #[must_use]
    pub fn samples(&self, step: Step) -> StepSamples {
        assert!(step.0 > 0, "steps count from 1");
        let index = step.0 - 1;
        let in_epoch = index % self.steps_per_epoch;
        let start = in_epoch * self.global_batch;
        StepSamples {
            epoch: Epoch(index / self.steps_per_epoch),
            positions: start..(start + self.global_batch).min(self.records),
            ends_epoch: in_epoch + 1 == self.steps_per_epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_partition_and_are_even(len in 0u64..1 << 50, world in 1u32..200) {
            let mut end = 0;
            for rank in 0..world {
                let range = share(len, world, Rank(rank));
                prop_assert_eq!(range.start, end);
                let size = range.end - range.start;
                prop_assert!(size.abs_diff(len / u64::from(world)) <= 1);
                end = range.end;
            }
            prop_assert_eq!(end, len);
        }

        #[test]
        fn an_epoch_covers_every_position_once(records in 1u64..5000, batch in 1u32..600) {
            let plan = StepPlan::new(records, batch, LastBatch::Keep).unwrap();
            let mut end = 0;
            for step in 1..=plan.steps_per_epoch() {
                let samples = plan.samples(Step(step));
                prop_assert_eq!(samples.epoch, Epoch(0));
                prop_assert_eq!(samples.positions.start, end);
                prop_assert!(!samples.positions.is_empty());
                prop_assert_eq!(samples.ends_epoch, step == plan.steps_per_epoch());
                end = samples.positions.end;
            }
            prop_assert_eq!(end, records);
            let next = plan.samples(Step(plan.steps_per_epoch() + 1));
            prop_assert_eq!((next.epoch, next.positions.start), (Epoch(1), 0));
        }
    }

    #[test]
    fn dropping_keeps_full_batches_only() {
        let plan = StepPlan::new(10, 4, LastBatch::Drop).unwrap();
        assert_eq!(plan.steps_per_epoch(), 2);
        assert_eq!(plan.samples(Step(2)).positions, 4..8);
        assert_eq!(
            StepPlan::new(3, 4, LastBatch::Drop),
            Err(StepPlanError::EveryBatchDropped {
                records: 3,
                global_batch: 4
            })
        );
        assert_eq!(
            StepPlan::new(0, 4, LastBatch::Keep),
            Err(StepPlanError::NoRecords)
        );
    }

    #[test]
    fn steps_are_counted_or_refused() {
        let plan = StepPlan::new(10, 4, LastBatch::Keep).unwrap();
        assert_eq!(plan.steps_total(TrainDuration::Epochs(7)), Ok(21));
        assert_eq!(plan.steps_total(TrainDuration::Steps(7)), Ok(7));
        let many = plan
            .steps_total(TrainDuration::Epochs(u64::MAX))
            .unwrap_err();
        assert_eq!(many.field(), "train.epochs");
    }
}
