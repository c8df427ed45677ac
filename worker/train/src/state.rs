//! What a rank needs to go on from a step boundary.
//!
//! # Contract
//! - A [`TrainingState`] is the training after a step: parameters, running statistics, the optimizer's
//!   slots and numbers, the moving average, and the [`Tally`] of losses. **All ranks hold the same bits
//!   of it**, those of a fast sum too, so any of them can give it to any other.
//! - The position in the data is the step: sample order, masks and learning rates are functions of it.
//! - **A step replaces the state at once.** All that can fail comes before
//!   ([`begin_update`](TrainingState::begin_update)); whoever holds a state after an error holds that
//!   of the last step that was completed.
//! - **What follows a step** (report, comparison of weights, evaluation) is a function of the state
//!   after it, so whoever goes on from a state does it again.
//! - In reproducible mode a job that goes on from a state, on any number of ranks, has the bits of one
//!   that was never disturbed. In fast mode it has those of its number of ranks from there on.
//! - **Not in it:** what compression keeps back of gradients (error feedback, the factors of
//!   `power_sgd`), which differs from rank to rank. Whoever goes on begins without, so a fast job with
//!   such compression loses what was kept back by then. Reproducible jobs have no such compression:
//!   16-bit floats keep nothing back.
//! - **Form.** [`StateHeader`] says all but the numbers of the [`parts`](TrainingState::parts), which
//!   have logical names and shapes and no padding: `parameters/NAME`, `statistics/NAME`,
//!   `optimizer/SLOT/NAME`, `average/NAME`. Their numbers, one part after the other, are what
//!   [`read`](TrainingState::read) and [`write`](TrainingState::write) address by element.
//! - **Fit.** A state belongs to one job. That of another run, from a file, is taken if its header
//!   [fits](StateHeader::check): the same replicas, fold, batches, seed, data, optimizer and parts.
//!   Durations, schedules and rates may differ.
//! - **On joining a ring** all ranks come to hold the furthest state that any of them holds: `agree`.

mod agree;
mod files;
mod header;

use std::ops::Range;

use ringfold_common::dataset::StepSamples;
use ringfold_common::ids::Step;
use ringfold_common::job::FoldMode;
use ringfold_compute::{Arena, ParameterLayout, StateLayout};
use ringfold_storage::ModelSources;
use serde::{Deserialize, Serialize};

use crate::ema::Ema;
use crate::error::TrainError;
use crate::network::Network;
use crate::optimizer::{Optimizer, segments};
use crate::trainer::RankJob;

pub(crate) use agree::{Make, agree};
pub use header::{HEADER_VERSION, Misfit, Origin, PartHeader, StateHeader};
use header::{JobHash, hash_of, json};

/// Bytes of an element.
pub const ELEMENT_BYTES: usize = size_of::<f32>();

/// The training after a step.
#[derive(Debug)]
pub struct TrainingState {
    job: JobHash,
    origin: Origin,
    step: Step,
    /// False while a step replaces it: what a panic left behind is of no use.
    whole: bool,
    layout: ParameterLayout,
    statistics_layout: StateLayout,
    pub(crate) parameters: Arena<f32>,
    /// The model's state: running statistics.
    pub(crate) statistics: Arena<f32>,
    pub(crate) optimizer: Optimizer,
    pub(crate) ema: Option<Ema>,
    pub(crate) tally: Tally,
}

/// What is counted over a job: the same numbers on all ranks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Samples since the first step.
    pub samples: u64,
    /// The sum of the losses of the samples since the last report before this step.
    pub report_loss: f64,
    /// Their number.
    pub report_samples: u64,
    /// The sum of the losses of the samples of this step's epoch.
    pub epoch_loss: f64,
    /// Their number.
    pub epoch_samples: u64,
    /// The norm of the step's gradient before clipping, if it was taken.
    pub gradient_norm: Option<f64>,
}

impl Tally {
    /// Counts a step. `after_report` if the step before was reported.
    pub(crate) fn add(
        &mut self,
        samples: &StepSamples,
        mean_loss: f32,
        norm: Option<f64>,
        after_report: bool,
    ) {
        if after_report {
            (self.report_loss, self.report_samples) = (0.0, 0);
        }
        if samples.positions.start == 0 {
            (self.epoch_loss, self.epoch_samples) = (0.0, 0);
        }
        let count = samples.positions.end - samples.positions.start;
        let loss = f64::from(mean_loss) * count as f64;
        self.samples += count;
        self.report_loss += loss;
        self.report_samples += count;
        self.epoch_loss += loss;
        self.epoch_samples += count;
        self.gradient_norm = norm;
    }

    /// The mean loss since the last report before this step.
    #[must_use]
    pub fn report_mean(&self) -> f64 {
        self.report_loss / self.report_samples as f64
    }

    /// The mean loss of this step's epoch so far. `None` before the first step.
    #[must_use]
    pub fn epoch_mean(&self) -> Option<f64> {
        (self.epoch_samples > 0).then(|| self.epoch_loss / self.epoch_samples as f64)
    }
}

/// A tensor of a state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part<'a> {
    /// What it is of: `parameters`, `statistics`, `average`, or a slot of the optimizer.
    pub kind: Kind<'a>,
    /// The parameter or statistic.
    pub tensor: &'a str,
    /// Its dimensions, outermost first.
    pub shape: &'a [usize],
    /// Its elements.
    pub values: &'a [f32],
}

/// What a part is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// The parameters.
    Parameters,
    /// Running statistics.
    Statistics,
    /// A slot of the optimizer.
    Optimizer(&'a str),
    /// The moving average of the parameters.
    Average,
}

impl Part<'_> {
    /// The logical name.
    #[must_use]
    pub fn name(&self) -> String {
        let tensor = self.tensor;
        match self.kind {
            Kind::Parameters => format!("parameters/{tensor}"),
            Kind::Statistics => format!("statistics/{tensor}"),
            Kind::Optimizer(slot) => format!("optimizer/{slot}/{tensor}"),
            Kind::Average => format!("average/{tensor}"),
        }
    }
}

impl TrainingState {
    /// The state of `job` before its first step.
    ///
    /// # Errors
    /// As [`Network::initial`], and a parameter group without a parameter.
    pub fn initial(
        job: &RankJob<'_>,
        network: &Network,
        sources: &ModelSources,
    ) -> Result<Self, TrainError> {
        let initial = network.initial(job.spec.train.seed, sources)?;
        Self::with(job, network, initial)
    }

    /// A state of `job` to be [filled](Self::fill).
    ///
    /// # Errors
    /// A parameter group without a parameter; sizes that can't be had.
    pub fn blank(job: &RankJob<'_>, network: &Network) -> Result<Self, TrainError> {
        let zeros = (network.layout().zeros()?, network.states().initial()?);
        Self::with(job, network, zeros)
    }

    fn with(
        job: &RankJob<'_>,
        network: &Network,
        (parameters, statistics): (Arena<f32>, Arena<f32>),
    ) -> Result<Self, TrainError> {
        let (train, layout) = (&job.spec.train, network.layout());
        let records = job.dataset.info().train_records;
        let steps_per_epoch = crate::batches::Batches::new(train, records, 0, 1)?.steps_per_epoch();
        let segments = segments(layout, train)?;
        let ema = train
            .ema
            .map(|ema| Ema::new(ema, layout.len()))
            .transpose()?;
        Ok(Self {
            job: hash_of(job),
            origin: Origin::of(job),
            step: Step(0),
            whole: true,
            layout: layout.clone(),
            statistics_layout: network.states().clone(),
            parameters,
            statistics,
            optimizer: Optimizer::new(&train.optimizer, segments, steps_per_epoch),
            ema,
            tally: Tally::default(),
        })
    }

    /// The last step that was completed; 0 before the first.
    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }

    /// What the state depends on.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What is counted.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The weights that are evaluated and saved: the moving average, if there is one.
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        self.ema.as_ref().map_or(&self.parameters, Ema::average)
    }

    /// All but the numbers of the parts.
    #[must_use]
    pub fn header(&self) -> StateHeader {
        let parts = self.parts().into_iter().map(|part| PartHeader {
            name: part.name(),
            shape: part.shape.to_vec(),
        });
        StateHeader {
            version: HEADER_VERSION,
            step: self.step,
            origin: self.origin.clone(),
            tally: self.tally.clone(),
            optimizer: self.optimizer.scalars(),
            parts: parts.collect(),
        }
    }

    /// The parts in order, which depends on the job's model and optimizer alone.
    #[must_use]
    pub fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let mut arenas = vec![(Kind::Parameters, &self.parameters[..])];
        let slots = self.optimizer.slots().into_iter();
        arenas.extend(slots.map(|slot| (Kind::Optimizer(slot.name), slot.values)));
        let average = self.ema.as_ref().map(Ema::average);
        arenas.extend(average.map(|values| (Kind::Average, values)));
        for (kind, arena) in arenas {
            parts.extend(self.layout.slots().iter().map(|slot| Part {
                kind,
                tensor: &slot.name,
                shape: &slot.shape,
                values: &arena[slot.range()],
            }));
        }
        let statistics = self.statistics_layout.slots().iter();
        parts.extend(statistics.map(|slot| Part {
            kind: Kind::Statistics,
            tensor: &slot.name,
            shape: &slot.shape,
            values: &self.statistics[slot.range()],
        }));
        parts
    }

    /// The values of [`parts`](Self::parts), to be changed.
    fn values_mut(&mut self) -> Vec<&mut [f32]> {
        let ranges: Vec<Range<usize>> = self.layout.slots().iter().map(|s| s.range()).collect();
        let statistics = self.statistics_layout.slots().iter();
        let statistics: Vec<Range<usize>> = statistics.map(|slot| slot.range()).collect();
        let mut arenas = vec![&mut self.parameters[..]];
        arenas.extend(self.optimizer.slots_mut());
        let step = self.step.0;
        arenas.extend(self.ema.as_mut().map(|ema| ema.restore(step)));
        let mut values: Vec<&mut [f32]> = Vec::new();
        for arena in arenas {
            values.extend(cut(arena, &ranges));
        }
        values.extend(cut(&mut self.statistics, &statistics));
        values
    }

    /// The number of elements of all parts.
    #[must_use]
    pub fn elements(&self) -> u64 {
        let parts = self.parts();
        parts.iter().map(|part| part.values.len() as u64).sum()
    }

    /// Elements of all arenas, with padding: the memory that it takes.
    #[must_use]
    pub fn held_elements(&self) -> usize {
        let slots = self.optimizer.slots();
        let slots: usize = slots.iter().map(|slot| slot.values.len()).sum();
        let average = self.ema.as_ref().map_or(0, |ema| ema.average().len());
        self.parameters.len() + slots + average + self.statistics.len()
    }

    /// Appends the elements of `range`, counted over all parts, to `bytes`, as little-endian 32-bit
    /// floats. What is behind the last part is left out.
    pub fn read(&self, range: Range<u64>, bytes: &mut Vec<u8>) {
        let mut start = 0u64;
        for part in self.parts() {
            let end = start + part.values.len() as u64;
            let overlap = range.start.max(start)..range.end.min(end);
            if !overlap.is_empty() {
                let values = (overlap.start - start) as usize..(overlap.end - start) as usize;
                let values = &part.values[values];
                let at = bytes.len();
                bytes.resize(at + size_of_val(values), 0);
                let (words, _) = bytes[at..].as_chunks_mut::<ELEMENT_BYTES>();
                for (word, value) in words.iter_mut().zip(values) {
                    *word = value.to_le_bytes();
                }
            }
            start = end;
        }
    }

    /// Takes the header of another state, whose numbers are to follow by [`write`](Self::write).
    ///
    /// # Errors
    /// [`TrainError::State`]: a header that doesn't [fit](StateHeader::check), or numbers of another
    /// optimizer; then this state is of no use any more.
    pub fn fill(&mut self, header: &StateHeader) -> Result<(), TrainError> {
        header.check(self)?;
        let restored = self.optimizer.restore(header.step.0, &header.optimizer);
        restored.map_err(|name| Misfit {
            field: format!("the optimizer's number {name}"),
            state: format!("{:?}", header.optimizer.get(&name)),
            job: format!("{:?}", self.optimizer.scalars().get(&name)),
        })?;
        self.step = header.step;
        if let Some(ema) = &mut self.ema {
            ema.restore(header.step.0);
        }
        self.origin.mode = header.origin.mode;
        self.tally = header.tally.clone();
        Ok(())
    }

    /// Overwrites the elements from `start` on, counted over all parts, with little-endian 32-bit
    /// floats. What is behind the last part, or no whole float, is left out.
    pub fn write(&mut self, start: u64, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<ELEMENT_BYTES>();
        let end = start + words.len() as u64;
        let mut first = 0u64;
        for values in self.values_mut() {
            let last = first + values.len() as u64;
            let overlap = start.max(first)..end.min(last);
            if !overlap.is_empty() {
                let to = (overlap.start - first) as usize..(overlap.end - first) as usize;
                let from = (overlap.start - start) as usize..(overlap.end - start) as usize;
                for (value, word) in values[to].iter_mut().zip(&words[from]) {
                    *value = f32::from_le_bytes(*word);
                }
            }
            first = last;
        }
    }

    /// Why this isn't a state of `job`; `None` if it is.
    #[must_use]
    pub fn misfit(&self, job: &RankJob<'_>) -> Option<Misfit> {
        if self.job == hash_of(job) {
            return None;
        }
        let other = Misfit {
            field: "one of [model], [data] and [train]".to_owned(),
            state: "that of another job".to_owned(),
            job: "different".to_owned(),
        };
        Some(self.origin.check(&Origin::of(job)).err().unwrap_or(other))
    }

    /// A step is about to replace the state, and won't fail.
    pub(crate) fn begin_update(&mut self, mode: FoldMode) {
        self.whole = false;
        self.origin.mode = mode;
    }

    /// It has.
    pub(crate) fn end_update(&mut self, step: Step) {
        self.step = step;
        self.whole = true;
    }
}

/// The pieces of an arena at `ranges`, which are in order.
fn cut<'a>(mut arena: &'a mut [f32], ranges: &[Range<usize>]) -> Vec<&'a mut [f32]> {
    let mut start = 0;
    let mut pieces = Vec::with_capacity(ranges.len());
    for range in ranges {
        let (_, rest) = arena.split_at_mut(range.start - start);
        let (piece, rest) = rest.split_at_mut(range.len());
        pieces.push(piece);
        (arena, start) = (rest, range.end);
    }
    pieces
}
