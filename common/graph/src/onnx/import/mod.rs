//! From a model's messages to a graph.

mod attention;
mod call;
mod einsum;
mod elementwise;
mod fold;
mod images;
mod layout;
mod linear;
mod norms;
mod operands;
mod reductions;
mod report;
mod resize;
mod sequences;
mod shapes;

use std::collections::{BTreeMap, BTreeSet};

use self::call::{Call, Refusal, Term, Terms, because};
pub use self::report::{Imported, ImportedTensor, Notice, ReadOptions, Report, TensorKind};
use super::error::OnnxError;
use super::job::{self, Job};
use super::known::{self, Data, ElementType, FOLDED_TOTAL_MAX, Known, tensor_shape};
use super::names::{Names, matches};
use super::proto::{self, Extent};
use super::{OPSET_MAX, OPSET_MIN};
use crate::graph::{Graph, Origin, OutputRole, ValueId};
use crate::models::{FEATURES, LABELS, objective};
use crate::op::{Cast, Op, Unary};
use crate::shape::{DType, Dim, Shape, TensorType};

/// Reads a `ModelProto`.
///
/// # Errors
/// [`OnnxError`]: broken bytes, what is over a cap, data in files that aren't given, operators that
/// Ringfold lacks, dynamic dimensions without a size.
pub fn read(bytes: &[u8], options: &ReadOptions<'_>) -> Result<Imported, OnnxError> {
    read_framed(bytes, options, None)
}

/// Reads a `ModelProto`; in a job its inputs and one output become those of a job's model.
pub(super) fn read_framed(
    bytes: &[u8],
    options: &ReadOptions<'_>,
    job: Option<&Job<'_>>,
) -> Result<Imported, OnnxError> {
    let model = proto::Model::decode(bytes)?;
    let Some(graph) = &model.graph else {
        return Err(OnnxError::Model {
            expected: "a graph",
            got: "none".to_owned(),
        });
    };
    let mut importer = Importer::new(&model, graph, options, job)?;
    importer.run()?;
    importer.graph.verify()?;
    Ok(Imported {
        graph: importer.graph,
        tensors: importer.tensors,
        report: importer.report,
    })
}

/// What has been made of an initializer.
#[derive(Clone, Debug)]
enum Made {
    Value(ValueId),
    Nothing,
}

/// The graph so far, and what names stand for.
struct Importer<'m, 'a, 'o> {
    graph: Graph,
    source: &'m proto::Graph<'a>,
    options: &'m ReadOptions<'o>,
    /// What surrounds the model, if it is a job's.
    job: Option<&'m Job<'m>>,
    /// The labels of a job's model.
    labels: Option<ValueId>,
    opsets: BTreeMap<&'a str, i64>,
    terms: BTreeMap<&'a str, Term>,
    /// By initializer.
    made: Vec<Made>,
    /// Names of dynamic dimensions that are the first of an input.
    leading: BTreeSet<&'a str>,
    /// What the exporter says of initializers.
    torch_kinds: BTreeMap<&'a str, &'a str>,
    parameter_names: Names,
    dropout_keys: u64,
    folded_left: usize,
    tensors: Vec<ImportedTensor>,
    report: Report,
}

impl<'m, 'a, 'o> Importer<'m, 'a, 'o> {
    fn new(
        model: &'m proto::Model<'a>,
        source: &'m proto::Graph<'a>,
        options: &'m ReadOptions<'o>,
        job: Option<&'m Job<'m>>,
    ) -> Result<Self, OnnxError> {
        let refuse = |expected, got| Err(OnnxError::Model { expected, got });
        let own = |domain: &'a str| if domain == "ai.onnx" { "" } else { domain };
        let opsets = model.opsets.iter().map(|&(domain, v)| (own(domain), v));
        let opsets: BTreeMap<&str, i64> = opsets.collect();
        let opset = opsets.get("").copied().unwrap_or(0);
        if !(OPSET_MIN..=OPSET_MAX).contains(&opset) {
            return refuse("an opset of 13 to 28", opset.to_string());
        }
        if source.has_sparse {
            return refuse("dense initializers", "a sparse one".to_owned());
        }
        let name = Names::default().take(source.name);
        let firsts = source
            .inputs
            .iter()
            .filter_map(|info| info.dims.as_ref()?.first());
        let leading = firsts.filter_map(|extent| match extent {
            Extent::Named(name) => Some(*name),
            _ => None,
        });
        let infos = source.value_info.iter().chain(&source.inputs);
        let kinds = infos.filter_map(|info| Some((info.name, info.torch_kind?)));
        let mut parameter_names = Names::default();
        if job.is_some() {
            // So that a model that is written again has one tensor of each name.
            parameter_names.take(FEATURES);
            parameter_names.take(LABELS);
        }
        Ok(Self {
            graph: Graph::new(&name, options.dtype)?,
            source,
            options,
            job,
            labels: None,
            opsets,
            terms: BTreeMap::new(),
            made: vec![Made::Nothing; source.initializers.len()],
            leading: leading.collect(),
            torch_kinds: kinds.collect(),
            parameter_names,
            dropout_keys: 0,
            folded_left: FOLDED_TOTAL_MAX,
            tensors: Vec::new(),
            report: Report {
                opset,
                ..Report::default()
            },
        })
    }

    fn run(&mut self) -> Result<(), OnnxError> {
        let outputs = self.chosen_outputs()?;
        let needed = self.needed(&outputs)?;
        self.define_initializers()?;
        self.define_inputs(&needed.1)?;
        for (node, needed) in self.source.nodes.iter().zip(&needed.0) {
            if *needed {
                self.define_node(node)?;
            }
        }
        let mut names = Names::default();
        for name in outputs {
            self.define_output(name, &mut names)?;
        }
        Ok(())
    }

    fn chosen_outputs(&self) -> Result<Vec<&'a str>, OnnxError> {
        let all = self.source.outputs.iter().map(|info| info.name);
        if self.job.is_some() && self.options.outputs.is_empty() && all.len() != 1 {
            return Err(OnnxError::Model {
                expected: "one output, or the name of one",
                got: all.collect::<Vec<_>>().join(", "),
            });
        }
        if self.options.outputs.is_empty() {
            return Ok(all.collect());
        }
        let chosen = self.options.outputs.iter();
        let find = |name: &String| {
            let found = self.source.outputs.iter().find(|info| info.name == *name);
            found.map(|info| info.name).ok_or_else(|| OnnxError::Place {
                kind: "output",
                name: name.clone(),
                expected: "one of the model's",
                got: all.clone().collect::<Vec<_>>().join(", "),
            })
        };
        chosen.map(find).collect()
    }

    /// Which nodes the outputs depend on, and the names that these read.
    fn needed(&self, outputs: &[&'a str]) -> Result<(Vec<bool>, BTreeSet<&'a str>), OnnxError> {
        let nodes = &self.source.nodes;
        let mut producer = BTreeMap::new();
        for (i, node) in nodes.iter().enumerate() {
            for &name in node.outputs.iter().filter(|name| !name.is_empty()) {
                if producer.insert(name, i).is_some() {
                    return Err(OnnxError::Model {
                        expected: "names that one node defines",
                        got: format!("two that define {name:?}"),
                    });
                }
            }
        }
        let mut needed = vec![false; nodes.len()];
        let mut seen: BTreeSet<&str> = outputs.iter().copied().collect();
        let mut open: Vec<&str> = outputs.to_vec();
        while let Some(name) = open.pop() {
            let Some(&i) = producer.get(name) else {
                continue;
            };
            if !needed[i] {
                needed[i] = true;
                open.extend(nodes[i].inputs.iter().filter(|&&name| seen.insert(name)));
            }
        }
        Ok((needed, seen))
    }

    fn define_initializers(&mut self) -> Result<(), OnnxError> {
        for (i, tensor) in self.source.initializers.iter().enumerate() {
            tensor_shape(tensor)?;
            let name = tensor.name;
            let mut term = Term::Weight(i);
            if ElementType::of_code(tensor.data_type) != Some(ElementType::Float) {
                term = self.known_initializer(i)?;
            } else if let Some(why) = self.frozen(name) {
                self.notice(name, why);
                term = self.known_initializer(i)?;
            }
            self.define(name, term)?;
        }
        Ok(())
    }

    fn known_initializer(&self, i: usize) -> Result<Term, OnnxError> {
        let tensor = &self.source.initializers[i];
        let tensor = known::decode(tensor, self.options.resolver)?;
        Ok(Term::known(tensor.into()))
    }

    fn listed(patterns: &[String], name: &str) -> bool {
        patterns.iter().any(|pattern| matches(pattern, name))
    }

    /// Why an initializer is a constant from the start.
    fn frozen(&self, name: &str) -> Option<&'static str> {
        if Self::listed(&self.options.freeze, name) {
            return Some("frozen by a pattern");
        }
        let is_buffer = self.torch_kinds.get(name) == Some(&"BUFFER");
        let train = Self::listed(&self.options.train, name);
        (is_buffer && !train && !name.contains("running_")).then_some("a buffer")
    }

    /// True if PyTorch's notes or the name say that an initializer is a parameter.
    fn is_called_parameter(&self, name: &str) -> bool {
        self.torch_kinds.get(name) == Some(&"PARAMETER")
            || name.ends_with("weight")
            || name.ends_with("bias")
            || Self::listed(&self.options.train, name)
    }

    /// Why an initializer that is used in arithmetic is a constant.
    fn frozen_by_use(&self, name: &str, known: &Known) -> Option<&'static str> {
        if Self::listed(&self.options.train, name) {
            return None;
        }
        let Data::Float(data) = &known.data else {
            return Some("not floats");
        };
        if data.iter().any(|x| !x.is_finite()) {
            return Some("a number that isn't finite");
        }
        let is_constant = data.len() == 1 && !self.is_called_parameter(name);
        is_constant.then_some("a single number in arithmetic")
    }

    fn notice(&mut self, name: &str, why: &'static str) {
        self.report.notices.push(Notice {
            onnx_name: name.to_owned(),
            why,
        });
    }

    fn define(&mut self, name: &'a str, term: Term) -> Result<(), OnnxError> {
        match self.terms.insert(name, term) {
            None => Ok(()),
            Some(_) => Err(OnnxError::Model {
                expected: "names that are defined once",
                got: format!("two definitions of {name:?}"),
            }),
        }
    }

    fn define_inputs(&mut self, read: &BTreeSet<&'a str>) -> Result<(), OnnxError> {
        let mut names = Names::default();
        let mut features = None;
        if let Some(job) = self.job {
            let inputs = self.source.inputs.iter().map(|info| info.name);
            let inputs =
                inputs.filter(|name| !self.terms.contains_key(name) && read.contains(name));
            job.check_inputs(&inputs.collect::<Vec<_>>())?;
            let (x, y) = objective::add_inputs(&mut self.graph, job.frame)?;
            (features, self.labels) = (Some(x), Some(y));
        }
        for info in &self.source.inputs {
            // Models of old have initializers among the inputs.
            if self.terms.contains_key(info.name) {
                continue;
            }
            let name = names.take(info.name);
            if let Some(tensor) = self.options.known.get(info.name) {
                self.define(info.name, Term::known(tensor.clone().into()))?;
            } else if read.contains(info.name) {
                let ty = self.input_type(info)?;
                let value = match (self.job, features) {
                    (Some(job), Some(features)) => {
                        job::own_input(&mut self.graph, job, features, (info.name, &ty))?
                    }
                    _ => self.graph.add_input(&name, ty)?,
                };
                self.report.inputs.push((info.name.to_owned(), name));
                self.define(info.name, Term::Value(value))?;
            } else {
                self.notice(info.name, "an input that no chosen output depends on");
            }
        }
        Ok(())
    }

    fn input_type(&self, info: &proto::ValueInfo<'a>) -> Result<TensorType, OnnxError> {
        let refuse = |expected, got| OnnxError::Place {
            kind: "input",
            name: info.name.to_owned(),
            expected,
            got,
        };
        let code = info.elem_type.unwrap_or(0);
        let dtype = match ElementType::of_code(code) {
            Some(ElementType::Float) => self.options.dtype,
            Some(ElementType::Int32) => DType::I32,
            Some(ElementType::Int64) => DType::I64,
            Some(ElementType::Bool) => DType::Bool,
            _ => {
                let expected = "a tensor of float32, int32, int64 or bool";
                return Err(refuse(expected, format!("type {code}")));
            }
        };
        let Some(extents) = &info.dims else {
            let got = "an unknown number".to_owned();
            return Err(refuse("a known number of dimensions", got));
        };
        let is_batch = |name: &str, i: usize| match self.options.batch.as_slice() {
            [] => i == 0 || self.leading.contains(name),
            names => names.iter().any(|batch| batch == name),
        };
        let mut dims = Vec::with_capacity(extents.len());
        for (i, extent) in extents.iter().enumerate() {
            dims.push(match *extent {
                Extent::Fixed(n) if n > 0 => Dim::Fixed(usize::try_from(n).unwrap_or(usize::MAX)),
                Extent::Named(name) if self.options.dims.contains_key(name) => {
                    Dim::Fixed(self.options.dims[name])
                }
                Extent::Named(name) if is_batch(name, i) => Dim::Batch,
                Extent::Unknown if i == 0 => Dim::Batch,
                other => {
                    let got = match other {
                        Extent::Named(name) => format!("{name:?} as dimension {i}"),
                        Extent::Fixed(n) => format!("{n} as dimension {i}"),
                        Extent::Unknown => format!("dimension {i} without a name or size"),
                    };
                    return Err(refuse("dimensions of a known size but for the batch", got));
                }
            });
        }
        Ok(TensorType::new(dtype, Shape::new(dims)))
    }

    fn define_node(&mut self, node: &'m proto::Node<'a>) -> Result<(), OnnxError> {
        let domain = if node.domain == "ai.onnx" {
            ""
        } else {
            node.domain
        };
        let opset = self.opsets.get(domain).copied().unwrap_or(0);
        let result = self.apply_node(node, domain, opset);
        let describe = || {
            let first = node.outputs.first().copied().unwrap_or_default();
            let name = if node.name.is_empty() {
                first
            } else {
                node.name
            };
            let operator = match domain {
                "" => node.op_type.to_owned(),
                domain => format!("{domain}.{}", node.op_type),
            };
            (name.to_owned(), operator)
        };
        let terms = result.map_err(|refusal| match refusal {
            Refusal::Onnx(error) => error,
            Refusal::Because(what) => {
                let (node, operator) = describe();
                OnnxError::Unsupported {
                    node,
                    operator,
                    opset,
                    what,
                }
            }
            Refusal::Graph(source) => {
                let source = Box::new(source);
                let (node, operator) = describe();
                OnnxError::Node {
                    node,
                    operator,
                    opset,
                    source,
                }
            }
        })?;
        for (&name, term) in node.outputs.iter().zip(terms) {
            if !name.is_empty() {
                self.define(name, term)?;
            }
        }
        Ok(())
    }

    fn apply_node(&mut self, node: &'m proto::Node<'a>, domain: &str, opset: i64) -> Terms {
        if !domain.is_empty() {
            return because("the operator is of a set that isn't supported");
        }
        let mut args = Vec::with_capacity(node.inputs.len());
        for &name in &node.inputs {
            args.push(match (name, self.terms.get(name)) {
                ("", _) => None,
                (_, Some(term)) => Some(term.clone()),
                (name, None) => return because(format!("{name:?} isn't defined before it")),
            });
        }
        let call = Call::new(node, opset, args);
        let terms = match fold::fold(self, &call)? {
            Some(results) => {
                for known in &results {
                    self.spend(known.len())?;
                }
                results.into_iter().map(Term::known).collect()
            }
            None => self.build(&call)?,
        };
        call.check_attributes()?;
        for term in &terms {
            self.check_size(term)?;
        }
        let wanted = (0..node.outputs.len()).filter(|&i| call.wants(i));
        if let Some(missing) = wanted.filter(|&i| i >= terms.len()).min() {
            return because(format!("output {missing}"));
        }
        Ok(terms)
    }

    /// The nodes of the graph that an ONNX node becomes.
    fn build(&mut self, call: &Call<'_, 'a>) -> Terms {
        let groups = [
            elementwise::build,
            attention::build,
            einsum::build,
            layout::build,
            linear::build,
            images::build,
            norms::build,
            reductions::build,
            sequences::build,
            shapes::build,
        ];
        for build in groups {
            if let Some(terms) = build(self, call)? {
                return Ok(terms);
            }
        }
        because("the operator isn't supported")
    }

    fn define_output(&mut self, name: &'a str, names: &mut Names) -> Result<(), OnnxError> {
        let refuse = |expected, got: &str| OnnxError::Place {
            kind: "output",
            name: name.to_owned(),
            expected,
            got: got.to_owned(),
        };
        let Some(term) = self.terms.get(name).cloned() else {
            return Err(refuse("a name that a node defines", "none"));
        };
        let own = names.take(name);
        let value = self.value(&term).map_err(|refusal| match refusal {
            Refusal::Graph(error) => OnnxError::Graph(error),
            Refusal::Onnx(error) => error,
            Refusal::Because(what) => refuse("a tensor of the graph", &what),
        })?;
        self.report.outputs.push((name.to_owned(), own.clone()));
        // Outputs are results of nodes, and floats.
        let dtype = self.graph.value(value).ty.dtype;
        let op: Op = match dtype.is_float() {
            true => Unary::Identity.into(),
            false => Cast {
                to: self.graph.dtype(),
            }
            .into(),
        };
        let is_result = matches!(self.graph.value(value).origin, Origin::Node { .. });
        let value = match dtype.is_float() && is_result {
            true => value,
            false => self.graph.apply(op, &[value])?,
        };
        match (self.job, self.labels) {
            (Some(job), Some(labels)) => {
                job::finish(&mut self.graph, job.frame, (name, &own), value, labels)
            }
            _ => Ok(self.graph.add_output(&own, OutputRole::Prediction, value)?),
        }
    }
}
