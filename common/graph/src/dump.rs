//! The stable text form of a graph. Golden tests compare it; nothing parses it.

use std::fmt;

use crate::graph::{ConstantData, Graph, NodeId, Origin, OutputRole, ValueId};

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
            let shown: String = match &constant.data {
                ConstantData::Float(data) => head(data),
                ConstantData::Int(data) => head(data),
                ConstantData::Bool(data) => head(data),
            };
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

/// The first elements of a constant.
fn head<E: fmt::Debug>(data: &[E]) -> String {
    const SHOWN: usize = 8;
    let more = if data.len() > SHOWN { ", .." } else { "" };
    let shown: Vec<String> = data.iter().take(SHOWN).map(|x| format!("{x:?}")).collect();
    format!("[{}{more}]", shown.join(", "))
}
