//! A state without its numbers: what it depends on, what it holds, and whether it fits a job.

use std::collections::BTreeMap;

use ringfold_common::ids::Step;
use ringfold_common::job::{FoldMode, LastBatch, TestData};
use serde::{Deserialize, Serialize};

use super::{Tally, TrainingState};
use crate::trainer::RankJob;

/// The version of [`StateHeader`].
pub const HEADER_VERSION: u32 = 1;

/// Of all that a job says of its training, and its data.
pub(super) type JobHash = [u8; 32];

/// What a state depends on besides the numbers in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `cluster.replicas`.
    pub replicas: u32,
    /// In which order sums were taken: what `cluster.mode` came to, but before the first step.
    pub mode: FoldMode,
    /// `train.optimizer.kind`.
    pub optimizer: String,
    /// `train.global_batch`.
    pub global_batch: u32,
    /// `train.last_batch`.
    pub last_batch: LastBatch,
    /// `train.accumulate`.
    pub accumulate: u32,
    /// `train.seed`.
    pub seed: u64,
    /// BLAKE3 over what the dataset is known to hold and how it is scaled and split, in hexadecimal.
    pub data: String,
}

/// A state without the numbers of its parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateHeader {
    /// [`HEADER_VERSION`].
    pub version: u32,
    /// The last step that was completed.
    pub step: Step,
    /// What the state depends on.
    pub origin: Origin,
    /// What is counted.
    pub tally: Tally,
    /// Numbers that the optimizer keeps beside its slots.
    pub optimizer: BTreeMap<String, f64>,
    /// The parts in order.
    pub parts: Vec<PartHeader>,
}

/// The name and shape of a part. Its elements are 32-bit floats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHeader {
    /// The logical name.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl PartHeader {
    /// The number of elements; `None` if it can't be counted.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        let dims = self.shape.iter().map(|&dim| u64::try_from(dim).ok());
        dims.into_iter()
            .try_fold(1u64, |product, dim| product.checked_mul(dim?))
    }
}

/// A field of a state's header that is not as the job needs it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {state}, and {job} in the job")]
pub struct Misfit {
    /// The field.
    pub field: String,
    /// Of the state.
    pub state: String,
    /// Of the job.
    pub job: String,
}

impl StateHeader {
    /// Checks that a state with this header can take the place of `of`, a state of the job that is to
    /// go on from it.
    ///
    /// # Errors
    /// The first field that doesn't fit.
    pub fn check(&self, of: &TrainingState) -> Result<(), Misfit> {
        let misfit = |field: &str, state: String, job: String| Misfit {
            field: field.to_owned(),
            state,
            job,
        };
        if self.version != HEADER_VERSION {
            let (state, job) = (self.version.to_string(), HEADER_VERSION.to_string());
            return Err(misfit("the version of the header", state, job));
        }
        self.origin.check(&of.origin)?;
        let own = of.parts();
        for (part, expected) in self.parts.iter().zip(&own) {
            let name = expected.name();
            if part.name != name || part.shape != expected.shape {
                let state = format!("{} {:?}", part.name, part.shape);
                return Err(misfit(
                    "a part",
                    state,
                    format!("{name} {:?}", expected.shape),
                ));
            }
        }
        let (state, job) = (self.parts.len(), own.len());
        if state != job {
            return Err(misfit(
                "the number of parts",
                state.to_string(),
                job.to_string(),
            ));
        }
        Ok(())
    }

    /// The number of elements of all parts; `None` if it can't be counted.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        let mut parts = self.parts.iter();
        parts.try_fold(0u64, |sum, part| sum.checked_add(part.elements()?))
    }
}

impl Origin {
    /// That of `job`, whose optimizer hasn't run yet.
    pub(super) fn of(job: &RankJob<'_>) -> Self {
        let (spec, info) = (job.spec, job.dataset.info());
        // Files may move: what they hold is in the dataset's fingerprint.
        let test = match &spec.data.test {
            TestData::Files(_) => None,
            test => Some(test),
        };
        let data = (info, &spec.data.scale, test);
        Self {
            replicas: spec.cluster.replicas,
            mode: spec.cluster.mode,
            optimizer: spec.train.optimizer.name().to_owned(),
            global_batch: spec.train.global_batch,
            last_batch: spec.train.last_batch,
            accumulate: spec.train.accumulate,
            seed: spec.train.seed,
            data: blake3::hash(&json(&data)).to_hex().to_string(),
        }
    }

    pub(super) fn check(&self, job: &Self) -> Result<(), Misfit> {
        let fields = [
            (
                "cluster.replicas",
                self.replicas.to_string(),
                job.replicas.to_string(),
            ),
            (
                "train.optimizer.kind",
                self.optimizer.clone(),
                job.optimizer.clone(),
            ),
            (
                "train.global_batch",
                self.global_batch.to_string(),
                job.global_batch.to_string(),
            ),
            (
                "train.last_batch",
                word(&self.last_batch),
                word(&job.last_batch),
            ),
            (
                "train.accumulate",
                self.accumulate.to_string(),
                job.accumulate.to_string(),
            ),
            ("train.seed", self.seed.to_string(), job.seed.to_string()),
            ("the hash of the data", self.data.clone(), job.data.clone()),
            ("cluster.mode", word(&self.mode), word(&job.mode)),
        ];
        let auto = self.mode == FoldMode::Auto || job.mode == FoldMode::Auto;
        let misfits = fields.into_iter().filter(|(_, state, job)| state != job);
        let found = misfits
            .into_iter()
            .find(|(field, ..)| !(auto && *field == "cluster.mode"));
        match found {
            None => Ok(()),
            Some((field, state, job)) => Err(Misfit {
                field: field.to_owned(),
                state,
                job,
            }),
        }
    }
}

/// A value of an enum as the job file writes it.
fn word(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    json.trim_matches('"').to_owned()
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    // Types without maps of other keys than strings have a form.
    serde_json::to_vec(value).unwrap_or_default()
}

pub(super) fn hash_of(job: &RankJob<'_>) -> JobHash {
    let (spec, info) = (job.spec, job.dataset.info());
    let hashed = (
        &spec.model,
        &spec.data,
        &spec.train,
        spec.cluster.replicas,
        info,
    );
    *blake3::hash(&json(&hashed)).as_bytes()
}
