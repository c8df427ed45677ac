//! The stable text forms of a graph: `Display`, and [`dot`] for Graphviz. Golden tests compare them;
//! nothing parses them.

use std::fmt;
use std::fmt::Write;

use crate::graph::{ConstantData, Graph, NodeId, Origin, OutputRole, ValueId};
use crate::pass::uses::backward;

impl fmt::Display for Graph {
    /// One line per input, parameter, node, output and gradient, each in its own order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {} {} {{", self.name, self.dtype)?;
        for input in &self.inputs {
            let ty = &self.value(input.value).ty;
            writeln!(f, "  input {} {}: {ty}", input.value, input.name)?;
        }
        for parameter in &self.parameters {
            let ty = &self.value(parameter.value).ty;
            writeln!(
                f,
                "  parameter {} {}: {ty} = {}",
                parameter.value, parameter.name, parameter.initialiser
            )?;
        }
        for constant in &self.constants {
            let ty = &self.value(constant.value).ty;
            let shown = shown(&constant.data);
            writeln!(f, "  constant {}: {ty} = {shown}", constant.value)?;
        }
        for state in &self.states {
            let (value, ty) = (state.value, &self.value(state.value).ty);
            writeln!(
                f,
                "  state {value} {}: {ty} = {}",
                state.name, state.initial
            )?;
        }
        for (i, value) in self.values.iter().enumerate() {
            if value.origin == Origin::LossScale {
                writeln!(f, "  loss_scale {}: {}", ValueId(i as u32), value.ty)?;
            }
        }
        for (i, node) in self.nodes.iter().enumerate() {
            write!(f, "  {}", NodeId(i as u32))?;
            for (position, result) in node.results.iter().enumerate() {
                let separator = if position == 0 { " " } else { ", " };
                write!(f, "{separator}{result}: {}", self.value(*result).ty)?;
            }
            write!(f, " = {}(", node.op)?;
            for (position, operand) in node.operands.iter().enumerate() {
                let separator = if position == 0 { "" } else { ", " };
                write!(f, "{separator}{operand}")?;
            }
            writeln!(f, ")")?;
        }
        for output in &self.outputs {
            let role = match output.role {
                OutputRole::Loss => "loss",
                OutputRole::Prediction => "prediction",
                OutputRole::Derived => "derived",
            };
            writeln!(f, "  output {} {} ({role})", output.value, output.name)?;
        }
        for update in &self.updates {
            let name = &self.states[update.state.0 as usize].name;
            writeln!(f, "  update {} {name}", update.value)?;
        }
        for gradient in &self.gradients {
            let name = &self.parameter(gradient.parameter).name;
            writeln!(f, "  gradient {} {name}", gradient.value)?;
        }
        f.write_str("}\n")
    }
}

/// The graph in the language of Graphviz: a box a node, an edge a value from its definition to each
/// reader, labelled with its type. Parameters and states are ellipses, inputs and constants plain,
/// outputs and gradients house-shaped. Backward nodes are shaded.
#[must_use]
pub fn dot(graph: &Graph) -> String {
    let mut text = String::new();
    // Writing to a string doesn't fail.
    let _ = write_dot(graph, &mut text);
    text
}

fn write_dot(graph: &Graph, to: &mut String) -> fmt::Result {
    let backward = backward(graph);
    writeln!(to, "digraph {} {{", quoted(&graph.name))?;
    writeln!(to, "  rankdir=TB;")?;
    writeln!(to, "  node [fontname=\"monospace\", fontsize=10];")?;
    for (i, value) in graph.values.iter().enumerate() {
        let (shape, name) = match value.origin {
            Origin::Input(position) => ("plain", graph.inputs[position].name.clone()),
            Origin::Parameter(id) => ("ellipse", graph.parameter(id).name.clone()),
            Origin::State(id) => ("ellipse", graph.states[id.0 as usize].name.clone()),
            Origin::Constant(position) => ("plain", shown(&graph.constants[position].data)),
            Origin::LossScale => ("plain", "loss_scale".to_owned()),
            Origin::Node { .. } => continue,
        };
        let label = quoted(&format!("{name}: {}", value.ty));
        writeln!(to, "  v{i} [shape={shape}, label={label}];")?;
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        let is_backward = node.results.iter().any(|v| backward[v.0 as usize]);
        let style = if is_backward {
            ", style=filled, fillcolor=gray90"
        } else {
            ""
        };
        let label = quoted(&format!("#{i} {}", node.op));
        writeln!(to, "  n{i} [shape=box, label={label}{style}];")?;
        for &operand in &node.operands {
            let label = quoted(&format!("{operand} {}", graph.value(operand).ty));
            writeln!(to, "  {} -> n{i} [label={label}];", source(graph, operand))?;
        }
    }
    let mut end = |kind: &str, i: usize, name: &str, value: ValueId| {
        let label = quoted(&format!("{kind} {name}"));
        writeln!(to, "  {kind}{i} [shape=invhouse, label={label}];")?;
        writeln!(to, "  {} -> {kind}{i};", source(graph, value))
    };
    for (i, output) in graph.outputs.iter().enumerate() {
        end("output", i, &output.name, output.value)?;
    }
    for (i, update) in graph.updates.iter().enumerate() {
        let name = &graph.states[update.state.0 as usize].name;
        end("update", i, name, update.value)?;
    }
    for (i, gradient) in graph.gradients.iter().enumerate() {
        let name = &graph.parameter(gradient.parameter).name;
        end("gradient", i, name, gradient.value)?;
    }
    writeln!(to, "}}")
}

/// The name in Graphviz of what defines a value.
fn source(graph: &Graph, value: ValueId) -> String {
    match graph.value(value).origin {
        Origin::Node { node, .. } => format!("n{}", node.0),
        _ => format!("v{}", value.0),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn shown(data: &ConstantData) -> String {
    match data {
        ConstantData::Float(data) => head(data),
        ConstantData::Int(data) => head(data),
        ConstantData::Bool(data) => head(data),
    }
}

/// The first elements of a constant.
fn head<E: fmt::Debug>(data: &[E]) -> String {
    const SHOWN: usize = 8;
    let more = if data.len() > SHOWN { ", .." } else { "" };
    let shown: Vec<String> = data.iter().take(SHOWN).map(|x| format!("{x:?}")).collect();
    format!("[{}{more}]", shown.join(", "))
}
