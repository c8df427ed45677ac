//! A job: its spec, its states, and what it reports.
//!
//! [`JobSpec`] is one-to-one with `JobSpec` of `ringfold.v1` and with the tables of a job file.
//! A value of these types may still ask for the impossible until [`JobSpec::validate`] has said
//! yes; everything below the edge takes validated specs.

mod any_float;
mod compression;
mod model;
mod optimizer;
mod report;
mod schedule;
mod spec;
mod state;
mod text_model;
mod validate;

pub use compression::{CompressionMethod, CompressionSpec};
pub use model::{
    AttentionLayer, CnnBlock, CnnSpec, ConvLayer, DenseLayer, Layer, LayerSpec, LossOptions,
    OnnxInput, OnnxSpec, PoolLayer, Resnet18Spec, SequentialSpec, SourceFile, Stem,
};
pub use optimizer::{
    AdaGradOptions, AdamOptions, BarzilaiBorweinFormula, BarzilaiBorweinOptions, GroupSpec,
    IdleGroup, LambOptions, LionOptions, OptimizerSpec, RmsPropOptions, SgdOptions,
};
pub use report::{
    Evaluation, Execution, GradientBytes, JobEvent, JobEventKind, Progress, RankReport, Restart,
    Summary,
};
pub use schedule::{Anneal, Decay, Milestones, OneCycle, Period, ScheduleSpec};
pub use spec::{
    Activation, Architecture, ClusterSpec, ColumnRef, CsvSource, DataSource, DataSpec, Device,
    EmaSpec, EvaluateEvery, FoldMode, IdxSource, Initialiser, JobSpec, LastBatch, LinearSpec, Loss,
    MlpSpec, ModelSpec, OutputSpec, Overlap, Precision, Scale, TableFormat, TableSource, TestData,
    TextSource, Tokeniser, TrainDuration, TrainSpec,
};
pub use state::{Cause, Failure, JobState, Phase, Reason};
pub use text_model::{GptSpec, LstmSpec};
pub use validate::{SpecError, limits};
