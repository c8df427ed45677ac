//! `[train]`.

use super::{SpecError, check, check_count, check_non_negative, check_positive, limits};
use crate::job::optimizer::GroupSpec;
use crate::job::schedule::Period;
use crate::job::spec::{EmaSpec, EvaluateEvery, TrainDuration, TrainSpec};

pub(super) fn validate(train: &TrainSpec) -> Result<(), SpecError> {
    match train.duration {
        TrainDuration::Epochs(epochs) => {
            check_count("train.epochs", epochs, 1, limits::EPOCHS_MAX)?;
        }
        TrainDuration::Steps(steps) => check_count("train.steps", steps, 1, limits::STEPS_MAX)?,
    }
    check_count(
        "train.global_batch",
        train.global_batch.into(),
        1,
        limits::GLOBAL_BATCH_MAX.into(),
    )?;
    check_count(
        "train.accumulate",
        train.accumulate.into(),
        1,
        limits::ACCUMULATE_MAX.into(),
    )?;
    if let Some(megabytes) = train.workspace_mb_max {
        check_count(
            "train.workspace_mb_max",
            megabytes.into(),
            1,
            limits::WORKSPACE_MB_MAX.into(),
        )?;
    }
    super::optimizer::validate(&train.optimizer)?;
    validate_groups(&train.groups)?;
    super::schedule::validate(&train.schedule, train.optimizer.learning_rate())?;
    if let Some(norm) = train.clip_norm {
        check_positive("train.clip_norm", norm)?;
    }
    if let Some(value) = train.clip_value {
        check_positive("train.clip_value", value)?;
    }
    if let Some(EmaSpec { decay, .. }) = train.ema {
        check(
            decay > 0.0 && decay < 1.0,
            "train.ema_decay",
            decay,
            "a number between 0 and 1",
        )?;
    }
    check_non_negative("train.l2", train.l2)?;
    if let EvaluateEvery::Period(period) = train.evaluate {
        match period {
            Period::Steps(n) => check_count("train.evaluate_steps", n, 1, limits::STEPS_MAX)?,
            Period::Epochs(n) => check_count("train.evaluate_epochs", n, 1, limits::EPOCHS_MAX)?,
        }
    }
    check_count(
        "train.report_steps",
        train.report_steps,
        1,
        limits::STEPS_MAX,
    )?;
    check_count("train.check_steps", train.check_steps, 0, limits::STEPS_MAX)
}

fn validate_groups(groups: &[GroupSpec]) -> Result<(), SpecError> {
    check(
        groups.len() <= limits::GROUPS_MAX,
        "train.group",
        format!("a list of {}", groups.len()),
        format!("at most {} groups", limits::GROUPS_MAX),
    )?;
    for (i, group) in groups.iter().enumerate() {
        let pattern = &group.pattern;
        check(
            !pattern.is_empty() && pattern.len() <= limits::PATTERN_BYTES_MAX,
            format!("train.group[{i}].match"),
            format!("{:?}", pattern.chars().take(80).collect::<String>()),
            format!("a pattern of 1 to {} bytes", limits::PATTERN_BYTES_MAX),
        )?;
        if let Some(decay) = group.weight_decay {
            check_non_negative(format!("train.group[{i}].weight_decay"), decay)?;
        }
        check_non_negative(
            format!("train.group[{i}].learning_rate_factor"),
            group.learning_rate_factor,
        )?;
    }
    Ok(())
}
