//! A compiled plan: what it takes, its checks, its runs, its outputs.

use std::marker::PhantomData;

use super::kernel::Instruction;
use super::memory::Memory;
use crate::backend::{GradientReady, InputSpec, Mode, OutputSpec, RunArgs, TensorRef, TrainMemory};
use crate::buffer::Workspace;
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::check_len;
use crate::plan::{LabelCheck, Place, Program};

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
    element: PhantomData<fn() -> T>,
}

impl<T: Element> CpuPlan<T> {
    pub(super) fn new(instructions: Vec<Instruction>, program: Program) -> Self {
        Self {
            instructions,
            mode: program.mode,
            batch: program.batch,
            inputs: program.inputs,
            label_checks: program.label_checks,
            outputs: program.outputs,
            workspace_len: program.workspace_len,
            parameters_len: program.parameters_len,
            element: PhantomData,
        }
    }

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
