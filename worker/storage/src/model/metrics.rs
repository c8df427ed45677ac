//! `metrics.jsonl`: one JSON object a line, as training goes on.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::StorageError;

/// The most bytes of a line that is kept.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// The length of the whole lines at the start whose step is before `step`.
fn bytes_before(step: u64, mut file: impl BufRead) -> io::Result<u64> {
    let (mut kept, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let mut rest = (&mut file).take(LINE_BYTES_MAX);
        let len = rest.read_until(b'\n', &mut line)?;
        let parsed = serde_json::from_slice::<OfStep>(&line);
        if !line.ends_with(b"\n") || parsed.is_ok_and(|line| line.step >= step) {
            return Ok(kept);
        }
        kept += len as u64;
    }
}

/// What a line says of its step.
#[derive(Deserialize)]
struct OfStep {
    step: u64,
}

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

    /// Goes on with the file in `dir` of a run that is continued after `step`: keeps its whole lines
    /// whose `step` is less, and drops the others, which are written again. Without a file, or from
    /// step 0 on, as [`create`](Self::create).
    ///
    /// # Errors
    /// [`StorageError::Write`].
    pub fn go_on(dir: &Path, step: u64) -> Result<Self, StorageError> {
        let path = dir.join(Self::FILE_NAME);
        if step == 0 || !path.exists() {
            return Self::create(dir);
        }
        let open = || -> io::Result<File> {
            let kept = bytes_before(step, BufReader::new(File::open(&path)?))?;
            let file = File::options().append(true).open(&path)?;
            file.set_len(kept)?;
            Ok(file)
        };
        match open() {
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
