//! Plans a graph once for static shapes, then runs the plan with no allocation and no graph walk.
//!
//! # Contract
//! - **Types.** Everything is generic over an [`Element`], `f32` or `f64`, which must be the
//!   graph's float type; `f64` exists for gradient checks. Labels and indices are `i32` or `i64`,
//!   truth values bytes; between operators they stand in the same workspace as the floats.
//! - **Layout.** Tensors are dense and row-major. Parameters live in one flat arena and gradients
//!   in another of the same [`ParameterLayout`]: parameters in gradient-ready order, each at a
//!   multiple of [`ALIGNMENT_BYTES`], with padding that is zero and stays zero. Offsets and
//!   lengths are in elements.
//! - **Ownership.** A trainer owns the parameters and gradients (two [`Arena`]s); any number of
//!   plans for other batch sizes and modes share them. A [`Workspace`] holds the intermediate
//!   values and outputs of the last run; plans may share one if it is large enough.
//! - **State.** What runs change without a gradient (running statistics) stands in an arena of its
//!   own, laid out by [`StateLayout`] and named as in PyTorch. [`CpuPlan::train_with_state`] updates
//!   it at the end of a run; evaluation and prediction read it. Most graphs have none.
//! - **Gradient.** A training run *overwrites* the gradients with those of
//!   `loss_scale · loss`, where the loss is the mean over the micro-batch plus penalties. Ranks
//!   with `n_r` of `n` samples pass `loss_scale = n_r / n`; their gradients then sum to that of the
//!   whole, with each penalty counted once.
//! - **Bits.** A run is a pure function of (graph, parameters, inputs, [`RunArgs`]): the bits don't
//!   depend on the thread count, the cache sizes, earlier runs or other plans. They do depend on
//!   the instruction set that the matrix kernels find (AVX-512, AVX2 with FMA, NEON, …).
//!   Exponentials and the like are computed here or by `libm`, not by the platform's C library.
//! - **Refusals.** Inputs are checked before anything is written: a refused run changes neither
//!   gradients nor workspace nor state. Labels and indices out of range are an error; those that the
//!   graph computes itself give NaN.
//! - **Threads.** See [`cpu::CpuOptions`].
//!
//! # Example
//! ```
//! use ringfold_compute::{
//!     Cpu, CpuOptions, Mode, ParameterLayout, PlanOptions, RunArgs, TensorRef, TrainMemory,
//! };
//! use ringfold_graph::differentiate;
//! use ringfold_graph::models::{LOSS, MlpOptions, PROBABILITIES, mlp};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let graph = differentiate(&mlp(&MlpOptions::classifier(2, &[8], 2))?, LOSS)?;
//! let layout = ParameterLayout::new::<f32>(&graph)?;
//! let cpu = Cpu::new(CpuOptions { threads: 1 })?;
//! let options = |mode, batch| PlanOptions { mode, batch };
//! let train = cpu.plan::<f32>(&graph, &layout, options(Mode::Training, 4))?;
//! let predict = cpu.plan::<f32>(&graph, &layout, options(Mode::Prediction, 1))?;
//! let mut parameters = layout.initial::<f32>(7)?;
//! let mut gradients = layout.zeros::<f32>()?;
//! let mut workspace = train.workspace()?;
//!
//! let x = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
//! let inputs = [TensorRef::Float(&x), TensorRef::Int(&[0, 1, 1, 0])];
//! let mut losses = Vec::new();
//! for step in 0..500 {
//!     let memory = TrainMemory {
//!         workspace: &mut workspace,
//!         parameters: &parameters[..],
//!         gradients: &mut gradients[..],
//!     };
//!     let args = RunArgs { step, ..RunArgs::default() };
//!     train.train(memory, &inputs, &args, &mut |_slot: usize, _finished: &[f32]| {})?;
//!     losses.extend(train.scalar(&workspace, LOSS));
//!     for (parameter, gradient) in parameters.iter_mut().zip(gradients.iter()) {
//!         *parameter -= 0.5 * gradient;
//!     }
//! }
//! assert!(losses[499] < 0.1 * losses[0]);
//!
//! let mut workspace = predict.workspace()?;
//! predict.infer(&mut workspace, &parameters, &[TensorRef::Float(&[1.0, 0.0])])?;
//! let probabilities = predict.output(&workspace, PROBABILITIES).unwrap();
//! assert!(probabilities[1] > 0.5);
//! # Ok(())
//! # }
//! ```
//!
//! # Allocation
//! A run allocates nothing itself, but for the panels of `f32` products on AVX-512: each thread's grow
//! to what its largest product needs, and stay. The `gemm` crate allocates a packing buffer and a small flag
//! vector in calls whose matrices exceed its smallest kernels, also on one thread; a test pins
//! that nothing else allocates, and at most two allocations per matrix product.
//!
//! | module | what it holds |
//! |---|---|
//! | [`backend`] | the [`Backend`] seam, [`PlanOptions`], [`RunArgs`], [`TensorRef`] |
//! | [`layout`] | [`ParameterLayout`], [`StateLayout`]; initial values |
//! | [`buffer`] | aligned [`Arena`]s and [`Workspace`]s |
//! | [`element`] | [`Element`]: `f32` and `f64` |
//! | [`inspect`] | what a model holds, costs and takes in one mode |
//! | [`plan`] | [`plan::Program`]: order, in-place chains, placement; shared by backends |
//! | [`cpu`] | the CPU backend: kernels and the interpreter of the plan |
//! | [`error`] | [`ComputeError`] |

pub mod backend;
pub mod buffer;
pub mod cpu;
pub mod element;
pub mod error;
pub mod inspect;
pub mod layout;
pub mod plan;
#[cfg(test)]
mod testing;

pub use backend::{
    Backend, CompileOptions, GradientReady, InputSpec, Mode, OutputSpec, PartsMemory, PlanOptions,
    Precision, RunArgs, TensorRef, TrainHook, TrainMemory,
};
pub use buffer::{ALIGNMENT_BYTES, Arena, Workspace};
pub use cpu::{Cpu, CpuOptions, CpuPlan};
pub use element::Element;
pub use error::ComputeError;
pub use inspect::{BufferRow, Inspection, inspect};
pub use layout::{ParameterLayout, ParameterSlot, StateLayout, StateSlot};
