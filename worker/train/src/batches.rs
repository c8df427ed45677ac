//! Which samples a replica sees in a step.

use std::collections::BTreeSet;
use std::ops::Range;

use ringfold_common::dataset::{StepPlan, StepSamples, share};
use ringfold_common::ids::{Epoch, Rank, Step};
use ringfold_common::job::TrainSpec;
use ringfold_common::order::Permutation;

use crate::error::TrainError;

/// The batches of one replica of a job.
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    plan: StepPlan,
    records: u64,
    global_batch: u64,
    accumulate: u32,
    seed: u64,
    replica: u32,
    replicas: u32,
    steps_total: u64,
    order: (Epoch, Permutation),
}

/// A replica's part of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    /// The whole batch.
    pub samples: StepSamples,
    /// This replica's positions in the epoch's order; may be empty.
    pub positions: Range<u64>,
}

impl MicroBatch {
    /// Samples of this replica.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.positions.end - self.positions.start) as usize
    }

    /// True if this replica has no sample in the step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Samples of all replicas.
    #[must_use]
    pub fn global_len(&self) -> u64 {
        self.samples.positions.end - self.samples.positions.start
    }

    /// The part of this replica's samples that it computes in `round` (from 0) of `rounds`: in order,
    /// and as even as can be.
    #[must_use]
    pub fn round(&self, round: u32, rounds: u32) -> Self {
        let start = self.positions.start;
        let part = share(self.positions.end - start, rounds, Rank(round));
        Self {
            samples: self.samples.clone(),
            positions: start + part.start..start + part.end,
        }
    }

    /// The share of the batch's samples that are here: what their mean gradient is multiplied by.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.len() as f64 / self.global_len() as f64
    }
}

impl Batches {
    /// The batches of `replica`, of `0..replicas`, over `records` training records.
    ///
    /// # Errors
    /// If there is no step to take, or more than can be counted.
    pub fn new(
        train: &TrainSpec,
        records: u64,
        replica: u32,
        replicas: u32,
    ) -> Result<Self, TrainError> {
        let plan = StepPlan::new(records, train.global_batch, train.last_batch)?;
        let steps_total = plan.steps_total(train.duration)?;
        Ok(Self {
            plan,
            records,
            global_batch: train.global_batch.into(),
            accumulate: train.accumulate,
            seed: train.seed,
            replica,
            replicas,
            steps_total,
            order: (
                Epoch(0),
                Permutation::of_epoch(train.seed, Epoch(0), records),
            ),
        })
    }

    /// Steps of the job.
    #[must_use]
    pub fn steps_total(&self) -> u64 {
        self.steps_total
    }

    /// Steps of an epoch.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.plan.steps_per_epoch()
    }

    /// Epochs of the job, the last one perhaps partial.
    #[must_use]
    pub fn epochs_total(&self) -> u64 {
        self.steps_total.div_ceil(self.plan.steps_per_epoch())
    }

    /// The samples of `step`, those of all replicas.
    #[must_use]
    pub fn samples(&self, step: Step) -> StepSamples {
        self.plan.samples(step)
    }

    /// Rounds in which a micro-batch is computed.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.accumulate
    }

    /// What keys the random numbers of `round`: a number of its own for every replica and round.
    #[must_use]
    pub fn draws_as(&self, round: u32) -> u64 {
        u64::from(self.replica) + u64::from(round) * u64::from(self.replicas)
    }

    /// This replica's part of `step`.
    #[must_use]
    pub fn micro_batch(&self, step: Step) -> MicroBatch {
        let samples = self.plan.samples(step);
        let start = samples.positions.start;
        let share = share(
            samples.positions.end - start,
            self.replicas,
            Rank(self.replica),
        );
        MicroBatch {
            positions: start + share.start..start + share.end,
            samples,
        }
    }

    /// Every length but zero that a round of a micro-batch of this replica can have.
    #[must_use]
    pub fn lengths(&self) -> BTreeSet<usize> {
        let full = self.global_batch.min(self.records);
        let last = self
            .plan
            .samples(Step(self.plan.steps_per_epoch()))
            .positions;
        [full, last.end - last.start]
            .into_iter()
            .map(|len| share(len, self.replicas, Rank(self.replica)))
            .flat_map(|share| {
                // Parts of a share differ by one at most.
                let (len, rounds) = (share.end - share.start, u64::from(self.accumulate));
                [len / rounds, len.div_ceil(rounds)]
            })
            .map(|len| len as usize)
            .filter(|&len| len > 0)
            .collect()
    }

    /// The records of a micro-batch, in order.
    pub fn records(&mut self, batch: &MicroBatch) -> impl Iterator<Item = u64> + use<> {
        let epoch = batch.samples.epoch;
        if self.order.0 != epoch {
            self.order = (epoch, Permutation::of_epoch(self.seed, epoch, self.records));
        }
        let order = self.order.1;
        batch
            .positions
            .clone()
            .map(move |position| order.at(position))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringfold_common::job::{
        EvaluateEvery, LastBatch, OptimizerSpec, ScheduleSpec, SgdOptions, TrainDuration,
    };

    use super::*;

    fn spec(epochs: u64, global_batch: u32, last_batch: LastBatch) -> TrainSpec {
        TrainSpec {
            duration: TrainDuration::Epochs(epochs),
            global_batch,
            last_batch,
            seed: 3,
            accumulate: 1,
            precision: ringfold_common::job::Precision::F32,
            workspace_mb_max: None,
            optimizer: OptimizerSpec::Sgd(SgdOptions::new(0.1)),
            groups: Vec::new(),
            decay_biases: true,
            schedule: ScheduleSpec::constant(),
            clip_norm: None,
            clip_value: None,
            ema: None,
            l2: 0.0,
            evaluate: EvaluateEvery::End,
            report_steps: 1,
            check_steps: 1,
        }
    }

    proptest! {
        /// Over an epoch, all ranks together see every record once, whatever the world.
        #[test]
        fn ranks_share_an_epoch_exactly(
            records in 1u64..400,
            batch in 1u32..50,
            world in 1u32..7,
        ) {
            let train = spec(2, batch, LastBatch::Keep);
            let mut seen = vec![0u32; records as usize];
            for rank in 0..world {
                let mut batches = Batches::new(&train, records, rank, world).unwrap();
                let lengths = batches.lengths();
                for step in 1..=batches.steps_total() {
                    let micro = batches.micro_batch(Step(step));
                    prop_assert!(micro.is_empty() || lengths.contains(&micro.len()));
                    for record in batches.records(&micro) {
                        seen[record as usize] += 1;
                    }
                }
            }
            prop_assert!(seen.iter().all(|&count| count == 2));
        }

        /// The rounds of a micro-batch are its samples in order, of lengths that are planned for.
        #[test]
        fn rounds_partition_a_micro_batch(
            records in 1u64..200,
            batch in 1u32..50,
            world in 1u32..5,
            rounds in 1u32..60,
        ) {
            let mut train = spec(1, batch, LastBatch::Keep);
            train.accumulate = rounds;
            for rank in 0..world {
                let batches = Batches::new(&train, records, rank, world).unwrap();
                let lengths = batches.lengths();
                for step in 1..=batches.steps_total() {
                    let micro = batches.micro_batch(Step(step));
                    let mut end = micro.positions.start;
                    let mut weight = 0.0;
                    for round in (0..rounds).map(|round| micro.round(round, rounds)) {
                        prop_assert_eq!(round.positions.start, end);
                        prop_assert!(round.is_empty() || lengths.contains(&round.len()));
                        end = round.positions.end;
                        weight += round.weight();
                    }
                    prop_assert_eq!(end, micro.positions.end);
                    prop_assert!((weight - micro.weight()).abs() < 1e-12);
                }
            }
        }

        /// The global batch of a step does not depend on the world.
        #[test]
        fn a_step_has_the_same_samples_in_any_world(step in 1u64..40, world in 2u32..7) {
            let train = spec(10, 13, LastBatch::Keep);
            let of_world = |world: u32| -> Vec<u64> {
                (0..world)
                    .flat_map(|rank| {
                        let mut batches = Batches::new(&train, 100, rank, world).unwrap();
                        let micro = batches.micro_batch(Step(step));
                        batches.records(&micro).collect::<Vec<_>>()
                    })
                    .collect()
            };
            prop_assert_eq!(of_world(1), of_world(world));
        }
    }

    #[test]
    fn weights_of_all_ranks_sum_to_one() {
        let train = spec(1, 10, LastBatch::Keep);
        for step in 1..=3 {
            let total: f64 = (0..4)
                .map(|rank| {
                    let batches = Batches::new(&train, 23, rank, 4).unwrap();
                    batches.micro_batch(Step(step)).weight()
                })
                .sum();
            assert!((total - 1.0).abs() < 1e-12);
        }
    }
}
