//! One round of a replica: a run of the training plan on some of its samples.

use std::time::Duration;

use ringfold_common::clock::Clock;
use ringfold_compute::{Mode, PartsMemory, RunArgs, TrainHook};
use ringfold_graph::models::DATA_LOSS;

use super::StepInput;
use crate::batches::{Batches, MicroBatch};
use crate::contribution::Contribution;
use crate::error::TrainError;
use crate::network::Plans;
use crate::timeline::{Doing, Span};

/// Which samples, and how they are computed.
pub(super) struct Round<'a> {
    pub part: &'a MicroBatch,
    /// Its number in the replica's share of the batch.
    pub number: u32,
    /// Threads that kernels may use.
    pub threads: usize,
    /// Where the parts of the gradient end that are handed over one by one.
    pub ends: &'a [usize],
}

/// Gradient and state that a round writes.
pub(super) type Written<'g, 's> = (&'g mut [f32], &'s mut [f32]);

impl Round<'_> {
    /// Writes the gradient, weighed, and the state, not weighed, and returns the mean loss of the
    /// samples. The state starts as it is.
    pub fn run<'g>(
        &self,
        plans: &mut Plans,
        batches: &mut Batches,
        input: &StepInput<'_>,
        (gradients, state): Written<'g, '_>,
        spans: &mut Vec<Span>,
        hook: &mut dyn TrainHook<'g, f32>,
    ) -> Result<f64, TrainError> {
        let len = self.part.len();
        let now = || input.clock.map(Clock::monotonic);
        let began = now();
        let (plan, workspace, buffer) = plans.get_on(Mode::Training, len, self.threads);
        let dataset = input.dataset;
        buffer.gather(
            len,
            dataset.train(),
            dataset.scaler(),
            batches.records(self.part),
        );
        let args = RunArgs {
            seed: input.seed,
            step: input.step.0,
            // Every round draws dropout masks of its own.
            replica: batches.draws_as(self.number),
            loss_scale: self.part.weight(),
        };
        let gathered = now();
        let inputs = buffer.inputs(len);
        let memory = PartsMemory {
            workspace: &mut *workspace,
            parameters: input.parameters,
            state,
            gradients,
            ends: self.ends,
        };
        let mut timed = Timed {
            hook,
            clock: input.clock,
            backward: None,
        };
        plan.train_in_parts(memory, &inputs, &args, &mut timed)?;
        let backward = timed.backward;
        if let (Some(began), Some(gathered), Some(ended)) = (began, gathered, now()) {
            let backward = backward.unwrap_or(ended);
            let mut push = |doing, start, end| spans.push(Span { doing, start, end });
            push(Doing::Gather, began, gathered);
            push(Doing::Forward, gathered, backward);
            push(Doing::Backward, backward, ended);
        }
        let mean = plan.scalar(workspace, DATA_LOSS);
        Ok(mean.map_or(f64::NAN, f64::from))
    }

    /// [`run`](Self::run) into a contribution, whose state starts as it is before the step and is
    /// weighed.
    pub fn run_whole(
        &self,
        plans: &mut Plans,
        batches: &mut Batches,
        input: &StepInput<'_>,
        contribution: &mut Contribution,
        spans: &mut Vec<Span>,
    ) -> Result<f64, TrainError> {
        let written = contribution.start(input.state);
        let mean = self.run(plans, batches, input, written, spans, &mut Whole)?;
        contribution.weigh_state(self.part.weight());
        Ok(mean)
    }
}

/// Nobody takes the gradient before the run has ended.
struct Whole;

impl<'g> TrainHook<'g, f32> for Whole {
    fn finished(&mut self, _: usize, _: &'g mut [f32]) {}
}

/// Reads the clock when the backward part begins.
struct Timed<'h, 'g> {
    hook: &'h mut dyn TrainHook<'g, f32>,
    clock: Option<&'h dyn Clock>,
    backward: Option<Duration>,
}

impl<'g> TrainHook<'g, f32> for Timed<'_, 'g> {
    fn backward(&mut self) {
        self.backward = self.clock.map(Clock::monotonic);
        self.hook.backward();
    }

    fn finished(&mut self, part: usize, gradients: &'g mut [f32]) {
        self.hook.finished(part, gradients);
    }
}
