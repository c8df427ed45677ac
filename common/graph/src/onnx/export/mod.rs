//! From a graph and its weights to a model's bytes.

mod nodes;
mod sequences;

use std::collections::BTreeMap;

use super::error::OnnxError;
use super::wire::Writer;
use crate::graph::{ConstantData, Graph, Origin, OutputRole, ValueId};
use crate::shape::{DType, Dim, Shape, TensorType};

/// The operator set that is written: the first with `Gelu`.
pub const OPSET_WRITTEN: i64 = 20;
/// The version of the format that is written.
const IR_VERSION: i64 = 9;

/// What is done to an input before the model sees it: `(x - offset) · factor`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling<'a> {
    /// The input's name in the graph; of floats, the batch its first dimension.
    pub input: &'a str,
    /// One number, or one for each element of a sample.
    pub offset: &'a [f32],
    /// As many as offsets.
    pub factor: &'a [f32],
}

/// Writes the part of a graph that predicts, as a `ModelProto` of opset 20: its outputs are the graph's
/// predictions and their derived forms, its initializers the parameters and states, with their names
/// and the values in `tensors`. Dropout is gone and batch normalisation uses the running statistics.
///
/// # Errors
/// [`OnnxError::Weight`] for a parameter or state that `tensors` lacks or that has another number of
/// elements, [`OnnxError::NoForm`] for an operator that ONNX lacks.
pub fn write(graph: &Graph, tensors: &BTreeMap<&str, &[f32]>) -> Result<Vec<u8>, OnnxError> {
    write_scaled(graph, tensors, &[])
}

/// As [`write`], with the scaling of inputs a part of the model.
///
/// # Errors
/// As [`write`], and [`OnnxError::Weight`] for a scaling of another number of elements than its input.
pub fn write_scaled(
    graph: &Graph,
    tensors: &BTreeMap<&str, &[f32]>,
    scaling: &[Scaling<'_>],
) -> Result<Vec<u8>, OnnxError> {
    let needed = needed(graph);
    let mut exporter = Exporter {
        graph,
        used: needed.values,
        body: Writer::default(),
        nodes: 0,
        scratch: 0,
        scaled: BTreeMap::new(),
    };
    exporter.initializers(tensors)?;
    for scaling in scaling {
        exporter.scale(scaling)?;
    }
    for (i, node) in graph.nodes().iter().enumerate() {
        if needed.nodes[i] {
            exporter.node(i, node)?;
        }
    }
    exporter.places();
    let mut model = Writer::default();
    model.int(1, IR_VERSION);
    model.text(2, "ringfold");
    model.bytes(7, &exporter.body.0);
    model.message(8, |opset| {
        opset.text(1, "");
        opset.int(2, OPSET_WRITTEN);
    });
    Ok(model.0)
}

struct Needed {
    nodes: Vec<bool>,
    values: Vec<bool>,
}

/// What the predictions depend on.
fn needed(graph: &Graph) -> Needed {
    let mut needed = Needed {
        nodes: vec![false; graph.nodes().len()],
        values: vec![false; graph.values().len()],
    };
    for output in graph.outputs() {
        needed.values[output.value.0 as usize] |= output.role != OutputRole::Loss;
    }
    for (i, node) in graph.nodes().iter().enumerate().rev() {
        if node.results.iter().any(|v| needed.values[v.0 as usize]) {
            needed.nodes[i] = true;
            for operand in &node.operands {
                needed.values[operand.0 as usize] = true;
            }
        }
    }
    needed
}

/// An attribute of a node that is written.
enum Attribute<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
    Text(&'a str),
}

struct Exporter<'g> {
    graph: &'g Graph,
    /// By value: a node that is written reads it.
    used: Vec<bool>,
    /// The fields of `GraphProto`.
    body: Writer,
    nodes: usize,
    /// Names of tensors that no value of the graph stands for.
    scratch: usize,
    /// By input: the name of the scaled tensor.
    scaled: BTreeMap<usize, String>,
}

fn code(dtype: DType) -> i64 {
    match dtype {
        DType::F32 => 1,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F64 => 11,
    }
}

impl Exporter<'_> {
    /// The tensor's name in the model. A colon keeps it apart from names of the graph.
    fn name(&self, value: ValueId) -> String {
        match self.graph.value(value).origin {
            Origin::Input(i) => match self.scaled.get(&i) {
                Some(name) => name.clone(),
                None => self.graph.inputs()[i].name.clone(),
            },
            Origin::Parameter(id) => self.graph.parameter(id).name.clone(),
            Origin::State(id) => self.graph.states()[id.0 as usize].name.clone(),
            _ => format!("tensor:{}", value.0),
        }
    }

    fn fresh(&mut self) -> String {
        self.scratch += 1;
        format!("scratch:{}", self.scratch)
    }

    fn ty(&self, value: ValueId) -> &TensorType {
        &self.graph.value(value).ty
    }

    fn dims(&self, value: ValueId) -> &[Dim] {
        self.ty(value).shape.dims()
    }

    /// Writes a node.
    fn emit(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
    ) {
        let number = self.nodes;
        self.nodes += 1;
        self.body.message(1, |node| {
            inputs.iter().for_each(|name| node.text(1, name));
            outputs.iter().for_each(|name| node.text(2, name));
            node.text(3, &format!("{op}:{number}"));
            node.text(4, op);
            for (name, value) in attributes {
                node.message(5, |attribute| {
                    attribute.text(1, name);
                    let kind = match value {
                        Attribute::Float(x) => {
                            attribute.float(2, *x);
                            1
                        }
                        Attribute::Int(n) => {
                            attribute.int(3, *n);
                            2
                        }
                        Attribute::Text(text) => {
                            attribute.text(4, text);
                            3
                        }
                        Attribute::Ints(list) => {
                            attribute.ints(8, list.iter().copied());
                            7
                        }
                    };
                    attribute.int(20, kind);
                });
            }
        });
    }

    /// Writes a node with one result that no value of the graph stands for; returns its name.
    fn step(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)]) -> String {
        let name = self.fresh();
        self.emit(op, inputs, &[&name], attributes);
        name
    }

    fn tensor(&mut self, name: &str, dtype: DType, dims: &[usize], raw: &[u8]) {
        self.body.message(5, |tensor| {
            tensor.ints(1, dims.iter().map(|&n| n as i64));
            tensor.int(2, code(dtype));
            tensor.text(8, name);
            tensor.bytes(9, raw);
        });
    }

    /// A vector of 64-bit integers; returns its name.
    fn ints(&mut self, ints: &[i64]) -> String {
        let name = self.fresh();
        let raw: Vec<u8> = ints.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.tensor(&name, DType::I64, &[ints.len()], &raw);
        name
    }

    fn float_bytes(&self, data: impl IntoIterator<Item = f64>) -> Vec<u8> {
        let data = data.into_iter();
        match self.graph.dtype() {
            DType::F64 => data.flat_map(f64::to_le_bytes).collect(),
            _ => data.flat_map(|x| (x as f32).to_le_bytes()).collect(),
        }
    }

    /// A scalar of the graph's floats; returns its name.
    fn scalar(&mut self, number: f64) -> String {
        let name = self.fresh();
        let raw = self.float_bytes([number]);
        self.tensor(&name, self.graph.dtype(), &[], &raw);
        name
    }

    /// So many equal floats; returns the vector's name.
    fn filled(&mut self, number: f64, len: usize) -> String {
        let name = self.fresh();
        let raw = self.float_bytes(vec![number; len]);
        self.tensor(&name, self.graph.dtype(), &[len], &raw);
        name
    }

    /// Nodes that scale an input.
    fn scale(&mut self, scaling: &Scaling<'_>) -> Result<(), OnnxError> {
        let graph = self.graph;
        let mut inputs = graph.inputs().iter();
        let Some(position) = inputs.position(|input| input.name == scaling.input) else {
            return Err(OnnxError::Place {
                kind: "input",
                name: scaling.input.to_owned(),
                expected: "one of the graph's",
                got: "none".to_owned(),
            });
        };
        let dims = self.dims(graph.inputs()[position].value);
        let dims: Vec<usize> = dims.iter().skip(1).map(|dim| dim.bind(1)).collect();
        let expected: usize = dims.iter().product();
        let mut name = scaling.input.to_owned();
        for (op, numbers) in [("Sub", scaling.offset), ("Mul", scaling.factor)] {
            let dims = match numbers.len() {
                1 => Vec::new(),
                len if len == expected => dims.clone(),
                got => {
                    return Err(OnnxError::Weight {
                        name: scaling.input.to_owned(),
                        expected,
                        got,
                    });
                }
            };
            let raw = self.float_bytes(numbers.iter().map(|&x| f64::from(x)));
            let operand = self.fresh();
            self.tensor(&operand, graph.dtype(), &dims, &raw);
            name = self.step(op, &[&name, &operand], &[]);
        }
        self.scaled.insert(position, name);
        Ok(())
    }

    /// Parameters, states and constants that are used.
    fn initializers(&mut self, tensors: &BTreeMap<&str, &[f32]>) -> Result<(), OnnxError> {
        let graph = self.graph;
        let parameters = graph.parameters().iter().map(|p| (&p.name, p.value));
        let states = graph.states().iter().map(|s| (&s.name, s.value));
        for (name, value) in parameters.chain(states) {
            if !self.used[value.0 as usize] {
                continue;
            }
            let shape = self.ty(value).shape.bind(1);
            let expected = shape.iter().product();
            let data = tensors.get(name.as_str()).copied().unwrap_or_default();
            if data.len() != expected {
                return Err(OnnxError::Weight {
                    name: name.clone(),
                    expected,
                    got: data.len(),
                });
            }
            let raw = self.float_bytes(data.iter().map(|&x| f64::from(x)));
            self.tensor(name, graph.dtype(), &shape, &raw);
        }
        for constant in graph.constants() {
            if !self.used[constant.value.0 as usize] {
                continue;
            }
            let ty = self.ty(constant.value).clone();
            let raw = match &constant.data {
                ConstantData::Float(data) => self.float_bytes(data.iter().copied()),
                ConstantData::Int(data) if ty.dtype == DType::I32 => data
                    .iter()
                    .flat_map(|&n| (n as i32).to_le_bytes())
                    .collect(),
                ConstantData::Int(data) => data.iter().flat_map(|n| n.to_le_bytes()).collect(),
                ConstantData::Bool(data) => data.iter().map(|&b| u8::from(b)).collect(),
            };
            let name = self.name(constant.value);
            self.tensor(&name, ty.dtype, &ty.shape.bind(1), &raw);
        }
        Ok(())
    }

    /// The graph's name, inputs and outputs.
    fn places(&mut self) {
        let graph = self.graph;
        self.body.text(2, graph.name());
        for input in graph.inputs() {
            if self.used[input.value.0 as usize] {
                place(
                    &mut self.body,
                    11,
                    &input.name,
                    self.graph.value(input.value).ty.clone(),
                );
            }
        }
        let taken = |name: &str| {
            let mut names = graph.inputs().iter().map(|input| &input.name);
            let mut parameters = graph.parameters().iter().map(|p| &p.name);
            let mut states = graph.states().iter().map(|s| &s.name);
            names.any(|n| n == name) || parameters.any(|n| n == name) || states.any(|n| n == name)
        };
        for output in graph.outputs() {
            if output.role == OutputRole::Loss {
                continue;
            }
            let mut name = output.name.clone();
            while taken(&name) {
                name += "_output";
            }
            let from = self.name(output.value);
            self.emit("Identity", &[&from], &[&name], &[]);
            place(
                &mut self.body,
                12,
                &name,
                self.graph.value(output.value).ty.clone(),
            );
        }
    }

    /// A vector of a shape's dimensions. The batch is that of an input.
    fn shape_tensor(&mut self, shape: &Shape) -> String {
        let fixed: Option<Vec<i64>> = shape
            .dims()
            .iter()
            .map(|dim| dim.fixed().map(|n| n as i64))
            .collect();
        if let Some(fixed) = fixed {
            return self.ints(&fixed);
        }
        let batch = self.batch();
        let mut parts = Vec::with_capacity(shape.rank());
        for dim in shape.dims() {
            parts.push(match *dim {
                Dim::Fixed(n) => self.ints(&[n as i64]),
                Dim::Batch => batch.clone(),
                Dim::BatchTimes(times) => {
                    let times = self.ints(&[times as i64]);
                    self.step("Mul", &[&batch, &times], &[])
                }
            });
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.step("Concat", &parts, &[("axis", Attribute::Int(0))])
    }

    /// A vector of one element, the batch.
    fn batch(&mut self) -> String {
        for input in self.graph.inputs() {
            if !self.used[input.value.0 as usize] {
                continue;
            }
            let position = self
                .dims(input.value)
                .iter()
                .position(|&dim| dim == Dim::Batch);
            if let Some(position) = position {
                let (start, end) = (position as i64, position as i64 + 1);
                return self.step(
                    "Shape",
                    &[&input.name],
                    &[
                        ("start", Attribute::Int(start)),
                        ("end", Attribute::Int(end)),
                    ],
                );
            }
        }
        self.ints(&[1])
    }
}

/// A `ValueInfoProto`.
fn place(to: &mut Writer, field: u32, name: &str, ty: TensorType) {
    to.message(field, |info| {
        info.text(1, name);
        info.message(2, |of| {
            of.message(1, |tensor| {
                tensor.int(1, code(ty.dtype));
                tensor.message(2, |shape| {
                    for dim in ty.shape.dims() {
                        shape.message(1, |extent| match *dim {
                            Dim::Fixed(n) => extent.int(1, n as i64),
                            Dim::Batch => extent.text(2, "batch"),
                            Dim::BatchTimes(times) => extent.text(2, &format!("{times}*batch")),
                        });
                    }
                });
            });
        });
    });
}
