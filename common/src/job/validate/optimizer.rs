//! `[train.optimizer]`.

use super::{
    SpecError, check, check_count, check_non_negative, check_positive, check_share, limits,
};
use crate::job::optimizer::{
    AdaGradOptions, AdamOptions, BarzilaiBorweinOptions, LambOptions, LionOptions, OptimizerSpec,
    RmsPropOptions, SgdOptions,
};

pub(super) fn validate(optimizer: &OptimizerSpec) -> Result<(), SpecError> {
    check_positive("train.optimizer.learning_rate", optimizer.learning_rate())?;
    match optimizer {
        OptimizerSpec::Sgd(options) => sgd(options)?,
        OptimizerSpec::RmsProp(options) => rmsprop(options)?,
        OptimizerSpec::AdaGrad(options) => adagrad(options)?,
        OptimizerSpec::Adam(options) | OptimizerSpec::AdamW(options) => adam(options)?,
        OptimizerSpec::Lamb(options) => lamb(options)?,
        OptimizerSpec::Lion(options) => lion(options)?,
        OptimizerSpec::BarzilaiBorwein(options) => barzilai_borwein(options)?,
    }
    check_non_negative("train.optimizer.weight_decay", optimizer.weight_decay())
}

fn sgd(sgd: &SgdOptions) -> Result<(), SpecError> {
    check_share("train.optimizer.momentum", sgd.momentum)?;
    check_share("train.optimizer.dampening", sgd.dampening)?;
    check(
        sgd.dampening == 0.0 || sgd.momentum > 0.0,
        "train.optimizer.dampening",
        sgd.dampening,
        "0, or a train.optimizer.momentum above 0",
    )?;
    check(
        !sgd.nesterov || sgd.momentum > 0.0,
        "train.optimizer.nesterov",
        "true",
        "false, or a train.optimizer.momentum above 0",
    )?;
    check(
        !sgd.nesterov || sgd.dampening == 0.0,
        "train.optimizer.nesterov",
        "true",
        "false, or a train.optimizer.dampening of 0",
    )
}

fn rmsprop(rmsprop: &RmsPropOptions) -> Result<(), SpecError> {
    check_share("train.optimizer.alpha", rmsprop.alpha)?;
    epsilon(rmsprop.epsilon)?;
    check_share("train.optimizer.momentum", rmsprop.momentum)
}

fn adagrad(adagrad: &AdaGradOptions) -> Result<(), SpecError> {
    check_non_negative("train.optimizer.rate_decay", adagrad.rate_decay)?;
    check_non_negative(
        "train.optimizer.initial_accumulator",
        adagrad.initial_accumulator,
    )?;
    epsilon(adagrad.epsilon)
}

fn adam(adam: &AdamOptions) -> Result<(), SpecError> {
    betas(adam.beta1, adam.beta2)?;
    epsilon(adam.epsilon)
}

fn lamb(lamb: &LambOptions) -> Result<(), SpecError> {
    betas(lamb.beta1, lamb.beta2)?;
    epsilon(lamb.epsilon)
}

fn lion(lion: &LionOptions) -> Result<(), SpecError> {
    betas(lion.beta1, lion.beta2)
}

fn barzilai_borwein(options: &BarzilaiBorweinOptions) -> Result<(), SpecError> {
    if let Some(steps) = options.period_steps {
        check_count("train.optimizer.period_steps", steps, 1, limits::STEPS_MAX)?;
    }
    check_positive("train.optimizer.min_rate", options.min_rate)?;
    check_positive("train.optimizer.max_rate", options.max_rate)?;
    check(
        options.min_rate <= options.max_rate,
        "train.optimizer.min_rate",
        options.min_rate,
        format!("at most train.optimizer.max_rate ({})", options.max_rate),
    )
}

fn betas(beta1: f64, beta2: f64) -> Result<(), SpecError> {
    check_share("train.optimizer.beta1", beta1)?;
    check_share("train.optimizer.beta2", beta2)
}

/// Single precision must not round it to zero, which would divide by zero.
fn epsilon(epsilon: f64) -> Result<(), SpecError> {
    check_positive("train.optimizer.epsilon", epsilon)?;
    check(
        epsilon >= f64::from(f32::MIN_POSITIVE),
        "train.optimizer.epsilon",
        epsilon,
        "a number that single precision can hold, 1.2e-38 or more",
    )
}
