//! `TrainSpec` both ways.

use ringfold_common::job::{
    EmaSpec, EvaluateEvery, GroupSpec, LastBatch, Period, Precision, TrainDuration, TrainSpec,
};

use super::schedule::period_from_wire;
use crate::error::{FieldError, required};
use crate::v1;

wire_enum!(LastBatch, LastBatch, "spec.train.last_batch", { Keep, Drop });
wire_enum!(Precision, Precision, "spec.train.precision", { F32, Bf16 });

impl From<&TrainSpec> for v1::TrainSpec {
    fn from(train: &TrainSpec) -> Self {
        Self {
            duration: Some(match train.duration {
                TrainDuration::Epochs(epochs) => v1::train_spec::Duration::Epochs(epochs),
                TrainDuration::Steps(steps) => v1::train_spec::Duration::Steps(steps),
            }),
            global_batch: train.global_batch,
            last_batch: v1::LastBatch::from(train.last_batch).into(),
            seed: train.seed,
            accumulate: train.accumulate,
            precision: v1::Precision::from(train.precision).into(),
            workspace_mb_max: train.workspace_mb_max,
            optimizer: Some((&train.optimizer).into()),
            groups: train.groups.iter().map(Into::into).collect(),
            decay_biases: Some(train.decay_biases),
            schedule: Some((&train.schedule).into()),
            clip_norm: train.clip_norm,
            clip_value: train.clip_value,
            ema: train.ema.map(|ema| v1::EmaSpec {
                decay: ema.decay,
                warmup: ema.warmup,
            }),
            l2: train.l2,
            evaluate_every: match train.evaluate {
                EvaluateEvery::End => None,
                EvaluateEvery::Period(period) => Some(period.into()),
            },
            report_steps: train.report_steps,
            check_steps: train.check_steps,
        }
    }
}

impl TryFrom<v1::TrainSpec> for TrainSpec {
    type Error = FieldError;

    fn try_from(train: v1::TrainSpec) -> Result<Self, FieldError> {
        let last_batch = train.last_batch().try_into()?;
        let precision = match train.precision() {
            // Unknown numbers read as this too: they are told apart here.
            v1::Precision::Unspecified if train.precision == 0 => Precision::F32,
            named => named.try_into()?,
        };
        Ok(Self {
            duration: match required(train.duration, "spec.train.duration")? {
                v1::train_spec::Duration::Epochs(epochs) => TrainDuration::Epochs(epochs),
                v1::train_spec::Duration::Steps(steps) => TrainDuration::Steps(steps),
            },
            global_batch: train.global_batch,
            last_batch,
            seed: train.seed,
            accumulate: train.accumulate.max(1),
            precision,
            workspace_mb_max: train.workspace_mb_max,
            optimizer: required(train.optimizer, "spec.train.optimizer")?.try_into()?,
            groups: train.groups.into_iter().map(Into::into).collect(),
            decay_biases: train.decay_biases.unwrap_or(true),
            schedule: required(train.schedule, "spec.train.schedule")?.try_into()?,
            clip_norm: train.clip_norm,
            clip_value: train.clip_value,
            ema: train.ema.map(|ema| EmaSpec {
                decay: ema.decay,
                warmup: ema.warmup,
            }),
            l2: train.l2,
            evaluate: match train.evaluate_every {
                None => EvaluateEvery::End,
                Some(period) => EvaluateEvery::Period(evaluation_period(period)?),
            },
            report_steps: train.report_steps,
            check_steps: train.check_steps,
        })
    }
}

fn evaluation_period(period: v1::Period) -> Result<Period, FieldError> {
    period_from_wire(period, "spec.train.evaluate_every.unit")
}

impl From<&GroupSpec> for v1::GroupSpec {
    fn from(group: &GroupSpec) -> Self {
        Self {
            r#match: group.pattern.clone(),
            weight_decay: group.weight_decay,
            learning_rate_factor: Some(group.learning_rate_factor),
        }
    }
}

impl From<v1::GroupSpec> for GroupSpec {
    fn from(group: v1::GroupSpec) -> Self {
        Self {
            pattern: group.r#match,
            weight_decay: group.weight_decay,
            learning_rate_factor: group.learning_rate_factor.unwrap_or(1.0),
        }
    }
}
