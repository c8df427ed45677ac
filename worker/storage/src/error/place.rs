//! Where in a file something is, and how values are shown in errors.

use std::fmt;
use std::path::PathBuf;

use ringfold_common::job::ColumnRef;

/// A column or a feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its position, from 0, as in a job file.
    pub index: usize,
    /// Its name in the header, if there is one.
    pub name: Option<String>,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.index)?;
        match &self.name {
            Some(name) => write!(f, " ({})", quoted(name)),
            None => Ok(()),
        }
    }
}

/// How a whole file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// What a field is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldRole {
    /// The name of a column.
    Header,
    /// A feature: a number.
    Feature,
    /// A label that names a class: any text.
    ClassLabel,
    /// A label that is a number.
    ValueLabel,
}

impl FieldRole {
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Header => "a column name",
            Self::Feature => "a number",
            Self::ClassLabel => "a class label",
            Self::ValueLabel => "a number as the label",
        }
    }
}

/// One field of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPlace {
    /// The file.
    pub path: PathBuf,
    /// The line where the record starts, from 1; none in an IDX file.
    pub line: Option<u64>,
    /// The record, from 1, the header not counted; 0 is the header.
    pub record: u64,
    /// The column; none in an IDX file.
    pub column: Option<Column>,
    /// What the field is for.
    pub role: FieldRole,
}

impl fmt::Display for FieldPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match (self.line, self.record) {
            (Some(line), 0) => write!(f, "line {line} (header)")?,
            (Some(line), record) => write!(f, "line {line} (record {record})")?,
            (None, record) => write!(f, "record {record}")?,
        }
        match &self.column {
            Some(column) => write!(f, ", column {column}"),
            None => Ok(()),
        }
    }
}

/// The most characters of a user's text that an error repeats.
const SHOWN_CHARS_MAX: usize = 40;

/// Text in quotes, escaped, cut to a length that fits a line.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// `names` after `prefix`, with an ellipsis if there are more than those; nothing if there are
/// none.
pub(super) fn list(prefix: &str, names: &[String], total: usize) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let more = if total > names.len() { ", …" } else { "" };
    format!("{prefix}{}{more}", shown.join(", "))
}

pub(super) fn dims(sizes: &[u32]) -> String {
    let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
    sizes.join(" x ")
}

pub(super) fn label_text(label: &ColumnRef) -> String {
    match label {
        ColumnRef::Name(name) => quoted(name),
        ColumnRef::Index(index) => format!("{index} (counted from 0)"),
    }
}
