//! `metrics.jsonl`: one JSON object a line, as training goes on.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::StorageError;

/// Writes `metrics.jsonl`. A line is in the file as soon as [`MetricsWriter::write`] returns; a
/// process that dies leaves whole lines, but for the last.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
}

impl MetricsWriter {
    /// The file's name in the output directory.
    pub const FILE_NAME: &'static str = "metrics.jsonl";

    /// Starts an empty file in `dir`, in place of that of an earlier run.
    ///
    /// # Errors
    /// [`StorageError::Write`].
    pub fn create(dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join(Self::FILE_NAME);
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(StorageError::Write { path, source }),
        }
    }

    /// Appends `object` as one line. Numbers that are not finite become `null`.
    ///
    /// # Errors
    /// [`StorageError::Unserialisable`], [`StorageError::NotAnObject`], [`StorageError::Write`].
    pub fn write(&mut self, object: &impl Serialize) -> Result<(), StorageError> {
        let mut line =
            serde_json::to_vec(object).map_err(|source| StorageError::Unserialisable {
                path: self.path.clone(),
                source,
            })?;
        if line.first() != Some(&b'{') {
            return Err(StorageError::NotAnObject {
                path: self.path.clone(),
            });
        }
        line.push(b'\n');
        // One write, so that a line is there or not.
        self.file
            .write_all(&line)
            .map_err(|source| StorageError::Write {
                path: self.path.clone(),
                source,
            })
    }
}
