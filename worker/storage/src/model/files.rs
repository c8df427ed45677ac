//! Writing and reading a model's directory.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ringfold_common::dataset::Target;
use ringfold_common::job::{Architecture, Summary};
use serde::{Deserialize, Serialize};

use super::output::write_atomically;
use super::weights::{TensorShape, parse_weights, serialize_weights, shapes, weights_blake3};
use super::{FORMAT_VERSION, Model, ModelDescription, ModelSources, NamedTensor, Tensor};
use crate::dataset::SourceFormat;
use crate::error::StorageError;

/// The files of a model.
///
/// `model.json` is written last and holds the list of tensors and the hash of the weights: a
/// directory in which a writer died between two files is refused by [`ModelFiles::read`], not
/// misread.
#[derive(Debug)]
pub struct ModelFiles;

/// The content of `model.json`.
#[derive(Serialize, Deserialize)]
struct ModelDocument<'a> {
    format_version: u64,
    description: Cow<'a, ModelDescription>,
    tensors: Vec<TensorShape>,
    weights_blake3: String,
}

/// What is read of `model.json` before all else.
#[derive(Deserialize)]
struct Version {
    format_version: u64,
}

impl ModelFiles {
    /// Parameters and states (running statistics), all of type F32. Their metadata has one key, `ringfold`: a JSON object of
    /// `format_version` and `job_name`.
    pub const WEIGHTS: &'static str = "weights.safetensors";
    /// The parameters as the last update left them, if those of [`Self::WEIGHTS`] are an average of
    /// theirs. Of the same format; read by nobody here.
    pub const RAW_WEIGHTS: &'static str = "weights.raw.safetensors";
    /// The [`ModelDescription`], the format's version, tensors and their hash.
    pub const MODEL: &'static str = "model.json";
    /// The ONNX file that a model was made from, if it was: its graph and frozen weights are needed to
    /// use the model. The description has its hash.
    pub const SOURCE: &'static str = "source.onnx";
    /// The trained model as one of ONNX, of jobs that train one. Read by nobody here.
    pub const ONNX: &'static str = "model.onnx";
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
    /// [`StorageError::TensorLength`], [`StorageError::TensorTwice`],
    /// [`StorageError::Unserialisable`], [`StorageError::Weights`], [`StorageError::Write`].
    pub fn write(
        dir: &Path,
        description: &ModelDescription,
        weights: &[NamedTensor<'_>],
        summary: &Summary,
    ) -> Result<(), StorageError> {
        let document = ModelDocument {
            format_version: FORMAT_VERSION,
            description: Cow::Borrowed(description),
            tensors: shapes(weights)?,
            weights_blake3: weights_blake3(weights),
        };
        // All that can be wrong with the values is found before a file is touched.
        let path = dir.join(Self::WEIGHTS);
        let weights = serialize_weights(&path, description, weights)?;
        let summary = to_json(&dir.join(Self::SUMMARY), summary)?;
        let document = to_json(&dir.join(Self::MODEL), &document)?;
        write_atomically(dir, Self::WEIGHTS, &weights)?;
        write_atomically(dir, Self::SUMMARY, &summary)?;
        write_atomically(dir, Self::MODEL, &document)
    }

    /// Writes [`Self::RAW_WEIGHTS`], or removes what an earlier job left there if there are none.
    ///
    /// # Errors
    /// [`StorageError::Weights`], [`StorageError::Write`].
    pub fn write_raw(
        dir: &Path,
        description: &ModelDescription,
        weights: Option<&[NamedTensor<'_>]>,
    ) -> Result<(), StorageError> {
        let path = dir.join(Self::RAW_WEIGHTS);
        let Some(weights) = weights else {
            return remove(path);
        };
        let weights = serialize_weights(&path, description, weights)?;
        write_atomically(dir, Self::RAW_WEIGHTS, &weights)
    }

    /// Writes [`Self::SOURCE`] and [`Self::ONNX`], or removes what an earlier job left there.
    ///
    /// # Errors
    /// [`StorageError::Write`].
    pub fn write_onnx(
        dir: &Path,
        source: Option<&[u8]>,
        trained: Option<&[u8]>,
    ) -> Result<(), StorageError> {
        for (name, bytes) in [(Self::SOURCE, source), (Self::ONNX, trained)] {
            match bytes {
                Some(bytes) => write_atomically(dir, name, bytes)?,
                None => remove(dir.join(name))?,
            }
        }
        Ok(())
    }

    /// Reads the model in the directory `dir`.
    ///
    /// # Errors
    /// A missing or unreadable file, and everything in which the files are not those of one model:
    /// see the variants of [`StorageError`] about models.
    pub fn read(dir: &Path) -> Result<Model, StorageError> {
        let path = dir.join(Self::MODEL);
        let document = parse_document(&path, &read_file(&path, Self::MODEL_BYTES_MAX)?)?;
        let path = dir.join(Self::WEIGHTS);
        let tensors = parse_weights(
            &path,
            &read_file(&path, Self::WEIGHTS_BYTES_MAX)?,
            document.tensors,
        )?;
        let views: Vec<NamedTensor<'_>> = tensors.iter().map(Tensor::view).collect();
        let got = weights_blake3(&views);
        if got != document.weights_blake3 {
            return Err(StorageError::WeightsDiffer {
                path,
                expected: document.weights_blake3,
                got,
            });
        }
        let description = document.description.into_owned();
        // The copy in the directory counts, wherever the job's file was.
        let mut of_copy = description.model.clone();
        of_copy.weights = None;
        if let Architecture::Onnx(onnx) = &mut of_copy.architecture {
            onnx.file.path = dir.join(Self::SOURCE).to_string_lossy().into_owned();
        }
        Ok(Model {
            description,
            tensors,
            onnx: ModelSources::read(&of_copy)?.onnx,
        })
    }
}

/// Removes a file, if it is there.
fn remove(path: PathBuf) -> Result<(), StorageError> {
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::Write { path, source })
        }
        _ => Ok(()),
    }
}

fn to_json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, StorageError> {
    let mut json =
        serde_json::to_vec_pretty(value).map_err(|source| StorageError::Unserialisable {
            path: path.to_owned(),
            source,
        })?;
    json.push(b'\n');
    Ok(json)
}

pub(super) fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, StorageError> {
    let from_open = |error| StorageError::from_open(path, error);
    let file = File::open(path).map_err(from_open)?;
    let mut bytes = Vec::new();
    let mut capped = file.take(bytes_max + 1);
    capped.read_to_end(&mut bytes).map_err(from_open)?;
    if bytes.len() as u64 > bytes_max {
        return Err(StorageError::FileTooLong {
            path: path.to_owned(),
            bytes_max,
        });
    }
    Ok(bytes)
}

fn parse_document(path: &Path, json: &[u8]) -> Result<ModelDocument<'static>, StorageError> {
    let model_json = |source| StorageError::ModelJson {
        path: path.to_owned(),
        source,
    };
    // A later version may have other fields: its number is looked at first.
    let Version { format_version } = serde_json::from_slice(json).map_err(model_json)?;
    if format_version > FORMAT_VERSION {
        return Err(StorageError::ModelVersion {
            path: path.to_owned(),
            got: format_version,
            supported: FORMAT_VERSION,
        });
    }
    let document: ModelDocument<'static> = serde_json::from_slice(json).map_err(model_json)?;
    check_document(path, &document)?;
    Ok(document)
}

/// Checks the values of `model.json` against each other.
fn check_document(path: &Path, document: &ModelDocument<'_>) -> Result<(), StorageError> {
    let check = |ok: bool, field, got: String, expected: &str| {
        if ok {
            return Ok(());
        }
        Err(StorageError::ModelField {
            path: path.to_owned(),
            field,
            expected: expected.to_owned(),
            got,
        })
    };
    let description = &*document.description;
    let features = description.features as usize;
    check(
        document.format_version == FORMAT_VERSION,
        "format_version",
        document.format_version.to_string(),
        "1",
    )?;
    check(
        features > 0,
        "description.features",
        features.to_string(),
        "1 or more",
    )?;
    check(
        description.target.outputs() > 0,
        "description.target",
        "without an output".to_owned(),
        "one class or more, or one value",
    )?;
    if let Target::Classes(names) = &description.target {
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]);
        check(
            twice.is_none(),
            "description.target",
            format!("a list with {:?} twice", twice.map_or("", |pair| pair[0])),
            "distinct classes",
        )?;
    }
    let width = description.scaler.width();
    check(
        width.is_none_or(|width| width == features),
        "description.scaler",
        format!("for {} features", width.unwrap_or(0)),
        &format!("{features}, as description.features"),
    )?;
    check(
        description.scaler.is_valid(),
        "description.scaler",
        "a list of other than finite numbers, or lists of different lengths".to_owned(),
        "finite numbers, an offset and a factor for every feature",
    )?;
    let columns = &description.columns;
    let names = columns.feature_names.as_ref().map(Vec::len);
    check(
        names.is_none_or(|names| names == features),
        "description.columns.feature_names",
        format!("a list of {}", names.unwrap_or(0)),
        &format!("{features}, as description.features"),
    )?;
    let is_text = matches!(columns.format, SourceFormat::Text { .. });
    check(
        is_text == matches!(description.target, Target::Tokens(_)),
        "description.columns.format",
        if is_text { "text" } else { "a table" }.to_owned(),
        "that of description.target: text for tokens, a table for classes or values",
    )?;
    if let SourceFormat::Text { stride } = columns.format {
        check(
            stride > 0,
            "description.columns.format.text.stride",
            stride.to_string(),
            "1 or more",
        )?;
    }
    if let SourceFormat::Csv { label_column, .. } | SourceFormat::Table { label_column, .. } =
        columns.format
    {
        check(
            label_column <= description.features,
            "description.columns.format.label_column",
            label_column.to_string(),
            &format!("at most {features}, as description.features"),
        )?;
    }
    Ok(())
}
