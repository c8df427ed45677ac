//! Job files: TOML to [`JobSpec`].
//!
//! [`parse`] reads the text, lays the overrides of the command line over it, checks every key and
//! every value, and makes paths absolute. It touches no file. An error names the file, the line,
//! the key, what was expected and what was found; nothing is guessed.
//!
//! Every key and its default is listed in `docs/job-file.md`.

mod document;
mod reader;
mod tables;

use std::fmt;

use crate::job::{JobSpec, SpecError};
use document::Document;

/// The most bytes that a job file may have.
pub const JOB_FILE_BYTES_MAX: usize = 1 << 20;

/// One `KEY=VALUE` laid over the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The flag that asked for it, as an error names it, such as `--workers 3`.
    pub flag: String,
    /// The dotted key, such as `train.global_batch`.
    pub key: String,
    /// The value as TOML; what does not parse is taken as a string.
    pub value: String,
}

/// Where in the user's input an error is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A place in the job file, from 1.
    File {
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// A flag of the command line.
    Flag(String),
}

/// What is wrong with a job file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFileError {
    /// The file, as the user named it.
    pub file: String,
    /// Where in it, or which flag.
    pub origin: Origin,
    /// What is wrong there.
    pub kind: JobFileErrorKind,
}

/// What is wrong at one place of a job file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobFileErrorKind {
    /// The text is not TOML.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// The file is too large to be a job file.
    #[error("{bytes} bytes: a job file has at most {JOB_FILE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A key that no job file has.
    #[error("unknown key `{key}`{}; expected one of: {}", suggestion(.similar), .allowed.join(", "))]
    UnknownKey {
        /// The key with its tables.
        key: String,
        /// A known key that looks like it.
        similar: Option<&'static str>,
        /// The keys known at this place.
        allowed: Vec<&'static str>,
    },
    /// A key that must be there.
    #[error("missing key `{key}`: expected {expected}")]
    MissingKey {
        /// The key with its tables.
        key: String,
        /// What its value would be.
        expected: String,
    },
    /// A value that can't be right.
    #[error("`{key}` is {got}: expected {expected}")]
    BadValue {
        /// The key with its tables.
        key: String,
        /// What would have been right.
        expected: String,
        /// What it is.
        got: String,
    },
    /// Two keys that exclude each other.
    #[error("`{key}` and `{other}` exclude each other: keep one")]
    Exclusive {
        /// One key.
        key: String,
        /// The other.
        other: String,
    },
    /// A key that doesn't fit what lies outside the file, such as the data.
    #[error("{0}")]
    Refused(String),
}

fn suggestion(similar: &Option<&'static str>) -> String {
    similar
        .map(|key| format!(" (did you mean `{key}`?)"))
        .unwrap_or_default()
}

impl fmt::Display for JobFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File { line, column } => write!(f, "{}:{line}:{column}: ", self.file)?,
            Origin::Flag(flag) => write!(f, "{flag}: ")?,
        }
        self.kind.fmt(f)
    }
}

impl std::error::Error for JobFileError {}

/// A job file that was read, which knows where each of its keys stands.
#[derive(Clone, Debug)]
pub struct JobFile {
    /// The job that it asks for, with absolute paths.
    pub spec: JobSpec,
    file: String,
    document: Document,
}

impl JobFile {
    /// Reads a job file.
    ///
    /// `file` is the file's name as the user gave it, for errors. `base_dir` is the absolute path of
    /// the directory that holds it: relative paths in the file start there.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(
        text: &str,
        file: &str,
        base_dir: &str,
        overrides: &[Override],
    ) -> Result<Self, JobFileError> {
        let in_file = |origin, kind| JobFileError {
            file: file.to_owned(),
            origin,
            kind,
        };
        if text.len() > JOB_FILE_BYTES_MAX {
            let kind = JobFileErrorKind::TooLarge { bytes: text.len() };
            return Err(in_file(Origin::File { line: 1, column: 1 }, kind));
        }
        let mut document = Document::parse(text).map_err(|(origin, kind)| in_file(origin, kind))?;
        for change in overrides {
            document
                .set(change)
                .map_err(|(origin, kind)| in_file(origin, kind))?;
        }
        let mut spec = tables::job(&document.root, default_name(file))
            .map_err(|(origin, kind)| in_file(origin, kind))?;
        spec.validate()
            .map_err(|error| in_file(document.locate(&error.field), bad_value(error)))?;
        tables::resolve_paths(&mut spec, base_dir);
        Ok(Self {
            spec,
            file: file.to_owned(),
            document,
        })
    }

    /// The error of a key that can't be right for a reason that lies outside the file: at the key, or
    /// the table nearest to it.
    #[must_use]
    pub fn refused(&self, key: &str, reason: String) -> JobFileError {
        JobFileError {
            file: self.file.clone(),
            origin: self.document.locate(key),
            kind: JobFileErrorKind::Refused(reason),
        }
    }
}

/// The job of a file: [`JobFile::parse`].
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(
    text: &str,
    file: &str,
    base_dir: &str,
    overrides: &[Override],
) -> Result<JobSpec, JobFileError> {
    JobFile::parse(text, file, base_dir, overrides).map(|file| file.spec)
}

/// The name of a job whose file gives none: the file's name without `.toml`.
fn default_name(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    let stem = name.strip_suffix(".toml").unwrap_or(name);
    if stem.is_empty() { "job" } else { stem }
}

fn bad_value(error: SpecError) -> JobFileErrorKind {
    JobFileErrorKind::BadValue {
        key: error.field.into_owned(),
        expected: error.expected,
        got: error.got,
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod train_tests;
