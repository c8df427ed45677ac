//! What this crate refuses, and why.

use ringfold_graph::{DType, GraphError};

use crate::backend::Mode;

/// A graph that can't be planned or a run that can't be started. Nothing has been written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ComputeError {
    /// The graph breaks its own rules.
    #[error("the graph doesn't verify")]
    Graph(#[from] GraphError),
    /// The plan's element type isn't the graph's.
    #[error("element type: expected the graph's {expected}, got {got}")]
    ElementType {
        /// The graph's float type.
        expected: DType,
        /// The type that the caller chose.
        got: DType,
    },
    /// The batch size is zero.
    #[error("batch size: expected at least 1, got 0")]
    BatchEmpty,
    /// The thread count is zero.
    #[error("threads: expected at least 1, got 0")]
    ThreadsZero,
    /// Operands can't be rounded to bfloat16 here.
    #[error(
        "precision bf16 needs a processor with AVX-512 BF16 and a plan of f32: {missing} is missing"
    )]
    Bf16 {
        /// The feature of the processor, or the element type, that is missing.
        missing: &'static str,
    },
    /// Parts of the gradients that end before the ones before them.
    #[error("parts of the gradients: expected ends in ascending order")]
    PartsOrder,
    /// Something is too large to address.
    #[error("{what} needs more elements than can be addressed (limit {elements_max})")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit, in elements.
        elements_max: usize,
    },
    /// The workspace can't be made as small as asked.
    #[error(
        "a workspace of {bytes_max} bytes was asked for, and the least is {bytes_min}, with values \
         computed again where that helps; at its fullest the largest buffers are: {}",
        listed(largest)
    )]
    WorkspaceBytes {
        /// The smallest size that was reached.
        bytes_min: usize,
        /// The limit.
        bytes_max: usize,
        /// The largest buffers that are alive at the peak: what defines each, and its bytes.
        largest: Vec<(String, usize)>,
    },
    /// A training plan or a layout needs a differentiated graph.
    #[error("graph {graph:?} has no gradients; differentiate it first")]
    NotDifferentiated {
        /// The graph's name.
        graph: String,
    },
    /// The graph has no output that the mode computes.
    #[error("graph {graph:?} has no output to compute in {mode} mode")]
    NoOutputs {
        /// The graph's name.
        graph: String,
        /// The mode.
        mode: Mode,
    },
    /// The layout was made from another graph.
    #[error("parameter {name:?}: the layout doesn't hold it with {elements} elements")]
    LayoutMismatch {
        /// The graph's parameter.
        name: String,
        /// Its number of elements in the graph.
        elements: usize,
    },
    /// A flat buffer has another length than the plan was made for.
    #[error("{what}: expected {expected} elements, got {got}")]
    BufferLen {
        /// Parameters, gradients, state or workspace.
        what: &'static str,
        /// What the plan needs.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// The number of inputs isn't that of the plan.
    #[error("expected {expected} inputs, got {got}")]
    InputCount {
        /// What the plan reads.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// An input has elements of another kind.
    #[error("input {name:?}: expected elements of {expected}, got {got}")]
    InputDType {
        /// The input.
        name: String,
        /// What the plan reads.
        expected: DType,
        /// What was given.
        got: DType,
    },
    /// An input has another length.
    #[error("input {name:?}: expected {expected} elements, got {got}")]
    InputLen {
        /// The input.
        name: String,
        /// What the plan reads.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// A class label doesn't name a class.
    #[error("input {name:?}: label {label} of sample {sample}: expected 0 to {}", classes - 1)]
    LabelOutOfRange {
        /// The input.
        name: String,
        /// The position of the sample in the micro-batch.
        sample: usize,
        /// The label.
        label: i64,
        /// The number of classes, at least 1.
        classes: usize,
    },
    /// The plan doesn't compute an output of this name.
    #[error("no output of the plan is named {name:?}")]
    OutputUnknown {
        /// The name.
        name: String,
    },
    /// The loss scale isn't finite.
    #[error("loss scale: expected a finite number, got {got}")]
    LossScale {
        /// What was given.
        got: f64,
    },
    /// A plan for inference was asked for gradients, or one for training was run without.
    #[error("a plan in {mode} mode can't be run this way")]
    WrongMode {
        /// The plan's mode.
        mode: Mode,
    },
}

fn listed(buffers: &[(String, usize)]) -> String {
    let buffers = buffers.iter();
    let listed: Vec<String> = buffers
        .map(|(what, bytes)| format!("{what} ({bytes} bytes)"))
        .collect();
    listed.join(", ")
}
