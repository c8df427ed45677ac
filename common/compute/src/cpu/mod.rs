//! The CPU backend.
//!
//! [`CpuPlan`] is a list of instructions. Running it walks the list once; each instruction borrows
//! its result mutably and its operands immutably from the workspace, the arenas and the inputs.
//!
//! | module | what it holds |
//! |---|---|
//! | `plan` | [`CpuPlan`]: checks, runs, outputs |
//! | `kernel` | instructions: calls with places and dimensions resolved |
//! | `run` | one instruction on the memories |
//! | `memory` | how an instruction borrows from the memories |
//! | [`kernels`] | the loops, over slices |
//! | [`gemm`] | matrix products |
//! | [`math`] | elementary functions |
//! | `simd` | the same loop for wider vectors |

pub mod conv;
pub mod gemm;
mod kernel;
pub mod kernels;
pub mod math;
mod memory;
mod plan;
mod run;
mod simd;

#[cfg(test)]
pub(crate) mod counting;
#[cfg(test)]
mod tests;

use ringfold_graph::Graph;

use self::kernel::{Instruction, Kernel};
pub use self::plan::CpuPlan;
use crate::backend::{Backend, GradientReady, PlanOptions, RunArgs, TensorRef, TrainMemory};
use crate::buffer::{Arena, Workspace};
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::{ParameterLayout, check_len};
use crate::plan::Program;

/// How plans use the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// 1: a run stays on the calling thread. More: matrix products are cut into this many parts
    /// for the rayon pool that the caller runs in, by default the global one, which the caller
    /// configures; other kernels stay on the calling thread. The bits don't depend on this.
    pub threads: usize,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self { threads: 1 }
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
        let program = Program::new::<T>(graph, layout, options)?;
        let slots = layout.slots();
        let ends = (1..=slots.len()).map(|next| {
            let next = slots.get(next);
            next.map_or(layout.len(), |slot| slot.offset)
        });
        let ends: Vec<usize> = ends.collect();
        let instructions = program.calls.iter().map(|call| Instruction {
            kernel: Kernel::lower(call, self.options.threads),
            result: call.result.place,
            finishes: call.finishes.map(|slot| (slot, ends[slot])),
        });
        let instructions = instructions.filter(|instruction| {
            // A void instruction that finishes a gradient is kept for the report.
            instruction.finishes.is_some() || !instruction.kernel.is_void(instruction.result)
        });
        Ok(CpuPlan::new(instructions.collect(), program))
    }
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
        inputs: &[TensorRef<'_, T>],
        args: &RunArgs,
        ready: &mut dyn GradientReady<T>,
    ) -> Result<(), ComputeError> {
        let memory = TrainMemory {
            workspace: memory.workspace,
            parameters: memory.parameters.as_slice(),
            gradients: memory.gradients.as_mut_slice(),
        };
        plan.train(memory, inputs, args, ready)
    }

    fn infer(
        &self,
        plan: &CpuPlan<T>,
        workspace: &mut Workspace<T>,
        parameters: &Arena<T>,
        inputs: &[TensorRef<'_, T>],
    ) -> Result<(), ComputeError> {
        plan.infer(workspace, parameters, inputs)
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
