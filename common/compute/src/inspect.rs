//! What a model holds, costs and takes: for people who size a job, and for tests.

use ringfold_graph::pass::Record;
use ringfold_graph::{Graph, cost};

use crate::backend::{CompileOptions, Mode, PlanOptions};
use crate::cpu::Cpu;
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::{ParameterLayout, StateLayout};
use crate::plan::{Alive, Program, Role};

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterRow {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its number of elements.
    pub count: usize,
}

/// One node of the graph that is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// The operator with its attributes.
    pub op: String,
    /// The first result's dimensions, with the batch bound.
    pub shape: Vec<usize>,
    /// Floating-point operations.
    pub flops: u64,
    /// It depends on the loss scale: it is part of the backward pass.
    pub is_backward: bool,
    /// Its result is its operand under another shape: nothing is done.
    pub is_view: bool,
    /// Its first result stands where an operand stood.
    pub is_in_place: bool,
}

/// A buffer that is alive when the most memory is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferRow {
    /// What defines it: an operator; the gradient of a parameter; `scratch of` an operator.
    pub what: String,
    /// Bytes.
    pub bytes: usize,
    /// The position in [`Inspection::nodes`] of the node that it begins with.
    pub first: usize,
    /// That of the last node that reads it; the number of nodes if it is read after the run.
    pub last: usize,
}

/// A model in one mode at one batch size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The model's name.
    pub name: String,
    /// What it is run for.
    pub mode: Mode,
    /// Samples in one run.
    pub batch: usize,
    /// Its parameters in order of declaration.
    pub parameters: Vec<ParameterRow>,
    /// The nodes that are run, in order.
    pub nodes: Vec<NodeRow>,
    /// What the passes did.
    pub passes: Vec<Record>,
    /// Nodes of the mode before the passes.
    pub nodes_before: usize,
    /// Floating-point operations of one run, forward.
    pub flops_forward: u64,
    /// Floating-point operations of one run, backward.
    pub flops_backward: u64,
    /// Bytes of workspace: values and scratch.
    pub workspace_bytes: usize,
    /// Bytes alive at once at most, less the gradient arena, which lends its memory: no placement of
    /// these values takes less.
    pub workspace_bytes_min: usize,
    /// The position in [`Inspection::nodes`] at which the most is alive.
    pub peak_node: usize,
    /// What is alive then in the workspace and the gradient arena, the largest first.
    pub peak: Vec<BufferRow>,
    /// Bytes of the parameter arena, padding included; of gradients as much in training.
    pub parameters_bytes: usize,
    /// Bytes of the gradient arena.
    pub gradients_bytes: usize,
    /// Bytes of the state arena.
    pub state_bytes: usize,
    /// Bytes of constants.
    pub constants_bytes: usize,
}

/// Compiles a graph for a CPU and says what comes of it.
///
/// # Errors
/// As [`Cpu::plan_with`].
pub fn inspect<T: Element>(
    cpu: &Cpu,
    graph: &Graph,
    layout: &ParameterLayout,
    options: PlanOptions,
    how: &CompileOptions,
) -> Result<Inspection, ComputeError> {
    let compiled = cpu.compiled::<T>(graph, layout, options, how)?;
    let plain = CompileOptions {
        optimise: false,
        workspace_bytes_max: None,
        ..*how
    };
    let nodes_before = cpu.compiled::<T>(graph, layout, options, &plain)?;
    let (run, program) = (&compiled.graph, &compiled.program);
    let is_backward = cost::is_backward(run);
    let nodes = program.calls.iter().map(|call| {
        let node = &run.nodes()[call.node.0 as usize];
        NodeRow {
            op: call.op.to_string(),
            shape: call.results[0].shape.clone(),
            flops: cost::node_flops(run, node, options.batch),
            is_backward: is_backward[call.node.0 as usize],
            is_view: call.is_view,
            is_in_place: call.in_place.is_some(),
        }
    });
    let nodes: Vec<NodeRow> = nodes.collect();
    let sum = |backward: bool| {
        let here = nodes.iter().filter(|node| node.is_backward == backward);
        here.fold(0u64, |sum, node| sum.saturating_add(node.flops))
    };
    let parameters = graph.parameters().iter().map(|parameter| {
        let shape = graph.value(parameter.value).ty.shape.bind(1);
        ParameterRow {
            name: parameter.name.clone(),
            count: shape.iter().product(),
            shape,
        }
    });
    let size = T::DTYPE.size_bytes();
    let is_training = options.mode == Mode::Training;
    Ok(Inspection {
        name: graph.name().to_owned(),
        mode: options.mode,
        batch: options.batch,
        parameters: parameters.collect(),
        flops_forward: sum(false),
        flops_backward: sum(true),
        nodes_before: nodes_before.program.calls.len(),
        workspace_bytes: program.workspace_len * size,
        workspace_bytes_min: program.workspace_len_min * size,
        parameters_bytes: layout.len() * size,
        gradients_bytes: if is_training { layout.len() * size } else { 0 },
        state_bytes: StateLayout::new::<T>(graph)?.len() * size,
        constants_bytes: program.constants_len * size,
        peak_node: program.peak.call,
        peak: peak(program, layout),
        passes: compiled.records,
        nodes,
    })
}

/// What is alive at a program's peak, the largest first.
pub(crate) fn peak(program: &Program, layout: &ParameterLayout) -> Vec<BufferRow> {
    let row = |alive: &Alive| {
        let op = &program.calls[alive.first].op;
        BufferRow {
            what: match alive.role {
                Role::Values => op.to_string(),
                Role::Gradient(slot) => format!("gradient of {}", layout.slots()[slot].name),
                Role::Scratch => format!("scratch of {op}"),
            },
            bytes: alive.bytes,
            first: alive.first,
            last: alive.last,
        }
    };
    program.peak.alive.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use ringfold_graph::differentiate;
    use ringfold_graph::models::{LOSS, MlpOptions, mlp};

    use super::*;
    use crate::cpu::CpuOptions;

    #[test]
    fn an_mlp_is_what_its_options_say() {
        let graph = mlp(&MlpOptions::classifier(784, &[512, 512], 10)).unwrap();
        let graph = differentiate(&graph, LOSS).unwrap();
        let layout = ParameterLayout::new::<f32>(&graph).unwrap();
        let look = |mode| {
            let options = PlanOptions { mode, batch: 128 };
            let cpu = Cpu::new(CpuOptions::default()).unwrap();
            inspect::<f32>(&cpu, &graph, &layout, options, &CompileOptions::default()).unwrap()
        };
        let training = look(Mode::Training);
        let count: usize = training.parameters.iter().map(|row| row.count).sum();
        assert_eq!(count, 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10);
        assert_eq!(training.parameters[0].shape, [512, 784]);
        let products = 2 * 128 * (784 * 512 + 512 * 512 + 512 * 10);
        assert!((products..products * 101 / 100).contains(&training.flops_forward));
        assert!(training.flops_backward > training.flops_forward);
        assert!(training.parameters_bytes >= 4 * count);
        assert_eq!(training.gradients_bytes, training.parameters_bytes);
        assert!(training.workspace_bytes >= training.workspace_bytes_min);
        assert!(training.nodes.len() <= training.nodes_before);
        let alive: usize = training.peak.iter().map(|row| row.bytes).sum();
        assert!(alive <= training.workspace_bytes + training.gradients_bytes);
        assert!(training.peak.is_sorted_by_key(|row| usize::MAX - row.bytes));
        let here = |row: &BufferRow| (row.first..=row.last).contains(&training.peak_node);
        assert!(training.peak.iter().all(here), "{:?}", training.peak);
        let prediction = look(Mode::Prediction);
        assert_eq!(prediction.flops_backward, 0);
        assert_eq!(prediction.gradients_bytes, 0);
        let all = |look: &Inspection| look.workspace_bytes + look.gradients_bytes;
        assert!(all(&prediction) < all(&training));
    }
}
