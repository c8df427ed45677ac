//! A job's dataset: training and test records of one or more files.

use ringfold_common::dataset::DatasetInfo;
use ringfold_common::job::{DataSpec, Loss};
use serde::{Deserialize, Serialize};

use crate::error::StorageError;
use crate::limits::ReadOptions;
use crate::records::Records;
use crate::scaler::Scaler;

/// What the columns of a dataset are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// Names of the features, in order, where a CSV header gives them.
    pub feature_names: Option<Vec<String>>,
    /// Name of the label, where a CSV header gives it.
    pub label_name: Option<String>,
    /// What the files look like, for readers of more such files.
    pub format: SourceFormat,
}

/// How records of a dataset lie in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceFormat {
    /// A CSV file.
    Csv {
        /// True if the first line names the columns.
        header: bool,
        /// The byte between fields.
        delimiter: u8,
        /// The label's column, from 0.
        label_column: u32,
    },
    /// A pair of IDX files.
    Idx,
}

/// Reads and validates the files that `spec` names, and says what they hold. Keeps no record.
///
/// # Errors
/// The first thing that is wrong, in the order of the files; or
/// [`StorageError::Cancelled`] if the hook of `options` asked for it.
pub fn inspect(
    spec: &DataSpec,
    loss: Loss,
    options: &ReadOptions<'_>,
) -> Result<DatasetInfo, StorageError> {
    let _ = (spec, loss, options);
    unimplemented!()
}

/// A dataset in memory, with the scaler fitted on its training records.
#[derive(Clone, Debug)]
pub struct Dataset {
    info: DatasetInfo,
    columns: Columns,
    scaler: Scaler,
    train: Records,
    test: Records,
}

impl Dataset {
    /// Reads the files that `spec` names: the pass of [`inspect`], with the records kept. Features
    /// of IDX files take one byte in memory, those of CSV files four.
    ///
    /// # Errors
    /// Those of [`inspect`], and those of fitting the scaler: [`StorageError::Divisor`],
    /// [`StorageError::Unscalable`].
    pub fn load(
        spec: &DataSpec,
        loss: Loss,
        options: &ReadOptions<'_>,
    ) -> Result<Self, StorageError> {
        let _ = (spec, loss, options);
        unimplemented!()
    }

    /// What [`inspect`] says of the same files.
    #[must_use]
    pub fn info(&self) -> &DatasetInfo {
        &self.info
    }

    /// What the columns are.
    #[must_use]
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Fitted on the training records.
    #[must_use]
    pub fn scaler(&self) -> &Scaler {
        &self.scaler
    }

    /// The training records.
    #[must_use]
    pub fn train(&self) -> &Records {
        &self.train
    }

    /// The test records; empty if the job names no test data.
    #[must_use]
    pub fn test(&self) -> &Records {
        &self.test
    }
}
