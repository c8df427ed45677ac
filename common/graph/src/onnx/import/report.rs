//! How a model is read, and what is found.

use std::collections::BTreeMap;

use crate::graph::Graph;
use crate::onnx::known::{Resolver, Tensor};
use crate::shape::DType;

/// How a model is read.
#[derive(Clone)]
pub struct ReadOptions<'a> {
    /// The type of the graph's floats; the model's are 32 bits wide.
    pub dtype: DType,
    /// The names of dynamic dimensions that are the batch; if empty, those that are the first dimension
    /// of an input.
    pub batch: Vec<String>,
    /// The sizes of other dynamic dimensions, by name.
    pub dims: BTreeMap<String, usize>,
    /// Inputs that have the same elements in every run.
    pub known: BTreeMap<String, Tensor>,
    /// The outputs that the graph has; if empty, all.
    pub outputs: Vec<String>,
    /// Patterns (`*`, `?`) of initializers that are constants.
    pub freeze: Vec<String>,
    /// Patterns of initializers that are parameters although they look like constants.
    pub train: Vec<String>,
    /// Gives data that stand in other files.
    pub resolver: Option<Resolver<'a>>,
}

impl Default for ReadOptions<'_> {
    /// 32-bit floats, all outputs, no data in other files, everything else found out.
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            batch: Vec::new(),
            dims: BTreeMap::new(),
            known: BTreeMap::new(),
            outputs: Vec::new(),
            freeze: Vec::new(),
            train: Vec::new(),
            resolver: None,
        }
    }
}

/// What a tensor of a model has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// A parameter of the graph.
    Parameter,
    /// A state of the graph.
    State,
}

/// The value of a parameter or state in the model.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedTensor {
    /// Its name in the graph.
    pub name: String,
    /// The initializer's name in the model.
    pub onnx_name: String,
    /// What it is in the graph.
    pub kind: TensorKind,
    /// The dimensions.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub data: Vec<f32>,
}

/// An initializer that isn't a parameter, although it has floats, or an input that isn't read; and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its name in the model.
    pub onnx_name: String,
    /// Why.
    pub why: &'static str,
}

/// What reading a model found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The version of ONNX's operators.
    pub opset: i64,
    /// Names of inputs in the model, and in the graph.
    pub inputs: Vec<(String, String)>,
    /// Names of outputs in the model, and in the graph.
    pub outputs: Vec<(String, String)>,
    /// What isn't trained.
    pub notices: Vec<Notice>,
}

/// A model as a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The forward graph: outputs are predictions, and there is no loss.
    pub graph: Graph,
    /// The values of its parameters and states.
    pub tensors: Vec<ImportedTensor>,
    /// What was found.
    pub report: Report,
}
