//! The sum of what all replicas add to a step, compressed on its way if the job says so.
//!
//! # Contract
//! - Gradients are compressed, the model's state is not: counts and running statistics are summed as
//!   32-bit floats in an operation of their own.
//! - In fast mode a rank adds up its replicas as ever and compresses their sum: the result depends on
//!   the number of ranks. In a world of one nothing is sent, so nothing is compressed.
//! - In reproducible mode, which takes 16-bit floats only, each replica's gradient is rounded and so is
//!   every node of the tree: the result depends on the replicas, and neither on ranks nor threads.
//! - Before the job's first compressed step, sums are as without compression.
//! - What error feedback keeps is of this rank and in memory only: a job that starts again starts
//!   without it.

use ringfold_collective::CollectiveError;
use ringfold_collective::ReplicaBuffers;
use ringfold_collective::Ring;
use ringfold_collective::algorithm::Replicas;
use ringfold_collective::compression::{Compressor, Half, HalfSum, Matrix, Method, Traffic};
use ringfold_common::ids::{Rank, Step};
use ringfold_common::job::{CompressionMethod, CompressionSpec, FoldMode, GradientBytes};
use ringfold_compute::ParameterLayout;

use crate::contribution::Contribution;
use crate::error::TrainError;

/// What a sum is of.
#[derive(Clone, Copy)]
pub struct Summed<'a> {
    /// The gradient.
    pub layout: &'a ParameterLayout,
    /// Elements of the model's state.
    pub states: usize,
    /// The replicas and their ranks.
    pub replicas: Replicas,
    /// This rank.
    pub rank: Rank,
    /// In which order it is taken; not [`FoldMode::Auto`].
    pub mode: FoldMode,
    /// The job's seed.
    pub seed: u64,
}

/// The sums of a job's steps.
pub struct GradientSum {
    mode: FoldMode,
    replicas: Replicas,
    elements: usize,
    start_step: u64,
    scheme: Scheme,
    last: Traffic,
    total: Traffic,
}

enum Scheme {
    Plain,
    Compressed(Compressor),
    Halves(Half, HalfSum),
}

impl GradientSum {
    /// The sums of a job that compresses as `spec` says.
    ///
    /// # Errors
    /// Numbers of `spec` that are out of range.
    pub fn new(spec: Option<CompressionSpec>, summed: &Summed<'_>) -> Result<Self, TrainError> {
        let Summed { layout, states, .. } = *summed;
        let (replicas, mode) = (summed.replicas, summed.mode);
        let scheme = match (spec, mode, half(spec)) {
            (None, ..) => Scheme::Plain,
            (Some(_), FoldMode::Reproducible, Some(half)) => {
                let sum = HalfSum::new(half, replicas, summed.rank, layout.len(), states)?;
                Scheme::Halves(half, sum)
            }
            // Refused when the job was submitted.
            (Some(_), FoldMode::Reproducible, None) => Scheme::Plain,
            (Some(_), ..) if replicas.world() == 1 => Scheme::Plain,
            (Some(spec), ..) => Scheme::Compressed(Compressor::new(
                method(spec.method, summed.seed),
                layout.len(),
                &matrices(layout),
            )?),
        };
        Ok(Self {
            mode,
            replicas,
            elements: layout.len() + states,
            start_step: spec.map_or(1, |spec| spec.start_step),
            scheme,
            last: Traffic::default(),
            total: Traffic::default(),
        })
    }

    /// What gradients are rounded to, each replica's and every sum of some, before they are summed
    /// over ranks.
    #[must_use]
    pub fn rounding(&self, step: Step) -> Option<Half> {
        match self.scheme {
            Scheme::Halves(half, _) if self.compresses(step) => Some(half),
            _ => None,
        }
    }

    /// Sums `fold`, which has all replicas of this rank, over all ranks: the sum is in
    /// [`ReplicaBuffers::sum`] afterwards.
    ///
    /// # Errors
    /// The ring's; [`TrainError::NotFinite`] for a gradient of this rank that can't be compressed.
    pub fn run(
        &mut self,
        step: Step,
        ring: &mut Ring,
        fold: &mut ReplicaBuffers<f32, Contribution>,
    ) -> Result<(), TrainError> {
        let compresses = self.compresses(step);
        let summed = match &mut self.scheme {
            Scheme::Compressed(compressor) if compresses => {
                compressed(compressor, ring, fold.add_up()?)
            }
            Scheme::Halves(_, sum) if compresses => sum.all_reduce(ring, fold),
            _ if self.mode == FoldMode::Fast => {
                let sum = fold.add_up()?;
                ring.all_reduce_sum_f32(sum)
                    .map(|()| Traffic::plain(self.elements, ring.world()))
            }
            _ => ring
                .reproducible_all_reduce(fold)
                .map(|_| Traffic::reproducible(self.elements, self.replicas)),
        };
        self.last = summed.map_err(|error| not_finite(error, step))?;
        self.total += self.last;
        Ok(())
    }

    /// Of the last step.
    #[must_use]
    pub fn last(&self) -> GradientBytes {
        bytes(self.last)
    }

    /// Of all steps.
    #[must_use]
    pub fn total(&self) -> GradientBytes {
        bytes(self.total)
    }

    /// Bytes that are held for compression.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        match &self.scheme {
            Scheme::Plain => 0,
            Scheme::Compressed(compressor) => compressor.held_bytes(),
            Scheme::Halves(_, sum) => sum.held_bytes(),
        }
    }

    fn compresses(&self, step: Step) -> bool {
        step.0 >= self.start_step
    }
}

fn compressed(
    compressor: &mut Compressor,
    ring: &mut Ring,
    sum: &mut Contribution,
) -> Result<Traffic, CollectiveError> {
    let (gradients, state) = sum.split();
    let mut traffic = compressor.all_reduce(ring, 0, gradients)?;
    if !state.is_empty() {
        ring.all_reduce_sum_f32(state)?;
        traffic += Traffic::plain(state.len(), ring.world());
    }
    Ok(traffic)
}

/// An error of the ring, or that the gradient ran away.
fn not_finite(error: CollectiveError, step: Step) -> TrainError {
    match error {
        CollectiveError::NotFinite { value, .. } => TrainError::NotFinite {
            what: "gradient",
            value: value.into(),
            step,
        },
        error => error.into(),
    }
}

fn bytes(traffic: Traffic) -> GradientBytes {
    GradientBytes {
        sent: traffic.sent_bytes,
        saved: traffic.saved_bytes(),
    }
}

fn half(spec: Option<CompressionSpec>) -> Option<Half> {
    match spec?.method {
        CompressionMethod::Bf16 => Some(Half::Bf16),
        CompressionMethod::F16 => Some(Half::F16),
        _ => None,
    }
}

fn method(method: CompressionMethod, seed: u64) -> Method {
    match method {
        CompressionMethod::Bf16 => Method::Bf16,
        CompressionMethod::F16 => Method::F16,
        CompressionMethod::Int8 { block } => Method::Int8 { block },
        CompressionMethod::TopK { fraction } => Method::TopK { fraction },
        CompressionMethod::PowerSgd { rank } => Method::PowerSgd { rank, seed },
    }
}

/// The parameters of two dimensions or more: the first is the rows.
fn matrices(layout: &ParameterLayout) -> Vec<Matrix> {
    let slots = layout.slots().iter();
    let slots = slots.filter(|slot| slot.shape.len() >= 2 && slot.len > 0);
    let matrix = slots.map(|slot| Matrix {
        start: slot.offset,
        rows: slot.shape[0],
        columns: slot.len / slot.shape[0],
    });
    matrix.collect()
}
