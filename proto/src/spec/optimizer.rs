//! `OptimizerSpec` both ways.

use ringfold_common::job::{
    AdaGradOptions, AdamOptions, BarzilaiBorweinFormula, BarzilaiBorweinOptions, LambOptions,
    LionOptions, OptimizerSpec, RmsPropOptions, SgdOptions,
};

use crate::error::{FieldError, required};
use crate::v1;

/// Options whose fields are the same on the wire, both ways.
macro_rules! wire_options {
    ($options:ident { $($field:ident),+ $(,)? }) => {
        impl From<$options> for v1::$options {
            fn from(options: $options) -> Self {
                Self { $($field: options.$field),+ }
            }
        }

        impl From<v1::$options> for $options {
            fn from(options: v1::$options) -> Self {
                Self { $($field: options.$field),+ }
            }
        }
    };
}

wire_options!(SgdOptions {
    learning_rate,
    momentum,
    dampening,
    nesterov,
    weight_decay
});
wire_options!(RmsPropOptions {
    learning_rate,
    alpha,
    epsilon,
    momentum,
    centered,
    weight_decay
});
wire_options!(AdaGradOptions {
    learning_rate,
    rate_decay,
    initial_accumulator,
    epsilon,
    weight_decay,
});
wire_options!(AdamOptions {
    learning_rate,
    beta1,
    beta2,
    epsilon,
    amsgrad,
    weight_decay
});
wire_options!(LambOptions {
    learning_rate,
    beta1,
    beta2,
    epsilon,
    weight_decay
});
wire_options!(LionOptions {
    learning_rate,
    beta1,
    beta2,
    weight_decay
});

wire_enum!(
    BarzilaiBorweinFormula,
    BarzilaiBorweinFormula,
    "spec.train.optimizer.barzilai_borwein.formula",
    { Alternate, Long, Short }
);

impl From<BarzilaiBorweinOptions> for v1::BarzilaiBorweinOptions {
    fn from(options: BarzilaiBorweinOptions) -> Self {
        Self {
            learning_rate: options.learning_rate,
            formula: v1::BarzilaiBorweinFormula::from(options.formula).into(),
            period_steps: options.period_steps,
            min_rate: options.min_rate,
            max_rate: options.max_rate,
            weight_decay: options.weight_decay,
        }
    }
}

impl TryFrom<v1::BarzilaiBorweinOptions> for BarzilaiBorweinOptions {
    type Error = FieldError;

    fn try_from(options: v1::BarzilaiBorweinOptions) -> Result<Self, FieldError> {
        Ok(Self {
            formula: options.formula().try_into()?,
            learning_rate: options.learning_rate,
            period_steps: options.period_steps,
            min_rate: options.min_rate,
            max_rate: options.max_rate,
            weight_decay: options.weight_decay,
        })
    }
}

impl From<&OptimizerSpec> for v1::OptimizerSpec {
    fn from(optimizer: &OptimizerSpec) -> Self {
        use v1::optimizer_spec::Kind;
        Self {
            kind: Some(match *optimizer {
                OptimizerSpec::Sgd(options) => Kind::Sgd(options.into()),
                OptimizerSpec::RmsProp(options) => Kind::Rmsprop(options.into()),
                OptimizerSpec::AdaGrad(options) => Kind::Adagrad(options.into()),
                OptimizerSpec::Adam(options) => Kind::Adam(options.into()),
                OptimizerSpec::AdamW(options) => Kind::Adamw(options.into()),
                OptimizerSpec::Lamb(options) => Kind::Lamb(options.into()),
                OptimizerSpec::Lion(options) => Kind::Lion(options.into()),
                OptimizerSpec::BarzilaiBorwein(options) => Kind::BarzilaiBorwein(options.into()),
            }),
        }
    }
}

impl TryFrom<v1::OptimizerSpec> for OptimizerSpec {
    type Error = FieldError;

    fn try_from(optimizer: v1::OptimizerSpec) -> Result<Self, FieldError> {
        use v1::optimizer_spec::Kind;
        Ok(
            match required(optimizer.kind, "spec.train.optimizer.kind")? {
                Kind::Sgd(options) => Self::Sgd(options.into()),
                Kind::Rmsprop(options) => Self::RmsProp(options.into()),
                Kind::Adagrad(options) => Self::AdaGrad(options.into()),
                Kind::Adam(options) => Self::Adam(options.into()),
                Kind::Adamw(options) => Self::AdamW(options.into()),
                Kind::Lamb(options) => Self::Lamb(options.into()),
                Kind::Lion(options) => Self::Lion(options.into()),
                Kind::BarzilaiBorwein(options) => Self::BarzilaiBorwein(options.try_into()?),
            },
        )
    }
}
