//! The files of a trained model.

mod files;
mod metrics;
mod output;
mod sources;
mod weights;

use ringfold_common::dataset::Target;
use ringfold_common::job::ModelSpec;
use serde::{Deserialize, Serialize};

use crate::dataset::{Columns, Dataset};
use crate::scaler::Scaler;

pub use files::ModelFiles;
pub use metrics::MetricsWriter;
pub use output::{check_output_dir, write_whole};
pub use sources::{ModelSources, ONNX_BYTES_MAX, read_onnx_file, stamp_sources};
pub use weights::{check_weights, read_weights, weights_blake3};

/// The version of the model files that this program writes, and the latest that it reads.
pub const FORMAT_VERSION: u64 = 1;

/// What is needed, besides the weights, to use a trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelDescription {
    /// The job that trained it.
    pub job_name: String,
    /// The network.
    pub model: ModelSpec,
    /// Numbers in one record, without its label.
    pub features: u32,
    /// What a label is.
    pub target: Target,
    /// How features are scaled before they enter the network.
    pub scaler: Scaler,
    /// What the columns of the training data were.
    pub columns: Columns,
}

impl ModelDescription {
    /// The description of a network trained on `dataset`.
    #[must_use]
    pub fn new(job_name: String, model: ModelSpec, dataset: &Dataset) -> Self {
        Self {
            job_name,
            model,
            features: dataset.info().features,
            target: dataset.info().target.clone(),
            scaler: dataset.scaler().clone(),
            columns: dataset.columns().clone(),
        }
    }
}

/// A parameter to be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NamedTensor<'a> {
    /// Distinct among the parameters of a model.
    pub name: &'a str,
    /// Sizes, outermost first. Their product is the number of values.
    pub shape: &'a [usize],
    /// Row-major.
    pub values: &'a [f32],
}

/// A parameter that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Distinct among the parameters of a model.
    pub name: String,
    /// Sizes, outermost first. Their product is the number of values.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

impl Tensor {
    /// A view of it.
    #[must_use]
    pub fn view(&self) -> NamedTensor<'_> {
        NamedTensor {
            name: &self.name,
            shape: &self.shape,
            values: &self.values,
        }
    }
}

/// A trained model, as read from its directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// How to use it.
    pub description: ModelDescription,
    /// Its parameters, sorted by the bytes of their names.
    pub tensors: Vec<Tensor>,
    /// The ONNX file that it was made from, if it is a model from one.
    pub onnx: Option<Vec<u8>>,
}
