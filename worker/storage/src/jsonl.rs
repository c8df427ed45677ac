//! JSON lines: one object a line, of which every value is a number, a text, true, false or null.
//!
//! Columns are the keys of the first object, in its order. Later objects may have them in any order
//! and leave some out, which are missing then, as null is. Blank lines are skipped.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{FieldRole, StorageError};
use crate::limits::Limits;
use crate::stream::{FileStream, Pass};
use crate::table::{Field, Table};

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// A file of JSON lines whose columns are known.
pub(crate) struct JsonlFile<'p> {
    stream: BufReader<FileStream<'p>>,
    path: Box<Path>,
    names: Vec<String>,
    /// The column of each name.
    columns: HashMap<String, usize>,
    /// The current line.
    line: Vec<u8>,
    /// Its number, from 1.
    line_number: u64,
    /// The values of the current record, by column.
    values: Vec<Value>,
    /// The digits and letters of those values.
    text: String,
    /// The first record was read to learn the columns: it is the next one.
    is_ahead: bool,
    record: u64,
    limits: Limits,
}

/// One value; text lies in the record's.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Missing,
    Bool(bool),
    Decimal(Range<usize>),
    Text(Range<usize>),
    /// A list or an object.
    Nested,
}

impl<'p> JsonlFile<'p> {
    /// Opens the file and learns its columns. A file without a record is refused.
    pub fn open(pass: &'p Pass<'p>, path: &Path) -> Result<Self, StorageError> {
        let stream = FileStream::open(pass, path)?;
        let mut file = Self {
            stream: BufReader::with_capacity(Limits::BUFFER_BYTES, stream),
            path: path.into(),
            names: Vec::new(),
            columns: HashMap::new(),
            line: Vec::new(),
            line_number: 0,
            values: Vec::new(),
            text: String::new(),
            is_ahead: false,
            record: 0,
            limits: pass.limits,
        };
        if !file.read_line()? {
            return Err(StorageError::NoRecords {
                path: path.to_owned(),
            });
        }
        file.parse(true)?;
        file.is_ahead = true;
        Ok(file)
    }

    /// Reads the next line that isn't blank; false at the end of the file.
    fn read_line(&mut self) -> Result<bool, StorageError> {
        loop {
            self.line.clear();
            let bytes_max = self.limits.record_bytes_max;
            let mut capped = (&mut self.stream).take(bytes_max.saturating_add(1));
            let count = capped
                .read_until(b'\n', &mut self.line)
                .map_err(|error: io::Error| StorageError::from_read(&self.path, error))?;
            if count == 0 {
                return Ok(false);
            }
            self.line_number += 1;
            if count as u64 > bytes_max {
                return Err(StorageError::RecordTooLong {
                    path: self.path.to_path_buf(),
                    line: self.line_number,
                    bytes_max,
                });
            }
            if self.line_number == 1 && self.line.starts_with(&BYTE_ORDER_MARK) {
                self.line.drain(..BYTE_ORDER_MARK.len());
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                return Ok(true);
            }
        }
    }

    /// Takes the values of the current line; `is_first`: and its keys as the columns.
    fn parse(&mut self, is_first: bool) -> Result<(), StorageError> {
        self.text.clear();
        self.values.clear();
        self.values.resize(self.names.len(), Value::Missing);
        let mut refused = None;
        let object = Object {
            names: &mut self.names,
            columns: &mut self.columns,
            values: &mut self.values,
            text: &mut self.text,
            is_first,
            refused: &mut refused,
        };
        let mut parser = serde_json::Deserializer::from_slice(&self.line);
        let parsed = parser.deserialize_map(object).and_then(|()| parser.end());
        let (path, line) = (self.path.to_path_buf(), self.line_number);
        match (refused, parsed) {
            (Some(Refused::Twice(key)), _) => Err(StorageError::JsonKeyTwice { path, line, key }),
            (Some(Refused::Unknown(key)), _) => {
                Err(StorageError::JsonUnknownKey { path, line, key })
            }
            (None, Err(source)) => Err(StorageError::JsonLine { path, line, source }),
            (None, Ok(())) => Ok(()),
        }
    }
}

/// A key that a record can't have.
enum Refused {
    Twice(String),
    Unknown(String),
}

/// Where the values of an object go.
struct Object<'r> {
    names: &'r mut Vec<String>,
    columns: &'r mut HashMap<String, usize>,
    values: &'r mut Vec<Value>,
    text: &'r mut String,
    is_first: bool,
    refused: &'r mut Option<Refused>,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        use serde::de::Error as _;
        // Keys most often come in the order of the first record.
        let mut next = 0;
        let mut seen = vec![false; self.names.len()];
        while let Some(key) = map.next_key::<Key<'de>>()? {
            let key = key.0;
            let column = if self.names.get(next).is_some_and(|name| *name == key) {
                Some(next)
            } else {
                self.columns.get(&*key).copied()
            };
            let column = match column {
                Some(column) if seen[column] => {
                    *self.refused = Some(Refused::Twice(key.into_owned()));
                    return Err(A::Error::custom("refused"));
                }
                Some(column) => column,
                None if self.is_first => {
                    let column = self.names.len();
                    self.names.push(key.clone().into_owned());
                    self.columns.insert(key.into_owned(), column);
                    self.values.push(Value::Missing);
                    seen.push(false);
                    column
                }
                None => {
                    *self.refused = Some(Refused::Unknown(key.into_owned()));
                    return Err(A::Error::custom("refused"));
                }
            };
            seen[column] = true;
            next = column + 1;
            let raw: &'de RawValue = map.next_value()?;
            self.values[column] = take_value(raw, self.text).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// A key, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

/// The value whose JSON is `raw`; its letters or digits go to `text`.
fn take_value(raw: &RawValue, text: &mut String) -> Result<Value, serde_json::Error> {
    let json = raw.get();
    let start = text.len();
    Ok(match json.as_bytes().first() {
        Some(b'n') => Value::Missing,
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'[' | b'{') => Value::Nested,
        Some(b'"') => {
            let decoded: Key<'_> = serde_json::from_str(json)?;
            // Blanks around a text don't count, as in CSV.
            text.push_str(decoded.0.trim());
            if text.len() == start {
                Value::Missing
            } else {
                Value::Text(start..text.len())
            }
        }
        _ => {
            text.push_str(json);
            Value::Decimal(start..text.len())
        }
    })
}

impl Table for JsonlFile<'_> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn columns(&self) -> usize {
        self.names.len()
    }

    fn names(&self) -> Option<&[String]> {
        Some(&self.names)
    }

    fn advance(&mut self) -> Result<bool, StorageError> {
        if !std::mem::take(&mut self.is_ahead) {
            if !self.read_line()? {
                return Ok(false);
            }
            self.parse(false)?;
        }
        self.record += 1;
        self.limits.check_records(&self.path, self.record)?;
        Ok(true)
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn line(&self) -> Option<u64> {
        Some(self.line_number)
    }

    fn record(&self) -> u64 {
        self.record
    }

    fn field(&self, column: usize, role: FieldRole) -> Result<Field<'_>, StorageError> {
        Ok(match &self.values[column] {
            Value::Missing => Field::Missing,
            Value::Bool(value) => Field::Bool(*value),
            Value::Decimal(range) => Field::Decimal(&self.text[range.clone()]),
            Value::Text(range) => Field::Text(&self.text[range.clone()]),
            Value::Nested => {
                return Err(StorageError::NestedValue {
                    place: self.place(column, role),
                });
            }
        })
    }
}
