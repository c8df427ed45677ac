//! The crate from outside: files in, records out; models out and in again.

mod arrow_files;
mod checkpoints;
mod csv_files;
mod digits;
mod files;
mod idx_files;
mod jsonl_files;
mod limits;
mod model_files;
mod prediction;
mod records;
mod support;
mod text_files;
mod weights_by_name;
