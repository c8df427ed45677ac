//! The sum of what all replicas add to a step, compressed on its way if the job says so.
//!
//! # Contract
//! - Gradients are compressed, the model's state and the loss are not: counts, running statistics and
//!   loss are summed as 32-bit floats in an operation of their own.
//! - In fast mode a rank adds up its replicas as ever and compresses their sum: the result depends on
//!   the number of ranks. In a world of one nothing is sent, so nothing is compressed.
//! - In reproducible mode, which takes 16-bit floats only, each replica's gradient is rounded and so is
//!   every node of the tree: the result depends on the replicas, and neither on ranks nor threads.
//! - Gradients may be summed in buckets, each of whole parameters: each is compressed for itself, and a
//!   reproducible sum has the same bits for any buckets.
//! - Before the job's first compressed step, sums are as without compression.
//! - What error feedback keeps is of this rank and in memory only: a job that starts again starts
//!   without it.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ringfold_collective::algorithm::Replicas;
use ringfold_collective::compression::{Compressor, Half, HalfSum, Matrix, Method, Traffic};
use ringfold_collective::{CollectiveError, ReplicaBuffers, Ring};
use ringfold_common::ids::{Rank, Step};
use ringfold_common::job::{CompressionMethod, CompressionSpec, FoldMode, GradientBytes};
use ringfold_compute::ParameterLayout;

use crate::contribution::Contribution;
use crate::error::TrainError;

/// What a sum is of.
#[derive(Clone)]
pub struct Summed<'a> {
    /// The gradient.
    pub layout: &'a ParameterLayout,
    /// Elements after the gradient: the model's state and the loss.
    pub rest: usize,
    /// The replicas and their ranks.
    pub replicas: Replicas,
    /// This rank.
    pub rank: Rank,
    /// In which order it is taken; not [`FoldMode::Auto`].
    pub mode: FoldMode,
    /// The job's seed.
    pub seed: u64,
}

/// The sums of a job's steps, whole or in buckets.
pub struct GradientSum {
    mode: FoldMode,
    replicas: Replicas,
    rank: Rank,
    /// Elements of the gradient, which is followed by the state and the loss.
    gradients: usize,
    rest: usize,
    start_step: u64,
    scheme: Scheme,
    /// Where the buckets of the last step that had some end.
    ends: Vec<usize>,
    step: Step,
    counted: Mutex<Counted>,
}

/// What was sent.
#[derive(Default)]
struct Counted {
    last: Traffic,
    total: Traffic,
}

/// The locks are there for the ring's thread, which sums one bucket at a time.
enum Scheme {
    Plain,
    Compressed(Mutex<Compressor>),
    Halves {
        half: Half,
        whole: Option<HalfSum>,
        /// By bucket of gradients.
        buckets: Vec<Mutex<HalfSum>>,
    },
}

impl GradientSum {
    /// The sums of a job that compresses as `spec` says.
    ///
    /// # Errors
    /// Numbers of `spec` that are out of range.
    pub fn new(spec: Option<CompressionSpec>, summed: &Summed<'_>) -> Result<Self, TrainError> {
        let (layout, replicas) = (summed.layout, &summed.replicas);
        let scheme = match (spec, summed.mode, half(spec)) {
            (None, ..) => Scheme::Plain,
            (Some(_), FoldMode::Reproducible, Some(half)) => Scheme::Halves {
                half,
                whole: None,
                buckets: Vec::new(),
            },
            // Refused when the job was submitted.
            (Some(_), FoldMode::Reproducible, None) => Scheme::Plain,
            (Some(_), ..) if replicas.world() == 1 => Scheme::Plain,
            (Some(spec), ..) => {
                let method = method(spec.method, summed.seed);
                let compressor = Compressor::new(method, layout.len(), &matrices(layout))?;
                Scheme::Compressed(Mutex::new(compressor))
            }
        };
        Ok(Self {
            mode: summed.mode,
            replicas: replicas.clone(),
            rank: summed.rank,
            gradients: layout.len(),
            rest: summed.rest,
            start_step: spec.map_or(1, |spec| spec.start_step),
            scheme,
            ends: Vec::new(),
            step: Step(0),
            counted: Mutex::default(),
        })
    }

    /// What gradients are rounded to, each replica's and every sum of some, before they are summed
    /// over ranks.
    #[must_use]
    pub fn rounding(&self, step: Step) -> Option<Half> {
        match self.scheme {
            Scheme::Halves { half, .. } if self.compresses(step) => Some(half),
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
        self.begin(step);
        let (gradients, rest, compresses) = (self.gradients, self.rest, self.compresses(step));
        let summed = match &mut self.scheme {
            Scheme::Compressed(compressor) if compresses => {
                let compressor = compressor.get_mut().unwrap_or_else(PoisonError::into_inner);
                compressed(compressor, ring, fold.add_up()?)
            }
            Scheme::Halves { half, whole, .. } if compresses => {
                let sum = match whole {
                    Some(sum) => sum,
                    None => {
                        let (replicas, this_rank) = (&self.replicas, self.rank);
                        whole.insert(HalfSum::new(*half, replicas, this_rank, gradients, rest)?)
                    }
                };
                sum.all_reduce(ring, fold)
            }
            _ if self.mode == FoldMode::Fast => fold
                .add_up()
                .and_then(|sum| ring.all_reduce_sum_f32(sum))
                .map(|()| self.plain(gradients + rest)),
            _ => ring
                .reproducible_all_reduce(fold)
                .map(|_| self.plain(gradients + rest)),
        };
        let traffic = summed.map_err(|error| self.error(error))?;
        self.count(traffic);
        Ok(())
    }

    /// Begins a step that is summed in buckets: those of gradients, then the state with the loss,
    /// which end before the elements `ends`.
    ///
    /// # Errors
    /// None but those of a rank outside its world.
    pub fn begin_buckets(&mut self, step: Step, ends: Vec<usize>) -> Result<(), TrainError> {
        self.begin(step);
        if self.ends == ends {
            return Ok(());
        }
        self.ends = ends;
        if let Scheme::Halves { half, buckets, .. } = &mut self.scheme {
            buckets.clear();
            let mut start = 0;
            for &end in self.ends.iter().filter(|&&end| end <= self.gradients) {
                let (replicas, rank) = (&self.replicas, self.rank);
                let sum = HalfSum::new(*half, replicas, rank, end - start, 0)?;
                buckets.push(Mutex::new(sum));
                start = end;
            }
        }
        Ok(())
    }

    /// [`rounding`](Self::rounding) of a bucket.
    #[must_use]
    pub fn bucket_rounding(&self, bucket: usize) -> Option<Half> {
        self.rounding(self.step)
            .filter(|_| self.is_gradient(bucket))
    }

    /// In how many operations of the ring a bucket is summed.
    #[must_use]
    pub fn calls(&self, bucket: usize) -> u32 {
        match &self.scheme {
            Scheme::Compressed(compressor) if self.compresses_bucket(bucket) => {
                let len = self.bucket(bucket).len();
                lock(compressor).operations(len, self.replicas.world())
            }
            _ => 1,
        }
    }

    /// [`run`](Self::run) of a bucket.
    ///
    /// # Errors
    /// The ring's, and of a gradient of this rank that can't be compressed.
    pub fn run_bucket(
        &self,
        bucket: usize,
        ring: &mut Ring,
        fold: &mut ReplicaBuffers<f32, &mut [f32]>,
    ) -> Result<(), CollectiveError> {
        let range = self.bucket(bucket);
        let traffic = match &self.scheme {
            Scheme::Compressed(compressor) if self.compresses_bucket(bucket) => {
                lock(compressor).all_reduce(ring, range.start, fold.sum()?)?
            }
            Scheme::Halves { buckets, .. } if self.compresses_bucket(bucket) => {
                lock(&buckets[bucket]).all_reduce(ring, fold)?
            }
            _ if self.mode == FoldMode::Fast => {
                ring.all_reduce_sum_f32(fold.sum()?)?;
                self.plain(range.len())
            }
            _ => {
                ring.reproducible_all_reduce(fold)?;
                self.plain(range.len())
            }
        };
        self.count(traffic);
        Ok(())
    }

    /// An error of a sum, or that the gradient ran away.
    #[must_use]
    pub fn error(&self, error: CollectiveError) -> TrainError {
        match error {
            CollectiveError::NotFinite { value, .. } => TrainError::NotFinite {
                what: "gradient",
                value: value.into(),
                step: self.step,
            },
            error => error.into(),
        }
    }

    /// Of the last step.
    #[must_use]
    pub fn last(&self) -> GradientBytes {
        bytes(lock(&self.counted).last)
    }

    /// Of all steps.
    #[must_use]
    pub fn total(&self) -> GradientBytes {
        bytes(lock(&self.counted).total)
    }

    /// Bytes that are held for compression.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        match &self.scheme {
            Scheme::Plain => 0,
            Scheme::Compressed(compressor) => lock(compressor).held_bytes(),
            Scheme::Halves { whole, buckets, .. } => {
                let buckets = buckets.iter().map(|sum| lock(sum).held_bytes());
                whole.iter().map(HalfSum::held_bytes).chain(buckets).sum()
            }
        }
    }

    fn begin(&mut self, step: Step) {
        self.step = step;
        lock(&self.counted).last = Traffic::default();
    }

    fn count(&self, traffic: Traffic) {
        let mut counted = lock(&self.counted);
        counted.last += traffic;
        counted.total += traffic;
    }

    fn plain(&self, elements: usize) -> Traffic {
        match self.mode {
            FoldMode::Fast => Traffic::plain(elements, self.replicas.world()),
            _ => Traffic::reproducible(elements, &self.replicas),
        }
    }

    fn bucket(&self, bucket: usize) -> Range<usize> {
        let start = bucket.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[bucket]
    }

    fn is_gradient(&self, bucket: usize) -> bool {
        self.ends[bucket] <= self.gradients
    }

    fn compresses(&self, step: Step) -> bool {
        step.0 >= self.start_step
    }

    fn compresses_bucket(&self, bucket: usize) -> bool {
        self.compresses(self.step) && self.is_gradient(bucket)
    }
}

/// What a panic left behind is of no use: the ring has failed with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn compressed(
    compressor: &mut Compressor,
    ring: &mut Ring,
    sum: &mut Contribution,
) -> Result<Traffic, CollectiveError> {
    let (gradients, rest) = sum.split();
    let mut traffic = compressor.all_reduce(ring, 0, gradients)?;
    ring.all_reduce_sum_f32(rest)?;
    traffic += Traffic::plain(rest.len(), ring.world());
    Ok(traffic)
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
