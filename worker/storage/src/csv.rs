//! CSV files, record by record.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;

use ::csv::{ByteRecord, ReaderBuilder, Terminator};

use crate::error::{FieldRole, StorageError};
use crate::limits::Limits;
use crate::stream::{FileStream, Pass};
use crate::table::{Field, Table};

/// A CSV file of which the columns are known and the records are read one after the other.
///
/// Columns are those of the header, else of the first record; every record has as many fields.
pub(crate) struct CsvFile<'p> {
    reader: ::csv::Reader<RecordStream<'p>>,
    /// The current record.
    record: ByteRecord,
    /// The names of the columns.
    names: Option<Vec<String>>,
    columns: usize,
    /// The first record was read to count columns: it is the next one.
    is_ahead: bool,
    /// The number of the current record, from 1; 0 for the header.
    number: u64,
    /// The line after the record before the current one.
    line_before: u64,
    limits: Limits,
}

impl<'p> CsvFile<'p> {
    /// Opens the file and learns its columns. A file without a record is refused.
    pub fn open(
        pass: &'p Pass<'p>,
        path: &Path,
        header: bool,
        delimiter: u8,
    ) -> Result<Self, StorageError> {
        let stream = RecordStream {
            stream: FileStream::open(pass, path)?,
            allowance: Cell::new(0),
            record_bytes_max: pass.limits.record_bytes_max,
            state: StreamState::Start,
        };
        // Only LF ends a record, so that the reader's line count is exact; a CR before it is
        // trimmed with the blanks.
        let reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .terminator(Terminator::Any(b'\n'))
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(Limits::BUFFER_BYTES)
            .from_reader(stream);
        let mut file = Self {
            reader,
            record: ByteRecord::new(),
            names: None,
            columns: 0,
            is_ahead: false,
            number: 0,
            line_before: 1,
            limits: pass.limits,
        };
        if header && file.read_record()? {
            file.names = Some(file.header_names()?);
            file.columns = file.record.len();
        }
        if !file.read_record()? {
            return Err(StorageError::NoRecords {
                path: path.to_owned(),
            });
        }
        if !header {
            file.columns = file.record.len();
        }
        file.is_ahead = true;
        Ok(file)
    }

    fn header_names(&self) -> Result<Vec<String>, StorageError> {
        let name = |(column, field)| {
            let text = std::str::from_utf8(trim(field));
            text.map(str::to_owned).map_err(|_| StorageError::NotUtf8 {
                place: self.place(column, FieldRole::Header),
            })
        };
        self.record.iter().enumerate().map(name).collect()
    }

    /// The line where the current record starts, from 1.
    fn first_line(&self) -> u64 {
        // The stream ends every record with a line break; other breaks of it are in its fields. If
        // a quote is still open at the end of the file, the last one is in a field too.
        let breaks = self.record.as_slice().iter().filter(|&&byte| byte == b'\n');
        let line = (self.reader.position().line() - 1).saturating_sub(breaks.count() as u64);
        line.max(self.line_before)
    }

    /// Reads the next record that isn't blank; false at the end of the file.
    fn read_record(&mut self) -> Result<bool, StorageError> {
        loop {
            let allowance = self.limits.record_bytes_max;
            self.reader.get_ref().allowance.set(allowance);
            self.line_before = self.reader.position().line();
            match self.reader.read_byte_record(&mut self.record) {
                Ok(false) => return Ok(false),
                Ok(true) if self.record.len() == 1 && trim(&self.record[0]).is_empty() => {}
                Ok(true) => return Ok(true),
                Err(error) => return Err(self.read_error(error)),
            }
        }
    }

    fn read_error(&self, error: ::csv::Error) -> StorageError {
        let source = match error.into_kind() {
            ::csv::ErrorKind::Io(source) => source,
            // None of the others can come of reading bytes with flexible lengths.
            kind => io::Error::other(format!("{kind:?}")),
        };
        match StorageError::from_read(self.path(), source) {
            StorageError::RecordTooLong {
                path, bytes_max, ..
            } => StorageError::RecordTooLong {
                path,
                line: self.line_before,
                bytes_max,
            },
            error => error,
        }
    }
}

impl Table for CsvFile<'_> {
    fn path(&self) -> &Path {
        self.reader.get_ref().stream.path()
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    fn advance(&mut self) -> Result<bool, StorageError> {
        if !std::mem::take(&mut self.is_ahead) && !self.read_record()? {
            return Ok(false);
        }
        self.number += 1;
        self.limits.check_records(self.path(), self.number)?;
        if self.record.len() != self.columns {
            return Err(StorageError::RaggedRecord {
                path: self.path().to_owned(),
                line: self.first_line(),
                record: self.number,
                expected: self.columns,
                got: self.record.len(),
            });
        }
        Ok(true)
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn line(&self) -> Option<u64> {
        Some(self.first_line())
    }

    fn record(&self) -> u64 {
        self.number
    }

    /// Text without blanks around it.
    fn field(&self, column: usize, role: FieldRole) -> Result<Field<'_>, StorageError> {
        let field = trim(&self.record[column]);
        if field.is_empty() {
            return Ok(Field::Missing);
        }
        let text = std::str::from_utf8(field).map_err(|_| StorageError::NotUtf8 {
            place: self.place(column, role),
        });
        text.map(Field::Text)
    }
}

/// A field without blanks around it, and without the CR of a CRLF line end.
fn trim(field: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let start = field
        .iter()
        .position(|byte| !is_blank(byte))
        .unwrap_or(field.len());
    let end = field
        .iter()
        .rposition(|byte| !is_blank(byte))
        .map_or(start, |last| last + 1);
    &field[start..end]
}

/// The bytes of a CSV file, with a line break added at the end if there is none: so every record
/// ends in one. A quote that is still open then shows up as a line break in its field.
struct RecordStream<'p> {
    stream: FileStream<'p>,
    /// Bytes that may still be read for the current record.
    allowance: Cell<u64>,
    record_bytes_max: u64,
    state: StreamState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamState {
    /// No byte was read.
    Start,
    /// Bytes were read, the last was a line break or not.
    Within { at_line_start: bool },
    /// All was read.
    End,
}

impl Read for RecordStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.state == StreamState::End || buffer.is_empty() {
            return Ok(0);
        }
        if self.allowance.get() == 0 {
            return Err(io::Error::other(StorageError::RecordTooLong {
                path: self.stream.path().to_owned(),
                line: 0,
                bytes_max: self.record_bytes_max,
            }));
        }
        // Full reads: the first must hold the whole byte order mark for it to be seen.
        let count = self.stream.read_full(buffer).map_err(io::Error::other)?;
        if count == 0 {
            let ends_line = self.state
                != StreamState::Within {
                    at_line_start: false,
                };
            self.state = StreamState::End;
            if ends_line {
                return Ok(0);
            }
            buffer[0] = b'\n';
            return Ok(1);
        }
        self.state = StreamState::Within {
            at_line_start: buffer[count - 1] == b'\n',
        };
        let left = self.allowance.get().saturating_sub(count as u64);
        self.allowance.set(left);
        Ok(count)
    }
}
