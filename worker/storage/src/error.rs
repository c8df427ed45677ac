//! Everything that can be wrong with a dataset, a model directory or an output directory.
//!
//! Long because it is a list: one enum of one crate, each variant with its words and its data.

mod hint;
mod place;

use std::io;
use std::path::{Path, PathBuf};

use ringfold_common::job::ColumnRef;
use ringfold_common::vocabulary::CharactersError;

pub use place::{Column, Compression, FieldPlace, FieldRole};
use place::{dims, label_text, list, quoted};

/// What a reader or writer of this crate refuses, and why.
///
/// The text says what was expected and what was got, and where; [`StorageError::hint`] says what a
/// user may do about it; [`StorageError::code`] is the code at the edge.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The caller's progress hook asked to stop.
    #[error("reading the dataset was cancelled")]
    Cancelled,

    // Files.
    /// There is no such file.
    #[error("{}: no such file", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// A directory where a file should be.
    #[error("{}: is a directory, expected a file", path.display())]
    IsDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A pipe, socket or device where a file should be.
    #[error("{}: is not a regular file", path.display())]
    NotAFile {
        /// The thing.
        path: PathBuf,
    },
    /// The process may not read it.
    #[error("{}: permission denied", path.display())]
    PermissionDenied {
        /// The file.
        path: PathBuf,
    },
    /// The operating system failed to read.
    #[error("{}: reading failed", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
    /// A file without a byte.
    #[error("{}: the file is empty", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// A compressed file that ends too early.
    #[error(
        "{}: the {format} data is cut off: it ends after {decompressed_bytes} decompressed bytes \
         without its trailer",
        path.display()
    )]
    TruncatedCompression {
        /// The file.
        path: PathBuf,
        /// How it is compressed.
        format: Compression,
        /// What could be decompressed.
        decompressed_bytes: u64,
    },
    /// A compressed file whose content is damaged.
    #[error("{}: the {format} data is damaged after {decompressed_bytes} decompressed bytes", path.display())]
    CorruptCompression {
        /// The file.
        path: PathBuf,
        /// How it is compressed.
        format: Compression,
        /// What could be decompressed.
        decompressed_bytes: u64,
        /// The decoder's words.
        source: io::Error,
    },
    /// More decompressed bytes than [`Limits::file_bytes_max`](crate::Limits::file_bytes_max).
    #[error("{}: more than {bytes_max} bytes, decompressed: the most that is read", path.display())]
    FileTooLong {
        /// The file.
        path: PathBuf,
        /// The cap.
        bytes_max: u64,
    },
    /// A file that holds no record.
    #[error("{}: no records", path.display())]
    NoRecords {
        /// The file.
        path: PathBuf,
    },
    /// More records than [`Limits::records_max`](crate::Limits::records_max).
    #[error("{}: more than {records_max} records: the most that is read", path.display())]
    TooManyRecords {
        /// The file.
        path: PathBuf,
        /// The cap.
        records_max: u64,
    },
    /// Records of more features than [`Limits::features_max`](crate::Limits::features_max).
    #[error("{}: {features} features a record, at most {features_max} are read", path.display())]
    TooManyFeatures {
        /// The file.
        path: PathBuf,
        /// What it has.
        features: u64,
        /// The cap.
        features_max: u32,
    },
    /// Records that hold no feature.
    #[error("{}: records hold no feature", path.display())]
    NoFeatures {
        /// The file.
        path: PathBuf,
    },
    /// A file with another number of features than its model or its training file.
    #[error("{}: {got} features a record, {} has {expected}", path.display(), other)]
    FeaturesDiffer {
        /// The file.
        path: PathBuf,
        /// What it is compared with: a file or "the model".
        other: String,
        /// Features of that.
        expected: u32,
        /// Features of the file.
        got: u64,
    },
    /// Training and test data, or model and data, of different formats.
    #[error("the data is {got}, expected {expected}")]
    FormatsDiffer {
        /// A format of a job file, or what several have in common.
        expected: &'static str,
        /// A format of a job file, or what several have in common.
        got: &'static str,
    },

    // CSV.
    /// A record of more bytes than [`Limits::record_bytes_max`](crate::Limits::record_bytes_max).
    #[error(
        "{}: line {line}: the record that starts here is longer than {bytes_max} bytes",
        path.display()
    )]
    RecordTooLong {
        /// The file.
        path: PathBuf,
        /// The record's first line, from 1.
        line: u64,
        /// The cap.
        bytes_max: u64,
    },
    /// No column is the label column.
    #[error(
        "{}: no label column {}: the file has {columns} columns{}",
        path.display(), label_text(label), list(", named ", names, *columns)
    )]
    MissingLabelColumn {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        label: ColumnRef,
        /// Columns of the file.
        columns: usize,
        /// The first names of the header; empty without a header.
        names: Vec<String>,
        /// The name that is nearest to the one looked for.
        nearest: Option<String>,
    },
    /// Two columns bear the label's name.
    #[error("{}: columns {first} and {second} are both named {name:?}", path.display())]
    LabelColumnTwice {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// A column, from 0.
        first: usize,
        /// Another.
        second: usize,
    },
    /// A record with too few or too many fields.
    #[error(
        "{}: line {line} (record {record}): {got} fields, expected {expected}",
        path.display()
    )]
    RaggedRecord {
        /// The file.
        path: PathBuf,
        /// The record's first line, from 1.
        line: u64,
        /// The record, from 1, the header not counted.
        record: u64,
        /// Fields of the first line.
        expected: usize,
        /// Fields of this record.
        got: usize,
    },
    /// Nothing between two delimiters.
    #[error("{place}: the field is empty, expected {}", place.role.expected())]
    EmptyField {
        /// Where.
        place: Box<FieldPlace>,
    },
    /// A field or header that is not UTF-8.
    #[error("{place}: the field is not UTF-8 text")]
    NotUtf8 {
        /// Where.
        place: Box<FieldPlace>,
    },
    /// A field that is no number where one is needed.
    #[error("{place}: {} is not a number", quoted(text))]
    NotANumber {
        /// Where.
        place: Box<FieldPlace>,
        /// The field.
        text: String,
    },
    /// NaN, an infinity, or a number beyond the range of 32-bit floating point.
    #[error("{place}: {} is not a finite 32-bit number", quoted(text))]
    NotFinite {
        /// Where.
        place: Box<FieldPlace>,
        /// The field.
        text: String,
    },
    /// A number that the loss can't take as a label.
    #[error("{place}: the label {label} is not {expected}, as model.loss \"{loss}\" needs it")]
    LabelOutOfRange {
        /// Where.
        place: Box<FieldPlace>,
        /// The number.
        label: f32,
        /// The loss, as the job file names it.
        loss: &'static str,
        /// Which numbers it takes.
        expected: &'static str,
    },
    /// A label with a line break in it: most often a quote that was never closed.
    #[error("{place}: the label {} holds a line break", quoted(text))]
    LabelHasLineBreak {
        /// Where.
        place: Box<FieldPlace>,
        /// The label.
        text: String,
    },
    /// A label of more bytes than [`Limits::label_bytes_max`](crate::Limits::label_bytes_max).
    #[error("{place}: the label {} is longer than {bytes_max} bytes", quoted(text))]
    LabelTooLong {
        /// Where.
        place: Box<FieldPlace>,
        /// The label.
        text: String,
        /// The cap.
        bytes_max: usize,
    },
    /// More distinct labels than [`Limits::classes_max`](crate::Limits::classes_max).
    #[error(
        "{place}: the labels are more than {classes_max} different ones: the most classes there may be"
    )]
    TooManyClasses {
        /// Where the first label too many is.
        place: Box<FieldPlace>,
        /// The cap.
        classes_max: usize,
    },
    /// A label that the model has no class for.
    #[error(
        "{place}: the model has no class {}: it has {classes}{}",
        quoted(label), list(": ", known, *classes)
    )]
    UnknownLabel {
        /// Where.
        place: Box<FieldPlace>,
        /// The label.
        label: String,
        /// The model's first classes.
        known: Vec<String>,
        /// How many there are.
        classes: usize,
    },
    /// A file with another number of columns than its training file.
    #[error("{}: {got} columns, {other} has {expected}", path.display())]
    ColumnsDiffer {
        /// The file.
        path: PathBuf,
        /// What it is compared with: a file or "the model".
        other: String,
        /// Columns of that.
        expected: usize,
        /// Columns of the file.
        got: usize,
    },
    /// A header with other names than that of its training file.
    #[error("{}: column {column} is named {got:?}, in {other} {expected:?}", path.display())]
    HeaderDiffers {
        /// The file.
        path: PathBuf,
        /// What it is compared with: a file or "the model".
        other: String,
        /// The first column that differs, from 0.
        column: usize,
        /// The name there.
        expected: String,
        /// The name here.
        got: String,
    },
    /// A label column at another position than in the training file.
    #[error("{}: the label is column {got}, in {other} column {expected}", path.display())]
    LabelColumnDiffers {
        /// The file.
        path: PathBuf,
        /// What it is compared with: a file or "the model".
        other: String,
        /// The column there, from 0.
        expected: usize,
        /// The column here.
        got: usize,
    },

    // Tables.
    /// A line that is no JSON object.
    #[error("{}: line {line}: not a JSON object", path.display())]
    JsonLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong, with the column in the line.
        source: serde_json::Error,
    },
    /// An object with two values of one key.
    #[error("{}: line {line}: the key {} is there twice", path.display(), quoted(key))]
    JsonKeyTwice {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The key.
        key: String,
    },
    /// A key that the first object of the file doesn't have.
    #[error("{}: line {line}: the key {} is not in the first record", path.display(), quoted(key))]
    JsonUnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The key.
        key: String,
    },
    /// A list or an object where a number or text should be.
    #[error("{place}: a list or an object, expected {}", place.role.expected())]
    NestedValue {
        /// Where.
        place: Box<FieldPlace>,
    },

    /// A file of a format with its own compression that is compressed once more.
    #[error("{}: is compressed with {compression}, a file of {format} is read as it is", path.display())]
    CompressedWhole {
        /// The file.
        path: PathBuf,
        /// How it is compressed.
        compression: Compression,
        /// What it should be, as a job file names it.
        format: &'static str,
    },
    /// A file that its format's decoder refuses.
    #[error("{}: not a valid file of {format}, after record {record}", path.display())]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// The format, as a job file names it.
        format: &'static str,
        /// Records before the place.
        record: u64,
        /// The decoder's words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A column whose type is no number, truth value or text.
    #[error(
        "{}: column {column} is of type {got}, expected numbers, truth values, text, or lists of \
         one fixed length of those",
        path.display()
    )]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: Column,
        /// Its type, in Arrow's words.
        got: String,
    },

    // Text.
    /// A text of characters that isn't UTF-8.
    #[error("{}: byte {offset} (from 0) is not valid UTF-8", path.display())]
    TextNotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first such byte, decompressed, from 0.
        offset: u64,
    },
    /// More distinct characters than
    /// [`Limits::characters_max`](crate::Limits::characters_max).
    #[error(
        "{}: byte {offset} (from 0): more than {characters_max} distinct characters: the most that \
         a vocabulary has",
        path.display()
    )]
    TooManyCharacters {
        /// The file.
        path: PathBuf,
        /// The cap.
        characters_max: usize,
        /// Where the first character beyond the cap is, in decompressed bytes from 0.
        offset: u64,
    },
    /// A character that the training text doesn't have.
    #[error(
        "{}: byte {offset} (from 0): the character {character:?} is not in the training text",
        path.display()
    )]
    UnknownCharacter {
        /// The file.
        path: PathBuf,
        /// The character.
        character: char,
        /// Where it begins, in decompressed bytes from 0.
        offset: u64,
    },
    /// A text, or a part of one, without room for a record.
    #[error(
        "{}: {part} has {tokens} tokens, expected at least {} for data.context = {context}",
        path.display(),
        context + 1
    )]
    TextTooShort {
        /// The file.
        path: PathBuf,
        /// The whole, or which part.
        part: &'static str,
        /// What it has.
        tokens: u64,
        /// Tokens that the model sees at once; a record has one more.
        context: u64,
    },
    /// Characters that make no vocabulary.
    #[error("{}: no vocabulary", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: CharactersError,
    },

    // IDX.
    /// A file that does not begin like an IDX file.
    #[error("{}: not an IDX file: it begins with the bytes {got:02x?}, expected two zero bytes", path.display())]
    IdxMagic {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        got: [u8; 4],
    },
    /// An IDX file of something other than unsigned bytes.
    #[error("{}: byte 2: the IDX type code is 0x{got:02x}, only 0x08 (unsigned bytes) is read", path.display())]
    IdxType {
        /// The file.
        path: PathBuf,
        /// The code.
        got: u8,
    },
    /// An IDX file with the wrong number of dimensions.
    #[error("{}: byte 3: {got} dimensions, expected {expected}", path.display())]
    IdxDimensions {
        /// The file.
        path: PathBuf,
        /// In words.
        expected: &'static str,
        /// What it has.
        got: u8,
    },
    /// Dimensions whose product is beyond 64 bits.
    #[error("{}: the dimensions {} are too large", path.display(), dims(sizes))]
    IdxOverflow {
        /// The file.
        path: PathBuf,
        /// The dimensions.
        sizes: Vec<u32>,
    },
    /// An IDX file that ends too early.
    #[error("{}: cut off: {got_bytes} bytes, its header asks for {expected_bytes}", path.display())]
    IdxTruncated {
        /// The file.
        path: PathBuf,
        /// What the header asks for, the header itself included.
        expected_bytes: u64,
        /// What there is.
        got_bytes: u64,
    },
    /// An IDX file that goes on after its data.
    #[error("{}: data goes on after byte {expected_bytes}, where it should end", path.display())]
    IdxTrailingBytes {
        /// The file.
        path: PathBuf,
        /// What the header asks for, the header itself included.
        expected_bytes: u64,
    },
    /// Another number of images than of labels.
    #[error(
        "{} holds {image_count} images, {} holds {label_count} labels",
        images.display(), labels.display()
    )]
    CountsDiffer {
        /// The images' file.
        images: PathBuf,
        /// The labels' file.
        labels: PathBuf,
        /// Images.
        image_count: u64,
        /// Labels.
        label_count: u64,
    },
    /// IDX labels under a loss that needs numbers.
    #[error("{}: IDX labels are classes, the loss \"mean_squared_error\" needs numbers", path.display())]
    LabelsAreClasses {
        /// The labels' file.
        path: PathBuf,
    },

    // Split and scaling.
    /// A fraction that leaves no test record or no training record.
    #[error(
        "a test fraction of {fraction} takes {test_records} of {records} records: at least one \
         must be for testing and one for training"
    )]
    EmptySplit {
        /// `data.test.fraction`.
        fraction: f64,
        /// All records.
        records: u64,
        /// What the fraction takes.
        test_records: u64,
    },
    /// A feature whose scaled values would not be finite.
    #[error(
        "feature {feature}, from {low} to {high} in the training records, can't be scaled within 32-bit numbers"
    )]
    Unscalable {
        /// By name if known.
        feature: Column,
        /// Its least value.
        low: f32,
        /// Its greatest value.
        high: f32,
    },
    /// A divisor whose inverse is not a finite 32-bit number other than 0.
    #[error("data.scale.divide is {divisor:e}: its inverse is not a 32-bit number other than 0")]
    Divisor {
        /// The divisor.
        divisor: f64,
    },

    // Output directory.
    /// A file where the output directory should be.
    #[error("{}: is a file, expected a directory", dir.display())]
    OutputIsAFile {
        /// The path.
        dir: PathBuf,
    },
    /// The output directory can't be made.
    #[error("{}: making the directory failed", dir.display())]
    CreateDirectory {
        /// The directory.
        dir: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// The output directory can't be written to.
    #[error("{}: the directory is not writable", dir.display())]
    NotWritable {
        /// The directory.
        dir: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("{}: writing failed", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// A value has no JSON form.
    #[error("{}: the value can't be written as JSON", path.display())]
    Unserialisable {
        /// The file.
        path: PathBuf,
        /// The serialiser's words.
        source: serde_json::Error,
    },
    /// A metrics line that is no JSON object.
    #[error("{}: a line must be a JSON object", path.display())]
    NotAnObject {
        /// The file.
        path: PathBuf,
    },

    // Model files.
    /// A JSON file that is not JSON, or lacks a field, or has one of the wrong type.
    #[error("{}: not a valid model description", path.display())]
    ModelJson {
        /// The file.
        path: PathBuf,
        /// Names the field, the line and the column.
        source: serde_json::Error,
    },
    /// A file of a later version of this program.
    #[error("{}: format_version is {got}, this program reads up to {supported}", path.display())]
    ModelVersion {
        /// The file.
        path: PathBuf,
        /// The file's version.
        got: u64,
        /// The latest that is read.
        supported: u64,
    },
    /// A field whose value can't be right.
    #[error("{}: {field} is {got}, expected {expected}", path.display())]
    ModelField {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A weights file that is no safetensors file, or is cut off.
    #[error("{}: not a valid safetensors file", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// The decoder's words.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that the description lists and the weights lack.
    #[error("{}: no tensor {name:?}", path.display())]
    TensorMissing {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor that the description doesn't list.
    #[error("{}: a tensor {name:?} that the model description doesn't list", path.display())]
    TensorExtra {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor of another shape than the description lists.
    #[error("{}: tensor {name:?} has shape {got:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// In the description.
        expected: Vec<usize>,
        /// In the weights file.
        got: Vec<usize>,
    },
    /// A tensor of something other than 32-bit floating point.
    #[error("{}: tensor {name:?} holds {got}, expected F32", path.display())]
    TensorDtype {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type in the weights file.
        got: String,
    },
    /// Weights whose hash isn't the one in the description.
    #[error("{}: the weights hash to {got}, the model description says {expected}", path.display())]
    WeightsDiffer {
        /// The weights file.
        path: PathBuf,
        /// In the description.
        expected: String,
        /// Of the weights.
        got: String,
    },
    /// A file that a model is made from, which isn't the one that the coordinator read.
    #[error("{}: hashes to {got}, {expected} is expected", path.display())]
    SourceDiffers {
        /// The file.
        path: PathBuf,
        /// The BLAKE3 hash of the bytes that the coordinator, or the description of the model, has.
        expected: String,
        /// That of the bytes that were read.
        got: String,
    },
    /// A tensor to be written whose values don't fill its shape.
    #[error("tensor {name:?} has shape {shape:?} and {values} values")]
    TensorLength {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its values.
        values: usize,
    },
    /// Two tensors of one name.
    #[error("two tensors are named {name:?}")]
    TensorTwice {
        /// The name.
        name: String,
    },
}

impl StorageError {
    /// The error of an attempt to open or read `path`.
    pub(crate) fn from_open(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::MissingFile { path },
            // A file where a directory of the path should be.
            io::ErrorKind::NotADirectory => Self::MissingFile { path },
            io::ErrorKind::IsADirectory => Self::IsDirectory { path },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { path },
            _ => Self::Read { path, source },
        }
    }

    /// The error inside an [`io::Error`] that a reader of this crate made, or a read error.
    pub(crate) fn from_read(path: &Path, source: io::Error) -> Self {
        match source.downcast::<Self>() {
            Ok(error) => error,
            Err(source) => Self::Read {
                path: path.to_owned(),
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_operating_system_become_named_ones() {
        let of = |kind: io::ErrorKind| StorageError::from_open(Path::new("x"), kind.into());
        let denied = of(io::ErrorKind::PermissionDenied);
        assert!(
            matches!(denied, StorageError::PermissionDenied { .. }),
            "{denied}"
        );
        assert_eq!(denied.to_string(), "x: permission denied");
        let missing = of(io::ErrorKind::NotFound);
        assert!(
            matches!(missing, StorageError::MissingFile { .. }),
            "{missing}"
        );
        let other = of(io::ErrorKind::TimedOut);
        assert!(matches!(other, StorageError::Read { .. }), "{other}");
    }

    #[test]
    fn an_error_inside_a_read_error_comes_out() {
        let inner = io::Error::other(StorageError::Cancelled);
        let error = StorageError::from_read(Path::new("x"), inner);
        assert!(matches!(error, StorageError::Cancelled), "{error}");
        let error = StorageError::from_read(Path::new("x"), io::ErrorKind::TimedOut.into());
        assert!(matches!(error, StorageError::Read { .. }), "{error}");
    }
}
