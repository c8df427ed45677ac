//! The replicas of one rank: how many run at once, on which threads, and the fold of what they add.
//!
//! # Contract
//! - Replica *r* of *R* computes its share of a batch ([`Batches`]), in rounds if the job
//!   accumulates. What it adds depends on (job, step, replica, weights) alone.
//! - [`Lanes::run`] leaves the contributions of all hosted replicas in [`ReplicaBuffers`], folded in
//!   ascending order as far as the tree goes.
//! - A [`Split`] says how many replicas run at once and on how many threads each. **No split changes
//!   a bit**: kernels and fold don't depend on threads. So the fastest may be found by trying: each
//!   of a few splits runs some of the first steps, and the one that took the least time stays.
//! - A step whose gradients are summed over ranks while they are computed: [`overlapped`].
//! - A lane is the memory of one running replica: a workspace, a batch, a contribution. There are as
//!   many as run at once.

pub mod overlapped;
mod round;

use std::fmt;
use std::time::Duration;

use ringfold_collective::compression::Half;
use ringfold_collective::{AbortSignal, ReplicaBuffers};
use ringfold_common::clock::Clock;
use ringfold_common::ids::Step;
use ringfold_compute::Mode;
use ringfold_compute::cpu::parallel::for_units;
use ringfold_compute::cpu::simd::widest;
use ringfold_compute::cpu::team;
use ringfold_storage::Dataset;

use crate::batches::Batches;
use crate::contribution::Contribution;
use crate::error::{TrainError, check_abort};
use crate::network::{Network, Plans};
use crate::timeline::Span;

use self::round::Round;

/// Steps that each split is tried for at a time. The first of them warms up and isn't timed.
const TRIAL_STEPS: u32 = 4;
/// A trial goes round the splits until it took so long, so that short steps, which other load on the
/// machine easily doubles, are timed at several moments.
const TRIAL_TIME: Duration = Duration::from_millis(200);
/// But so often at most.
const TRIAL_ROUNDS: u32 = 8;
/// Elements that one task of a parallel addition adds.
const ADD_ELEMENTS: usize = 1 << 15;

/// What a rank's threads do while it computes gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Replicas that run at the same time.
    pub at_once: usize,
    /// Threads that the kernels of each may use.
    pub threads: usize,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let Self { at_once, threads } = *self;
        write!(
            f,
            "{at_once} replica{} at once, {threads} thread{} each",
            plural(at_once),
            plural(threads)
        )
    }
}

impl Split {
    /// The splits of `threads` that are worth trying for `replicas`, most replicas at once first.
    #[must_use]
    pub fn candidates(threads: usize, replicas: usize) -> Vec<Self> {
        let (threads, replicas) = (threads.max(1), replicas.max(1));
        let most = threads.min(replicas);
        let mut all = Vec::new();
        let mut at_once = most;
        loop {
            all.push(Self {
                at_once,
                threads: threads / at_once,
            });
            if at_once == 1 {
                break;
            }
            at_once /= 2;
        }
        // Small models gain nothing from threads.
        if threads > 1 && most == 1 {
            all.push(Self {
                at_once: 1,
                threads: 1,
            });
        }
        all
    }
}

/// Finds the fastest split by trying.
#[derive(Clone, Debug)]
struct Trial {
    splits: Vec<Split>,
    /// The least time of a step of each, once it was timed.
    best: Vec<Option<Duration>>,
    steps: u32,
    took: Duration,
    ended: bool,
}

impl Trial {
    fn new(splits: Vec<Split>) -> Self {
        Self {
            best: vec![None; splits.len()],
            ended: splits.len() == 1,
            splits,
            steps: 0,
            took: Duration::ZERO,
        }
    }

    /// The number of the split that is tried.
    fn trying(&self) -> usize {
        (self.steps / TRIAL_STEPS) as usize % self.splits.len()
    }

    /// The split of the next step, or of all that follow.
    fn split(&self) -> Split {
        if !self.ended {
            return self.splits[self.trying()];
        }
        let timed = self.splits.iter().zip(&self.best);
        let timed = timed.min_by_key(|(_, best)| best.unwrap_or(Duration::MAX));
        timed.map_or(self.splits[0], |(split, _)| *split)
    }

    /// Takes the time of a step; true if it was the last of the trial.
    fn record(&mut self, took: Duration) -> bool {
        if self.ended {
            return false;
        }
        if !self.steps.is_multiple_of(TRIAL_STEPS) {
            let trying = self.trying();
            let best = &mut self.best[trying];
            *best = Some(best.map_or(took, |best| best.min(took)));
        }
        self.steps += 1;
        self.took += took;
        let round = TRIAL_STEPS * self.splits.len() as u32;
        self.ended = self.steps.is_multiple_of(round)
            && (self.took >= TRIAL_TIME || self.steps >= TRIAL_ROUNDS * round);
        self.ended
    }
}

/// The memory of one running replica.
#[derive(Debug)]
struct Lane {
    plans: Plans,
    /// The replica, while it runs here.
    batches: Option<Batches>,
    /// What the replica adds; taken by the fold.
    contribution: Option<Contribution>,
    /// What a round after the first adds; unset if there is none.
    round: Option<Contribution>,
    result: Result<(), TrainError>,
    /// What was done since they were taken, if a clock is read for it.
    spans: Vec<Span>,
}

/// The hosted replicas and the memory that they run in.
#[derive(Debug)]
pub struct Lanes {
    replicas: Vec<Batches>,
    lanes: Vec<Lane>,
    trial: Trial,
}

/// What a step is computed from.
#[derive(Clone, Copy)]
pub struct StepInput<'a> {
    /// The step.
    pub step: Step,
    /// The records.
    pub dataset: &'a Dataset,
    /// The job's seed.
    pub seed: u64,
    /// The weights before the step.
    pub parameters: &'a [f32],
    /// The model's state before the step.
    pub state: &'a [f32],
    /// Ends the step early.
    pub abort: &'a AbortSignal,
    /// What is read for a timeline, if there is one.
    pub clock: Option<&'a dyn Clock>,
    /// What gradients are rounded to, each replica's and every sum of some.
    pub rounding: Option<Half>,
}

impl Lanes {
    /// The lanes of a rank that hosts `replicas` and computes on `threads` threads of the
    /// caller's team. The plans of the first lane serve `evaluations` too, batch sizes of evaluation.
    ///
    /// # Errors
    /// Sizes that can't be addressed.
    pub fn new(
        network: &Network,
        replicas: Vec<Batches>,
        threads: usize,
        evaluations: &[usize],
    ) -> Result<Self, TrainError> {
        let splits = Split::candidates(threads, replicas.len());
        let at_once = splits.iter().map(|split| split.at_once).max().unwrap_or(1);
        let accumulates = replicas.iter().any(|batches| batches.rounds() > 1);
        let (parameters, states) = (network.layout().len(), network.states().len());
        let mut sizes: Vec<(Mode, usize, usize)> = Vec::new();
        for split in &splits {
            let lengths = replicas.iter().flat_map(Batches::lengths);
            sizes.extend(lengths.map(|len| (Mode::Training, len, split.threads)));
        }
        let lane = |number: usize| -> Result<Lane, TrainError> {
            let mut sizes = sizes.clone();
            if number == 0 {
                let evaluations = evaluations.iter();
                sizes.extend(evaluations.map(|&len| (Mode::Evaluation, len, threads)));
            }
            let round = accumulates.then(|| Contribution::new(parameters, states));
            Ok(Lane {
                plans: network.plans_on(sizes)?,
                batches: None,
                contribution: Some(Contribution::new(parameters, states)?),
                round: round.transpose()?,
                result: Ok(()),
                spans: Vec::new(),
            })
        };
        Ok(Self {
            replicas,
            lanes: (0..at_once).map(lane).collect::<Result<_, _>>()?,
            trial: Trial::new(splits),
        })
    }

    /// The split that the next step runs in.
    #[must_use]
    pub fn split(&self) -> Split {
        self.trial.split()
    }

    /// The plans of the first lane, while no step runs: for evaluation.
    pub fn plans(&mut self) -> &mut Plans {
        &mut self.lanes[0].plans
    }

    /// What was done in each lane since the last time, if a clock was read for it.
    pub fn take_spans(&mut self) -> impl Iterator<Item = (usize, impl Iterator<Item = Span>)> {
        let lanes = self.lanes.iter_mut().enumerate();
        lanes.map(|(number, lane)| (number, lane.spans.drain(..)))
    }

    /// Bytes of all lanes' memory: workspaces, batches, contributions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let lanes = self.lanes.iter().map(|lane| {
            let contributions = lane.contribution.iter().chain(&lane.round);
            let contributions: usize = contributions.map(|part| part.len() * 4).sum();
            lane.plans.bytes() + contributions as u64
        });
        lanes.sum()
    }

    /// Computes what all hosted replicas add to a step, and folds it into `fold`, which was cleared.
    ///
    /// # Errors
    /// The first that a replica has; an abort.
    pub fn run(
        &mut self,
        input: &StepInput<'_>,
        fold: &mut ReplicaBuffers<f32, Contribution>,
        clock: &dyn Clock,
    ) -> Result<(), TrainError> {
        let split = self.split();
        let began = clock.monotonic();
        for wave in self.replicas.chunks_mut(split.at_once) {
            run_wave(&mut self.lanes, wave, split, input, fold)?;
        }
        self.record(clock.monotonic().saturating_sub(began));
        Ok(())
    }

    /// Takes the time of a step.
    fn record(&mut self, took: Duration) {
        if self.trial.record(took) {
            let split = self.trial.split();
            for (tried, best) in self.trial.splits.iter().zip(&self.trial.best) {
                tracing::info!(
                    step_seconds = best.unwrap_or_default().as_secs_f64(),
                    "{tried}"
                );
            }
            tracing::info!("computing with {split}");
            self.lanes.truncate(split.at_once);
        }
    }
}

/// Computes what replicas that run at the same time add, and folds it.
fn run_wave(
    lanes: &mut [Lane],
    wave: &mut [Batches],
    split: Split,
    input: &StepInput<'_>,
    fold: &mut ReplicaBuffers<f32, Contribution>,
) -> Result<(), TrainError> {
    let rounding = input.rounding.map(|half| (half, input.parameters.len()));
    let lanes = &mut lanes[..wave.len()];
    for (lane, batches) in lanes.iter_mut().zip(&*wave) {
        lane.batches = Some(*batches);
        // Used again as late as this, so that no more are made than are needed at once.
        lane.contribution = lane.contribution.take().or_else(|| fold.reuse());
    }
    team::each_on(split.threads, lanes, |_, lane| {
        lane.run(input, split.threads)
    });
    for (lane, batches) in lanes.iter_mut().zip(wave) {
        *batches = lane.batches.take().unwrap_or(*batches);
        std::mem::replace(&mut lane.result, Ok(()))?;
        if let Some(contribution) = lane.contribution.take() {
            let add = |sums: &mut [f32], terms: &[f32]| add_terms(sums, terms, rounding);
            fold.push_with(contribution, add)?;
        }
    }
    Ok(())
}

/// Adds the second slice to the first, on the whole team, and rounds so many elements at its start.
fn add_terms(sums: &mut [f32], terms: &[f32], rounding: Option<(Half, usize)>) {
    let tasks = sums.len().div_ceil(ADD_ELEMENTS);
    for_units(0..tasks, [sums], [ADD_ELEMENTS], tasks, &|task, [sums]| {
        let terms = &terms[task * ADD_ELEMENTS..];
        widest(|| {
            for (sum, term) in sums.iter_mut().zip(terms) {
                *sum += term;
            }
        });
        if let Some((half, elements)) = rounding {
            let rest = elements.saturating_sub(task * ADD_ELEMENTS);
            let rounded = rest.min(sums.len());
            half.round(&mut sums[..rounded]);
        }
    });
}

impl Lane {
    /// Computes what the replica adds.
    fn run(&mut self, input: &StepInput<'_>, threads: usize) {
        if let Some(mut batches) = self.batches {
            self.result = self.contribute(&mut batches, input, threads);
            self.batches = Some(batches);
        }
    }

    fn contribute(
        &mut self,
        batches: &mut Batches,
        input: &StepInput<'_>,
        threads: usize,
    ) -> Result<(), TrainError> {
        let mut contribution = match self.contribution.take() {
            Some(contribution) => contribution,
            None => Contribution::new(input.parameters.len(), input.state.len())?,
        };
        let micro_batch = batches.micro_batch(input.step);
        let (mut loss, mut first) = (0.0, true);
        for round in 0..batches.rounds() {
            let part = micro_batch.round(round, batches.rounds());
            if part.is_empty() {
                continue;
            }
            check_abort(input.abort)?;
            let target = match (&mut self.round, first) {
                (Some(round), false) => round,
                _ => &mut contribution,
            };
            let run = Round {
                part: &part,
                number: round,
                threads,
                ends: &[input.parameters.len()],
            };
            let mean = run.run_whole(&mut self.plans, batches, input, target, &mut self.spans)?;
            loss += mean * part.len() as f64;
            if let (Some(round), false) = (&self.round, first) {
                contribution.add(round);
            }
            first = false;
        }
        if first {
            contribution.clear();
        }
        contribution.set_loss(loss / micro_batch.global_len() as f64);
        if let Some(half) = input.rounding {
            half.round(contribution.gradients_mut());
        }
        self.contribution = Some(contribution);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(at_once: usize, threads: usize) -> Split {
        Split { at_once, threads }
    }

    #[test]
    fn candidates_use_the_threads_and_no_more() {
        assert_eq!(Split::candidates(1, 8), [split(1, 1)]);
        assert_eq!(Split::candidates(2, 1), [split(1, 2), split(1, 1)]);
        assert_eq!(Split::candidates(2, 4), [split(2, 1), split(1, 2)]);
        assert_eq!(Split::candidates(8, 3), [split(3, 2), split(1, 8)]);
        for threads in 1..20 {
            for replicas in 1..20 {
                for split in Split::candidates(threads, replicas) {
                    assert!(split.at_once * split.threads <= threads);
                    assert!((1..=replicas).contains(&split.at_once) && split.threads >= 1);
                }
            }
        }
    }

    /// The splits of `steps` steps whose times `micros` gives by number and split.
    fn tried(steps: u32, micros: impl Fn(u32, Split) -> u64) -> Vec<Split> {
        let mut trial = Trial::new(vec![split(2, 1), split(1, 2)]);
        let mut seen = Vec::new();
        for step in 0..steps {
            let now = trial.split();
            seen.push(now);
            let ended = trial.record(Duration::from_micros(micros(step, now)));
            assert_eq!(ended, trial.ended && seen.len() as u32 == trial.steps);
        }
        seen
    }

    #[test]
    fn a_trial_ends_with_the_fastest() {
        // The first step of a split is slow and doesn't count.
        let seen = tried(20, |step, now| match step.is_multiple_of(TRIAL_STEPS) {
            true => 900_000,
            false => 10_000 + 10_000 * now.threads as u64,
        });
        assert_eq!(seen[..4], [split(2, 1); 4]);
        assert_eq!(seen[4..8], [split(1, 2); 4]);
        assert_eq!(seen[8..], [split(2, 1); 12]);
    }

    #[test]
    fn short_steps_are_tried_in_several_rounds() {
        // What disturbs the first round is forgotten.
        let seen = tried(90, |step, now| match step < 8 {
            true => 500 * now.threads as u64,
            false => 200 * now.at_once as u64,
        });
        for round in seen[..64].chunks(8) {
            assert_eq!(round[..4], [split(2, 1); 4]);
            assert_eq!(round[4..], [split(1, 2); 4]);
        }
        assert_eq!(seen[64..], [split(1, 2); 26]);
    }

    #[test]
    fn one_split_is_not_tried() {
        let mut trial = Trial::new(Split::candidates(1, 5));
        assert!(!trial.record(Duration::from_secs(1)));
        assert_eq!(
            trial.split().to_string(),
            "1 replica at once, 1 thread each"
        );
    }
}
