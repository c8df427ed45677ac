//! The data of a job on this host.

use std::ops::ControlFlow;

use ringfold_collective::AbortSignal;
use ringfold_common::dataset::DatasetInfo;
use ringfold_common::ids::SpecHash;
use ringfold_common::job::{Cause, JobSpec};
use ringfold_storage::{BytesRead, Dataset, ReadOptions, StorageError};
use ringfold_train::TrainError;
use ringfold_train::network::check_precision;

use crate::ring_start::KeyError;

/// What the coordinator says of a job's data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobData<'a> {
    /// Where it is.
    pub spec: &'a JobSpec,
    /// What it must turn out to be.
    pub dataset: &'a DatasetInfo,
    /// Over both.
    pub spec_hash: SpecHash,
}

impl JobData<'_> {
    /// Loads the data and checks that it is what the coordinator saw.
    ///
    /// # Errors
    /// If it can't be read, is something else, or `abort` was raised; before it is read, if this host's
    /// processor can't compute what the job asks for.
    pub fn load(&self, abort: &AbortSignal) -> Result<Dataset, RankError> {
        check_precision(self.spec.train.precision).map_err(TrainError::from)?;
        let hook = |_: BytesRead| match abort.reason() {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        };
        let options = ReadOptions {
            progress: Some(&hook),
            ..ReadOptions::default()
        };
        let loaded = Dataset::load(&self.spec.data, self.spec.model.loss, &options);
        if let Some(reason) = abort.reason() {
            return Err(TrainError::Aborted {
                reason: reason.to_owned(),
            }
            .into());
        }
        let dataset = loaded?;
        if dataset.info() != self.dataset {
            let difference = difference(self.dataset, dataset.info());
            return Err(RankError::OtherData(difference));
        }
        if self.spec.hash(dataset.info()) != self.spec_hash {
            return Err(RankError::OtherData(
                "the job's spec hash is not the coordinator's: install the same version of \
                 ringfold on both"
                    .to_owned(),
            ));
        }
        Ok(dataset)
    }
}

/// Why a rank ended before its job did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RankError {
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("{0}")]
    OtherData(String),
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl RankError {
    /// `None` if the coordinator asked for the end.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Train(error) => error.cause(),
            Self::OtherData(_) | Self::Keys(_) => Some(Cause::Error(self.to_string())),
        }
    }
}

impl From<StorageError> for RankError {
    fn from(error: StorageError) -> Self {
        Self::Train(error.into())
    }
}

/// How this host's data differs from what the coordinator saw.
fn difference(expected: &DatasetInfo, got: &DatasetInfo) -> String {
    let counts = |info: &DatasetInfo| {
        format!(
            "{} training and {} test records of {} features with {} outputs",
            info.train_records,
            info.test_records,
            info.features,
            info.target.outputs()
        )
    };
    let (coordinator, here) = (counts(expected), counts(got));
    if coordinator == here {
        return format!(
            "the dataset differs from the coordinator's: both have {here}, but not the same bytes"
        );
    }
    format!("the dataset differs from the coordinator's: it saw {coordinator}, here are {here}")
}
