//! The seam between a file's format and what reads its records: a [`Table`] is read record by record,
//! and says of every field what it is. Layouts, labels, parts, prediction and `inspect` know no format.

use std::borrow::Cow;
use std::path::Path;

use ringfold_common::job::{DataSource, TableFormat};

use crate::arrow::ArrowFile;
use crate::csv::CsvFile;
use crate::error::{Column, FieldPlace, FieldRole, StorageError};
use crate::jsonl::JsonlFile;
use crate::limits::Limits;
use crate::stream::Pass;

/// One field of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Field<'a> {
    /// Nothing is there.
    Missing,
    /// Text; never empty.
    Text(&'a str),
    /// Decimal digits, read as 32-bit floating point directly: rounded once.
    Decimal(&'a str),
    /// True or false: 1 or 0 as a number.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// A number of 32 bits, or fewer.
    Single(f32),
    /// A number of 64 bits.
    Double(f64),
}

/// A file of records with named or numbered columns, read one record after the other.
///
/// It is open before its first record; [`Table::advance`] goes on to it. Every record has as many
/// fields as there are columns, and a table has a record.
pub(crate) trait Table {
    /// The file.
    fn path(&self) -> &Path;

    /// Fields of a record.
    fn columns(&self) -> usize;

    /// Names of the columns, if they have any.
    fn names(&self) -> Option<&[String]>;

    /// The dimensions of a record without the column `label`, if the file gives them.
    fn dims(&self, _label: Option<usize>) -> Vec<u32> {
        Vec::new()
    }

    /// Goes to the next record; false at the end of the file.
    fn advance(&mut self) -> Result<bool, StorageError>;

    /// The caps of the pass.
    fn limits(&self) -> &Limits;

    /// The line where the current record starts, from 1, in a file of lines.
    fn line(&self) -> Option<u64>;

    /// The number of the current record, from 1.
    fn record(&self) -> u64;

    /// A field of the current record. `role` is for errors.
    fn field(&self, column: usize, role: FieldRole) -> Result<Field<'_>, StorageError>;

    /// The place of a column of the current record.
    fn place(&self, column: usize, role: FieldRole) -> Box<FieldPlace> {
        Box::new(FieldPlace {
            path: self.path().to_owned(),
            line: self.line(),
            record: self.record(),
            column: Some(Column {
                index: column,
                name: self.names().and_then(|names| names.get(column).cloned()),
            }),
            role,
        })
    }

    /// Appends the numbers of the current record's columns, but for `label`, to `out`.
    fn features(&self, label: Option<usize>, out: &mut Vec<f32>) -> Result<(), StorageError> {
        for column in (0..self.columns()).filter(|&column| Some(column) != label) {
            out.push(self.number_at(column, FieldRole::Feature)?);
        }
        Ok(())
    }

    /// The finite number in a column of the current record.
    fn number_at(&self, column: usize, role: FieldRole) -> Result<f32, StorageError> {
        let field = self.field(column, role)?;
        let number = match field {
            Field::Missing => {
                return Err(StorageError::EmptyField {
                    place: self.place(column, role),
                });
            }
            Field::Text(text) | Field::Decimal(text) => {
                text.parse::<f32>().map_err(|_| StorageError::NotANumber {
                    place: self.place(column, role),
                    text: text.to_owned(),
                })?
            }
            Field::Bool(value) => f32::from(u8::from(value)),
            Field::Integer(value) => value as f32,
            Field::Single(value) => value,
            Field::Double(value) => value as f32,
        };
        if number.is_finite() {
            return Ok(number);
        }
        Err(StorageError::NotFinite {
            place: self.place(column, role),
            text: field.to_text().into_owned(),
        })
    }

    /// The class label in a column of the current record: text as it is, numbers in decimal.
    fn class_at(&self, column: usize) -> Result<Cow<'_, str>, StorageError> {
        let role = FieldRole::ClassLabel;
        let field = self.field(column, role)?;
        if field == Field::Missing {
            return Err(StorageError::EmptyField {
                place: self.place(column, role),
            });
        }
        let text = field.to_text();
        if text.contains('\n') {
            return Err(StorageError::LabelHasLineBreak {
                place: self.place(column, role),
                text: text.into_owned(),
            });
        }
        let bytes_max = self.limits().label_bytes_max;
        if text.len() > bytes_max {
            return Err(StorageError::LabelTooLong {
                place: self.place(column, role),
                text: text.into_owned(),
                bytes_max,
            });
        }
        Ok(text)
    }
}

impl<'a> Field<'a> {
    /// Text without blanks around it.
    pub fn of_text(text: &'a str) -> Self {
        match text.trim() {
            "" => Self::Missing,
            text => Self::Text(text),
        }
    }

    /// What a person would write for it; nothing for a missing one.
    pub fn to_text(self) -> Cow<'a, str> {
        match self {
            Self::Missing => Cow::Borrowed(""),
            Self::Text(text) | Self::Decimal(text) => Cow::Borrowed(text),
            Self::Bool(true) => Cow::Borrowed("true"),
            Self::Bool(false) => Cow::Borrowed("false"),
            Self::Integer(value) => Cow::Owned(value.to_string()),
            Self::Single(value) => Cow::Owned(value.to_string()),
            Self::Double(value) => Cow::Owned(value.to_string()),
        }
    }
}

/// How the file of a table is opened: what a job file, or a saved model, says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opener {
    /// Lines of fields.
    Csv {
        /// True if the first line names the columns.
        header: bool,
        /// The byte between fields.
        delimiter: u8,
    },
    /// A file that says how its columns lie.
    Table(TableFormat),
}

impl Opener {
    /// The opener of a source, if it is a table.
    pub fn of(source: &DataSource) -> Option<Self> {
        match source {
            DataSource::Csv(csv) => Some(Self::Csv {
                header: csv.header,
                delimiter: csv.delimiter,
            }),
            DataSource::Table(table) => Some(Self::Table(table.format)),
            DataSource::Idx(_) | DataSource::Text(_) => None,
        }
    }

    /// Opens a file and learns its columns. A file without a record is refused.
    pub fn open<'p>(
        self,
        pass: &'p Pass<'p>,
        path: &Path,
    ) -> Result<Box<dyn Table + 'p>, StorageError> {
        Ok(match self {
            Self::Csv { header, delimiter } => {
                Box::new(CsvFile::open(pass, path, header, delimiter)?)
            }
            Self::Table(TableFormat::Jsonl) => Box::new(JsonlFile::open(pass, path)?),
            Self::Table(format @ (TableFormat::Parquet | TableFormat::Arrow)) => {
                Box::new(ArrowFile::open(pass, path, format)?)
            }
        })
    }

    /// Its name in a job file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv { .. } => "csv",
            Self::Table(format) => format.name(),
        }
    }
}
