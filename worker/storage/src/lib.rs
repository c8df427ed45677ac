//! Dataset readers in, model files out.
//!
//! # Datasets
//!
//! [`inspect`] reads and validates the files that a job names and says what they hold: the
//! coordinator does so when a job is submitted. [`Dataset::load`] makes the same pass and keeps
//! the records: every rank does so. Both give the same [`DatasetInfo`](ringfold_common::dataset),
//! whose fingerprint covers every decompressed byte, or the same [`StorageError`].
//!
//! A file is plain, gzip or Zstandard, told by its first bytes, not its name.
//!
//! - **CSV**, and TSV with tabs for commas: UTF-8 text, with or without a
//!   byte order mark and a header; lines end in LF or CRLF; fields may be quoted as in RFC 4180,
//!   the quote being a field's first byte; spaces and tabs around a field don't count; blank lines are skipped. Every column but the
//!   label's is a feature and must hold finite numbers. Columns count from 0, lines and records
//!   from 1.
//! - **JSON lines**: one object a line. Columns are the keys of the first object, which later ones
//!   may have in any order or leave out.
//! - **Parquet** and **Arrow** IPC: numbers, truth values, text, and lists of one fixed length of
//!   those, each spread over as many columns. They are not compressed as a whole.
//! - **IDX**, the format of MNIST: unsigned bytes. Images have one dimension or
//!   more, the first is the record; labels have one.
//! - **Text**, one running text taken as it is: bytes, or the characters of UTF-8.
//!   A record is a window of `context` + 1 tokens at a multiple of `stride`: it is found in O(1),
//!   and windows that overlap share their memory. The vocabulary of characters is that of the
//!   whole training file; another file with a character that isn't in it is refused. Bytes of a
//!   text count from 0, decompressed.
//!
//! Under cross-entropy the distinct labels of the training and test files are the classes, sorted
//! as integers if all are integers, else by their bytes; IDX labels give the classes `0` to the
//! greatest. Under mean squared error a label is one finite number.
//!
//! A test fraction of a text takes the last round(fraction x tokens) tokens. Of other formats a
//! seeded test fraction takes exactly round(fraction x records) records, by
//! [`Permutation`](ringfold_common::order::Permutation): a pure function of seed and record count.
//!
//! # Models
//!
//! A model is a directory: `weights.safetensors`, `model.json` (a [`ModelDescription`]),
//! `summary.json`, `metrics.jsonl`; `source.onnx` and `model.onnx` if it is from an ONNX file. [`ModelFiles`] writes and reads it; each file appears whole or
//! not at all. [`read_unlabelled`] and [`read_labelled`] read further data for a saved model.
//!
//! # Checkpoints
//!
//! [`checkpoint`] writes and reads durable training state, in parts, by name and range.
//!
//! # What isn't here
//!
//! Formats are rows of a table (`table.rs`): layouts, labels and prediction know none of them.
//!
//! No training, no network, no clocks, no threads. Nothing is read in pieces: a dataset fits in
//! the memory of each rank.

mod arrow;
pub mod checkpoint;
mod csv;
mod dataset;
mod error;
mod idx;
mod jsonl;
mod labels;
mod layout;
mod limits;
mod model;
mod part;
mod predict;
mod records;
mod scaler;
mod stream;
mod table;
mod text;
mod windows;

pub use dataset::{Columns, Dataset, SourceFormat, inspect, inspect_columns};
pub use error::{Column, Compression, FieldPlace, FieldRole, StorageError};
pub use limits::{BytesRead, Limits, ProgressHook, ReadOptions};
pub use model::{
    FORMAT_VERSION, MetricsWriter, Model, ModelDescription, ModelFiles, ModelSources, NamedTensor,
    ONNX_BYTES_MAX, Tensor, check_output_dir, check_weights, read_onnx_file, read_weights,
    stamp_sources, weights_blake3, write_whole,
};
pub use predict::{LabelledFiles, Unlabelled, read_labelled, read_unlabelled};
pub use records::{Features, LabelsOut, Records};
pub use scaler::Scaler;
