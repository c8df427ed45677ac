//! `[train.schedule]`.

use super::{SpecError, check, check_count, check_non_negative, limits};
use crate::job::schedule::{Decay, Milestones, OneCycle, Period, ScheduleSpec};

pub(super) fn validate(schedule: &ScheduleSpec, learning_rate: f64) -> Result<(), SpecError> {
    check_count(
        "train.schedule.warmup_steps",
        schedule.warmup_steps,
        0,
        limits::STEPS_MAX,
    )?;
    match &schedule.decay {
        Decay::Constant => Ok(()),
        Decay::Step { every, gamma } | Decay::Exponential { every, gamma } => {
            period(
                *every,
                "train.schedule.every_epochs",
                "train.schedule.every_steps",
            )?;
            check_gamma(*gamma)
        }
        Decay::MultiStep { milestones, gamma } => {
            check_milestones(milestones)?;
            check_gamma(*gamma)
        }
        Decay::Cosine { min_rate } => check_min_rate(*min_rate, learning_rate),
        Decay::CosineRestarts {
            first,
            factor,
            min_rate,
        } => {
            period(
                *first,
                "train.schedule.first_epochs",
                "train.schedule.first_steps",
            )?;
            check_count(
                "train.schedule.factor",
                (*factor).into(),
                1,
                u32::MAX.into(),
            )?;
            check_min_rate(*min_rate, learning_rate)
        }
        Decay::OneCycle(cycle) => one_cycle(cycle, schedule.warmup_steps),
        Decay::Polynomial { over, power } => {
            check_over(*over)?;
            check_non_negative("train.schedule.power", *power)
        }
        Decay::Linear {
            over,
            start_factor,
            end_factor,
        } => {
            check_over(*over)?;
            check(
                *start_factor > 0.0 && *start_factor <= 1.0,
                "train.schedule.start_factor",
                start_factor,
                "a number above 0, at most 1",
            )?;
            check(
                (0.0..=1.0).contains(end_factor),
                "train.schedule.end_factor",
                end_factor,
                "a number from 0 to 1",
            )
        }
    }
}

fn period(period: Period, epochs: &'static str, steps: &'static str) -> Result<(), SpecError> {
    match period {
        Period::Epochs(count) => check_count(epochs, count, 1, limits::EPOCHS_MAX),
        Period::Steps(count) => check_count(steps, count, 1, limits::STEPS_MAX),
    }
}

fn check_over(over: Option<Period>) -> Result<(), SpecError> {
    over.map_or(Ok(()), |over| {
        period(
            over,
            "train.schedule.over_epochs",
            "train.schedule.over_steps",
        )
    })
}

fn check_gamma(gamma: f64) -> Result<(), SpecError> {
    check(
        gamma > 0.0 && gamma <= 1.0,
        "train.schedule.gamma",
        gamma,
        "a number above 0, at most 1",
    )
}

fn check_min_rate(min_rate: f64, learning_rate: f64) -> Result<(), SpecError> {
    check(
        (0.0..=learning_rate).contains(&min_rate),
        "train.schedule.min_rate",
        min_rate,
        format!("from 0 to the learning rate ({learning_rate})"),
    )
}

fn check_milestones(milestones: &Milestones) -> Result<(), SpecError> {
    let (field, list, max) = match milestones {
        Milestones::Steps(list) => ("train.schedule.milestones_steps", list, limits::STEPS_MAX),
        Milestones::Epochs(list) => ("train.schedule.milestones_epochs", list, limits::EPOCHS_MAX),
    };
    check(
        (1..=limits::MILESTONES_MAX).contains(&list.len()),
        field,
        format!("a list of {}", list.len()),
        format!("1 to {} milestones", limits::MILESTONES_MAX),
    )?;
    for &milestone in list {
        check_count(field, milestone, 1, max)?;
    }
    let unordered = list.windows(2).find(|pair| pair[0] >= pair[1]);
    check(
        unordered.is_none(),
        field,
        unordered.map_or_else(String::new, |pair| {
            format!("a list with {} before {}", pair[0], pair[1])
        }),
        "milestones that grow",
    )
}

fn one_cycle(cycle: &OneCycle, warmup_steps: u64) -> Result<(), SpecError> {
    check(
        warmup_steps == 0,
        "train.schedule.warmup_steps",
        warmup_steps,
        "0, because the schedule \"one_cycle\" starts with a rise of its own",
    )?;
    check(
        cycle.pct_start > 0.0 && cycle.pct_start < 1.0,
        "train.schedule.pct_start",
        cycle.pct_start,
        "a number between 0 and 1",
    )?;
    for (field, divisor) in [
        ("train.schedule.div_factor", cycle.div_factor),
        ("train.schedule.final_div_factor", cycle.final_div_factor),
    ] {
        check(
            divisor.is_finite() && divisor >= 1.0,
            field,
            divisor,
            "a finite number, 1 or more",
        )?;
    }
    Ok(())
}
