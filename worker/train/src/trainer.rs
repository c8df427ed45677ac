//! The loop of one rank.

use std::path::Path;
use std::time::Duration;

use ringfold_collective::{AbortSignal, Ring};
use ringfold_common::clock::Clock;
use ringfold_common::dataset::RankPart;
use ringfold_common::ids::{Rank, Step};
use ringfold_common::job::{EvaluateEvery, Evaluation, JobSpec, Period, Phase, Progress, Summary};
use ringfold_compute::{Arena, Mode, RunArgs, TrainMemory};
use ringfold_graph::models::DATA_LOSS;
use ringfold_storage::{
    Dataset, MetricsWriter, ModelDescription, ModelFiles, check_output_dir, weights_blake3,
};
use serde::Serialize;

use crate::batches::{Batches, MicroBatch};
use crate::contribution::Contribution;
use crate::ema::Ema;
use crate::error::TrainError;
use crate::evaluate::evaluate;
use crate::network::{Network, Plans};
use crate::optimizer::{Optimizer, clip_scale, clip_values, global_norm, segments};
use crate::schedule::Schedule;

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
    if job.threads <= 1 {
        return Run::new(job, abort, observer, clock)?.train(ring);
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(job.threads as usize)
        .thread_name(|i| format!("compute-{i}"))
        .build()
        .map_err(|error| TrainError::Threads {
            threads: job.threads,
            reason: error.to_string(),
        })?;
    pool.install(|| Run::new(job, abort, observer, clock)?.train(ring))
}

/// The state of a run.
struct Run<'a> {
    job: &'a RankJob<'a>,
    abort: &'a AbortSignal,
    observer: &'a dyn Observer,
    clock: &'a dyn Clock,
    network: Network,
    plans: Plans,
    batches: Batches,
    schedule: Schedule,
    optimizer: Optimizer,
    parameters: Arena<f32>,
    /// The model's state after the last step: running statistics.
    state: Arena<f32>,
    /// What this rank's samples add to the step.
    contribution: Contribution,
    /// What a round after the first adds; unset if there is none.
    round_contribution: Option<Contribution>,
    ema: Option<Ema>,
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
        let network = Network::new(
            &spec.model,
            info.features,
            &info.target,
            spec.train.l2,
            job.threads.max(1) as usize,
        )?;
        Self::with_network(job, network, abort, observer, clock)
    }

    fn with_network(
        job: &'a RankJob<'a>,
        network: Network,
        abort: &'a AbortSignal,
        observer: &'a dyn Observer,
        clock: &'a dyn Clock,
    ) -> Result<Self, TrainError> {
        let (spec, info) = (job.spec, job.dataset.info());
        let started = clock.monotonic();
        let batches = Batches::new(&spec.train, info.train_records, job.rank, job.world)?;
        let training = batches
            .lengths()
            .into_iter()
            .map(|len| (Mode::Training, len));
        let evaluation = network
            .chunks(job.part.test_records.clone())
            .map(|chunk| (Mode::Evaluation, (chunk.end - chunk.start) as usize));
        let plans = network.plans(training.chain(evaluation))?;
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
        let parameters = layout.initial(spec.train.seed)?;
        let states = network.states();
        let state = states.initial()?;
        let contribution = Contribution::new(layout, states)?;
        let round_contribution = (spec.train.accumulate > 1)
            .then(|| Contribution::new(layout, states))
            .transpose()?;
        let ema = spec.train.ema.map(|ema| Ema::new(ema, layout.len()));
        let ema = ema.transpose()?;
        let metrics = if job.rank.0 == 0 {
            let dir = Path::new(&spec.output.dir);
            check_output_dir(dir)?;
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
            plans,
            batches,
            schedule,
            optimizer,
            parameters,
            state,
            contribution,
            round_contribution,
            ema,
            metrics,
            started,
            tally: Tally::default(),
        })
    }

    fn train(mut self, ring: &mut Ring) -> Result<Option<Summary>, TrainError> {
        let steps_total = self.batches.steps_total();
        self.observer.phase(Phase::Training(Step(1)));
        let mut last_evaluation = None;
        for number in 1..=steps_total {
            let step = Step(number);
            self.observer.step(step);
            check_abort(self.abort)?;
            let batch = self.step(step, ring)?;
            let (check_steps, last) = (self.job.spec.train.check_steps, number == steps_total);
            if last || (check_steps > 0 && number.is_multiple_of(check_steps)) {
                check_weights(ring, step, &[&self.parameters, &self.state])?;
            }
            if last || self.evaluates_after(step, &batch) {
                last_evaluation = self.evaluate(step, &batch, ring)?;
                if !last {
                    self.observer.phase(Phase::Training(step.next()));
                }
            }
        }
        self.finish(last_evaluation, ring)
    }

    /// One optimizer update.
    fn step(&mut self, step: Step, ring: &mut Ring) -> Result<MicroBatch, TrainError> {
        let began = self.clock.monotonic();
        let train = &self.job.spec.train;
        let batch = self.batches.micro_batch(step);
        let loss = self.contribute(step, &batch)?;

        let before_ring = self.clock.monotonic();
        ring.all_reduce_sum_f32(self.contribution.as_mut_slice())?;
        let after_ring = self.clock.monotonic();

        let reports = step.0.is_multiple_of(train.report_steps)
            || batch.samples.ends_epoch
            || step.0 == self.batches.steps_total();
        let norm = (reports || train.clip_norm.is_some())
            .then(|| global_norm(self.contribution.gradients()));
        if let Some(value) = norm.filter(|norm| !norm.is_finite()) {
            return Err(TrainError::NotFinite {
                what: "gradient's norm",
                value,
                step,
            });
        }
        let scale = self.clip(norm);
        let rate = self.schedule.rate(step);
        let gradients = self.contribution.gradients();
        self.optimizer
            .update(rate, scale, &mut self.parameters, gradients);
        self.contribution
            .finish_state(self.network.states(), &mut self.state);
        if let Some(ema) = &mut self.ema {
            ema.update(&self.parameters);
        }

        let took = self.clock.monotonic().saturating_sub(began);
        let tally = &mut self.tally;
        tally.samples += batch.global_len();
        tally.step_time += took;
        tally.report_loss += loss;
        tally.report_samples += batch.global_len();
        tally.report_time += took;
        tally.report_ring_time += after_ring.saturating_sub(before_ring);
        if let (true, Some(norm)) = (reports, norm) {
            self.report(step, &batch, rate, norm, ring)?;
        }
        Ok(batch)
    }

    /// Clips by value, and returns what clipping by norm multiplies gradients by. `norm` is that of
    /// the gradients as they are.
    fn clip(&mut self, norm: Option<f64>) -> f32 {
        let train = &self.job.spec.train;
        let mut norm = norm;
        if let Some(value_max) = train.clip_value {
            let gradients = self.contribution.gradients_mut();
            clip_values(gradients, value_max);
            norm = train.clip_norm.map(|_| global_norm(gradients));
        }
        match (train.clip_norm, norm) {
            (Some(norm_max), Some(norm)) => clip_scale(norm, norm_max),
            _ => 1.0,
        }
    }

    /// Writes this rank's contribution, round by round, and returns the sum of the losses of its
    /// samples. Every round starts from the state before the step.
    fn contribute(&mut self, step: Step, batch: &MicroBatch) -> Result<f64, TrainError> {
        let rounds = self.job.spec.train.accumulate;
        let (mut loss, mut first) = (0.0, true);
        for round in 0..rounds {
            let part = batch.round(round, rounds);
            if part.is_empty() {
                continue;
            }
            check_abort(self.abort)?;
            loss += self.round(step, round, &part, first)? * part.len() as f64;
            first = false;
        }
        if first {
            self.contribution.clear();
        }
        Ok(loss)
    }

    /// Writes the contribution of one round, or adds it if it is not the `first`, and returns the
    /// mean loss of its samples.
    fn round(
        &mut self,
        step: Step,
        round: u32,
        batch: &MicroBatch,
        first: bool,
    ) -> Result<f64, TrainError> {
        let len = batch.len();
        let (plan, workspace, buffer) = self.plans.get(Mode::Training, len);
        let dataset = self.job.dataset;
        buffer.gather(
            len,
            dataset.train(),
            dataset.scaler(),
            self.batches.records(batch),
        );
        let separate = self.round_contribution.as_mut().filter(|_| !first);
        let adds = separate.is_some();
        let contribution = separate.unwrap_or(&mut self.contribution);
        let (gradients, state) = contribution.start(&self.state);
        let memory = TrainMemory {
            workspace: &mut *workspace,
            parameters: &*self.parameters,
            gradients,
        };
        let args = RunArgs {
            seed: self.job.spec.train.seed,
            step: step.0,
            // Every round draws dropout masks of its own.
            replica: u64::from(self.job.rank.0) + u64::from(round) * u64::from(self.job.world),
            loss_scale: batch.weight(),
        };
        plan.train_with_state(
            memory,
            state,
            &buffer.inputs(len),
            &args,
            &mut |_: usize, _: &[f32]| {},
        )?;
        contribution.weigh_state(batch.weight());
        if let (true, Some(part)) = (adds, &self.round_contribution) {
            self.contribution.add(part);
        }
        Ok(plan
            .scalar(workspace, DATA_LOSS)
            .map_or(f64::NAN, f64::from))
    }

    /// Sums the losses of all ranks; rank 0 reports.
    fn report(
        &mut self,
        step: Step,
        batch: &MicroBatch,
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
        if batch.samples.ends_epoch {
            tally.last_epoch_loss = Some(tally.epoch_loss / tally.epoch_samples as f64);
            (tally.epoch_loss, tally.epoch_samples) = (0.0, 0);
        }
        let seconds = tally.report_time.as_secs_f64().max(1e-9);
        let progress = Progress {
            step,
            steps_total: self.batches.steps_total(),
            epoch: batch.samples.epoch,
            epochs_total: self.batches.epochs_total(),
            samples: tally.samples,
            loss: mean,
            learning_rate,
            gradient_norm,
            samples_per_second: tally.report_samples as f64 / seconds,
            communication_share: tally.report_ring_time.as_secs_f64() / seconds,
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

    fn evaluates_after(&self, step: Step, batch: &MicroBatch) -> bool {
        match self.job.spec.train.evaluate {
            EvaluateEvery::End => false,
            EvaluateEvery::Period(Period::Steps(steps)) => step.0.is_multiple_of(steps.max(1)),
            EvaluateEvery::Period(Period::Epochs(epochs)) => {
                batch.samples.ends_epoch
                    && (batch.samples.epoch.0 + 1).is_multiple_of(epochs.max(1))
            }
        }
    }

    /// Evaluates this rank's test records and sums over all ranks. `None` without test records.
    fn evaluate(
        &mut self,
        step: Step,
        batch: &MicroBatch,
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
            &mut self.plans,
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
            epoch: batch.samples.epoch,
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
        };
        let description =
            ModelDescription::new(spec.name.clone(), spec.model.clone(), self.job.dataset);
        let dir = Path::new(&spec.output.dir);
        let raw = self.ema.is_some();
        let raw = raw.then(|| self.network.tensors(&self.parameters, &self.state));
        ModelFiles::write_raw(dir, &description, raw.as_deref())?;
        ModelFiles::write(dir, &description, &tensors, &summary)?;
        Ok(summary)
    }
}

/// The weights that are evaluated and saved.
fn averaged<'a>(ema: &'a Option<Ema>, parameters: &'a [f32]) -> &'a [f32] {
    ema.as_ref().map_or(parameters, Ema::average)
}

fn check_abort(abort: &AbortSignal) -> Result<(), TrainError> {
    match abort.reason() {
        None => Ok(()),
        Some(reason) => Err(TrainError::Aborted {
            reason: reason.to_owned(),
        }),
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
