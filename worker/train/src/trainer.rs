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
use ringfold_compute::Arena;
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
use crate::ema::Ema;
use crate::error::{TrainError, check_abort};
use crate::evaluate::evaluate;
use crate::lanes::overlapped::Overlapped;
use crate::lanes::{Lanes, StepInput};
use crate::network::{Network, Sourced};
use crate::optimizer::{Optimizer, clip_scale, clip_values, global_norm, segments};
use crate::predict::to_onnx;
use crate::schedule::Schedule;
use crate::timeline::{Doing, Timeline};

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
/// # Errors
/// The first thing that goes wrong on this rank or in the ring.
pub fn train(
    job: &RankJob<'_>,
    ring: &mut Ring,
    abort: &AbortSignal,
    observer: &dyn Observer,
    clock: &dyn Clock,
) -> Result<Option<Summary>, TrainError> {
    let mut team = Team::new(job.threads as usize).map_err(|error| TrainError::Threads {
        threads: job.threads,
        reason: error.to_string(),
    })?;
    team.install(|| Run::new(job, abort, observer, clock)?.train(ring))
}

/// The state of a run.
struct Run<'a> {
    job: &'a RankJob<'a>,
    abort: &'a AbortSignal,
    observer: &'a dyn Observer,
    clock: &'a dyn Clock,
    network: Network,
    /// The ONNX file that the network is from.
    onnx: Option<Vec<u8>>,
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
    optimizer: Optimizer,
    parameters: Arena<f32>,
    /// The model's state after the last step: running statistics.
    state: Arena<f32>,
    ema: Option<Ema>,
    timeline: Option<Timeline>,
    metrics: Option<MetricsWriter>,
    started: Duration,
    tally: Tally,
}

/// What is counted between reports and over the job.
#[derive(Default)]
struct Tally {
    /// Samples of all ranks since the start.
    samples: u64,
    /// Time in steps since the start.
    step_time: Duration,
    /// This rank's sum of losses since the last report.
    report_loss: f64,
    /// Samples of all ranks since the last report.
    report_samples: u64,
    /// Time in steps since the last report.
    report_time: Duration,
    /// Time in the all-reduce since the last report.
    report_ring_time: Duration,
    /// The sum of losses of all ranks in this epoch, up to the last report.
    epoch_loss: f64,
    /// Samples of all ranks in this epoch, up to the last report.
    epoch_samples: u64,
    /// The mean loss of the last complete epoch.
    last_epoch_loss: Option<f64>,
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
        let layout = network.layout();
        let optimizer = Optimizer::new(
            &spec.train.optimizer,
            segments(layout, &spec.train)?,
            batches.steps_per_epoch(),
        );
        let (parameters, state) = network.initial(spec.train.seed, &sources)?;
        let states = network.states();
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
        let elements = layout.len() + states.len();
        let fold = ReplicaBuffers::new(&of_ranks, job.rank, elements)?;
        let sum = GradientSum::new(None, &summed(job, &network, of_ranks, FoldMode::Fast))?;
        let ema = spec.train.ema.map(|ema| Ema::new(ema, layout.len()));
        let ema = ema.transpose()?;
        let timeline = spec.output.timeline.as_deref();
        let metrics = if job.rank.0 == 0 {
            timeline.map_or(Ok(()), |path| Timeline::check(Path::new(path)))?;
            let dir = Path::new(&spec.output.dir);
            check_output_dir(dir)?;
            if sources.onnx.is_some() {
                // Better found before training than after.
                to_onnx(&network, job.dataset.scaler(), (&parameters, &state))?;
            }
            Some(MetricsWriter::create(dir)?)
        } else {
            None
        };
        Ok(Self {
            job,
            abort,
            observer,
            clock,
            network,
            onnx: sources.onnx,
            lanes,
            fold,
            mode: spec.cluster.mode,
            sum,
            buckets: None,
            batches,
            schedule,
            optimizer,
            parameters,
            state,
            ema,
            timeline: timeline.map(|_| Timeline::new(job.world)),
            metrics,
            started,
            tally: Tally::default(),
        })
    }

    fn train(mut self, ring: &mut Ring) -> Result<Option<Summary>, TrainError> {
        self.choose_mode(ring)?;
        self.choose_overlap(ring)?;
        let steps_total = self.batches.steps_total();
        self.observer.phase(Phase::Training(Step(1)));
        let mut last_evaluation = None;
        for number in 1..=steps_total {
            let step = Step(number);
            self.observer.step(step);
            check_abort(self.abort)?;
            let samples = self.step(step, ring)?;
            let (check_steps, last) = (self.job.spec.train.check_steps, number == steps_total);
            if last || (check_steps > 0 && number.is_multiple_of(check_steps)) {
                let began = self.clock.monotonic();
                check_weights(ring, step, &[&self.parameters, &self.state])?;
                self.note(step, Doing::Check, began);
            }
            if last || self.evaluates_after(step, &samples) {
                let began = self.clock.monotonic();
                last_evaluation = self.evaluate(step, &samples, ring)?;
                self.note(step, Doing::Evaluate, began);
                if !last {
                    self.observer.phase(Phase::Training(step.next()));
                }
            }
        }
        self.finish(last_evaluation, ring)
    }

    /// Something in the timeline, if there is one, that has just ended.
    fn note(&mut self, step: Step, doing: Doing, began: Duration) {
        if let Some(timeline) = &mut self.timeline {
            timeline.add(step, doing, began, self.clock.monotonic());
        }
    }

    /// One optimizer update.
    fn step(&mut self, step: Step, ring: &mut Ring) -> Result<StepSamples, TrainError> {
        let began = self.clock.monotonic();
        let train = &self.job.spec.train;
        let samples = self.batches.samples(step);
        let input = StepInput {
            step,
            dataset: self.job.dataset,
            seed: train.seed,
            parameters: &self.parameters,
            state: &self.state,
            abort: self.abort,
            clock: self.timeline.as_ref().map(|_| self.clock),
            rounding: self.sum.rounding(step),
        };
        self.fold.clear();
        let mut transfers = Vec::new();
        let (loss, before_ring) = match &self.buckets {
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
                (ran.loss, ran.computed)
            }
            None => {
                let loss = self.lanes.run(&input, &mut self.fold, self.clock)?;
                let before_ring = self.clock.monotonic();
                self.sum.run(step, ring, &mut self.fold)?;
                (loss, before_ring)
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

        let reports = step.0.is_multiple_of(train.report_steps)
            || samples.ends_epoch
            || step.0 == self.batches.steps_total();
        let total = self.fold.sum()?;
        let norm = (reports || train.clip_norm.is_some()).then(|| global_norm(total.gradients()));
        if let Some(value) = norm.filter(|norm| !norm.is_finite()) {
            return Err(TrainError::NotFinite {
                what: "gradient's norm",
                value,
                step,
            });
        }
        let scale = clip(train, total.gradients_mut(), norm);
        let rate = self.schedule.rate(step);
        self.optimizer
            .update(rate, scale, &mut self.parameters, total.gradients());
        total.finish_state(self.network.states(), &mut self.state);
        if let Some(ema) = &mut self.ema {
            ema.update(&self.parameters);
        }

        self.note(step, Doing::Update, after_ring);
        let took = self.clock.monotonic().saturating_sub(began);
        let tally = &mut self.tally;
        let count = samples.positions.end - samples.positions.start;
        tally.samples += count;
        tally.step_time += took;
        tally.report_loss += loss;
        tally.report_samples += count;
        tally.report_time += took;
        tally.report_ring_time += after_ring.saturating_sub(before_ring);
        if let (true, Some(norm)) = (reports, norm) {
            let began = self.clock.monotonic();
            self.report(step, &samples, rate, norm, ring)?;
            self.note(step, Doing::Check, began);
        }
        Ok(samples)
    }

    /// Sums the losses of all ranks; rank 0 reports.
    fn report(
        &mut self,
        step: Step,
        samples: &StepSamples,
        learning_rate: f64,
        gradient_norm: f64,
        ring: &mut Ring,
    ) -> Result<(), TrainError> {
        let mut loss = [self.tally.report_loss];
        ring.all_reduce_sum_f64(&mut loss)?;
        let tally = &mut self.tally;
        let mean = loss[0] / tally.report_samples as f64;
        if !mean.is_finite() {
            return Err(TrainError::NotFinite {
                what: "loss",
                value: mean,
                step,
            });
        }
        tally.epoch_loss += loss[0];
        tally.epoch_samples += tally.report_samples;
        if samples.ends_epoch {
            tally.last_epoch_loss = Some(tally.epoch_loss / tally.epoch_samples as f64);
            (tally.epoch_loss, tally.epoch_samples) = (0.0, 0);
        }
        let seconds = tally.report_time.as_secs_f64().max(1e-9);
        let progress = Progress {
            step,
            steps_total: self.batches.steps_total(),
            epoch: samples.epoch,
            epochs_total: self.batches.epochs_total(),
            samples: tally.samples,
            loss: mean,
            learning_rate,
            gradient_norm,
            samples_per_second: tally.report_samples as f64 / seconds,
            communication_share: tally.report_ring_time.as_secs_f64() / seconds,
            gradient_bytes: self.sum.last(),
        };
        tally.report_loss = 0.0;
        tally.report_samples = 0;
        tally.report_time = Duration::ZERO;
        tally.report_ring_time = Duration::ZERO;
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
        ring: &mut Ring,
    ) -> Result<Option<Evaluation>, TrainError> {
        let dataset = self.job.dataset;
        if dataset.info().test_records == 0 {
            return Ok(None);
        }
        self.observer.phase(Phase::Evaluating(step));
        let abort = self.abort;
        let weights = averaged(&self.ema, &self.parameters);
        let mut sums = evaluate(
            self.lanes.plans(),
            &self.network,
            (weights, &self.state),
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
        self,
        evaluation: Option<Evaluation>,
        ring: &mut Ring,
    ) -> Result<Option<Summary>, TrainError> {
        self.observer.phase(Phase::Saving);
        let summary = if self.job.rank.0 == 0 {
            Some(self.save(evaluation)?)
        } else {
            None
        };
        if let (Some(timeline), Some(path)) = (&self.timeline, &self.job.spec.output.timeline) {
            timeline.write(Path::new(path), ring, self.clock)?;
        }
        ring.barrier()?;
        Ok(summary)
    }

    fn save(&self, evaluation: Option<Evaluation>) -> Result<Summary, TrainError> {
        let (spec, tally) = (self.job.spec, &self.tally);
        let tensors = self
            .network
            .tensors(averaged(&self.ema, &self.parameters), &self.state);
        let mut metrics = evaluation
            .map(|evaluation| evaluation.metrics)
            .unwrap_or_default();
        let partial =
            (tally.epoch_samples > 0).then(|| tally.epoch_loss / tally.epoch_samples as f64);
        if let Some(loss) = partial.or(tally.last_epoch_loss) {
            metrics.insert("train_loss".to_owned(), loss);
        }
        let wall = self.clock.monotonic().saturating_sub(self.started);
        let summary = Summary {
            steps: self.batches.steps_total(),
            epochs: self.batches.epochs_total(),
            samples: tally.samples,
            wall_seconds: wall.as_secs_f64(),
            samples_per_second: tally.samples as f64 / tally.step_time.as_secs_f64().max(1e-9),
            parameters: self.network.layout().parameter_count() as u64,
            metrics,
            weights_blake3: weights_blake3(&tensors),
            output_dir: spec.output.dir.clone(),
            execution: self.execution(),
        };
        let description =
            ModelDescription::new(spec.name.clone(), spec.model.clone(), self.job.dataset);
        let dir = Path::new(&spec.output.dir);
        let raw = self.ema.is_some();
        let raw = raw.then(|| self.network.tensors(&self.parameters, &self.state));
        ModelFiles::write_raw(dir, &description, raw.as_deref())?;
        let trained = match &self.onnx {
            None => None,
            Some(_) => {
                let weights = averaged(&self.ema, &self.parameters);
                let scaler = &description.scaler;
                Some(to_onnx(&self.network, scaler, (weights, &self.state))?)
            }
        };
        ModelFiles::write_onnx(dir, self.onnx.as_deref(), trained.as_deref())?;
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
        states: network.states().len(),
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

/// The weights that are evaluated and saved.
fn averaged<'a>(ema: &'a Option<Ema>, parameters: &'a [f32]) -> &'a [f32] {
    ema.as_ref().map_or(parameters, Ema::average)
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
