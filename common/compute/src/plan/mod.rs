//! From a graph to a program: which nodes run, in which order, and where every value stands.
//!
//! This part knows no device. A backend turns each [`Call`] into a kernel.
//!
//! 0. *Compile* (`compile`): passes simplify and fuse the graph, and values that the memory can't
//!    keep are computed again. What follows plans what they leave.
//! 1. *Select* (`select`): the nodes that the mode's outputs and gradients need, in graph order.
//! 2. *Chain* ([`chain`]): a reshape is a view of its operand; an element-wise node whose operand
//!    nobody reads later takes that operand's place. A chain of such values is one buffer.
//! 3. *Place* ([`place`]): buffers whose lifetimes overlap get disjoint ranges of one workspace;
//!    others share. A buffer that ends in a parameter's gradient stands in the gradient arena; until a
//!    gradient is written, its range there is room for buffers, too.

pub mod chain;
mod compile;
mod peak;
pub mod place;
mod select;

use ringfold_graph::{DType, Graph, NodeId, Op, Origin, ParameterId, ValueId};

pub use self::compile::{Compiled, compile};
pub use self::peak::{Alive, Peak, Role};
use self::select::Selection;
use crate::backend::{InputSpec, Mode, OutputSpec, PlanOptions};
use crate::buffer::{ALIGNMENT_BYTES, ARENA_ELEMENTS_MAX};
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::{ParameterLayout, StateLayout, check_element};

/// The memory in which a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// The workspace.
    Workspace,
    /// The parameter arena.
    Parameters,
    /// The gradient arena.
    Gradients,
    /// The state arena.
    State,
    /// The constants of the plan.
    Constants,
    /// The input at this position in [`Program::inputs`].
    Input(usize),
    /// The loss scale of the run.
    LossScale,
}

/// A typed range in a memory. Memories are addressed in elements of the plan's float type; values of
/// other types stand at the same aligned offsets, see them through a typed view, and take as many
/// floats' room as their bytes need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The memory.
    pub space: Space,
    /// The first float.
    pub offset: usize,
    /// The number of elements.
    pub len: usize,
    /// The type of the elements.
    pub dtype: DType,
}

impl Place {
    /// The floats that it takes up.
    #[must_use]
    pub fn extent<T: Element>(&self) -> usize {
        extent::<T>(self.len, self.dtype)
    }
}

/// The floats of type `T` that `len` elements of `dtype` take up.
fn extent<T: Element>(len: usize, dtype: DType) -> usize {
    let float = T::DTYPE.size_bytes();
    match dtype.size_bytes() {
        size if size == float => len,
        size => (len * size).div_ceil(float),
    }
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
    /// What it writes. Disjoint from each other and from every operand but `in_place`.
    pub results: Vec<Located>,
    /// Room for the kernel's own use, in the workspace.
    pub scratch: Option<Place>,
    /// The operand whose place the first result takes.
    pub in_place: Option<usize>,
    /// The result is the operand, seen under another shape: there is nothing to compute.
    pub is_view: bool,
    /// The parameters (positions in the layout) whose gradients are final after this call.
    pub finishes: Vec<usize>,
}

/// The check that integers of an input lie below the number of classes, or of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelCheck {
    /// The position in [`Program::inputs`].
    pub input: usize,
    /// The number of classes.
    pub classes: usize,
    /// A number that is allowed besides.
    pub ignore: Option<i64>,
    /// Negative numbers count from the end.
    pub from_end: bool,
}

impl LabelCheck {
    /// True if `label` names a class or is to be ignored.
    #[must_use]
    pub fn holds(&self, label: i64) -> bool {
        let from = if self.from_end {
            -(self.classes as i64)
        } else {
            0
        };
        (from..self.classes as i64).contains(&label) || self.ignore == Some(label)
    }
}

/// How much room a backend's kernel needs for itself: the floats for an operator on operands and
/// results of these shapes.
pub type ScratchLen<'a> = &'a dyn Fn(&Op, &[Vec<usize>], &[Vec<usize>]) -> usize;

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
    /// For each state that a run changes: where its new value stands, and where it belongs.
    pub updates: Vec<(Place, Place)>,
    /// Where the constants stand, in the order of the graph.
    pub constants: Vec<Place>,
    /// Elements of all constants.
    pub constants_len: usize,
    /// Elements of the state arena.
    pub state_len: usize,
    /// Elements of workspace.
    pub workspace_len: usize,
    /// A bound that no placement goes below: elements that are alive at once, less the gradient arena.
    pub workspace_len_min: usize,
    /// When the most is alive, and what.
    pub peak: Peak,
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
        scratch: ScratchLen<'_>,
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
        let ops = selection.nodes.iter().map(|id| {
            let op = &graph.nodes()[id.0 as usize].op;
            match options.mode {
                Mode::Training => op.clone(),
                Mode::Evaluation | Mode::Prediction => op.in_inference(),
            }
        });
        Planner {
            graph,
            layout,
            state: StateLayout::new::<T>(graph)?,
            options,
            ops: ops.collect(),
            selection,
            lens: lens(graph, options.batch)?,
            scratch,
        }
        .plan::<T>()
    }
}

/// The most dimensions of a tensor.
pub const RANK_MAX: usize = 16;

/// The number of elements of every value.
fn lens(graph: &Graph, batch: usize) -> Result<Vec<usize>, ComputeError> {
    let values = graph.values().iter();
    values
        .map(|value| {
            if value.ty.shape.rank() > RANK_MAX {
                return Err(ComputeError::TooLarge {
                    what: "a tensor's list of dimensions",
                    elements_max: RANK_MAX,
                });
            }
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
    state: StateLayout,
    options: PlanOptions,
    selection: Selection,
    /// By selected node: its operator in the mode.
    ops: Vec<Op>,
    /// By value: the number of elements.
    lens: Vec<usize>,
    scratch: ScratchLen<'a>,
}

impl Planner<'_> {
    fn plan<T: Element>(&self) -> Result<Program, ComputeError> {
        let values = self.graph.values().iter();
        let extents = values
            .zip(&self.lens)
            .map(|(v, &len)| extent::<T>(len, v.ty.dtype));
        let extents: Vec<usize> = extents.collect();
        let chains = chain::Chains::new(self.graph, &self.selection, &self.ops, &extents);
        let scratch = self.scratch_lens();
        let mut buffers: Vec<place::Buffer> = chains
            .buffers
            .iter()
            .filter(|buffer| buffer.gradient_of.is_none())
            .map(|buffer| buffer.lifetime)
            .collect();
        let room = scratch.iter().enumerate();
        buffers.extend(room.map(|(position, &len)| place::Buffer {
            len,
            first: position,
            last: position,
        }));
        let placement = place::place::<T>(&buffers, &self.lender(&chains)?)?;
        let mut spots = placement.spots.iter().map(|spot| match *spot {
            place::Spot::Own(offset) => (Space::Workspace, offset),
            place::Spot::Lent(offset) => (Space::Gradients, offset),
        });
        // By buffer: where it stands.
        let mut homes = Vec::with_capacity(chains.buffers.len());
        for buffer in &chains.buffers {
            homes.push(match buffer.gradient_of {
                Some(slot) => (Space::Gradients, self.layout_offset(slot)?),
                None => spots.next().unwrap_or((Space::Workspace, 0)),
            });
        }
        let peak = peak::Peak::new::<T>(&chains, &scratch, placement.fullest);
        let scratch = scratch.iter().zip(spots);
        let scratch = scratch.map(|(&len, (space, offset))| Place {
            space,
            offset,
            len,
            dtype: T::DTYPE,
        });
        let scratch: Vec<Place> = scratch.collect();
        let (inputs, input_positions) = self.inputs();
        let (constants, constants_len) = self.constants(&extents)?;
        let places = self.places(&chains, &homes, &input_positions, &constants)?;
        let calls = self.calls(&chains, &places, &scratch);
        Ok(Program {
            mode: self.options.mode,
            batch: self.options.batch,
            label_checks: label_checks(&calls),
            calls,
            inputs,
            outputs: self.outputs(&places),
            updates: self.updates(&places),
            constants,
            constants_len,
            state_len: self.state.len(),
            workspace_len: placement.len,
            workspace_len_min: placement.len_min,
            peak,
            parameters_len: self.layout.len(),
        })
    }

    /// The gradient arena in training, each gradient's range lent until its chain begins.
    fn lender(&self, chains: &chain::Chains) -> Result<place::Lender, ComputeError> {
        if self.options.mode != Mode::Training {
            return Ok(place::Lender::default());
        }
        let mut ranges = Vec::new();
        for buffer in &chains.buffers {
            if let Some(slot) = buffer.gradient_of {
                ranges.push((self.layout_offset(slot)?, buffer.lifetime.first));
            }
        }
        ranges.sort_unstable();
        Ok(place::Lender {
            len: self.layout.len(),
            ranges,
        })
    }

    /// By call: the floats that the kernel needs for itself.
    fn scratch_lens(&self) -> Vec<usize> {
        let bind = |values: &[ValueId]| -> Vec<Vec<usize>> {
            let shapes = values
                .iter()
                .map(|&value| &self.graph.value(value).ty.shape);
            shapes.map(|shape| shape.bind(self.options.batch)).collect()
        };
        let nodes = self.selection.nodes.iter().zip(&self.ops);
        nodes
            .map(|(id, op)| {
                let node = &self.graph.nodes()[id.0 as usize];
                (self.scratch)(op, &bind(&node.operands), &bind(&node.results))
            })
            .collect()
    }

    /// Where the constants stand, and their length with padding.
    fn constants(&self, extents: &[usize]) -> Result<(Vec<Place>, usize), ComputeError> {
        let mut end = 0usize;
        let mut places = Vec::new();
        for constant in self.graph.constants() {
            let v = constant.value.0 as usize;
            places.push(Place {
                space: Space::Constants,
                offset: end,
                len: self.lens[v],
                dtype: self.graph.value(constant.value).ty.dtype,
            });
            // A line of the widest float is a multiple of the narrower one's.
            end = extents[v]
                .checked_next_multiple_of(ALIGNMENT_BYTES)
                .and_then(|len| end.checked_add(len))
                .filter(|&end| end <= ARENA_ELEMENTS_MAX)
                .ok_or(ComputeError::TooLarge {
                    what: "the constants",
                    elements_max: ARENA_ELEMENTS_MAX,
                })?;
        }
        Ok((places, end))
    }

    fn updates(&self, places: &[Place]) -> Vec<(Place, Place)> {
        if self.options.mode != Mode::Training {
            return Vec::new();
        }
        let updates = self.graph.updates().iter();
        updates
            .map(|update| {
                let state = &self.graph.states()[update.state.0 as usize];
                let at = |value: ValueId| places[value.0 as usize];
                (at(update.value), at(state.value))
            })
            .collect()
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
        constants: &[Place],
    ) -> Result<Vec<Place>, ComputeError> {
        let mut places: Vec<Place> = Vec::with_capacity(self.lens.len());
        for (v, value) in self.graph.values().iter().enumerate() {
            let source = match (chains.buffer_of[v], chains.view_of[v]) {
                (None, Some(source)) => source.0 as usize,
                _ => v,
            };
            let (space, offset) = match self.graph.values()[source].origin {
                Origin::Input(input) => (Space::Input(input_positions[input]), 0),
                Origin::LossScale => (Space::LossScale, 0),
                Origin::Parameter(parameter) => (Space::Parameters, self.parameter(parameter)?),
                Origin::Constant(constant) => (Space::Constants, constants[constant].offset),
                Origin::State(state) => {
                    let slot = &self.state.slots()[state.0 as usize];
                    (Space::State, slot.offset)
                }
                Origin::Node { .. } => match chains.buffer_of[v] {
                    Some(buffer) => homes[buffer],
                    None => (Space::Workspace, 0),
                },
            };
            places.push(Place {
                space,
                offset,
                len: self.lens[v],
                dtype: value.ty.dtype,
            });
        }
        Ok(places)
    }

    /// The offset of a parameter.
    fn parameter(&self, parameter: ParameterId) -> Result<usize, ComputeError> {
        let parameter = self.graph.parameter(parameter);
        let shape = &self.graph.value(parameter.value).ty.shape;
        let found = self.layout.slot(&parameter.name);
        let found = found.filter(|slot| slot.shape == shape.bind(1));
        found
            .map(|slot| slot.offset)
            .ok_or_else(|| ComputeError::LayoutMismatch {
                name: parameter.name.clone(),
                elements: self.lens[parameter.value.0 as usize],
            })
    }

    fn located(&self, places: &[Place], value: ValueId) -> Located {
        Located {
            place: places[value.0 as usize],
            shape: self.graph.value(value).ty.shape.bind(self.options.batch),
        }
    }

    fn calls(&self, chains: &chain::Chains, places: &[Place], scratch: &[Place]) -> Vec<Call> {
        let nodes = self.selection.nodes.iter().enumerate();
        nodes
            .map(|(position, &id)| {
                let node = &self.graph.nodes()[id.0 as usize];
                let located = |values: &[ValueId]| -> Vec<Located> {
                    let values = values.iter();
                    values.map(|&value| self.located(places, value)).collect()
                };
                let results = node.results.iter();
                let mut finishes: Vec<usize> = results
                    .filter_map(|result| self.selection.gradient_of[result.0 as usize])
                    .collect();
                finishes.sort_unstable();
                Call {
                    node: id,
                    op: self.ops[position].clone(),
                    operands: located(&node.operands),
                    results: located(&node.results),
                    scratch: Some(scratch[position]).filter(|place| place.len > 0),
                    in_place: chains.in_place[position],
                    is_view: chains.is_view[position],
                    finishes,
                }
            })
            .collect()
    }

    fn outputs(&self, places: &[Place]) -> Vec<(OutputSpec, Place)> {
        let outputs = self.graph.outputs().iter();
        outputs
            .filter(|output| self.options.mode.computes(output.role))
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

/// The checks of the inputs whose integers the calls take as labels or indices.
fn label_checks(calls: &[Call]) -> Vec<LabelCheck> {
    let mut checks = Vec::new();
    for call in calls {
        let Some(rule) = call.op.index_rule() else {
            continue;
        };
        let Space::Input(input) = call.operands[rule.operand].place.space else {
            continue;
        };
        let dims = &call.operands[rule.of].shape;
        let classes = match rule.axis {
            Some(axis) => dims.get(axis),
            None => dims.last(),
        };
        let check = LabelCheck {
            input,
            classes: classes.copied().unwrap_or(1),
            ignore: rule.ignore,
            from_end: rule.from_end,
        };
        if !checks.contains(&check) {
            checks.push(check);
        }
    }
    checks
}

#[cfg(test)]
mod tests;
