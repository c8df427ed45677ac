//! What a user may do about an error, and its code at the edge.

use ringfold_common::error::ErrorCode;
use ringfold_common::job::ColumnRef;

use super::{FieldRole, StorageError};
use crate::model::ModelFiles;

impl StorageError {
    /// What a user may do about it, in one sentence.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::MissingFile { path }
                if [ModelFiles::MODEL, ModelFiles::WEIGHTS, ModelFiles::SOURCE]
                    .iter()
                    .any(|name| path.ends_with(name)) =>
            {
                "a model is the output directory of a job that has succeeded"
            }
            Self::MissingFile { .. } => {
                "paths in a job file are relative to the job file's directory, and must exist on \
                 every node that runs the job"
            }
            Self::PermissionDenied { .. } => {
                "the user that the worker or coordinator runs as must be allowed to read it"
            }
            Self::TruncatedCompression { .. }
            | Self::CorruptCompression { .. }
            | Self::IdxTruncated { .. } => "copy or download the file again",
            Self::CompressedWhole { .. } => "decompress it; columns may be compressed within it",
            Self::ColumnType { .. } => "leave the column out, or convert it to numbers or text",
            Self::MissingLabelColumn {
                nearest: Some(nearest),
                ..
            } => return Some(format!("did you mean {nearest:?}?")),
            Self::MissingLabelColumn { label, names, .. } => match label {
                ColumnRef::Name(_) if names.is_empty() => {
                    "a file without a header has no column names: name the label column by its \
                     number, from 0"
                }
                ColumnRef::Name(_) if names.iter().all(|name| name.parse::<f64>().is_ok()) => {
                    "if the first line is a record, set data.header = false and name the label \
                     column by its number"
                }
                ColumnRef::Name(_) => "set data.label to a column's name or number",
                ColumnRef::Index(_) => "columns count from 0; set data.label to a column's number",
            },
            Self::LabelColumnTwice { .. } => "name the label column by its number, from 0",
            Self::RaggedRecord { got: 1, .. } => "is data.delimiter the byte between fields?",
            Self::NotANumber { place, .. } => match place.role {
                FieldRole::Feature if place.record == 1 && place.line == Some(1) => {
                    "if the first line names the columns, set data.header = true"
                }
                FieldRole::ValueLabel => {
                    "for labels that name classes, set model.loss = \"cross_entropy\""
                }
                _ => "every feature must be a number; encode text as numbers first",
            },
            Self::EmptyField { .. } | Self::NotFinite { .. } => {
                "fill in or drop records with missing values first"
            }
            Self::LabelHasLineBreak { .. } | Self::RecordTooLong { .. } => {
                "is a quote left open before or in this record?"
            }
            Self::TooManyClasses { .. } => {
                "for labels that are numbers, set model.loss = \"mean_squared_error\""
            }
            Self::TextNotUtf8 { .. } | Self::TooManyCharacters { .. } => {
                "set data.tokeniser = \"byte\", which takes any file"
            }
            Self::UnknownCharacter { .. } => {
                "a model knows the characters of its training text only; one trained with \
                 data.tokeniser = \"byte\" takes any text"
            }
            Self::TextTooShort { .. } => "choose a smaller data.context, or add text",
            Self::LabelsAreClasses { .. } => "set model.loss = \"cross_entropy\"",
            Self::EmptySplit { .. } => "choose another data.test.fraction or add records",
            Self::WeightsDiffer { .. } => {
                "the files are of different runs, or one is damaged; train again or restore them"
            }
            Self::SourceDiffers { .. } => {
                "the file must be the same on every node that runs the job, and stay so until it ends"
            }
            Self::ModelVersion { .. } => "use the version of ringfold that wrote the model",
            Self::OutputIsAFile { .. }
            | Self::CreateDirectory { .. }
            | Self::NotWritable { .. } => "set output.dir to a directory that rank 0 may write to",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The code at the edge.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Cancelled => ErrorCode::Aborted,
            Self::MissingFile { .. } => ErrorCode::NotFound,
            Self::PermissionDenied { .. } | Self::NotWritable { .. } => ErrorCode::PermissionDenied,
            Self::FileTooLong { .. }
            | Self::TooManyRecords { .. }
            | Self::TooManyFeatures { .. }
            | Self::RecordTooLong { .. }
            | Self::TooManyClasses { .. }
            | Self::TooManyCharacters { .. } => ErrorCode::ResourceExhausted,
            Self::Read { .. } | Self::Write { .. } | Self::CreateDirectory { .. } => {
                ErrorCode::Unavailable
            }
            Self::Unserialisable { .. }
            | Self::NotAnObject { .. }
            | Self::TensorLength { .. }
            | Self::TensorTwice { .. } => ErrorCode::Internal,
            _ => ErrorCode::InvalidArgument,
        }
    }
}
