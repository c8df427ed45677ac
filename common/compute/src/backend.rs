//! The seam between a trainer and a device.
//!
//! A backend compiles a graph into a plan and runs plans. The CPU implements it now; a CUDA backend
//! implements the same calls, with arenas in device memory.

use ringfold_graph::{DType, Graph};

use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::ParameterLayout;

pub use ringfold_graph::Mode;

/// What a plan is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// What it computes.
    pub mode: Mode,
    /// The number of samples in one run, at least 1.
    pub batch: usize,
}

/// What the operands of matrix products are rounded to: those of dense layers and of matrix products,
/// forward and backward, and those within attention. Sums, results, convolutions, recurrent layers and
/// everything else are of the plan's element type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Nothing: the element type.
    #[default]
    Full,
    /// bfloat16, to nearest, ties to even, subnormal numbers to 0; sums are `f32`. Processors with
    /// AVX-512 BF16 have it.
    Bf16,
}

/// How a graph is made into a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileOptions {
    /// Passes ([`ringfold_graph::pass`]) run over the graph first.
    pub optimise: bool,
    /// The most bytes of workspace. Where more is needed, values are computed again in the backward
    /// part; where that isn't enough, the plan is refused. `None`: no limit.
    pub workspace_bytes_max: Option<usize>,
    /// What the operands of matrix products are rounded to.
    pub precision: Precision,
}

impl Default for CompileOptions {
    /// Optimised, without a limit, nothing rounded.
    fn default() -> Self {
        Self {
            optimise: true,
            workspace_bytes_max: None,
            precision: Precision::Full,
        }
    }
}

/// An input tensor of one run: dense, row-major, borrowed from the caller.
#[derive(Clone, Copy, Debug)]
pub enum TensorRef<'a, T> {
    /// Floats of the plan's element type.
    Float(&'a [T]),
    /// Integers: class labels, indices.
    Int(&'a [i32]),
    /// Long integers: indices.
    Long(&'a [i64]),
    /// Truth values; 0 is false.
    Bool(&'a [u8]),
}

impl<T: Element> TensorRef<'_, T> {
    /// The type of the elements.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            Self::Float(_) => T::DTYPE,
            Self::Int(_) => DType::I32,
            Self::Long(_) => DType::I64,
            Self::Bool(_) => DType::Bool,
        }
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Float(slice) => slice.len(),
            Self::Int(slice) => slice.len(),
            Self::Long(slice) => slice.len(),
            Self::Bool(slice) => slice.len(),
        }
    }

    /// True if there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An input that a plan reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// The name, as in the graph.
    pub name: String,
    /// The type of the elements.
    pub dtype: DType,
    /// The dimensions with the batch bound.
    pub shape: Vec<usize>,
    /// The number of elements.
    pub len: usize,
}

/// An output that a plan computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// The name, as in the graph.
    pub name: String,
    /// The dimensions with the batch bound.
    pub shape: Vec<usize>,
    /// The number of elements.
    pub len: usize,
}

/// The scalars of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunArgs {
    /// The job's seed; with step and replica it decides dropout masks.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// The logical data-parallel worker whose micro-batch this is.
    pub replica: u64,
    /// The factor of the loss in the gradient; the reported loss isn't multiplied.
    pub loss_scale: f64,
}

impl Default for RunArgs {
    /// Everything 0 and a loss scale of 1.
    fn default() -> Self {
        Self {
            seed: 0,
            step: 0,
            replica: 0,
            loss_scale: 1.0,
        }
    }
}

/// Tells a trainer, while backward goes on, that a prefix of the gradients is final.
///
/// The call takes the position in [`ParameterLayout::slots`] of the parameter whose gradient was
/// finished, and the gradients of all parameters up to and with it, padding included.
pub trait GradientReady<T> {
    /// Called once per parameter, in the order of the layout.
    fn ready(&mut self, slot: usize, finished: &[T]);
}

impl<T, F: FnMut(usize, &[T])> GradientReady<T> for F {
    fn ready(&mut self, slot: usize, finished: &[T]) {
        self(slot, finished);
    }
}

/// Hears how far a training run has come, and takes over its gradients part by part while the
/// backward part goes on.
pub trait TrainHook<'g, T> {
    /// The loss is computed: the backward part begins.
    fn backward(&mut self) {}

    /// Part number `part` of the gradients is final; the run neither reads nor writes it any more.
    /// Called once for every part, in order.
    fn finished(&mut self, part: usize, gradients: &'g mut [T]);
}

/// The memory of a training run whose gradients are handed over in parts.
#[derive(Debug)]
pub struct PartsMemory<'a, 'g, W: ?Sized, T> {
    /// Intermediate values and outputs; written.
    pub workspace: &'a mut W,
    /// The parameters, laid out as the plan's layout says; read.
    pub parameters: &'a [T],
    /// The model's state; updated.
    pub state: &'a mut [T],
    /// The gradients, of the parameters' layout; overwritten, padding excepted.
    pub gradients: &'g mut [T],
    /// Where each part of the gradients ends, in elements; ascending, the last at their end.
    pub ends: &'a [usize],
}

/// The memory of a training run.
#[derive(Debug)]
pub struct TrainMemory<'a, W: ?Sized, A: ?Sized> {
    /// Intermediate values and outputs; written.
    pub workspace: &'a mut W,
    /// The parameters, laid out as the plan's layout says; read.
    pub parameters: &'a A,
    /// The gradients, of the same layout; overwritten. Until a gradient is final its range may hold
    /// other values; the padding is zero afterwards.
    pub gradients: &'a mut A,
}

/// A device that compiles graphs and runs the plans.
pub trait Backend<T: Element> {
    /// A graph compiled for one mode and batch size. Immutable: threads may share it.
    type Plan;
    /// Flat device memory for parameters, gradients, model state and optimizer state.
    type Arena;
    /// Device memory for intermediate values and outputs.
    type Workspace;

    /// Compiles a differentiated graph whose parameters stand as `layout` says.
    ///
    /// # Errors
    /// A graph that doesn't verify or fit the layout, an empty batch, sizes that can't be addressed.
    fn compile(
        &self,
        graph: &Graph,
        layout: &ParameterLayout,
        options: PlanOptions,
    ) -> Result<Self::Plan, ComputeError>;

    /// An arena of `len` zeros.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`].
    fn arena(&self, len: usize) -> Result<Self::Arena, ComputeError>;

    /// A workspace that every one of `plans` can use, one at a time.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`].
    fn workspace(&self, plans: &[&Self::Plan]) -> Result<Self::Workspace, ComputeError>;

    /// Runs a training plan: writes losses and predictions into the workspace, overwrites the
    /// gradients, tells `ready` of each finished one, and at the end updates `state`, an arena laid
    /// out as [`StateLayout`](crate::layout::StateLayout) says; empty for most graphs.
    ///
    /// # Errors
    /// Buffers, inputs or labels that don't fit, or a plan of another mode; nothing is written.
    fn train(
        &self,
        plan: &Self::Plan,
        memory: TrainMemory<'_, Self::Workspace, Self::Arena>,
        state: &mut Self::Arena,
        inputs: &[TensorRef<'_, T>],
        args: &RunArgs,
        ready: &mut dyn GradientReady<T>,
    ) -> Result<(), ComputeError>;

    /// Runs an evaluation or prediction plan with the state that training left: writes outputs into
    /// the workspace.
    ///
    /// # Errors
    /// As [`Backend::train`].
    fn infer(
        &self,
        plan: &Self::Plan,
        workspace: &mut Self::Workspace,
        parameters: &Self::Arena,
        state: &Self::Arena,
        inputs: &[TensorRef<'_, T>],
    ) -> Result<(), ComputeError>;

    /// Copies the output `name` of the last run into `to`.
    ///
    /// # Errors
    /// The plan has no such output, or `to` has another length.
    fn read_output(
        &self,
        plan: &Self::Plan,
        workspace: &Self::Workspace,
        name: &str,
        to: &mut [T],
    ) -> Result<(), ComputeError>;
}
