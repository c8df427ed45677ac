//! The CPU backend.
//!
//! [`CpuPlan`] is a list of instructions. Running it walks the list once; each instruction borrows
//! its result mutably and its operands immutably from the workspace, the arenas and the inputs.

pub mod gemm;
mod kernel;
pub mod kernels;
pub mod math;
mod memory;
mod simd;

#[cfg(test)]
pub(crate) mod counting;
#[cfg(test)]
mod tests;

use ringfold_graph::Graph;

use self::kernel::{Instruction, Kernel};
use self::kernels::{activation, dropout, loss, map, rows, zip};
use self::memory::Memory;
use crate::backend::{
    Backend, GradientReady, InputSpec, Mode, OutputSpec, PlanOptions, RunArgs, TensorRef,
    TrainMemory,
};
use crate::buffer::{Arena, Workspace};
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::{ParameterLayout, check_len};
use crate::plan::{LabelCheck, Place, Program};

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
        let instructions = program.steps.iter().map(|step| Instruction {
            kernel: Kernel::lower(step, self.options.threads),
            result: step.result.place,
            finishes: step.finishes.map(|slot| (slot, ends[slot])),
        });
        let instructions = instructions.filter(|instruction| {
            // A void instruction that finishes a gradient is kept for the report.
            instruction.finishes.is_some() || !instruction.kernel.is_void(instruction.result)
        });
        Ok(CpuPlan {
            instructions: instructions.collect(),
            mode: program.mode,
            batch: program.batch,
            inputs: program.inputs,
            label_checks: program.label_checks,
            outputs: program.outputs,
            workspace_len: program.workspace_len,
            parameters_len: program.parameters_len,
            element: std::marker::PhantomData,
        })
    }
}

/// A graph compiled for the CPU, one mode and one batch size. Immutable: threads may share it, each
/// with its own workspace and gradients.
#[derive(Clone, Debug)]
pub struct CpuPlan<T> {
    instructions: Vec<Instruction>,
    mode: Mode,
    batch: usize,
    inputs: Vec<InputSpec>,
    label_checks: Vec<LabelCheck>,
    outputs: Vec<(OutputSpec, Place)>,
    workspace_len: usize,
    parameters_len: usize,
    element: std::marker::PhantomData<fn() -> T>,
}

impl<T: Element> CpuPlan<T> {
    /// What it computes.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The number of samples in one run.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The inputs that a run takes, in this order.
    #[must_use]
    pub fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    /// The outputs that a run writes.
    pub fn outputs(&self) -> impl Iterator<Item = &OutputSpec> {
        self.outputs.iter().map(|(spec, _)| spec)
    }

    /// The elements of workspace that a run needs.
    #[must_use]
    pub fn workspace_len(&self) -> usize {
        self.workspace_len
    }

    /// A workspace for this plan.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`].
    pub fn workspace(&self) -> Result<Workspace<T>, ComputeError> {
        Workspace::new(self.workspace_len)
    }

    /// Runs a training plan: writes losses and predictions into the workspace, overwrites the
    /// gradients, and tells `ready` of each finished one.
    ///
    /// # Errors
    /// Buffers, inputs, labels or a loss scale that don't fit, or a plan of another mode; nothing is
    /// written.
    pub fn train(
        &self,
        memory: TrainMemory<'_, Workspace<T>, [T]>,
        inputs: &[TensorRef<'_, T>],
        args: &RunArgs,
        ready: &mut dyn GradientReady<T>,
    ) -> Result<(), ComputeError> {
        if self.mode != Mode::Training {
            return Err(ComputeError::WrongMode { mode: self.mode });
        }
        if !args.loss_scale.is_finite() {
            return Err(ComputeError::LossScale {
                got: args.loss_scale,
            });
        }
        check_len("gradients", self.parameters_len, memory.gradients.len())?;
        self.check(memory.workspace, memory.parameters, inputs)?;
        let memory = Memory {
            workspace: &mut memory.workspace.arena,
            gradients: memory.gradients,
            parameters: memory.parameters,
            inputs,
            loss_scale: T::from_f64(args.loss_scale),
        };
        self.execute(memory, args, ready);
        Ok(())
    }

    /// Runs an evaluation or prediction plan: writes outputs into the workspace.
    ///
    /// # Errors
    /// Buffers, inputs or labels that don't fit, or a training plan; nothing is written.
    pub fn infer(
        &self,
        workspace: &mut Workspace<T>,
        parameters: &[T],
        inputs: &[TensorRef<'_, T>],
    ) -> Result<(), ComputeError> {
        if self.mode == Mode::Training {
            return Err(ComputeError::WrongMode { mode: self.mode });
        }
        self.check(workspace, parameters, inputs)?;
        let memory = Memory {
            workspace: &mut workspace.arena,
            gradients: &mut [],
            parameters,
            inputs,
            loss_scale: T::ONE,
        };
        self.execute(memory, &RunArgs::default(), &mut |_: usize, _: &[T]| {});
        Ok(())
    }

    /// The output `name` of the last run of this plan in `workspace`; `None` if the plan has no such
    /// output or the workspace is too small to have been used by it.
    #[must_use]
    pub fn output<'a>(&self, workspace: &'a Workspace<T>, name: &str) -> Option<&'a [T]> {
        let (_, place) = self.outputs.iter().find(|(spec, _)| spec.name == name)?;
        workspace.arena.get(place.offset..place.offset + place.len)
    }

    /// The first element of the output `name`: for losses.
    #[must_use]
    pub fn scalar(&self, workspace: &Workspace<T>, name: &str) -> Option<T> {
        self.output(workspace, name)?.first().copied()
    }

    #[cfg(test)]
    pub(crate) fn label_checks(&self) -> &[LabelCheck] {
        &self.label_checks
    }

    /// Everything that could make a run fail, before anything is written.
    fn check(
        &self,
        workspace: &Workspace<T>,
        parameters: &[T],
        inputs: &[TensorRef<'_, T>],
    ) -> Result<(), ComputeError> {
        if workspace.len() < self.workspace_len {
            return Err(ComputeError::BufferLen {
                what: "workspace",
                expected: self.workspace_len,
                got: workspace.len(),
            });
        }
        check_len("parameters", self.parameters_len, parameters.len())?;
        if inputs.len() != self.inputs.len() {
            return Err(ComputeError::InputCount {
                expected: self.inputs.len(),
                got: inputs.len(),
            });
        }
        for (spec, input) in self.inputs.iter().zip(inputs) {
            if spec.dtype != input.dtype() {
                return Err(ComputeError::InputDType {
                    name: spec.name.clone(),
                    expected: spec.dtype,
                    got: input.dtype(),
                });
            }
            if spec.len != input.len() {
                return Err(ComputeError::InputLen {
                    name: spec.name.clone(),
                    expected: spec.len,
                    got: input.len(),
                });
            }
        }
        self.check_labels(inputs)
    }

    fn check_labels(&self, inputs: &[TensorRef<'_, T>]) -> Result<(), ComputeError> {
        for check in &self.label_checks {
            let TensorRef::Int(labels) = inputs[check.input] else {
                continue;
            };
            let out_of_range =
                |&label: &i32| usize::try_from(label).map_or(true, |label| label >= check.classes);
            if let Some(sample) = labels.iter().position(out_of_range) {
                return Err(ComputeError::LabelOutOfRange {
                    name: self.inputs[check.input].name.clone(),
                    sample,
                    label: labels[sample],
                    classes: check.classes,
                });
            }
        }
        Ok(())
    }

    fn execute(&self, mut memory: Memory<'_, T>, args: &RunArgs, ready: &mut dyn GradientReady<T>) {
        for instruction in &self.instructions {
            instruction.run(&mut memory, args);
            if let Some((slot, end)) = instruction.finishes {
                ready.ready(slot, &memory.gradients[..end]);
            }
        }
    }
}

impl Instruction {
    fn run<T: Element>(&self, memory: &mut Memory<'_, T>, args: &RunArgs) {
        let (result, operands) = memory.borrow(self.result);
        match &self.kernel {
            Kernel::MatMul {
                spec,
                lhs,
                rhs,
                bias,
            } => {
                if let Some(bias) = bias {
                    rows::broadcast(result, operands.slice(*bias));
                }
                gemm::matmul(spec, result, operands.slice(*lhs), operands.slice(*rhs));
            }
            Kernel::ColumnSum { src } => rows::column_sum(result, operands.slice(*src)),
            Kernel::Activation { kind, src } => {
                activation::activation(*kind, result, operands.source(*src));
            }
            Kernel::ActivationGrad { kind, saved, dy } => activation::activation_grad(
                *kind,
                result,
                operands.source(*saved),
                operands.source(*dy),
            ),
            Kernel::Dropout { spec, src } => {
                dropout::dropout(spec, args, result, operands.source(*src));
            }
            Kernel::Softmax { src, columns } => {
                rows::softmax(result, operands.source(*src), *columns);
            }
            Kernel::SoftmaxGrad { y, dy, columns } => {
                rows::softmax_grad(result, operands.slice(*y), operands.source(*dy), *columns);
            }
            Kernel::SoftmaxCrossEntropy {
                logits,
                labels,
                classes,
            } => {
                result[0] = loss::softmax_cross_entropy(
                    operands.slice(*logits),
                    operands.labels(*labels),
                    *classes,
                );
            }
            Kernel::SoftmaxCrossEntropyGrad {
                logits,
                labels,
                dloss,
                classes,
            } => loss::softmax_cross_entropy_grad(
                result,
                operands.source(*logits),
                operands.labels(*labels),
                operands.scalar(*dloss),
                *classes,
            ),
            Kernel::MeanSquaredError { prediction, target } => {
                result[0] =
                    loss::mean_squared_error(operands.slice(*prediction), operands.slice(*target));
            }
            Kernel::MeanSquaredErrorGrad {
                prediction,
                target,
                dloss,
            } => loss::mean_squared_error_grad(
                result,
                operands.source(*prediction),
                operands.slice(*target),
                operands.scalar(*dloss),
            ),
            Kernel::L2Penalty { w, lambda } => {
                result[0] = loss::l2_penalty(operands.slice(*w), *lambda);
            }
            Kernel::L2PenaltyGrad {
                w,
                dloss,
                other,
                lambda,
            } => {
                let factor = T::from_f64(*lambda) * operands.scalar(*dloss);
                let w = kernels::Source::Apart(operands.slice(*w));
                match other {
                    Some(other) => zip(result, w, operands.source(*other), |w, other| {
                        other + factor * w
                    }),
                    None => map(result, w, |w| factor * w),
                }
            }
            Kernel::Add { a, b } => {
                zip(result, operands.source(*a), operands.source(*b), |a, b| {
                    a + b
                });
            }
            Kernel::Scale { src, factor } => {
                let factor = T::from_f64(*factor);
                map(result, operands.source(*src), |x| factor * x);
            }
            Kernel::Copy { src } => map(result, operands.source(*src), |x| x),
        }
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
        let lens = plans.iter().map(|plan| plan.workspace_len);
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
