//! `ScheduleSpec` both ways.

use ringfold_common::job::{Anneal, Decay, Milestones, OneCycle, Period, ScheduleSpec};

use crate::error::{FieldError, required};
use crate::v1;

wire_enum!(Anneal, Anneal, "spec.train.schedule.one_cycle.anneal", { Cosine, Linear });

impl From<Period> for v1::Period {
    fn from(period: Period) -> Self {
        Self {
            unit: Some(match period {
                Period::Steps(steps) => v1::period::Unit::Steps(steps),
                Period::Epochs(epochs) => v1::period::Unit::Epochs(epochs),
            }),
        }
    }
}

pub(super) fn period_from_wire(period: v1::Period, field: &str) -> Result<Period, FieldError> {
    Ok(match required(period.unit, field)? {
        v1::period::Unit::Steps(steps) => Period::Steps(steps),
        v1::period::Unit::Epochs(epochs) => Period::Epochs(epochs),
    })
}

fn required_period(period: Option<v1::Period>, field: &str) -> Result<Period, FieldError> {
    period_from_wire(required(period, field)?, &format!("{field}.unit"))
}

fn optional_period(period: Option<v1::Period>, field: &str) -> Result<Option<Period>, FieldError> {
    period
        .map(|period| period_from_wire(period, &format!("{field}.unit")))
        .transpose()
}

impl From<&ScheduleSpec> for v1::ScheduleSpec {
    fn from(schedule: &ScheduleSpec) -> Self {
        Self {
            warmup_steps: schedule.warmup_steps,
            decay: Some((&schedule.decay).into()),
        }
    }
}

impl From<&Decay> for v1::schedule_spec::Decay {
    fn from(decay: &Decay) -> Self {
        match *decay {
            Decay::Constant => Self::Constant(v1::Unit {}),
            Decay::Step { every, gamma } => Self::Step(v1::StepDecay {
                every: Some(every.into()),
                gamma,
            }),
            Decay::MultiStep {
                ref milestones,
                gamma,
            } => Self::MultiStep(v1::MultiStepDecay {
                milestones: Some(milestones.into()),
                gamma,
            }),
            Decay::Exponential { every, gamma } => Self::Exponential(v1::ExponentialDecay {
                every: Some(every.into()),
                gamma,
            }),
            Decay::Cosine { min_rate } => Self::Cosine(v1::CosineDecay { min_rate }),
            Decay::CosineRestarts {
                first,
                factor,
                min_rate,
            } => Self::CosineRestarts(v1::CosineRestartsDecay {
                first: Some(first.into()),
                factor,
                min_rate,
            }),
            Decay::OneCycle(cycle) => Self::OneCycle(v1::OneCycle {
                pct_start: cycle.pct_start,
                div_factor: cycle.div_factor,
                final_div_factor: cycle.final_div_factor,
                anneal: v1::Anneal::from(cycle.anneal).into(),
            }),
            Decay::Polynomial { over, power } => Self::Polynomial(v1::PolynomialDecay {
                over: over.map(Into::into),
                power,
            }),
            Decay::Linear {
                over,
                start_factor,
                end_factor,
            } => Self::Linear(v1::LinearDecay {
                over: over.map(Into::into),
                start_factor,
                end_factor,
            }),
        }
    }
}

impl From<&Milestones> for v1::multi_step_decay::Milestones {
    fn from(milestones: &Milestones) -> Self {
        let list = |values: &Vec<u64>| v1::MilestoneList {
            values: values.clone(),
        };
        match milestones {
            Milestones::Steps(steps) => Self::Steps(list(steps)),
            Milestones::Epochs(epochs) => Self::Epochs(list(epochs)),
        }
    }
}

impl TryFrom<v1::ScheduleSpec> for ScheduleSpec {
    type Error = FieldError;

    fn try_from(schedule: v1::ScheduleSpec) -> Result<Self, FieldError> {
        Ok(Self {
            warmup_steps: schedule.warmup_steps,
            decay: required(schedule.decay, "spec.train.schedule.decay")?.try_into()?,
        })
    }
}

impl TryFrom<v1::schedule_spec::Decay> for Decay {
    type Error = FieldError;

    fn try_from(decay: v1::schedule_spec::Decay) -> Result<Self, FieldError> {
        use v1::multi_step_decay::Milestones as List;
        use v1::schedule_spec::Decay as Wire;
        Ok(match decay {
            Wire::Constant(_) => Self::Constant,
            Wire::Step(step) => Self::Step {
                every: required_period(step.every, "spec.train.schedule.step.every")?,
                gamma: step.gamma,
            },
            Wire::MultiStep(steps) => Self::MultiStep {
                milestones: match required(
                    steps.milestones,
                    "spec.train.schedule.multi_step.milestones",
                )? {
                    List::Steps(list) => Milestones::Steps(list.values),
                    List::Epochs(list) => Milestones::Epochs(list.values),
                },
                gamma: steps.gamma,
            },
            Wire::Exponential(fall) => Self::Exponential {
                every: required_period(fall.every, "spec.train.schedule.exponential.every")?,
                gamma: fall.gamma,
            },
            Wire::Cosine(cosine) => Self::Cosine {
                min_rate: cosine.min_rate,
            },
            Wire::CosineRestarts(cosine) => Self::CosineRestarts {
                first: required_period(cosine.first, "spec.train.schedule.cosine_restarts.first")?,
                factor: cosine.factor.max(1),
                min_rate: cosine.min_rate,
            },
            Wire::OneCycle(cycle) => Self::OneCycle(OneCycle {
                anneal: cycle.anneal().try_into()?,
                pct_start: cycle.pct_start,
                div_factor: cycle.div_factor,
                final_div_factor: cycle.final_div_factor,
            }),
            Wire::Polynomial(fall) => Self::Polynomial {
                over: optional_period(fall.over, "spec.train.schedule.polynomial.over")?,
                power: fall.power,
            },
            Wire::Linear(line) => Self::Linear {
                over: optional_period(line.over, "spec.train.schedule.linear.over")?,
                start_factor: line.start_factor,
                end_factor: line.end_factor,
            },
        })
    }
}
