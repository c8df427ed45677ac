//! A compiled plan: what it takes, its checks, its runs, its outputs.

use std::sync::Arc;

use super::kernel::Instruction;
use super::memory::{Index, Memory};
use crate::backend::{
    GradientReady, InputSpec, Mode, OutputSpec, PartsMemory, RunArgs, TensorRef, TrainHook,
    TrainMemory,
};
use crate::buffer::{Arena, Workspace};
use crate::element::Element;
use crate::error::ComputeError;
use crate::layout::check_len;
use crate::plan::{LabelCheck, Place, Program};

/// A graph compiled for the CPU, one mode and one batch size. Immutable: threads may share it, each
/// with its own workspace and gradients.
#[derive(Clone, Debug)]
pub struct CpuPlan<T> {
    instructions: Vec<Instruction<T>>,
    /// By instruction: the elements at the start of the gradients that none after it touches.
    released: Vec<usize>,
    /// The first instruction of the backward part.
    backward_from: usize,
    constants: Arc<Arena<T>>,
    updates: Vec<(Place, Place)>,
    state_len: usize,
    mode: Mode,
    batch: usize,
    inputs: Vec<InputSpec>,
    label_checks: Vec<LabelCheck>,
    outputs: Vec<(OutputSpec, Place)>,
    workspace_len: usize,
    parameters_len: usize,
}

impl<T: Element> CpuPlan<T> {
    pub(super) fn new(
        instructions: Vec<Instruction<T>>,
        program: Program,
        constants: Arena<T>,
    ) -> Self {
        let mut released = vec![program.parameters_len; instructions.len()];
        for (i, instruction) in instructions.iter().enumerate().skip(1).rev() {
            let touched = instruction.gradients_from().unwrap_or(usize::MAX);
            released[i - 1] = released[i].min(touched);
        }
        let backward_from = instructions.iter().position(Instruction::begins_backward);
        Self {
            backward_from: backward_from.unwrap_or(instructions.len()),
            released,
            instructions,
            constants: Arc::new(constants),
            updates: program.updates,
            state_len: program.state_len,
            mode: program.mode,
            batch: program.batch,
            inputs: program.inputs,
            label_checks: program.label_checks,
            outputs: program.outputs,
            workspace_len: program.workspace_len,
            parameters_len: program.parameters_len,
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

    /// The elements of the state arena; 0 for most graphs.
    #[must_use]
    pub fn state_len(&self) -> usize {
        self.state_len
    }

    /// A workspace for this plan.
    ///
    /// # Errors
    /// [`ComputeError::TooLarge`].
    pub fn workspace(&self) -> Result<Workspace<T>, ComputeError> {
        Workspace::new(self.workspace_len)
    }

    /// Runs a training plan of a graph without states: writes losses and predictions into the
    /// workspace, overwrites the gradients, and tells `ready` of each finished one.
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
        self.train_with_state(memory, &mut [], inputs, args, ready)
    }

    /// Runs a training plan and updates `state`, laid out as [`StateLayout`] says, at the end.
    ///
    /// [`StateLayout`]: crate::layout::StateLayout
    ///
    /// # Errors
    /// As [`CpuPlan::train`].
    pub fn train_with_state(
        &self,
        memory: TrainMemory<'_, Workspace<T>, [T]>,
        state: &mut [T],
        inputs: &[TensorRef<'_, T>],
        args: &RunArgs,
        ready: &mut dyn GradientReady<T>,
    ) -> Result<(), ComputeError> {
        self.check_training(memory.gradients.len(), args)?;
        self.check(memory.workspace, memory.parameters, state, inputs)?;
        let run = Memory {
            workspace: &mut memory.workspace.arena,
            gradients: memory.gradients,
            gradients_from: 0,
            parameters: memory.parameters,
            state,
            constants: &self.constants,
            inputs,
            loss_scale: T::from_f64(args.loss_scale),
        };
        self.execute(run, args, ready);
        self.update(memory.workspace, state);
        Ok(())
    }

    /// [`train_with_state`](Self::train_with_state), handing the gradients over to `hook` part by
    /// part as they become final. What is computed is the same to the bit.
    ///
    /// # Errors
    /// As [`CpuPlan::train`], and parts that aren't all of the gradients.
    pub fn train_in_parts<'g>(
        &self,
        memory: PartsMemory<'_, 'g, Workspace<T>, T>,
        inputs: &[TensorRef<'_, T>],
        args: &RunArgs,
        hook: &mut dyn TrainHook<'g, T>,
    ) -> Result<(), ComputeError> {
        let PartsMemory {
            workspace,
            parameters,
            state,
            gradients,
            ends,
        } = memory;
        self.check_training(gradients.len(), args)?;
        self.check(workspace, parameters, state, inputs)?;
        let covered = ends.last().copied().unwrap_or(0);
        check_len("parts of the gradients", gradients.len(), covered)?;
        if !ends.is_sorted() {
            return Err(ComputeError::PartsOrder);
        }
        let (mut rest, mut handed_over, mut begun) = (gradients, 0, 0);
        let all = (self.instructions.len(), usize::MAX);
        let parts = ends.iter().map(|&end| {
            let last = self.released.partition_point(|&released| released < end);
            ((last + 1).min(self.instructions.len()), end)
        });
        for (part, (until, end)) in parts.chain([all]).enumerate() {
            let mut memory = Memory {
                workspace: &mut workspace.arena,
                gradients: &mut *rest,
                gradients_from: handed_over,
                parameters,
                state,
                constants: &self.constants,
                inputs,
                loss_scale: T::from_f64(args.loss_scale),
            };
            let until = until.max(begun);
            for (i, instruction) in (begun..).zip(&self.instructions[begun..until]) {
                if i == self.backward_from {
                    hook.backward();
                }
                instruction.run(&mut memory, args);
            }
            begun = until;
            if part < ends.len() {
                let (finished, after) = std::mem::take(&mut rest).split_at_mut(end - handed_over);
                hook.finished(part, finished);
                (rest, handed_over) = (after, end);
            }
        }
        self.update(workspace, state);
        Ok(())
    }

    /// Everything of a training run alone that could make it fail.
    fn check_training(&self, gradients: usize, args: &RunArgs) -> Result<(), ComputeError> {
        if self.mode != Mode::Training {
            return Err(ComputeError::WrongMode { mode: self.mode });
        }
        if !args.loss_scale.is_finite() {
            return Err(ComputeError::LossScale {
                got: args.loss_scale,
            });
        }
        check_len("gradients", self.parameters_len, gradients)
    }

    /// Writes the new state that a run left.
    fn update(&self, workspace: &Workspace<T>, state: &mut [T]) {
        for (from, to) in &self.updates {
            let new = &workspace.arena[from.offset..from.offset + from.len];
            state[to.offset..to.offset + to.len].copy_from_slice(new);
        }
    }

    /// Runs an evaluation or prediction plan of a graph without states: writes outputs into the
    /// workspace.
    ///
    /// # Errors
    /// Buffers, inputs or labels that don't fit, or a training plan; nothing is written.
    pub fn infer(
        &self,
        workspace: &mut Workspace<T>,
        parameters: &[T],
        inputs: &[TensorRef<'_, T>],
    ) -> Result<(), ComputeError> {
        self.infer_with_state(workspace, parameters, &[], inputs)
    }

    /// Runs an evaluation or prediction plan with the states that training left.
    ///
    /// # Errors
    /// As [`CpuPlan::infer`].
    pub fn infer_with_state(
        &self,
        workspace: &mut Workspace<T>,
        parameters: &[T],
        state: &[T],
        inputs: &[TensorRef<'_, T>],
    ) -> Result<(), ComputeError> {
        if self.mode == Mode::Training {
            return Err(ComputeError::WrongMode { mode: self.mode });
        }
        self.check(workspace, parameters, state, inputs)?;
        let memory = Memory {
            workspace: &mut workspace.arena,
            gradients: &mut [],
            gradients_from: 0,
            parameters,
            state,
            constants: &self.constants,
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

    /// By end of a part of the gradients: the instructions that have run when it is handed over.
    #[cfg(test)]
    pub(crate) fn released_by(&self, ends: &[usize]) -> Vec<usize> {
        let by = |&end: &usize| self.released.partition_point(|&released| released < end) + 1;
        ends.iter().map(by).collect()
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
        state: &[T],
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
        check_len("state", self.state_len, state.len())?;
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
            let labels = match inputs[check.input] {
                TensorRef::Int(labels) => Index::Int(labels),
                TensorRef::Long(labels) => Index::Long(labels),
                TensorRef::Float(_) | TensorRef::Bool(_) => continue,
            };
            let wrong = (0..labels.len()).find(|&i| !check.holds(labels.at(i)));
            if let Some(sample) = wrong {
                return Err(ComputeError::LabelOutOfRange {
                    name: self.inputs[check.input].name.clone(),
                    sample,
                    label: labels.at(sample),
                    classes: check.classes,
                });
            }
        }
        Ok(())
    }

    fn execute(&self, mut memory: Memory<'_, T>, args: &RunArgs, ready: &mut dyn GradientReady<T>) {
        for instruction in &self.instructions {
            instruction.run(&mut memory, args);
            for &(slot, end) in &instruction.finishes {
                ready.ready(slot, &memory.gradients[..end]);
            }
        }
    }
}
