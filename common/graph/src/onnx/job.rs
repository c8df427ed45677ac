//! A job's model from a file: rows of numbers in, the job's loss at the end.

use ringfold_common::job::{OnnxInput, OnnxSpec};

use super::error::OnnxError;
use super::import::{Imported, ReadOptions, read_framed};
use super::names::matches;
use super::proto;
use crate::graph::{Graph, OutputRole, ValueId};
use crate::models::{Frame, objective};
use crate::op::{Cast, Reshape, Slice};
use crate::shape::{Dim, Shape, TensorType};

/// Names that an error lists.
const LISTED_MAX: usize = 50;

/// The model of a job, not differentiated yet, as `models` says: the inputs
/// [`FEATURES`](crate::models::FEATURES) and [`LABELS`](crate::models::LABELS), the loss and its
/// outputs, and the file's own output by its name unless that is taken. Features come as rows of
/// `frame.inputs` numbers and are cut as `onnx.inputs` says, reshaped, and converted to whole numbers, as
/// the file's inputs want them. The L2 penalty is on parameters of two dimensions or more. The tensors are the initial
/// values of parameters and states.
///
/// # Errors
/// Those of [`read`](super::read); inputs that `onnx.inputs` doesn't fit; a model of several outputs if none is
/// chosen; dimensions that don't fit the records or the classes and targets; a pattern that matches
/// no initializer.
pub fn read_for_job(bytes: &[u8], onnx: &OnnxSpec, frame: &Frame) -> Result<Imported, OnnxError> {
    frame.check()?;
    check_patterns(bytes, &onnx.freeze)?;
    let options = ReadOptions {
        dtype: frame.dtype,
        outputs: onnx.output.iter().cloned().collect(),
        freeze: onnx.freeze.clone(),
        ..ReadOptions::default()
    };
    let inputs = &onnx.inputs;
    read_framed(bytes, &options, Some(&Job { frame, inputs }))
}

/// What surrounds a job's model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job<'j> {
    pub frame: &'j Frame,
    /// What each input takes of a record; of one input everything if this is empty.
    pub inputs: &'j [OnnxInput],
}

impl Job<'_> {
    /// Checks that every input is fed, and only those that there are.
    pub(super) fn check_inputs(&self, names: &[&str]) -> Result<(), OnnxError> {
        let refuse = |expected, got| Err(OnnxError::Model { expected, got });
        if self.inputs.is_empty() {
            return match names {
                [_] => Ok(()),
                names => refuse(
                    "one input, which takes the features of a record, or model.inputs",
                    format!("{}: {}", names.len(), listed(names)),
                ),
            };
        }
        if let Some(odd) = self
            .inputs
            .iter()
            .find(|input| !names.contains(&&*input.name))
        {
            let got = format!("{:?} for {}", odd.name, listed(names));
            return refuse("in model.inputs the inputs that the output depends on", got);
        }
        let given = |name: &&str| self.inputs.iter().any(|input| input.name == **name);
        match names.iter().find(|name| !given(name)) {
            None => Ok(()),
            Some(name) => refuse("in model.inputs every input", format!("none for {name:?}")),
        }
    }
}

fn check_patterns(bytes: &[u8], patterns: &[String]) -> Result<(), OnnxError> {
    if patterns.is_empty() {
        return Ok(());
    }
    let model = proto::Model::decode(bytes)?;
    let tensors = model.graph.iter().flat_map(|graph| &graph.initializers);
    let names: Vec<&str> = tensors.map(|tensor| tensor.name).collect();
    let lost = patterns
        .iter()
        .find(|pattern| !names.iter().any(|name| matches(pattern, name)));
    match lost {
        None => Ok(()),
        Some(pattern) => Err(OnnxError::Place {
            kind: "freeze",
            name: pattern.clone(),
            expected: "a pattern that matches an initializer",
            got: format!("none of {}", listed(&names)),
        }),
    }
}

/// Names as an error shows them.
pub(super) fn listed(names: &[&str]) -> String {
    let shown = names[..names.len().min(LISTED_MAX)].join(", ");
    match names.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The model's own input of type `ty`, made of the features of a record.
pub(super) fn own_input(
    graph: &mut Graph,
    job: &Job<'_>,
    features: ValueId,
    (name, ty): (&str, &TensorType),
) -> Result<ValueId, OnnxError> {
    let frame = job.frame;
    let refuse = |expected, got| OnnxError::Place {
        kind: "input",
        name: name.to_owned(),
        expected,
        got,
    };
    let dims = ty.shape.dims();
    let (Some(Dim::Batch), Some(record)) = (dims.first(), fixed(dims)) else {
        let expected = "a dynamic batch first and other dimensions of a known size: export the \
                        model with a dynamic first dimension";
        return Err(refuse(expected, ty.shape.to_string()));
    };
    // A channel of one may be left out; more of them must stand where the data has them.
    let own =
        |dims: &[usize]| -> Vec<usize> { dims.iter().copied().filter(|&size| size != 1).collect() };
    let len = record
        .iter()
        .try_fold(1usize, |len, &size| len.checked_mul(size));
    let mut value = features;
    if let Some(input) = job.inputs.iter().find(|input| input.name == name) {
        let [start, end] = input.features.map(|feature| feature as usize);
        if end > frame.inputs || len != Some(end - start) {
            let got = format!(
                "{} for features {start} to {end} of {}",
                ty.shape, frame.inputs
            );
            return Err(refuse("as many numbers as the features that it takes", got));
        }
        let len = end - start;
        let (axis, step) = (1, 1);
        let slice = Slice {
            axis,
            start,
            step,
            len,
        };
        if len < frame.inputs {
            value = graph.apply(slice, &[value])?;
        }
        return shaped(graph, value, ty);
    }
    let is_row = frame.dims.len() <= 1 || record.len() <= 1;
    let fits = len == Some(frame.inputs) && (is_row || own(&record) == own(&frame.dims));
    if !fits {
        let records = match frame.dims.as_slice() {
            [] => format!("{} numbers", frame.inputs),
            dims => format!("{dims:?}"),
        };
        let got = format!("{} for records of {records}", ty.shape);
        return Err(refuse("dimensions that fit the data's records", got));
    }
    shaped(graph, value, ty)
}

/// Rows of features as a tensor of this type.
fn shaped(graph: &mut Graph, mut value: ValueId, ty: &TensorType) -> Result<ValueId, OnnxError> {
    if ty.shape.rank() != 2 {
        let shape = ty.shape.clone();
        value = graph.apply(Reshape { shape }, &[value])?;
    }
    if ty.dtype != graph.dtype() {
        value = graph.apply(Cast { to: ty.dtype }, &[value])?;
    }
    Ok(value)
}

/// The dimensions after the first, if all have a size.
fn fixed(dims: &[Dim]) -> Option<Vec<usize>> {
    dims.iter().skip(1).map(|dim| dim.fixed()).collect()
}

/// Ends a job's model with its loss of `value`, the output `name` of the file.
pub(super) fn finish(
    graph: &mut Graph,
    frame: &Frame,
    (name, own_name): (&str, &str),
    value: ValueId,
    labels: ValueId,
) -> Result<(), OnnxError> {
    let shape = graph.value(value).ty.shape.clone();
    let dims = shape.dims();
    let len = fixed(dims).map(|sizes| sizes.iter().product::<usize>());
    if dims.first() != Some(&Dim::Batch) || len != Some(frame.network_outputs()) {
        let outputs = frame.outputs;
        let kind = if frame.loss.takes_classes() {
            "classes"
        } else {
            "targets"
        };
        return Err(OnnxError::Place {
            kind: "output",
            name: name.to_owned(),
            expected: "the batch first, then a number for each class or target of the data, or a mean and a \
                       variance for each target under \"normal\"",
            got: format!("{shape} for {outputs} {kind}"),
        });
    }
    let mut out = value;
    if dims.len() != 2 {
        let shape = Shape::batched(&[frame.network_outputs()]);
        out = graph.apply(Reshape { shape }, &[value])?;
    }
    let parameters = graph.parameters().iter().map(|parameter| parameter.value);
    let weights = parameters.filter(|&value| graph.value(value).ty.shape.rank() >= 2);
    let weights: Vec<ValueId> = weights.collect();
    objective::finish(graph, frame, out, labels, &weights)?;
    if graph.outputs().iter().all(|output| output.name != own_name) {
        graph.add_output(own_name, OutputRole::Prediction, value)?;
    }
    Ok(())
}
