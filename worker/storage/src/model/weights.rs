//! Files of weights: safetensors, by name.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::files::read_file;
use super::{FORMAT_VERSION, ModelDescription, ModelFiles, NamedTensor, Tensor};
use crate::error::StorageError;

/// The most bytes of a header of safetensors, as the format has it.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// A tensor's name and shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TensorShape {
    name: String,
    shape: Vec<usize>,
}

/// Reads tensors from a safetensors file of any program: those of the `expected` names and shapes, in
/// the order of their names' bytes; no more and no fewer. Elements are F32; of I64, such as PyTorch's
/// `num_batches_tracked`, they become floats.
///
/// # Errors
/// A file that can't be read or isn't one of safetensors, and [`StorageError::TensorMissing`],
/// [`StorageError::TensorExtra`], [`StorageError::TensorShape`], [`StorageError::TensorDtype`], which
/// name the tensor.
pub fn read_weights(
    path: &Path,
    expected: &[(&str, &[usize])],
) -> Result<Vec<Tensor>, StorageError> {
    let bytes = read_file(path, ModelFiles::WEIGHTS_BYTES_MAX)?;
    parse_weights(path, &bytes, tensor_shapes(expected))
}

/// Checks that the safetensors file at `path` is what [`read_weights`] takes, reading no more than its
/// header.
///
/// # Errors
/// Those of [`read_weights`].
pub fn check_weights(path: &Path, expected: &[(&str, Vec<usize>)]) -> Result<(), StorageError> {
    /// Bytes that hold the length of the header.
    const LENGTH_BYTES: u64 = 8;
    let from_open = |error| StorageError::from_open(path, error);
    let mut file = File::open(path).map_err(from_open)?;
    let bytes = file.metadata().map_err(from_open)?.len();
    if bytes > ModelFiles::WEIGHTS_BYTES_MAX {
        return Err(StorageError::FileTooLong {
            path: path.to_owned(),
            bytes_max: ModelFiles::WEIGHTS_BYTES_MAX,
        });
    }
    let refuse = |source| Err(not_weights(path, source));
    if bytes < LENGTH_BYTES {
        return refuse(SafeTensorError::HeaderTooSmall);
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(from_open)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        return refuse(SafeTensorError::HeaderTooLarge);
    }
    if length > bytes - LENGTH_BYTES {
        return refuse(SafeTensorError::InvalidHeaderLength);
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(from_open)?;
    let metadata: Metadata = match serde_json::from_slice(&header) {
        Ok(metadata) => metadata,
        Err(error) => return refuse(SafeTensorError::InvalidHeaderDeserialization(error)),
    };
    if LENGTH_BYTES + length + metadata.data_len() as u64 != bytes {
        return refuse(SafeTensorError::MetadataIncompleteBuffer);
    }
    let tensors = metadata.tensors();
    let infos = tensors.iter();
    let infos = infos.map(|(name, info)| (name.as_str(), (info.dtype, &info.shape[..])));
    let expected = expected.iter().map(|(name, shape)| TensorShape {
        name: (*name).to_owned(),
        shape: shape.clone(),
    });
    check_tensors(path, infos.collect(), expected.collect()).map(drop)
}

pub(super) fn tensor_shapes(expected: &[(&str, &[usize])]) -> Vec<TensorShape> {
    let shape = |&(name, shape): &(&str, &[usize])| TensorShape {
        name: name.to_owned(),
        shape: shape.to_vec(),
    };
    expected.iter().map(shape).collect()
}

/// BLAKE3 over every tensor's values as little-endian bytes, in the order of the bytes of their
/// names; in hexadecimal.
#[must_use]
pub fn weights_blake3(tensors: &[NamedTensor<'_>]) -> String {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| tensor.name);
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::with_capacity(1 << 16);
    for tensor in sorted {
        for values in tensor.values.chunks(1 << 14) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hasher.update(&bytes);
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Names and shapes in the order of the names' bytes, once they make sense.
pub(super) fn shapes(weights: &[NamedTensor<'_>]) -> Result<Vec<TensorShape>, StorageError> {
    let mut shapes = Vec::with_capacity(weights.len());
    for tensor in weights {
        let product = tensor
            .shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size));
        if product != Some(tensor.values.len()) {
            return Err(StorageError::TensorLength {
                name: tensor.name.to_owned(),
                shape: tensor.shape.to_vec(),
                values: tensor.values.len(),
            });
        }
        shapes.push(TensorShape {
            name: tensor.name.to_owned(),
            shape: tensor.shape.to_vec(),
        });
    }
    shapes.sort_by(|a, b| a.name.cmp(&b.name));
    match shapes.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(StorageError::TensorTwice {
            name: pair[0].name.clone(),
        }),
        None => Ok(shapes),
    }
}

/// A tensor as the safetensors crate wants it.
struct F32View<'a>(NamedTensor<'a>);

impl View for F32View<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.0.values.iter().flat_map(|value| value.to_le_bytes());
        Cow::Owned(bytes.collect())
    }

    fn data_len(&self) -> usize {
        size_of_val(self.0.values)
    }
}

pub(super) fn serialize_weights(
    path: &Path,
    description: &ModelDescription,
    weights: &[NamedTensor<'_>],
) -> Result<Vec<u8>, StorageError> {
    // One key: the format's writer takes a map without order, and equal models must give equal
    // bytes.
    let ringfold = serde_json::json!({
        "format_version": FORMAT_VERSION,
        "job_name": description.job_name,
    });
    let metadata = HashMap::from([("ringfold".to_owned(), ringfold.to_string())]);
    let views = weights.iter().map(|&tensor| (tensor.name, F32View(tensor)));
    safetensors::serialize(views, Some(metadata)).map_err(|source| StorageError::Weights {
        path: path.to_owned(),
        source,
    })
}

/// The tensors that `expected` lists, in the order of their names.
pub(super) fn parse_weights(
    path: &Path,
    bytes: &[u8],
    expected: Vec<TensorShape>,
) -> Result<Vec<Tensor>, StorageError> {
    let weights = SafeTensors::deserialize(bytes).map_err(|source| not_weights(path, source))?;
    let views: BTreeMap<&str, _> = weights.iter().collect();
    let infos = views.iter();
    let infos = infos.map(|(&name, view)| (name, (view.dtype(), view.shape())));
    let expected = check_tensors(path, infos.collect(), expected)?;
    let tensors = expected.into_iter().map(|TensorShape { name, shape }| {
        let view = &views[name.as_str()];
        let data = view.data();
        let values = match view.dtype() {
            Dtype::I64 => {
                let values = data.as_chunks::<8>().0.iter();
                values
                    .map(|bytes| i64::from_le_bytes(*bytes) as f32)
                    .collect()
            }
            _ => {
                let values = data.as_chunks::<4>().0.iter();
                values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
        };
        Tensor {
            name,
            shape,
            values,
        }
    });
    Ok(tensors.collect())
}

/// Checks that a file holds the tensors of `expected` and no others, of types that are read; returns
/// them in the order of their names.
fn check_tensors(
    path: &Path,
    // By name: which of several faults is told doesn't depend on the order in a hash map.
    mut infos: BTreeMap<&str, (Dtype, &[usize])>,
    mut expected: Vec<TensorShape>,
) -> Result<Vec<TensorShape>, StorageError> {
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    for TensorShape { name, shape } in &expected {
        let (path, name) = (path.to_owned(), name.clone());
        let Some((dtype, got)) = infos.remove(name.as_str()) else {
            return Err(StorageError::TensorMissing { path, name });
        };
        if !matches!(dtype, Dtype::F32 | Dtype::I64) {
            let got = format!("{dtype:?}");
            return Err(StorageError::TensorDtype { path, name, got });
        }
        if got != shape {
            return Err(StorageError::TensorShape {
                path,
                name,
                expected: shape.clone(),
                got: got.to_vec(),
            });
        }
    }
    match infos.pop_first() {
        Some((name, _)) => Err(StorageError::TensorExtra {
            path: path.to_owned(),
            name: name.to_owned(),
        }),
        None => Ok(expected),
    }
}

fn not_weights(path: &Path, source: SafeTensorError) -> StorageError {
    StorageError::Weights {
        path: path.to_owned(),
        source,
    }
}
