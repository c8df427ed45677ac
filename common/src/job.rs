//! A job: its spec, its states, and what it reports.
//!
//! [`JobSpec`] is one-to-one with `JobSpec` of `ringfold.v1` and with the tables of a job file.
//! A value of these types may still ask for the impossible until [`JobSpec::validate`] has said
//! yes; everything below the edge takes validated specs.

mod any_float;
mod report;
mod spec;
mod state;
mod validate;

pub use report::{Evaluation, JobEvent, JobEventKind, Progress, RankReport, Summary};
pub use spec::{
    Activation, AdamOptions, Architecture, ClusterSpec, ColumnRef, CsvSource, DataSource, DataSpec,
    Decay, Device, EvaluateEvery, IdxSource, Initialiser, JobSpec, LastBatch, Loss, MlpSpec,
    ModelSpec, OptimizerSpec, OutputSpec, Period, Scale, ScheduleSpec, SgdOptions, TestData,
    TrainDuration, TrainSpec,
};
pub use state::{Cause, Failure, JobState, Phase, Reason};
pub use validate::{SpecError, limits};
