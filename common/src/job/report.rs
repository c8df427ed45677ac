//! What a job says while it runs, and at its end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::spec::FoldMode;
use super::state::{JobState, Reason};
use crate::clock::UnixMillis;
use crate::ids::{Epoch, JobId, MembershipEpoch, NodeName, Rank, Step};

/// Bytes of gradient that a rank sends to others, without the headers of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GradientBytes {
    /// What is sent.
    pub sent: u64,
    /// What 32-bit floats would have been beyond that; negative if they would have been fewer.
    pub saved: i64,
}

/// Why a job went on in another world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// The number of the world that ended.
    pub membership_epoch: MembershipEpoch,
    /// When.
    pub at: UnixMillis,
    /// Why, in words.
    pub cause: String,
}

/// How training goes, as rank 0 reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The last step done.
    pub step: Step,
    /// Steps of the whole job.
    pub steps_total: u64,
    /// The epoch of that step.
    pub epoch: Epoch,
    /// Epochs of the whole job, the last one perhaps partial.
    pub epochs_total: u64,
    /// Samples trained on since the start, over all ranks.
    pub samples: u64,
    /// The mean loss of the samples since the last report, over all ranks, before their updates.
    #[serde(with = "super::any_float")]
    pub loss: f64,
    /// The learning rate of the last step.
    #[serde(with = "super::any_float")]
    pub learning_rate: f64,
    /// The L2 norm of the last step's gradient before clipping.
    #[serde(with = "super::any_float")]
    pub gradient_norm: f64,
    /// Since the last report, over all ranks.
    #[serde(with = "super::any_float")]
    pub samples_per_second: f64,
    /// The share of time since the last report that rank 0 waited for the sum of gradients, in
    /// [0, 1]: what is summed while others are computed doesn't count.
    #[serde(with = "super::any_float")]
    pub communication_share: f64,
    /// Of the last step, at rank 0.
    #[serde(default)]
    pub gradient_bytes: GradientBytes,
}

/// The test records' metrics after some step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The last step before it.
    pub step: Step,
    /// The epoch of that step.
    pub epoch: Epoch,
    /// Test records evaluated.
    pub records: u64,
    /// By name: `test_loss`; `test_accuracy` for classes and tokens; `test_perplexity` for tokens.
    #[serde(with = "super::any_float::by_name")]
    pub metrics: BTreeMap<String, f64>,
}

/// How a job ended well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Steps taken.
    pub steps: u64,
    /// Epochs begun.
    pub epochs: u64,
    /// Samples trained on, over all ranks.
    pub samples: u64,
    /// Seconds from the ring's forming to the saved model, evaluation included.
    #[serde(with = "super::any_float")]
    pub wall_seconds: f64,
    /// Samples trained on, by the seconds spent in training steps.
    #[serde(with = "super::any_float")]
    pub samples_per_second: f64,
    /// Numbers that the model learned.
    pub parameters: u64,
    /// By name: `train_loss` (mean of the last epoch's samples), `test_loss`, `test_accuracy`.
    #[serde(with = "super::any_float::by_name")]
    pub metrics: BTreeMap<String, f64>,
    /// BLAKE3 over the weights: every parameter's values in little-endian bytes, in the order of
    /// the names. In hexadecimal.
    pub weights_blake3: String,
    /// Where the model was written, on the host of rank 0.
    pub output_dir: String,
    /// How it was computed.
    pub execution: Execution,
}

/// How rank 0 computed a job. Nothing of it changes the result but the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// What `cluster.mode` came to.
    pub mode: FoldMode,
    /// Replicas that it hosted.
    pub replicas: u32,
    /// Replicas that ran at the same time, in the end.
    pub replicas_at_once: u32,
    /// Threads of each of those.
    pub threads: u32,
    /// Messages in which a step's gradient was summed while others were computed; 0 if it was summed
    /// in one afterwards.
    pub buckets: u32,
    /// The most bytes of one of those.
    pub bucket_bytes_max: u64,
    /// Parameters, gradients, optimizer state, workspaces and batches, in bytes.
    pub arena_bytes: u64,
    /// The most memory that its process ever had resident, in bytes; 0 if the system doesn't say.
    pub resident_bytes_max: u64,
    /// Of all steps.
    #[serde(default)]
    pub gradient_bytes: GradientBytes,
}

/// Where one rank of a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankReport {
    /// The rank.
    pub rank: Rank,
    /// Its node.
    pub node: NodeName,
    /// Its host.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Where it listens for its neighbour, once it does.
    pub ring_address: Option<String>,
}

/// One thing that happened to a job. Events of a job are numbered from 1 without gaps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// The job.
    pub job: JobId,
    /// The number of the event.
    pub sequence: u64,
    /// When the coordinator learned of it.
    pub at: UnixMillis,
    /// The job's world at that time.
    pub membership_epoch: MembershipEpoch,
    /// What happened.
    pub kind: JobEventKind,
}

/// What happened to a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEventKind {
    /// Its state or the reason for it changed.
    State {
        /// The state now.
        state: JobState,
        /// Why.
        reason: Reason,
        /// In [`JobState::Succeeded`] only.
        summary: Option<Box<Summary>>,
    },
    /// It trained on.
    Progress(Progress),
    /// It evaluated the test records.
    Evaluation(Evaluation),
}
