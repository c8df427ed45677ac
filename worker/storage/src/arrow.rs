//! Tables of Arrow: Parquet files, and Arrow IPC as a file or a stream.
//!
//! A file is hashed whole before it is decoded, through one handle, batch by batch. The decoders are
//! other crates': what they panic at is a damaged file here.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ringfold_common::job::TableFormat;

use crate::arrow::columns::{ColumnKind, Values};
use crate::error::{Column, FieldRole, StorageError};
use crate::limits::Limits;
use crate::stream::{Pass, hash_plain};
use crate::table::{Field, Table};

mod columns;

/// The first bytes of an Arrow IPC file; a stream has none.
const FILE_MAGIC: &[u8; 6] = b"ARROW1";

/// Values of one batch that is decoded at once, so far as rows of a table are that short.
const BATCH_VALUES: usize = 1 << 20;

/// Rows of such a batch, at most.
const BATCH_ROWS_MAX: usize = 1 << 13;

/// A table whose batches are decoded one after the other.
pub(crate) struct ArrowFile {
    path: PathBuf,
    format: TableFormat,
    batches: Box<dyn RecordBatchReader>,
    /// What each column of the schema holds.
    kinds: Vec<ColumnKind>,
    /// Names of the columns, those of fixed-size lists spread.
    names: Vec<String>,
    /// For each of them its column of the schema, and its place in that.
    places: Vec<(u32, u32)>,
    /// The columns of the current batch.
    batch: Vec<Values>,
    rows: usize,
    /// The current row of the batch.
    row: usize,
    /// The first batch was read: its first row is the next one.
    is_ahead: bool,
    record: u64,
    limits: Limits,
}

impl ArrowFile {
    /// Opens the file and learns its columns. A file without a record is refused.
    pub fn open(pass: &Pass<'_>, path: &Path, format: TableFormat) -> Result<Self, StorageError> {
        let file = hash_plain(pass, path, format.name())?;
        let batches = caught(path, format, 0, || open_batches(file, format))?;
        let schema = batches.schema();
        let mut table = Self {
            path: path.to_owned(),
            format,
            batches,
            kinds: Vec::new(),
            names: Vec::new(),
            places: Vec::new(),
            batch: Vec::new(),
            rows: 0,
            row: 0,
            is_ahead: true,
            record: 0,
            limits: pass.limits,
        };
        for (index, field) in schema.fields().iter().enumerate() {
            let Some(kind) = ColumnKind::of(field.data_type()) else {
                return Err(StorageError::ColumnType {
                    path: path.to_owned(),
                    column: Column {
                        index: table.names.len(),
                        name: Some(field.name().clone()),
                    },
                    got: field.data_type().to_string(),
                });
            };
            table.add_column(index, field.name(), kind)?;
        }
        if !table.next_batch()? {
            return Err(StorageError::NoRecords {
                path: path.to_owned(),
            });
        }
        Ok(table)
    }

    fn add_column(
        &mut self,
        index: usize,
        name: &str,
        kind: ColumnKind,
    ) -> Result<(), StorageError> {
        let columns = (self.names.len() as u64).saturating_add(kind.width());
        // One more may be the label.
        if columns > u64::from(self.limits.features_max) + 1 {
            return Err(StorageError::TooManyFeatures {
                path: self.path.clone(),
                features: columns,
                features_max: self.limits.features_max,
            });
        }
        if kind.dims().is_empty() {
            self.names.push(name.to_owned());
            self.places.push((index as u32, 0));
        } else {
            for place in 0..kind.width() {
                self.names.push(format!("{name}[{place}]"));
                self.places.push((index as u32, place as u32));
            }
        }
        self.kinds.push(kind);
        Ok(())
    }

    /// Decodes the next batch that has a row; false at the end of the file.
    fn next_batch(&mut self) -> Result<bool, StorageError> {
        loop {
            let batches = &mut self.batches;
            let next = caught(&self.path, self.format, self.record, || {
                batches.next().transpose().map_err(Into::into)
            })?;
            let Some(batch) = next else {
                return Ok(false);
            };
            if batch.num_rows() > 0 {
                self.batch = caught(&self.path, self.format, self.record, || {
                    read_columns(&batch, &self.kinds)
                })?;
                (self.rows, self.row) = (batch.num_rows(), 0);
                return Ok(true);
            }
        }
    }
}

/// The batches of a file.
fn open_batches(
    mut file: File,
    format: TableFormat,
) -> Result<Box<dyn RecordBatchReader>, Box<dyn Error + Send + Sync>> {
    if format == TableFormat::Parquet {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let columns = builder.parquet_schema().num_columns().max(1);
        let rows = (BATCH_VALUES / columns).clamp(1, BATCH_ROWS_MAX);
        return Ok(Box::new(builder.with_batch_size(rows).build()?));
    }
    let mut magic = [0; FILE_MAGIC.len()];
    // A stream that is shorter is refused by its reader.
    let is_file = file.read_exact(&mut magic).is_ok() && magic == *FILE_MAGIC;
    file.rewind()?;
    let file = BufReader::with_capacity(Limits::BUFFER_BYTES, file);
    if is_file {
        Ok(Box::new(FileReader::try_new(file, None)?))
    } else {
        Ok(Box::new(StreamReader::try_new(file, None)?))
    }
}

fn read_columns(
    batch: &RecordBatch,
    kinds: &[ColumnKind],
) -> Result<Vec<Values>, Box<dyn Error + Send + Sync>> {
    if batch.num_columns() != kinds.len() {
        let (got, expected) = (batch.num_columns(), kinds.len());
        return Err(format!("a batch of {got} columns, the schema has {expected}").into());
    }
    let columns = batch.columns().iter().zip(kinds);
    columns
        .map(|(array, kind)| {
            Values::read(array, kind)
                .ok_or_else(|| format!("a column of {} in a batch", array.data_type()).into())
        })
        .collect()
}

/// What `decode` gives; its panics are errors of the file.
fn caught<T>(
    path: &Path,
    format: TableFormat,
    record: u64,
    decode: impl FnOnce() -> Result<T, Box<dyn Error + Send + Sync>>,
) -> Result<T, StorageError> {
    let result = catch_unwind(AssertUnwindSafe(decode));
    let source = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(source)) => source,
        Err(_) => "the decoder gave up".into(),
    };
    Err(StorageError::Undecodable {
        path: path.to_owned(),
        format: format.name(),
        record,
        source,
    })
}

impl Table for ArrowFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn columns(&self) -> usize {
        self.names.len()
    }

    fn names(&self) -> Option<&[String]> {
        Some(&self.names)
    }

    /// Those of the fixed-size list that all features are from.
    fn dims(&self, label: Option<usize>) -> Vec<u32> {
        let label = label.map(|label| self.places[label].0 as usize);
        let mut features = (0..self.kinds.len()).filter(|&column| Some(column) != label);
        match (features.next(), features.next()) {
            (Some(column), None) => self.kinds[column].dims(),
            _ => Vec::new(),
        }
    }

    fn advance(&mut self) -> Result<bool, StorageError> {
        if !std::mem::take(&mut self.is_ahead) {
            self.row += 1;
            if self.row >= self.rows && !self.next_batch()? {
                return Ok(false);
            }
        }
        self.record += 1;
        self.limits.check_records(&self.path, self.record)?;
        Ok(true)
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn line(&self) -> Option<u64> {
        None
    }

    fn record(&self) -> u64 {
        self.record
    }

    fn field(&self, column: usize, _role: FieldRole) -> Result<Field<'_>, StorageError> {
        let (column, place) = self.places[column];
        Ok(self.batch[column as usize].field(self.row, place as usize))
    }
}
