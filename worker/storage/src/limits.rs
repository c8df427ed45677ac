//! Caps on what is read, and the hook that watches a long read.

use std::ops::ControlFlow;
use std::path::Path;

use ringfold_common::vocabulary::CHARACTERS_MAX;

use crate::error::StorageError;

/// Caps on a dataset. Each is far above what this version is tested at; tests lower them to see
/// the full case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file, decompressed. By default [`Limits::FILE_BYTES_MAX`].
    pub file_bytes_max: u64,
    /// Records of one file. By default [`Limits::RECORDS_MAX`].
    pub records_max: u64,
    /// Features of one record. By default [`Limits::FEATURES_MAX`].
    pub features_max: u32,
    /// Bytes of one CSV record, rounded up to [`Limits::BUFFER_BYTES`]. By default
    /// [`Limits::RECORD_BYTES_MAX`].
    pub record_bytes_max: u64,
    /// Bytes of one class label. By default [`Limits::LABEL_BYTES_MAX`].
    pub label_bytes_max: usize,
    /// Distinct class labels. By default [`Limits::CLASSES_MAX`].
    pub classes_max: usize,
    /// Distinct characters of a text; at most [`CHARACTERS_MAX`]. By default that.
    pub characters_max: usize,
}

impl Limits {
    /// 64 GiB.
    pub const FILE_BYTES_MAX: u64 = 1 << 36;
    /// 2^32.
    pub const RECORDS_MAX: u64 = 1 << 32;
    /// 2^20.
    pub const FEATURES_MAX: u32 = 1 << 20;
    /// 16 MiB.
    pub const RECORD_BYTES_MAX: u64 = 1 << 24;
    /// 1 KiB.
    pub const LABEL_BYTES_MAX: usize = 1 << 10;
    /// 65,536.
    pub const CLASSES_MAX: usize = 1 << 16;
    /// Bytes that are read at once.
    pub const BUFFER_BYTES: usize = 1 << 16;
}

impl Limits {
    /// Checks the number of a file's records, or of those that were seen so far.
    pub(crate) fn check_records(&self, path: &Path, records: u64) -> Result<(), StorageError> {
        let records_max = self.records_max;
        if records <= records_max {
            return Ok(());
        }
        Err(StorageError::TooManyRecords {
            path: path.to_owned(),
            records_max,
        })
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes_max: Self::FILE_BYTES_MAX,
            records_max: Self::RECORDS_MAX,
            features_max: Self::FEATURES_MAX,
            record_bytes_max: Self::RECORD_BYTES_MAX,
            label_bytes_max: Self::LABEL_BYTES_MAX,
            classes_max: Self::CLASSES_MAX,
            characters_max: CHARACTERS_MAX,
        }
    }
}

/// How far a read has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesRead {
    /// Bytes read from disk so far, over all files.
    pub read: u64,
    /// Bytes on disk of all files that will be read.
    pub total: u64,
}

/// Called about once a MiB. [`ControlFlow::Break`] ends the read with
/// [`StorageError::Cancelled`](crate::StorageError::Cancelled).
pub type ProgressHook<'a> = &'a dyn Fn(BytesRead) -> ControlFlow<()>;

/// How to read.
#[derive(Clone, Copy, Default)]
pub struct ReadOptions<'a> {
    /// Caps.
    pub limits: Limits,
    /// Watches the read, and may end it.
    pub progress: Option<ProgressHook<'a>>,
}
