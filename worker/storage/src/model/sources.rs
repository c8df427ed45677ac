//! The files that a job names for its model: an ONNX file, initial weights.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ringfold_common::job::{Architecture, ModelSpec, SourceFile};

use super::Tensor;
use super::files::{ModelFiles, read_file};
use super::weights::{parse_weights, tensor_shapes};
use crate::error::StorageError;

/// The most bytes of an ONNX file that are read: 2 GiB less one, as many as the format can have.
pub const ONNX_BYTES_MAX: u64 = (1 << 31) - 1;

/// What the files of a model hold. Files whose hash is known are those that the coordinator saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelSources {
    /// The bytes of the ONNX file, for a model from one.
    pub onnx: Option<Vec<u8>>,
    weights: Option<(SourceFile, Vec<u8>)>,
}

impl ModelSources {
    /// Reads the files of `model`, and compares them with the hashes that it has.
    ///
    /// # Errors
    /// A file that can't be read or is too long, [`StorageError::SourceDiffers`].
    pub fn read(model: &ModelSpec) -> Result<Self, StorageError> {
        Ok(Self {
            onnx: read_onnx(model)?,
            weights: match &model.weights {
                None => None,
                Some(file) => Some((
                    file.clone(),
                    read_source(file, ModelFiles::WEIGHTS_BYTES_MAX)?,
                )),
            },
        })
    }

    /// The initial weights, which must be those of the `expected` names and shapes; `None` if the
    /// job names no file of them.
    ///
    /// # Errors
    /// Those of [`read_weights`](crate::read_weights).
    pub fn weights(
        &self,
        expected: &[(&str, &[usize])],
    ) -> Result<Option<Vec<Tensor>>, StorageError> {
        let Some((file, bytes)) = &self.weights else {
            return Ok(None);
        };
        parse_weights(Path::new(&file.path), bytes, tensor_shapes(expected)).map(Some)
    }

    /// Frees the bytes of the initial weights.
    pub fn forget_weights(&mut self) {
        self.weights = None;
    }
}

/// Fills in the hashes of the files of `model`, comparing those that are there; returns the bytes of
/// the ONNX file.
///
/// # Errors
/// As [`ModelSources::read`].
pub fn stamp_sources(model: &mut ModelSpec) -> Result<Option<Vec<u8>>, StorageError> {
    let onnx = read_onnx(model)?;
    if let (Architecture::Onnx(spec), Some(bytes)) = (&mut model.architecture, &onnx) {
        spec.file.blake3 = blake3::hash(bytes).to_hex().to_string();
    }
    if let Some(file) = &mut model.weights {
        let hash = hash_file(Path::new(&file.path))?;
        compare(file, &hash)?;
        file.blake3 = hash;
    }
    Ok(onnx)
}

/// The bytes of an ONNX file that no job names.
///
/// # Errors
/// A file that can't be read or is too long.
pub fn read_onnx_file(path: &Path) -> Result<Vec<u8>, StorageError> {
    read_file(path, ONNX_BYTES_MAX)
}

fn read_onnx(model: &ModelSpec) -> Result<Option<Vec<u8>>, StorageError> {
    match &model.architecture {
        Architecture::Onnx(onnx) => read_source(&onnx.file, ONNX_BYTES_MAX).map(Some),
        _ => Ok(None),
    }
}

fn read_source(file: &SourceFile, bytes_max: u64) -> Result<Vec<u8>, StorageError> {
    let bytes = read_file(Path::new(&file.path), bytes_max)?;
    compare(file, &blake3::hash(&bytes).to_hex())?;
    Ok(bytes)
}

/// The hash of a file of weights, which is not held in memory.
fn hash_file(path: &Path) -> Result<String, StorageError> {
    let from_open = |error| StorageError::from_open(path, error);
    let bytes_max = ModelFiles::WEIGHTS_BYTES_MAX;
    let mut file = File::open(path).map_err(from_open)?.take(bytes_max + 1);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(from_open)?;
    if hasher.count() > bytes_max {
        let path = path.to_owned();
        return Err(StorageError::FileTooLong { path, bytes_max });
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn compare(file: &SourceFile, got: &str) -> Result<(), StorageError> {
    if file.blake3.is_empty() || file.blake3.eq_ignore_ascii_case(got) {
        return Ok(());
    }
    Err(StorageError::SourceDiffers {
        path: file.path.clone().into(),
        expected: file.blake3.clone(),
        got: got.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use ringfold_common::job::{Loss, OnnxSpec};

    use super::*;

    #[test]
    fn a_file_that_has_changed_since_it_was_stamped_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (net, weights) = (
            dir.path().join("net.onnx"),
            dir.path().join("w.safetensors"),
        );
        std::fs::write(&net, b"one").unwrap();
        std::fs::write(&weights, b"two").unwrap();
        let file = |path: &Path| SourceFile::unread(path.to_string_lossy().into_owned());
        let onnx = OnnxSpec {
            file: file(&net),
            output: None,
            freeze: Vec::new(),
            inputs: Vec::new(),
        };
        let mut model = ModelSpec::new(Architecture::Onnx(onnx), Loss::CrossEntropy);
        model.weights = Some(file(&weights));
        assert_eq!(stamp_sources(&mut model).unwrap().unwrap(), b"one");
        let read = ModelSources::read(&model).unwrap();
        assert_eq!(read.onnx.unwrap(), b"one");
        // A second stamp changes nothing.
        let again = &mut model.clone();
        stamp_sources(again).unwrap();
        assert_eq!(*again, model);

        for path in [&net, &weights] {
            let kept = std::fs::read(path).unwrap();
            std::fs::write(path, b"other").unwrap();
            for error in [
                ModelSources::read(&model).unwrap_err(),
                stamp_sources(&mut model.clone()).unwrap_err(),
            ] {
                assert!(
                    matches!(&error, StorageError::SourceDiffers { path: named, .. } if named == path),
                    "{error}"
                );
            }
            std::fs::write(path, kept).unwrap();
        }
        std::fs::remove_file(&net).unwrap();
        assert!(matches!(
            ModelSources::read(&model).unwrap_err(),
            StorageError::MissingFile { path } if path == net
        ));
    }
}
