//! What is refused when a job is submitted, before it is queued.
//!
//! [`check`] reads the files that a job names as its ranks will, builds its network, and refuses what
//! would end every rank: data that can't be used, layers or an ONNX file that don't fit them, initial
//! weights of other names or shapes, groups without a parameter, batches that give no step. An error
//! names the key of the job file. What depends on a rank's host alone is left to it: whether the output
//! directory can be written, whether there is memory.

use std::path::Path;

use ringfold_common::dataset::{DatasetInfo, StepPlan, StepPlanError};
use ringfold_common::error::one_line;
use ringfold_common::job::{Architecture, IdleGroup, JobSpec};
use ringfold_graph::job::{JobNetwork, ModelError, RecordShape};
use ringfold_storage::{ReadOptions, StorageError, check_weights, inspect_columns, stamp_sources};

/// A job that can be queued.
#[derive(Clone, Debug)]
pub struct Checked {
    /// With the hashes of its model's files.
    pub spec: JobSpec,
    /// What its data are.
    pub dataset: DatasetInfo,
    /// Numbers that are trained.
    pub parameters: u64,
    /// Steps until it ends.
    pub steps: u64,
}

/// Why a job is refused.
#[derive(Debug, thiserror::Error)]
pub enum SubmissionError {
    /// The dataset can't be used.
    #[error(transparent)]
    Data(Box<StorageError>),
    /// The ONNX file, or the file of weights, can't be read.
    #[error("{source}")]
    Source {
        /// The key that names it.
        key: &'static str,
        /// What is wrong with it.
        source: Box<StorageError>,
    },
    /// The model can't be built for the data.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The initial weights aren't those of the model.
    #[error(transparent)]
    Weights(Box<StorageError>),
    /// A group has no parameter.
    #[error("train.group")]
    Group(#[from] IdleGroup),
    /// There is no step to take, or too many.
    #[error(transparent)]
    StepPlan(#[from] StepPlanError),
}

impl SubmissionError {
    /// The key of the job file that can't be right.
    #[must_use]
    pub fn field(&self) -> String {
        match self {
            Self::Data(_) => "data".to_owned(),
            Self::Source { key, .. } => (*key).to_owned(),
            Self::Model(error) => error.field(),
            Self::Weights(_) => "model.weights".to_owned(),
            Self::Group(group) => group.field(),
            Self::StepPlan(error) => error.field().to_owned(),
        }
    }

    /// What is wrong, on one line.
    #[must_use]
    pub fn message(&self) -> String {
        one_line(self)
    }
}

/// Checks a job whose values are valid. Blocks: it reads whole datasets.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(mut spec: JobSpec) -> Result<Checked, SubmissionError> {
    let options = ReadOptions::default();
    let (dataset, columns) = inspect_columns(&spec.data, spec.model.loss, &options)
        .map_err(|error| SubmissionError::Data(Box::new(error)))?;
    let train = &spec.train;
    let plan = StepPlan::new(dataset.train_records, train.global_batch, train.last_batch)?;
    let steps = plan.steps_total(train.duration)?;

    let key = match (&spec.model.architecture, &spec.model.weights) {
        (Architecture::Onnx(_), None) => "model.path",
        (Architecture::Onnx(_), Some(_)) => "model",
        _ => "model.weights",
    };
    let onnx = stamp_sources(&mut spec.model).map_err(|error| SubmissionError::Source {
        key,
        source: Box::new(error),
    })?;
    let records = RecordShape {
        features: dataset.features,
        dims: &columns.dims,
        target: &dataset.target,
    };
    let network = JobNetwork::build(&spec.model, onnx.as_deref(), records, spec.train.l2)?;
    if let Some(file) = &spec.model.weights {
        check_weights(Path::new(&file.path), &network.tensors())
            .map_err(|error| SubmissionError::Weights(Box::new(error)))?;
    }
    network.check_groups(&spec.train.groups)?;
    Ok(Checked {
        parameters: network.parameter_count(),
        spec,
        dataset,
        steps,
    })
}
