//! The CPU backend.
//!
//! [`CpuPlan`] is a list of instructions. Running it walks the list once; each instruction borrows
//! its result mutably and its operands immutably from the workspace, the arenas and the inputs.
//!
//! | module | what it holds |
//! |---|---|
//! | `plan` | [`CpuPlan`]: checks, runs, outputs |
//! | `kernel` | instructions: calls with places and dimensions resolved; which kernel an operator has |
//! | `memory` | how an instruction borrows from the memories |
//! | [`team`] | the threads of a computation: fork and join |
//! | [`parallel`] | work on slices of results, cut for the team |
//! | `view` | integers and truth values in memories of floats |
//! | [`kernels`] | a file a group of operators: their kernels, and the loops over slices |
//! | [`gemm`] | matrix products |
//! | `product`, `product_bf16` | their kernels for AVX-512: of `f32`, and of operands rounded to bfloat16 |
//! | [`conv`] | convolution on slices |
//! | [`math`] | elementary functions |
//! | [`simd`] | the same loop for wider vectors |

pub mod conv;
pub mod gemm;
mod kernel;
pub mod kernels;
pub mod math;
mod memory;
pub mod parallel;
mod plan;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(target_arch = "x86_64")]
mod product_bf16;
pub mod simd;
pub mod team;
mod view;

#[cfg(test)]
pub(crate) mod counting;
#[cfg(test)]
mod tests;

use std::ops::Range;

use ringfold_graph::{ConstantData, DType, Graph, Op};

use self::kernel::{Instruction, KernelOptions};
pub use self::memory::Index;
pub use self::plan::CpuPlan;
use self::view::view_mut;
use crate::backend::{
    Backend, CompileOptions, GradientReady, PlanOptions, Precision, RunArgs, TensorRef, TrainMemory,
};
use crate::buffer::{Arena, Workspace};
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::{ParameterLayout, check_len};
use crate::plan::{Compiled, Program, compile};

/// How plans use the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// 1: a run stays on the calling thread. More: matrix products, attention, convolutions, pooling,
    /// batch normalisation, layer normalisation forward, functions of one element, fused chains and
    /// functions of two tensors of one shape are cut into this many parts for the
    /// [`team`] of the calling thread, if it has one; other kernels stay on the calling thread. The bits don't depend on this.
    pub threads: usize,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self { threads: 1 }
    }
}

/// Checks that plans of `T` can be made in a precision on this processor.
///
/// # Errors
/// [`ComputeError::Bf16`].
pub fn check_precision<T: Element>(precision: Precision) -> Result<(), ComputeError> {
    match precision {
        Precision::Full => Ok(()),
        Precision::Bf16 => gemm::check_bf16::<T>(),
    }
}

/// The CPU as a backend.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    options: CpuOptions,
}

impl Cpu {
    /// A CPU backend.
    ///
    /// # Errors
    /// [`ComputeError::ThreadsZero`].
    pub fn new(options: CpuOptions) -> Result<Self, ComputeError> {
        if options.threads == 0 {
            return Err(ComputeError::ThreadsZero);
        }
        Ok(Self { options })
    }

    /// Compiles a differentiated graph; see [`Backend::compile`].
    ///
    /// # Errors
    /// As [`Backend::compile`].
    pub fn plan<T: Element>(
        &self,
        graph: &Graph,
        layout: &ParameterLayout,
        options: PlanOptions,
    ) -> Result<CpuPlan<T>, ComputeError> {
        self.plan_with(graph, layout, options, &CompileOptions::default())
    }

    /// Compiles a differentiated graph with or without passes, and within a limit of memory.
    ///
    /// # Errors
    /// As [`Backend::compile`]; [`ComputeError::WorkspaceBytes`], [`ComputeError::Bf16`].
    pub fn plan_with<T: Element>(
        &self,
        graph: &Graph,
        layout: &ParameterLayout,
        options: PlanOptions,
        how: &CompileOptions,
    ) -> Result<CpuPlan<T>, ComputeError> {
        check_precision::<T>(how.precision)?;
        let Compiled { graph, program, .. } = self.compiled::<T>(graph, layout, options, how)?;
        let kernels = KernelOptions {
            threads: self.options.threads,
            precision: how.precision,
        };
        let slots = layout.slots();
        let paddings = slots.iter().enumerate().map(|(i, slot)| {
            let next = slots.get(i + 1);
            slot.range().end..next.map_or(layout.len(), |next| next.offset)
        });
        let paddings: Vec<Range<usize>> = paddings.collect();
        let calls = program.calls.iter();
        let instructions = calls
            .map(|call| Instruction::new(call, kernels, &paddings))
            // A void instruction that finishes a gradient is kept for the report.
            .filter(|instruction| !instruction.is_void())
            .collect();
        let constants = constants(&graph, &program)?;
        Ok(CpuPlan::new(instructions, program, constants))
    }

    /// What a plan is made of: the graph that passes leave, what they did, and the program.
    ///
    /// # Errors
    /// As [`Cpu::plan_with`], [`ComputeError::Bf16`] excepted.
    pub fn compiled<T: Element>(
        &self,
        graph: &Graph,
        layout: &ParameterLayout,
        options: PlanOptions,
        how: &CompileOptions,
    ) -> Result<Compiled, ComputeError> {
        let threads = self.options.threads;
        let scratch = |op: &Op, operands: &[Vec<usize>], results: &[Vec<usize>]| {
            kernel::scratch_len::<T>(op, operands, results, threads)
        };
        compile::<T>(graph, layout, options, how, &scratch)
    }
}

/// The memory of a plan's constants.
fn constants<T: Element>(graph: &Graph, program: &Program) -> Result<Arena<T>, ComputeError> {
    let mut arena = Arena::zeros(program.constants_len)?;
    for (constant, place) in graph.constants().iter().zip(&program.constants) {
        let to = &mut arena[place.offset..place.offset + place.extent::<T>()];
        match (&constant.data, place.dtype) {
            (ConstantData::Float(data), _) => {
                let data = to.iter_mut().zip(data);
                data.for_each(|(to, &x)| *to = T::from_f64(x));
            }
            (ConstantData::Int(data), DType::I32) => {
                let data = view_mut::<T, i32>(to, place.len).iter_mut().zip(data);
                // A number beyond 32 bits names no position: it stays out of range.
                data.for_each(|(to, &x)| *to = i32::try_from(x).unwrap_or(i32::MIN));
            }
            (ConstantData::Int(data), _) => view_mut(to, place.len).copy_from_slice(data),
            (ConstantData::Bool(data), _) => {
                let data = view_mut::<T, u8>(to, place.len).iter_mut().zip(data);
                data.for_each(|(to, &x)| *to = u8::from(x));
            }
        }
    }
    Ok(arena)
}

impl<T: Element> Backend<T> for Cpu {
    type Plan = CpuPlan<T>;
    type Arena = Arena<T>;
    type Workspace = Workspace<T>;

    fn compile(
        &self,
        graph: &Graph,
        layout: &ParameterLayout,
        options: PlanOptions,
    ) -> Result<CpuPlan<T>, ComputeError> {
        self.plan(graph, layout, options)
    }

    fn arena(&self, len: usize) -> Result<Arena<T>, ComputeError> {
        Arena::zeros(len)
    }

    fn workspace(&self, plans: &[&CpuPlan<T>]) -> Result<Workspace<T>, ComputeError> {
        let lens = plans.iter().map(|plan| plan.workspace_len());
        Workspace::new(lens.max().unwrap_or(0))
    }

    fn train(
        &self,
        plan: &CpuPlan<T>,
        memory: TrainMemory<'_, Workspace<T>, Arena<T>>,
        state: &mut Arena<T>,
        inputs: &[TensorRef<'_, T>],
        args: &RunArgs,
        ready: &mut dyn GradientReady<T>,
    ) -> Result<(), ComputeError> {
        let memory = TrainMemory {
            workspace: memory.workspace,
            parameters: memory.parameters.as_slice(),
            gradients: memory.gradients.as_mut_slice(),
        };
        plan.train_with_state(memory, state, inputs, args, ready)
    }

    fn infer(
        &self,
        plan: &CpuPlan<T>,
        workspace: &mut Workspace<T>,
        parameters: &Arena<T>,
        state: &Arena<T>,
        inputs: &[TensorRef<'_, T>],
    ) -> Result<(), ComputeError> {
        plan.infer_with_state(workspace, parameters, state, inputs)
    }

    fn read_output(
        &self,
        plan: &CpuPlan<T>,
        workspace: &Workspace<T>,
        name: &str,
        to: &mut [T],
    ) -> Result<(), ComputeError> {
        let Some(output) = plan.output(workspace, name) else {
            return Err(ComputeError::OutputUnknown {
                name: name.to_owned(),
            });
        };
        check_len("the copy of an output", output.len(), to.len())?;
        to.copy_from_slice(output);
        Ok(())
    }
}
