//! Writing and reading a model's directory.

use std::path::Path;

use ringfold_common::job::Summary;

use super::{Model, ModelDescription, NamedTensor};
use crate::error::StorageError;

/// The files of a model.
///
/// `model.json` is written last and holds the list of tensors and the hash of the weights: a
/// directory in which a writer died between two files is refused by [`ModelFiles::read`], not
/// misread.
#[derive(Debug)]
pub struct ModelFiles;

impl ModelFiles {
    /// The parameters, all of type F32.
    pub const WEIGHTS: &'static str = "weights.safetensors";
    /// The [`ModelDescription`], the format's version, tensors and their hash.
    pub const MODEL: &'static str = "model.json";
    /// The [`Summary`].
    pub const SUMMARY: &'static str = "summary.json";
    /// The most bytes of `model.json` that are read: 64 MiB.
    pub const MODEL_BYTES_MAX: u64 = 1 << 26;
    /// The most bytes of `weights.safetensors` that are read: 64 GiB.
    pub const WEIGHTS_BYTES_MAX: u64 = 1 << 36;

    /// Writes a model to the directory `dir`, which must be there. Equal arguments give equal
    /// bytes.
    ///
    /// # Errors
    /// [`StorageError::TensorLength`], [`StorageError::TensorTwice`], [`StorageError::Write`].
    pub fn write(
        dir: &Path,
        description: &ModelDescription,
        weights: &[NamedTensor<'_>],
        summary: &Summary,
    ) -> Result<(), StorageError> {
        let _ = (dir, description, weights, summary);
        unimplemented!()
    }

    /// Reads the model in the directory `dir`.
    ///
    /// # Errors
    /// A missing or unreadable file, and everything in which the files are not those of one model:
    /// see the variants of [`StorageError`] about models.
    pub fn read(dir: &Path) -> Result<Model, StorageError> {
        let _ = dir;
        unimplemented!()
    }
}

/// BLAKE3 over every parameter's values as little-endian bytes, in the order of the bytes of their
/// names; in hexadecimal.
#[must_use]
pub fn weights_blake3(tensors: &[NamedTensor<'_>]) -> String {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_unstable_by_key(|tensor| tensor.name);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::with_capacity(1 << 16);
    for tensor in sorted {
        for values in tensor.values.chunks(1 << 14) {
            buffer.clear();
            buffer.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hasher.update(&buffer);
        }
    }
    hasher.finalize().to_hex().to_string()
}
