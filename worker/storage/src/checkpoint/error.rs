//! What can be wrong with a checkpoint.

use std::io;

/// A checkpoint that can't be written or read: which, and which file of it.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint {name}: {fault}")]
pub struct CheckpointError {
    /// The checkpoint's directory, or the store if it is none of one.
    pub name: String,
    /// What is wrong.
    pub fault: CheckpointFault,
}

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFault {
    /// The store failed.
    #[error("can't {action} {file}: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// With which file.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// It was never finished.
    #[error("it has no manifest: it was never finished")]
    Unfinished,
    /// The manifest isn't what was written.
    #[error("manifest.json was altered or cut short: {0}")]
    ManifestAltered(&'static str),
    /// The manifest has its hash, but isn't one that this version can read.
    #[error("manifest.json: {0}")]
    Manifest(String),
    /// A number that is over its limit, or doesn't fit the others.
    #[error("manifest.json: {what} is {got}: {expected}")]
    Number {
        /// Which number.
        what: String,
        /// Its value.
        got: u64,
        /// What is allowed.
        expected: String,
    },
    /// A part is missing.
    #[error("{file} is missing")]
    MissingPart {
        /// The file.
        file: String,
    },
    /// A part is too long or too short.
    #[error("{file} has {got} bytes, and {expected} in the manifest")]
    PartLength {
        /// The file.
        file: String,
        /// Its length.
        got: u64,
        /// As it was written.
        expected: u64,
    },
    /// A part isn't what was written.
    #[error("{file} was altered: bytes {start} to {end} don't have their hash")]
    PartAltered {
        /// The file.
        file: String,
        /// The first byte of the chunk.
        start: u64,
        /// The end of the chunk.
        end: u64,
    },
}

impl CheckpointFault {
    /// This fault of the checkpoint in directory `name`.
    #[must_use]
    pub fn of(self, name: impl Into<String>) -> CheckpointError {
        CheckpointError {
            name: name.into(),
            fault: self,
        }
    }
}
