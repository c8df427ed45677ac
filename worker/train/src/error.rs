//! Why a rank stopped.

use std::ops::Range;

use ringfold_collective::{AbortSignal, CollectiveError};
use ringfold_common::dataset::StepPlanError;
use ringfold_common::error::one_line;
use ringfold_common::ids::{Rank, Step};
use ringfold_common::job::{Cause, IdleGroup};
use ringfold_compute::ComputeError;
use ringfold_graph::GraphError;
use ringfold_graph::job::ModelError;
use ringfold_graph::onnx::OnnxError;
use ringfold_storage::StorageError;
use ringfold_storage::checkpoint::CheckpointError;

use crate::state::Misfit;

/// Why training, evaluation or prediction failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The job's model can't be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A graph can't be built.
    #[error("can't build the model")]
    Graph(#[from] GraphError),
    /// The model can't be planned or run.
    #[error("can't compute")]
    Compute(#[from] ComputeError),
    /// The model has no form in ONNX.
    #[error("can't write the model as ONNX")]
    Onnx(#[from] OnnxError),
    /// An ONNX file that no job names can't be read.
    #[error("{path}: can't read the model")]
    ReadOnnx {
        /// The file.
        path: String,
        /// Why; it names node, operator and opset.
        source: Box<OnnxError>,
    },
    /// The ring failed.
    #[error("the ring failed")]
    Collective(#[from] CollectiveError),
    /// Files can't be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no step to take.
    #[error(transparent)]
    StepPlan(#[from] StepPlanError),
    /// A parameter group without a parameter.
    #[error("train.group")]
    Group(#[from] IdleGroup),
    /// The numbers ran away.
    #[error(
        "the {what} is not finite ({value}) after step {step}: a smaller learning rate, \
         train.clip_norm or data.scale may help"
    )]
    NotFinite {
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f64,
        /// When it was seen.
        step: Step,
    },
    /// Ranks that must hold the same weights don't.
    #[error("after step {step} the weights of {} differ from those of the other ranks", list(.ranks))]
    WeightsDiffer {
        /// When it was seen.
        step: Step,
        /// The ranks that differ from the most common weights; all but the first if none are more
        /// common.
        ranks: Vec<Rank>,
    },
    /// A training state that isn't the job's.
    #[error("the training state can't go on in this job")]
    State(#[from] Misfit),
    /// A checkpoint can't be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Other ranks hold training states that aren't the job's.
    #[error("{} holds the training state of another job", list(.ranks))]
    StatesOfOthers {
        /// Those ranks.
        ranks: Vec<Rank>,
    },
    /// Ranks that must hold the same training state don't.
    #[error(
        "after step {step} the training states of {} differ from those of the other ranks",
        list(.ranks)
    )]
    StatesDiffer {
        /// The step after which they hold it.
        step: Step,
        /// The ranks that differ from the first that holds it, or two that differ.
        ranks: Vec<Rank>,
    },
    /// A part of a training state that didn't arrive as it was sent.
    #[error(
        "elements {} to {} of the training state after step {step}, from rank {root}, don't have \
         their hash",
        .range.start, .range.end
    )]
    StateDamaged {
        /// The step.
        step: Step,
        /// Who sent it.
        root: Rank,
        /// Elements over all parts; of a header, bytes.
        range: Range<u64>,
    },
    /// The threads can't be had.
    #[error("can't start {threads} threads: {reason}")]
    Threads {
        /// As many as were asked for.
        threads: u32,
        /// What the system said.
        reason: String,
    },
    /// A world that can't host the replicas.
    #[error("{replicas} replicas can't be hosted by {world} ranks")]
    Replicas {
        /// Replicas of the job.
        replicas: u32,
        /// Ranks of the world.
        world: u32,
    },
    /// A coordinator that counts ranks' replicas in another way.
    #[error(
        "rank {rank} was assigned replicas {}..{} where {}..{} are its share: coordinator and workers \
         must be of one version",
        .got.start, .got.end, .expected.start, .expected.end
    )]
    Part {
        /// This rank.
        rank: Rank,
        /// Its share.
        expected: Range<u32>,
        /// What it was assigned.
        got: Range<u32>,
    },
    /// Somebody asked for the end.
    #[error("aborted: {reason}")]
    Aborted {
        /// Why.
        reason: String,
    },
    /// A saved model that knows no text.
    #[error("the model is a {kind:?} of records: text comes from one that was trained on text")]
    NotOfText {
        /// `model.kind`.
        kind: &'static str,
    },
    /// A saved model whose tensors are not those of its network.
    #[error("the model's tensor {name} is {got:?}: the network has {expected:?}")]
    Tensor {
        /// The tensor.
        name: String,
        /// The shape of the file.
        got: Option<Vec<usize>>,
        /// The shape of the network.
        expected: Option<Vec<usize>>,
    },
}

/// An error if somebody asked for the end.
pub(crate) fn check_abort(abort: &AbortSignal) -> Result<(), TrainError> {
    match abort.reason() {
        None => Ok(()),
        Some(reason) => Err(TrainError::Aborted {
            reason: reason.to_owned(),
        }),
    }
}

fn list(ranks: &[Rank]) -> String {
    let numbers: Vec<String> = ranks.iter().map(Rank::to_string).collect();
    format!("rank {}", numbers.join(", rank "))
}

impl TrainError {
    /// The error with its causes, as one line.
    #[must_use]
    pub fn full(&self) -> String {
        one_line(self)
    }

    /// What the coordinator is told. `None` if the coordinator itself asked for the end.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        Some(match self {
            Self::Aborted { .. } | Self::Collective(CollectiveError::Aborted { .. }) => {
                return None;
            }
            Self::Collective(error) if !error.accused().is_empty() => Cause::PeerLost(self.full()),
            Self::WeightsDiffer { .. } => Cause::WeightsDiffer(self.full()),
            _ => Cause::Error(self.full()),
        })
    }
}
