//! The loop of one rank.

mod choose;

use std::path::Path;
use std::time::Duration;

use ringfold_collective::algorithm::Replicas;
use ringfold_collective::{AbortSignal, ReplicaBuffers, Ring};
use ringfold_common::clock::Clock;
use ringfold_common::dataset::{RankPart, StepSamples};
use ringfold_common::ids::{Rank, Step};
use ringfold_common::job::{
    EvaluateEvery, Evaluation, FoldMode, JobSpec, Period, Phase, Progress, Summary, TrainSpec,
};
use ringfold_compute::cpu::team::Team;
use ringfold_storage::{
    Dataset, MetricsWriter, ModelDescription, ModelFiles, ModelSources, check_output_dir,
    weights_blake3,
};
use serde::Serialize;

use crate::batches::Batches;
use crate::buckets::Buckets;
use crate::compression::{GradientSum, Summed};
use crate::contribution::Contribution;
use crate::error::{TrainError, check_abort};
use crate::evaluate::evaluate;
use crate::lanes::overlapped::Overlapped;
use crate::lanes::{Lanes, StepInput};
use crate::network::{Network, Sourced};
use crate::optimizer::{clip_scale, clip_values, global_norm};
use crate::predict::to_onnx;
use crate::schedule::Schedule;
use crate::state::{Make, Misfit, TrainingState, agree};
use crate::timeline::{Doing, Parting, Timeline};

/// Hears what a rank does. Calls are short: they hold up the step.
pub trait Observer: Sync {
    /// The rank does something else now. Steps are not told one by one: see
    /// [`Observer::step`].
    fn phase(&self, phase: Phase);
    /// A step begins.
    fn step(&self, step: Step);
    /// On rank 0: training goes on.
    fn progress(&self, progress: &Progress);
    /// On rank 0: an evaluation is done.
    fn evaluation(&self, evaluation: &Evaluation);
}

/// What one rank is to do.
#[derive(Debug)]
pub struct RankJob<'a> {
    /// The job.
    pub spec: &'a JobSpec,
    /// Its data.
    pub dataset: &'a Dataset,
    /// This rank.
    pub rank: Rank,
    /// Ranks of the world.
    pub world: u32,
    /// This rank's part, as the coordinator assigned it.
    pub part: &'a RankPart,
    /// Threads to compute on, at least 1.
    pub threads: u32,
}

/// Trains to the end. Rank 0 saves the model and returns the summary; the others return `None`
/// once it has.
///
/// `warm` is the [state](crate::state) that this rank holds: that of an earlier call with another
/// ring, or one from elsewhere. All ranks go on from the furthest state that any of them holds, or
/// begin if nobody holds any. Afterwards, whether this call failed or not, it is the state after the
/// last step that this rank has completed.
///
/// # Errors
/// The first thing that goes wrong on this rank or in the ring.
pub fn train(
    job: &RankJob<'_>,
    ring: &mut Ring,
    abort: &AbortSignal,
    observer: &dyn Observer,
    clock: &dyn Clock,
    warm: &mut Option<TrainingState>,
) -> Result<Option<Summary>, TrainError> {
    let mut team = Team::new(job.threads as usize).map_err(|error| TrainError::Threads {
        threads: job.threads,
        reason: error.to_string(),
    })?;
    team.install(|| Run::new(job, abort, observer, clock)?.train(ring, warm))
}

/// The state of a run.
struct Run<'a> {
    job: &'a RankJob<'a>,
    abort: &'a AbortSignal,
    observer: &'a dyn Observer,
    clock: &'a dyn Clock,
    network: Network,
    /// The files of the model; once there is a state, the ONNX file only.
    sources: ModelSources,
    lanes: Lanes,
    fold: ReplicaBuffers<f32, Contribution>,
    mode: FoldMode,
    /// How `fold` is summed over ranks.
    sum: GradientSum,
    /// The messages in which gradients are summed while others are computed; unset if they aren't.
    buckets: Option<Buckets>,
    /// What the first replica sees, for what all have in common.
    batches: Batches,
    schedule: Schedule,
    timeline: Option<Timeline>,
    metrics: Option<MetricsWriter>,
    started: Duration,
    pace: Pace,
}

/// How fast this run goes, which isn't part of its state.
#[derive(Default)]
struct Pace {
    /// Samples of all ranks since the run began.
    samples: u64,
    /// Time in steps since then.
    step_time: Duration,
    /// Samples of all ranks since the run's last report.
    report_samples: u64,
    /// Time in steps since then.
    report_time: Duration,
    /// Time in the all-reduce since then.
    report_ring_time: Duration,
}

/// A line of `metrics.jsonl`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum MetricsLine<'a> {
    Progress(&'a Progress),
    Evaluation(&'a Evaluation),
}

impl<'a> Run<'a> {
    fn new(
        job: &'a RankJob<'a>,
        abort: &'a AbortSignal,
        observer: &'a dyn Observer,
        clock: &'a dyn Clock,
    ) -> Result<Self, TrainError> {
        let (spec, info) = (job.spec, job.dataset.info());
        let sources = ModelSources::read(&spec.model)?;
        let sourced = Sourced {
            spec: &spec.model,
            onnx: sources.onnx.as_deref(),
        };
        let network = Network::new(
            sourced,
            (info.features, &job.dataset.columns().dims),
            &info.target,
            spec.train.l2,
            job.threads.max(1) as usize,
        )?
        .with_precision(spec.train.precision)
        .with_workspace_max(workspace_bytes_max(&spec.train))?;
        Self::with_network(job, (network, sources), abort, observer, clock)
    }

    fn with_network(
        job: &'a RankJob<'a>,
        (network, sources): (Network, ModelSources),
        abort: &'a AbortSignal,
        observer: &'a dyn Observer,
        clock: &'a dyn Clock,
    ) -> Result<Self, TrainError> {
        let (spec, info) = (job.spec, job.dataset.info());
        let started = clock.monotonic();
        let replicas = spec.cluster.replicas;
        let hosted = job.part.replicas.clone();
        let hosted: Vec<Batches> = hosted
            .map(|replica| Batches::new(&spec.train, info.train_records, replica, replicas))
            .collect::<Result<_, _>>()?;
        let batches = Batches::new(&spec.train, info.train_records, 0, replicas)?;
        let evaluations: Vec<usize> = network
            .chunks(job.part.test_records.clone())
            .map(|chunk| (chunk.end - chunk.start) as usize)
            .collect();
        let threads = job.threads.max(1) as usize;
        let lanes = Lanes::new(&network, hosted, threads, &evaluations)?;
        let schedule = Schedule::new(
            &spec.train.schedule,
            spec.train.optimizer.learning_rate(),
            batches.steps_total(),
            batches.steps_per_epoch(),
        );
        let (layout, states) = (network.layout(), network.states());
        let of_ranks = Replicas::new(replicas, job.world).ok_or(TrainError::Replicas {
            replicas,
            world: job.world,
        })?;
        let (expected, got) = (of_ranks.of(job.rank), job.part.replicas.clone());
        if expected != got {
            let rank = job.rank;
            return Err(TrainError::Part {
                rank,
                expected,
                got,
            });
        }
        let elements = layout.len() + Contribution::rest_len(states.len());
        let fold = ReplicaBuffers::new(&of_ranks, job.rank, elements)?;
        let sum = GradientSum::new(None, &summed(job, &network, of_ranks, FoldMode::Fast))?;
        let timeline = spec.output.timeline.as_deref();
        if job.rank.0 == 0 {
            timeline.map_or(Ok(()), |path| Timeline::check(Path::new(path)))?;
            let dir = Path::new(&spec.output.dir);
            check_output_dir(dir)?;
        }
        Ok(Self {
            job,
            abort,
            observer,
            clock,
            network,
            sources,
            lanes,
            fold,
            mode: spec.cluster.mode,
            sum,
            buckets: None,
            batches,
            schedule,
            timeline: timeline.map(|_| Timeline::new(job.world)),
            metrics: None,
            started,
            pace: Pace::default(),
        })
    }

    /// Trains, and hands the timeline over if that ends early.
    fn train(
        mut self,
        ring: &mut Ring,
        warm: &mut Option<TrainingState>,
    ) -> Result<Option<Summary>, TrainError> {
        let timeline = self.timeline.as_ref();
        let parting = timeline.map(|_| Parting::agree(ring, self.clock));
        let parting = parting.transpose()?;
        let result = self.train_all(ring, warm);
        let spec = self.job.spec;
        if let (Err(_), Some(parting), Some(timeline), Some(path)) =
            (&result, parting, &self.timeline, &spec.output.timeline)
        {
            // The others learn at once that this rank has stopped, and hand over too.
            ring.leave();
            let handed_over = parting.hand_over(timeline, Path::new(path), self.clock);
            if let Err(error) = handed_over {
                tracing::warn!("no timeline: {}", ringfold_common::error::one_line(&error));
            }
        }
        result
    }

    fn train_all(
        &mut self,
        ring: &mut Ring,
        warm: &mut Option<TrainingState>,
    ) -> Result<Option<Summary>, TrainError> {
        let state = self.begin(ring, warm)?;
        self.choose_mode(ring, state)?;
        self.choose_overlap(ring)?;
        let steps_total = self.batches.steps_total();
        let done = state.step();
        self.observer.phase(Phase::Training(done.next()));
        let mut last_evaluation = None;
        if done > Step(0) {
            // Nobody knows how much of it was done.
            last_evaluation = self.after(done, state, ring)?;
        }
        for number in done.0 + 1..=steps_total {
            let step = Step(number);
            self.observer.step(step);
            check_abort(self.abort)?;
            self.step(step, state, ring)?;
            last_evaluation = self.after(step, state, ring)?;
        }
        self.finish(last_evaluation, state, ring)
    }

    /// The state that all ranks begin with.
    fn begin<'w>(
        &mut self,
        ring: &mut Ring,
        warm: &'w mut Option<TrainingState>,
    ) -> Result<&'w mut TrainingState, TrainError> {
        let state = agree(ring, warm, &*self)?;
        self.sources.forget_weights();
        let (step, steps_total) = (state.step(), self.batches.steps_total());
        if step.0 > steps_total {
            return Err(TrainError::State(Misfit {
                field: "the step".to_owned(),
                state: step.to_string(),
                job: format!("at most {steps_total}"),
            }));
        }
        if self.job.rank == Rank(0) {
            if self.sources.onnx.is_some() && step == Step(0) {
                // Better found before training than after.
                let tensors = (&*state.parameters, &*state.statistics);
                to_onnx(&self.network, self.job.dataset.scaler(), tensors)?;
            }
            if step > Step(0) {
                tracing::info!("training goes on after step {step}");
            }
            let dir = Path::new(&self.job.spec.output.dir);
            self.metrics = Some(MetricsWriter::go_on(dir, step.0)?);
        }
        Ok(state)
    }

    /// What follows a step: a report, a comparison of weights, an evaluation. It depends on the state
    /// alone.
    fn after(
        &mut self,
        step: Step,
        state: &TrainingState,
        ring: &mut Ring,
    ) -> Result<Option<Evaluation>, TrainError> {
        let samples = self.batches.samples(step);
        if self.reports_after(step) {
            self.report(step, &samples, state)?;
        }
        let last = step.0 == self.batches.steps_total();
        let check_steps = self.job.spec.train.check_steps;
        if last || (check_steps > 0 && step.0.is_multiple_of(check_steps)) {
            let began = self.clock.monotonic();
            check_weights(ring, step, &[&state.parameters, &state.statistics])?;
            self.note(step, Doing::Check, began);
        }
        if !last && !self.evaluates_after(step, &samples) {
            return Ok(None);
        }
        let began = self.clock.monotonic();
        let evaluation = self.evaluate(step, &samples, state, ring)?;
        self.note(step, Doing::Evaluate, began);
        if !last {
            self.observer.phase(Phase::Training(step.next()));
        }
        Ok(evaluation)
    }

    /// Something in the timeline, if there is one, that has just ended.
    fn note(&mut self, step: Step, doing: Doing, began: Duration) {
        if let Some(timeline) = &mut self.timeline {
            timeline.add(step, doing, began, self.clock.monotonic());
        }
    }

    /// One optimizer update. An error leaves the state after the step before.
    fn step(
        &mut self,
        step: Step,
        state: &mut TrainingState,
        ring: &mut Ring,
    ) -> Result<(), TrainError> {
        let began = self.clock.monotonic();
        let train = &self.job.spec.train;
        let samples = self.batches.samples(step);
        let input = StepInput {
            step,
            dataset: self.job.dataset,
            seed: train.seed,
            parameters: &state.parameters,
            state: &state.statistics,
            abort: self.abort,
            clock: self.timeline.as_ref().map(|_| self.clock),
            rounding: self.sum.rounding(step),
        };
        self.fold.clear();
        let mut transfers = Vec::new();
        let before_ring = match &self.buckets {
            Some(buckets) => {
                let overlapped = Overlapped {
                    ring,
                    buckets,
                    mode: self.mode,
                    sum: &mut self.sum,
                };
                let ran =
                    (self.lanes).run_overlapped(&input, &mut self.fold, overlapped, self.clock)?;
                transfers = ran.transfers;
                ran.computed
            }
            None => {
                self.lanes.run(&input, &mut self.fold, self.clock)?;
                let before_ring = self.clock.monotonic();
                self.sum.run(step, ring, &mut self.fold)?;
                before_ring
            }
        };
        let after_ring = self.clock.monotonic();
        if let Some(timeline) = &mut self.timeline {
            for (lane, spans) in self.lanes.take_spans() {
                timeline.add_lane(step, lane, spans);
            }
            timeline.add_transfers(step, &transfers);
            timeline.add(step, Doing::Sum, before_ring, after_ring);
        }

        let reports = self.reports_after(step);
        let after_report = step.0 > 1 && self.reports_after(Step(step.0 - 1));
        let train = &self.job.spec.train;
        let total = self.fold.sum()?;
        let norm = (reports || train.clip_norm.is_some()).then(|| global_norm(total.gradients()));
        let finite = |what, value: f64| match value.is_finite() {
            true => Ok(()),
            false => Err(TrainError::NotFinite { what, value, step }),
        };
        norm.map_or(Ok(()), |norm| finite("gradient's norm", norm))?;
        let loss = total.loss();
        finite("loss", loss.into())?;

        // From here on nothing fails, and all ranks do the same.
        state.begin_update(self.mode);
        let scale = clip(train, total.gradients_mut(), norm);
        let rate = self.schedule.rate(step);
        let parameters = &mut state.parameters;
        (state.optimizer).update(rate, scale, parameters, total.gradients());
        total.finish_state(self.network.states(), &mut state.statistics);
        if let Some(ema) = &mut state.ema {
            ema.update(&state.parameters);
        }
        state.tally.add(&samples, loss, norm, after_report);
        state.end_update(step);

        self.note(step, Doing::Update, after_ring);
        let took = self.clock.monotonic().saturating_sub(began);
        let pace = &mut self.pace;
        let count = samples.positions.end - samples.positions.start;
        pace.samples += count;
        pace.step_time += took;
        pace.report_samples += count;
        pace.report_time += took;
        pace.report_ring_time += after_ring.saturating_sub(before_ring);
        Ok(())
    }

    fn reports_after(&self, step: Step) -> bool {
        step.0.is_multiple_of(self.job.spec.train.report_steps)
            || self.batches.samples(step).ends_epoch
            || step.0 == self.batches.steps_total()
    }

    /// Rank 0 reports.
    fn report(
        &mut self,
        step: Step,
        samples: &StepSamples,
        state: &TrainingState,
    ) -> Result<(), TrainError> {
        let pace = std::mem::take(&mut self.pace);
        self.pace = Pace {
            samples: pace.samples,
            step_time: pace.step_time,
            ..Pace::default()
        };
        let seconds = pace.report_time.as_secs_f64().max(1e-9);
        let progress = Progress {
            step,
            steps_total: self.batches.steps_total(),
            epoch: samples.epoch,
            epochs_total: self.batches.epochs_total(),
            samples: state.tally().samples,
            loss: state.tally().report_mean(),
            learning_rate: self.schedule.rate(step),
            gradient_norm: state.tally().gradient_norm.unwrap_or(f64::NAN),
            samples_per_second: pace.report_samples as f64 / seconds,
            communication_share: pace.report_ring_time.as_secs_f64() / seconds,
            gradient_bytes: self.sum.last(),
        };
        if let Some(metrics) = &mut self.metrics {
            metrics.write(&MetricsLine::Progress(&progress))?;
            self.observer.progress(&progress);
        }
        Ok(())
    }

    fn evaluates_after(&self, step: Step, samples: &StepSamples) -> bool {
        match self.job.spec.train.evaluate {
            EvaluateEvery::End => false,
            EvaluateEvery::Period(Period::Steps(steps)) => step.0.is_multiple_of(steps.max(1)),
            EvaluateEvery::Period(Period::Epochs(epochs)) => {
                samples.ends_epoch && (samples.epoch.0 + 1).is_multiple_of(epochs.max(1))
            }
        }
    }

    /// Evaluates this rank's test records and sums over all ranks. `None` without test records.
    fn evaluate(
        &mut self,
        step: Step,
        samples: &StepSamples,
        state: &TrainingState,
        ring: &mut Ring,
    ) -> Result<Option<Evaluation>, TrainError> {
        let dataset = self.job.dataset;
        if dataset.info().test_records == 0 {
            return Ok(None);
        }
        self.observer.phase(Phase::Evaluating(step));
        let abort = self.abort;
        let mut sums = evaluate(
            self.lanes.plans(),
            &self.network,
            (state.weights(), &state.statistics),
            (dataset.test(), dataset.scaler()),
            self.job.part.test_records.clone(),
            |_, _| {},
            || check_abort(abort),
        )?;
        let mut numbers = sums.to_array();
        ring.all_reduce_sum_f64(&mut numbers)?;
        sums.set_from(numbers);
        let evaluation = Evaluation {
            step,
            epoch: samples.epoch,
            records: sums.records as u64,
            metrics: sums.metrics("test"),
        };
        if let Some(metrics) = &mut self.metrics {
            metrics.write(&MetricsLine::Evaluation(&evaluation))?;
            self.observer.evaluation(&evaluation);
        }
        Ok(Some(evaluation))
    }

    /// Rank 0 saves; every rank waits until it has.
    fn finish(
        &self,
        evaluation: Option<Evaluation>,
        state: &TrainingState,
        ring: &mut Ring,
    ) -> Result<Option<Summary>, TrainError> {
        self.observer.phase(Phase::Saving);
        let summary = if self.job.rank.0 == 0 {
            Some(self.save(evaluation, state)?)
        } else {
            None
        };
        if let (Some(timeline), Some(path)) = (&self.timeline, &self.job.spec.output.timeline) {
            timeline.write(Path::new(path), ring, self.clock)?;
        }
        ring.barrier()?;
        Ok(summary)
    }

    fn save(
        &self,
        evaluation: Option<Evaluation>,
        state: &TrainingState,
    ) -> Result<Summary, TrainError> {
        let (spec, pace, tally) = (self.job.spec, &self.pace, state.tally());
        let weights = (state.weights(), &*state.statistics);
        let tensors = self.network.tensors(weights.0, weights.1);
        let mut metrics = evaluation
            .map(|evaluation| evaluation.metrics)
            .unwrap_or_default();
        if let Some(loss) = tally.epoch_mean() {
            metrics.insert("train_loss".to_owned(), loss);
        }
        let wall = self.clock.monotonic().saturating_sub(self.started);
        let summary = Summary {
            steps: self.batches.steps_total(),
            epochs: self.batches.epochs_total(),
            samples: tally.samples,
            wall_seconds: wall.as_secs_f64(),
            samples_per_second: pace.samples as f64 / pace.step_time.as_secs_f64().max(1e-9),
            parameters: self.network.layout().parameter_count() as u64,
            metrics,
            weights_blake3: weights_blake3(&tensors),
            output_dir: spec.output.dir.clone(),
            execution: self.execution(state),
        };
        let description =
            ModelDescription::new(spec.name.clone(), spec.model.clone(), self.job.dataset);
        let dir = Path::new(&spec.output.dir);
        let raw = state.ema.is_some();
        let raw = raw.then(|| (self.network).tensors(&state.parameters, &state.statistics));
        ModelFiles::write_raw(dir, &description, raw.as_deref())?;
        let onnx = self.sources.onnx.as_deref();
        let trained = onnx.map(|_| to_onnx(&self.network, &description.scaler, weights));
        ModelFiles::write_onnx(dir, onnx, trained.transpose()?.as_deref())?;
        ModelFiles::write(dir, &description, &tensors, &summary)?;
        Ok(summary)
    }
}

/// What a step sums.
fn summed<'n>(
    job: &RankJob<'_>,
    network: &'n Network,
    replicas: Replicas,
    mode: FoldMode,
) -> Summed<'n> {
    Summed {
        layout: network.layout(),
        rest: Contribution::rest_len(network.states().len()),
        replicas,
        rank: job.rank,
        mode,
        seed: job.spec.train.seed,
    }
}

/// The limit of a plan's workspace.
#[must_use]
pub fn workspace_bytes_max(train: &TrainSpec) -> Option<usize> {
    let megabytes = train.workspace_mb_max? as usize;
    Some(megabytes.saturating_mul(1_000_000))
}

impl Make for Run<'_> {
    fn initial(&self) -> Result<TrainingState, TrainError> {
        TrainingState::initial(self.job, &self.network, &self.sources)
    }

    fn blank(&self) -> Result<TrainingState, TrainError> {
        TrainingState::blank(self.job, &self.network)
    }

    fn misfit(&self, state: &TrainingState) -> Option<Misfit> {
        state.misfit(self.job)
    }
}

/// Clips `gradients` by value, and returns what clipping by norm multiplies them by. `norm` is that
/// of the gradients as they are.
fn clip(train: &TrainSpec, gradients: &mut [f32], norm: Option<f64>) -> f32 {
    let mut norm = norm;
    if let Some(value_max) = train.clip_value {
        clip_values(gradients, value_max);
        norm = train.clip_norm.map(|_| global_norm(gradients));
    }
    match (train.clip_norm, norm) {
        (Some(norm_max), Some(norm)) => clip_scale(norm, norm_max),
        _ => 1.0,
    }
}

/// Compares the hashes of all ranks' weights: parameters and state.
///
/// # Errors
/// [`TrainError::WeightsDiffer`] on every rank, naming those that differ from the most common.
pub fn check_weights(ring: &mut Ring, step: Step, weights: &[&[f32]]) -> Result<(), TrainError> {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = [0u8; 4096];
    let chunks = weights.iter().flat_map(|part| part.chunks(1024));
    for chunk in chunks {
        for (to, value) in bytes.chunks_exact_mut(4).zip(chunk) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        hasher.update(&bytes[..chunk.len() * 4]);
    }
    let mine = *hasher.finalize().as_bytes();
    let mut all = vec![0u8; mine.len() * ring.world() as usize];
    ring.all_gather(&mine, &mut all)?;
    let hashes: Vec<&[u8]> = all.chunks_exact(mine.len()).collect();
    let ranks = outliers(&hashes);
    if ranks.is_empty() {
        return Ok(());
    }
    Err(TrainError::WeightsDiffer { step, ranks })
}

/// The positions that don't hold the most common value; of equally common ones the first counts.
fn outliers(hashes: &[&[u8]]) -> Vec<Rank> {
    let count = |hash: &[u8]| hashes.iter().filter(|other| **other == hash).count();
    let Some(best) = hashes.iter().rev().max_by_key(|hash| count(hash)) else {
        return Vec::new();
    };
    (0..)
        .zip(hashes)
        .filter(|(_, hash)| *hash != best)
        .map(|(rank, _)| Rank(rank))
        .collect()
}

#[cfg(test)]
mod tests;
