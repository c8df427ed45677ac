//! The step loop of one rank: gradients, all-reduce, optimizer, evaluation, saved model.
//!
//! # Contract
//!
//! - **A step.** The samples of step *s* are positions of the epoch's order, a pure function of
//!   (seed, epoch, position). Replica *r* of *R* runs its contiguous share of the batch; its
//!   gradient is scaled by its share of the samples. A rank hosts one or more replicas, and the ring
//!   sums the gradients of all. Every rank then makes the same update to the same parameters.
//! - **Bits.** With [`FoldMode::Reproducible`](ringfold_common::job::FoldMode) the sum is taken in
//!   one tree over replica numbers: the weights after a step depend on *R*, and neither on the number
//!   of ranks nor on threads. With `Fast` they depend on the number of ranks, in the last bits.
//! - **Uneven shares.** A batch that *R* does not divide, and an epoch's last partial batch, are
//!   weighted by samples: the update is that of the mean over the whole batch. A replica without a
//!   sample adds zeros.
//! - **Going on.** A rank hands in the [training state](state) that it holds, if it holds any, and holds
//!   that after its last complete step when [`train`] returns, be it with an error: the next call, with
//!   another ring of any number of ranks, goes on from there. A rank that is behind or holds nothing
//!   gets the state from those that are furthest. In reproducible mode nothing of this changes a bit.
//! - **State** (running statistics). Every part of a step, whether a replica or a round of one, starts
//!   from the state before the step and updates it by its own samples; the state after the step is
//!   the mean of what the parts made of it, weighted by samples, summed in the same all-reduce as
//!   the gradient. So all ranks hold the same bits of it too. So do they of the mean loss, which is
//!   summed there as well. Evaluation uses it, a saved model
//!   holds it beside the weights under PyTorch's names, and a moving average of the weights leaves
//!   it as it is. One worker in one round does what PyTorch does.
//! - **Identical weights.** Every `check_steps` steps and at the end, ranks compare the BLAKE3 of
//!   their parameters and states; a rank that differs is named and the job fails.
//! - **Accumulation.** A replica may compute its share in several rounds, one after the other, in the
//!   memory of one. Rounds are weighted by samples too: the update is the same.
//! - **Memory.** Parameters, gradients and optimizer state are flat arenas of one layout, in
//!   gradient-ready order. After the first step nothing of the size of a batch or of the model is
//!   allocated.
//! - **Time** is read from a [`Clock`](ringfold_common::clock::Clock) and decides nothing but
//!   reports and how threads are used, which changes no bit.
//! - **Stopping.** An [`AbortSignal`](ringfold_collective::AbortSignal) ends a run within a step.
//!
//! | module | what it holds |
//! |---|---|
//! | [`network`] | a job's model as a graph, its layout and its plans |
//! | [`optimizer`] | update rules over the flat arenas; parameter groups; clipping |
//! | [`ema`] | the moving average of the weights |
//! | `compression` | the sum of all contributions over the ranks, compressed or not |
//! | `contribution` | what some samples add to a step: gradient and state |
//! | [`schedule`] | the learning rate of a step |
//! | [`batch_buffer`] | room for the inputs and labels of a batch |
//! | [`batches`] | which samples a rank sees in a step |
//! | [`buckets`] | the messages in which gradients are summed while others are computed |
//! | [`lanes`] | the replicas of a rank: how many at once, on which threads, and what is summed meanwhile |
//! | [`timeline`] | what all ranks did when, as a file |
//! | [`state`] | what a rank needs to go on from a step: its parts by name; how ranks agree on one |
//! | [`trainer`] | the loop |
//! | [`evaluate`] | sharded evaluation; confusion matrix |
//! | [`predict`] | a saved model applied to records |
//! | [`generate`] | text from a saved model |
//! | [`sampling`] | which token follows, given the scores of all |
//! | [`error`] | [`TrainError`] |

pub mod batch_buffer;
pub mod batches;
pub mod buckets;
mod compression;
mod contribution;
pub mod ema;
pub mod error;
pub mod evaluate;
pub mod generate;
pub mod lanes;
mod memory;
pub mod network;
pub mod optimizer;
pub mod predict;
pub mod sampling;
pub mod schedule;
pub mod state;
pub mod timeline;
pub mod trainer;

pub use error::TrainError;
pub use generate::Generator;
pub use predict::Predictor;
pub use sampling::{Sampler, SamplingOptions};
pub use state::TrainingState;
pub use trainer::{Observer, RankJob, train};
