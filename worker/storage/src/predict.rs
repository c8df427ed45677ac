//! Further data for a saved model.

use std::path::Path;

use crate::error::{Column, StorageError};
use crate::limits::ReadOptions;
use crate::model::ModelDescription;
use crate::records::{Features, Records};

/// Records to predict labels for.
#[derive(Clone, Debug, PartialEq)]
pub struct Unlabelled {
    /// Their features, unscaled: gather them with the model's scaler.
    pub features: Features,
    /// The label column, if the file has one: it was not read.
    pub ignored_label: Option<Column>,
}

/// Files of labelled records, in the format of the model's training data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelledFiles<'a> {
    /// A CSV file with the header, delimiter and columns of the training file.
    Csv(&'a Path),
    /// A pair of IDX files.
    Idx {
        /// The images.
        images: &'a Path,
        /// The labels.
        labels: &'a Path,
    },
}

/// Reads records to predict labels for. A CSV file holds the model's feature columns in their
/// order, with the label's column among them or without: told by the name of the label where the
/// model has a header, else by the number of columns. An IDX file holds images.
///
/// # Errors
/// Those of [`inspect`](crate::inspect) about features, and those about columns that differ from
/// the model's.
pub fn read_unlabelled(
    path: &Path,
    description: &ModelDescription,
    options: &ReadOptions<'_>,
) -> Result<Unlabelled, StorageError> {
    let _ = (path, description, options);
    unimplemented!()
}

/// Reads labelled records to evaluate a model on. Class labels become the model's class numbers.
///
/// # Errors
/// Those of [`inspect`](crate::inspect), those about columns that differ from the model's,
/// [`StorageError::FormatsDiffer`], and [`StorageError::UnknownLabel`].
pub fn read_labelled(
    files: &LabelledFiles<'_>,
    description: &ModelDescription,
    options: &ReadOptions<'_>,
) -> Result<Records, StorageError> {
    let _ = (files, description, options);
    unimplemented!()
}
