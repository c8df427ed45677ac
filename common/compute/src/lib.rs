//! Plans a graph once for static shapes, then runs the plan with no allocation and no graph walk.
//!
//! # Contract
//! - **Types.** Everything is generic over an [`Element`], `f32` or `f64`, which must be the
//!   graph's float type; `f64` exists for gradient checks. Class labels are `i32`.
//! - **Layout.** Tensors are dense and row-major. Parameters live in one flat arena and gradients
//!   in another of the same [`ParameterLayout`]: parameters in gradient-ready order, each at a
//!   multiple of [`ALIGNMENT_BYTES`], with padding that is zero and stays zero. Offsets and
//!   lengths are in elements.
//! - **Ownership.** A trainer owns the parameters and gradients (two [`Arena`]s); any number of
//!   plans for other batch sizes and modes share them. A [`Workspace`] holds the intermediate
//!   values and outputs of the last run; plans may share one if it is large enough.
//! - **Gradient.** A training run *overwrites* the gradients with those of
//!   `loss_scale · loss`, where the loss is the mean over the micro-batch plus penalties. Ranks
//!   with `n_r` of `n` samples pass `loss_scale = n_r / n`; their gradients then sum to that of the
//!   whole, with each penalty counted once.
//! - **Bits.** A run is a pure function of (graph, parameters, inputs, [`RunArgs`]): the bits don't
//!   depend on the thread count, the cache sizes, earlier runs or other plans. They do depend on
//!   the instruction set that the matrix kernels find (AVX-512, AVX2 with FMA, NEON, …).
//!   Exponentials and the like are computed here or by `libm`, not by the platform's C library.
//! - **Refusals.** Inputs are checked before anything is written: a refused run changes neither
//!   gradients nor workspace. Labels out of range are an error.
//! - **Threads.** See [`cpu::CpuOptions`].
//!
//! # Allocation
//! A run allocates nothing itself. The `gemm` crate allocates a packing buffer and a small flag
//! vector in calls whose matrices exceed its smallest kernels, also on one thread; a test pins
//! that nothing else allocates, and at most two allocations per matrix product.
//!
//! | module | what it holds |
//! |---|---|
//! | [`backend`] | the [`Backend`] seam, [`PlanOptions`], [`RunArgs`], [`TensorRef`] |
//! | [`layout`] | [`ParameterLayout`]; initial values |
//! | [`buffer`] | aligned [`Arena`]s and [`Workspace`]s |
//! | [`element`] | [`Element`]: `f32` and `f64` |
//! | [`plan`] | [`plan::Program`]: order, in-place chains, placement; shared by backends |
//! | [`cpu`] | the CPU backend: kernels and the interpreter of the plan |
//! | [`error`] | [`ComputeError`] |

pub mod backend;
pub mod buffer;
pub mod cpu;
pub mod element;
pub mod error;
pub mod layout;
pub mod plan;
#[cfg(test)]
mod testing;

pub use backend::{
    Backend, GradientReady, InputSpec, Mode, OutputSpec, PlanOptions, RunArgs, TensorRef,
    TrainMemory,
};
pub use buffer::{ALIGNMENT_BYTES, Arena, Workspace};
pub use cpu::{Cpu, CpuOptions, CpuPlan};
pub use element::Element;
pub use error::ComputeError;
pub use layout::{ParameterLayout, ParameterSlot};
