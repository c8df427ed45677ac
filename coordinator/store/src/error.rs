//! Why durable state can't be read or written.

use std::path::PathBuf;

use ringfold_common::error::ErrorCode;
use ringfold_common::ids::Revision;

/// An error of a store. Variants of a file store name the file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Someone else has written since: this coordinator is not the latest.
    #[error("commit at revision {expected}: the store is at revision {actual}")]
    RevisionMismatch {
        /// What the caller thought.
        expected: Revision,
        /// Where the store is.
        actual: Revision,
    },
    /// The directory can't be made or used.
    #[error("create the data directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has the file open.
    #[error("open {}: another coordinator has it open", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is of another version of Ringfold, or of none that this one knows.
    #[error("open {}: its schema is {found}, this version reads {supported}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// What its schema record says.
        found: String,
        /// What this version reads and writes.
        supported: u32,
    },
    /// A record is not what this version wrote.
    #[error("read {key} of {}: the record is corrupt", path.display())]
    CorruptRecord {
        /// The file.
        path: PathBuf,
        /// The record, as `table/key`.
        key: String,
        /// What is wrong with it.
        source: RecordError,
    },
    /// The file is damaged, or is no store at all.
    #[error("{action} {}: the file is damaged, or no store of Ringfold", path.display())]
    CorruptFile {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the database says.
        source: Box<redb::Error>,
    },
    /// Reading or writing failed.
    #[error("{action} {}", path.display())]
    Database {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the database says.
        source: Box<redb::Error>,
    },
}

impl StoreError {
    /// The code at the edge.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::RevisionMismatch { .. } => ErrorCode::Aborted,
            Self::Directory { .. } | Self::InUse { .. } | Self::Schema { .. } => {
                ErrorCode::FailedPrecondition
            }
            Self::CorruptRecord { .. } | Self::CorruptFile { .. } | Self::Database { .. } => {
                ErrorCode::Internal
            }
        }
    }
}

/// What is wrong with one record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is not there.
    #[error("it is missing")]
    Missing,
    /// It is not the JSON that was expected.
    #[error("it is not the JSON expected here")]
    Json(#[from] serde_json::Error),
    /// It is of another job than its key says.
    #[error("it is the record of {0}")]
    OtherJob(ringfold_common::ids::JobId),
}
