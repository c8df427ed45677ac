//! From a graph to a program: which nodes run, in which order, and where every value stands.
//!
//! This part knows no device. A backend turns each [`Call`] into a kernel.
//!
//! 1. *Select* (`select`): the nodes that the mode's outputs and gradients need, in graph order.
//! 2. *Chain* ([`chain`]): an element-wise node whose operand nobody reads later takes that
//!    operand's place. A chain of such values is one buffer.
//! 3. *Place* ([`place`]): buffers whose lifetimes overlap get disjoint ranges of one workspace;
//!    others share. A buffer that ends in a parameter's gradient stands in the gradient arena.

pub mod chain;
pub mod place;
mod select;

use ringfold_graph::{Graph, NodeId, Op, Origin, ValueId};

use self::select::{Selection, computes};
use crate::backend::{InputSpec, Mode, OutputSpec, PlanOptions};
use crate::buffer::ARENA_ELEMENTS_MAX;
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::{ParameterLayout, check_element};

/// The memory in which a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// The workspace.
    Workspace,
    /// The parameter arena.
    Parameters,
    /// The gradient arena.
    Gradients,
    /// The input at this position in [`Program::inputs`].
    Input(usize),
    /// The loss scale of the run.
    LossScale,
}

/// A range of elements in a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The memory.
    pub space: Space,
    /// The first element.
    pub offset: usize,
    /// The number of elements.
    pub len: usize,
}

/// A value with its place and bound dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where it stands.
    pub place: Place,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// One node to run: an operator applied to placed values. (A *step* is an optimizer update.)
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The node in the graph.
    pub node: NodeId,
    /// The operator.
    pub op: Op,
    /// What it reads.
    pub operands: Vec<Located>,
    /// What it writes. Disjoint from every operand but `in_place`.
    pub result: Located,
    /// The operand whose place the result takes.
    pub in_place: Option<usize>,
    /// The parameter (position in the layout) whose gradient is final after this call.
    pub finishes: Option<usize>,
}

/// The check that labels lie below the number of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelCheck {
    /// The position in [`Program::inputs`].
    pub input: usize,
    /// The number of classes.
    pub classes: usize,
}

/// A graph planned for one mode and batch size.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// What it computes.
    pub mode: Mode,
    /// The number of samples.
    pub batch: usize,
    /// The nodes in order.
    pub calls: Vec<Call>,
    /// The inputs that the calls read, in the graph's order.
    pub inputs: Vec<InputSpec>,
    /// Label inputs to check before a run.
    pub label_checks: Vec<LabelCheck>,
    /// The outputs with their places in the workspace.
    pub outputs: Vec<(OutputSpec, Place)>,
    /// Elements of workspace.
    pub workspace_len: usize,
    /// Elements of the parameter and gradient arenas.
    pub parameters_len: usize,
}

impl Program {
    /// Plans `graph` for elements of type `T` and parameters that stand as `layout` says.
    ///
    /// # Errors
    /// A graph that doesn't verify, is of another element type, has no gradients (training) or no
    /// outputs of the mode, or doesn't fit the layout; an empty batch; sizes that can't be
    /// addressed.
    pub fn new<T: Element>(
        graph: &Graph,
        layout: &ParameterLayout,
        options: PlanOptions,
    ) -> Result<Self, ComputeError> {
        graph.verify()?;
        check_element::<T>(graph)?;
        if options.batch == 0 {
            return Err(ComputeError::BatchEmpty);
        }
        if options.mode == Mode::Training && graph.gradients().is_empty() {
            return Err(ComputeError::NotDifferentiated {
                graph: graph.name().to_owned(),
            });
        }
        let selection = Selection::new(graph, options.mode)?;
        Planner {
            graph,
            layout,
            options,
            selection,
            lens: lens(graph, options.batch)?,
        }
        .plan::<T>()
    }
}

/// The number of elements of every value.
fn lens(graph: &Graph, batch: usize) -> Result<Vec<usize>, ComputeError> {
    let values = graph.values().iter();
    values
        .map(|value| {
            let elements = value.ty.shape.elements(batch);
            elements
                .filter(|&elements| elements <= ARENA_ELEMENTS_MAX)
                .ok_or(ComputeError::TooLarge {
                    what: "a tensor",
                    elements_max: ARENA_ELEMENTS_MAX,
                })
        })
        .collect()
}

struct Planner<'a> {
    graph: &'a Graph,
    layout: &'a ParameterLayout,
    options: PlanOptions,
    selection: Selection,
    /// By value: the number of elements.
    lens: Vec<usize>,
}

impl Planner<'_> {
    fn plan<T: Element>(&self) -> Result<Program, ComputeError> {
        let chains = chain::Chains::new(self.graph, &self.selection, &self.lens);
        let buffers: Vec<place::Buffer> = chains
            .buffers
            .iter()
            .filter(|buffer| buffer.gradient_of.is_none())
            .map(|buffer| buffer.lifetime)
            .collect();
        let placement = place::place::<T>(&buffers)?;
        let mut offsets = placement.offsets.into_iter();
        // By buffer: where it stands.
        let mut homes = Vec::with_capacity(chains.buffers.len());
        for buffer in &chains.buffers {
            homes.push(match buffer.gradient_of {
                Some(slot) => (Space::Gradients, self.layout_offset(slot)?),
                None => (Space::Workspace, offsets.next().unwrap_or_default()),
            });
        }
        let (inputs, input_positions) = self.inputs();
        let places = self.places(&chains, &homes, &input_positions)?;
        let calls = self.calls(&chains, &places)?;
        Ok(Program {
            mode: self.options.mode,
            batch: self.options.batch,
            label_checks: label_checks(&calls),
            calls,
            inputs,
            outputs: self.outputs(&places),
            workspace_len: placement.len,
            parameters_len: self.layout.len(),
        })
    }

    /// The offset of the parameter whose gradient is the graph's `slot`-th.
    fn layout_offset(&self, slot: usize) -> Result<usize, ComputeError> {
        let parameter = self.graph.parameter(self.graph.gradients()[slot].parameter);
        let elements = self.lens[parameter.value.0 as usize];
        let found = self.layout.slots().get(slot);
        found
            .filter(|found| found.name == parameter.name && found.len == elements)
            .map(|found| found.offset)
            .ok_or_else(|| ComputeError::LayoutMismatch {
                name: parameter.name.clone(),
                elements,
            })
    }

    /// The inputs that are read, and by graph input the position among them.
    fn inputs(&self) -> (Vec<InputSpec>, Vec<usize>) {
        let mut specs = Vec::new();
        let mut positions = Vec::new();
        for input in self.graph.inputs() {
            positions.push(specs.len());
            let value = input.value.0 as usize;
            if self.selection.is_read[value] {
                let ty = &self.graph.value(input.value).ty;
                specs.push(InputSpec {
                    name: input.name.clone(),
                    dtype: ty.dtype,
                    shape: ty.shape.bind(self.options.batch),
                    len: self.lens[value],
                });
            }
        }
        (specs, positions)
    }

    /// By value: its place. Values that the mode doesn't touch have an empty one.
    fn places(
        &self,
        chains: &chain::Chains,
        homes: &[(Space, usize)],
        input_positions: &[usize],
    ) -> Result<Vec<Place>, ComputeError> {
        let mut places = Vec::with_capacity(self.lens.len());
        for (v, value) in self.graph.values().iter().enumerate() {
            let len = self.lens[v];
            let (space, offset) = match value.origin {
                Origin::Input(input) => (Space::Input(input_positions[input]), 0),
                Origin::LossScale => (Space::LossScale, 0),
                Origin::Parameter(parameter) => {
                    let name = &self.graph.parameter(parameter).name;
                    let found = self.layout.slot(name);
                    let found = found.filter(|slot| slot.shape == value.ty.shape.bind(1));
                    let Some(slot) = found else {
                        return Err(ComputeError::LayoutMismatch {
                            name: name.clone(),
                            elements: len,
                        });
                    };
                    (Space::Parameters, slot.offset)
                }
                Origin::Node { .. } => match chains.buffer_of[v] {
                    Some(buffer) => homes[buffer],
                    None => (Space::Workspace, 0),
                },
            };
            places.push(Place { space, offset, len });
        }
        Ok(places)
    }

    fn located(&self, places: &[Place], value: ValueId) -> Located {
        Located {
            place: places[value.0 as usize],
            shape: self.graph.value(value).ty.shape.bind(self.options.batch),
        }
    }

    fn calls(&self, chains: &chain::Chains, places: &[Place]) -> Result<Vec<Call>, ComputeError> {
        let mut calls = Vec::with_capacity(self.selection.nodes.len());
        for (position, &id) in self.selection.nodes.iter().enumerate() {
            let node = &self.graph.nodes()[id.0 as usize];
            let result = node.results[0];
            let op = match (&node.op, self.options.mode) {
                (Op::Dropout { .. }, Mode::Evaluation | Mode::Prediction) => Op::Identity,
                (op, _) => op.clone(),
            };
            calls.push(Call {
                node: id,
                op,
                operands: node
                    .operands
                    .iter()
                    .map(|&value| self.located(places, value))
                    .collect(),
                result: self.located(places, result),
                in_place: chains.in_place[position],
                finishes: self.selection.gradient_of[result.0 as usize],
            });
        }
        Ok(calls)
    }

    fn outputs(&self, places: &[Place]) -> Vec<(OutputSpec, Place)> {
        let outputs = self.graph.outputs().iter();
        outputs
            .filter(|output| computes(self.options.mode, output.role))
            .map(|output| {
                let located = self.located(places, output.value);
                let spec = OutputSpec {
                    name: output.name.clone(),
                    len: located.place.len,
                    shape: located.shape,
                };
                (spec, located.place)
            })
            .collect()
    }
}

/// The checks that the calls need: an integer operand is a label of the logits before it.
fn label_checks(calls: &[Call]) -> Vec<LabelCheck> {
    let mut checks = Vec::new();
    for call in calls {
        if !matches!(
            call.op,
            Op::SoftmaxCrossEntropy | Op::SoftmaxCrossEntropyGrad
        ) {
            continue;
        }
        let (logits, labels) = (&call.operands[0], &call.operands[1]);
        if let Space::Input(input) = labels.place.space {
            let check = LabelCheck {
                input,
                classes: logits.shape[1],
            };
            if !checks.contains(&check) {
                checks.push(check);
            }
        }
    }
    checks
}

#[cfg(test)]
mod tests;
