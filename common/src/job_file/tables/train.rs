//! `[train]` and the tables in it.

use super::super::document::{Item, Located, Value};
use super::super::reader::Reader;
use crate::job::{
    AdaGradOptions, AdamOptions, Anneal, BarzilaiBorweinFormula, BarzilaiBorweinOptions, Decay,
    EmaSpec, EvaluateEvery, GroupSpec, LambOptions, LastBatch, LionOptions, Milestones, OneCycle,
    OptimizerSpec, Period, Precision, RmsPropOptions, ScheduleSpec, SgdOptions, TrainDuration,
    TrainSpec,
};

pub(super) fn train(table: Reader<'_>) -> Result<TrainSpec, Located> {
    table.exclusive("epochs", "steps")?;
    let duration = match (table.whole("epochs")?, table.whole("steps")?) {
        (Some(epochs), _) => TrainDuration::Epochs(epochs),
        (None, Some(steps)) => TrainDuration::Steps(steps),
        (None, None) => {
            return Err(table.missing("epochs", "a whole number, or `train.steps`"));
        }
    };
    let expected_batch = "a whole number: the samples of one step over all workers";
    let spec = TrainSpec {
        duration,
        global_batch: table
            .whole_u32("global_batch")?
            .ok_or_else(|| table.missing("global_batch", expected_batch))?,
        last_batch: table.choice_or(
            "last_batch",
            &[("keep", LastBatch::Keep), ("drop", LastBatch::Drop)],
            LastBatch::Keep,
        )?,
        seed: table.whole_or("seed", 0)?,
        accumulate: table.whole_u32("accumulate")?.unwrap_or(1),
        precision: table.choice_or("precision", &Precision::NAMES, Precision::F32)?,
        workspace_mb_max: table.whole_u32("workspace_mb_max")?,
        optimizer: optimizer(table.table("optimizer")?)?,
        groups: groups(&table)?,
        decay_biases: table.boolean_or("decay_biases", true)?,
        schedule: match table.optional_table("schedule")? {
            None => ScheduleSpec::constant(),
            Some(schedule_table) => schedule(schedule_table)?,
        },
        clip_norm: table.optional_number("clip_norm")?,
        clip_value: table.optional_number("clip_value")?,
        ema: ema(&table)?,
        l2: table.number_or("l2", 0.0)?,
        evaluate: period(&table, "evaluate_epochs", "evaluate_steps")?
            .map_or(EvaluateEvery::End, EvaluateEvery::Period),
        report_steps: table.whole_or("report_steps", 20)?,
        check_steps: table.whole_or("check_steps", 100)?,
    };
    table.finish()?;
    Ok(spec)
}

fn period(
    table: &Reader<'_>,
    epochs_key: &'static str,
    steps_key: &'static str,
) -> Result<Option<Period>, Located> {
    table.exclusive(epochs_key, steps_key)?;
    let epochs = table.whole(epochs_key)?.map(Period::Epochs);
    let steps = table.whole(steps_key)?.map(Period::Steps);
    Ok(epochs.or(steps))
}

fn ema(table: &Reader<'_>) -> Result<Option<EmaSpec>, Located> {
    let decay = table.optional_number("ema_decay")?;
    let warmup = table.boolean_or("ema_warmup", false)?;
    match decay {
        Some(decay) => Ok(Some(EmaSpec { decay, warmup })),
        None if warmup => Err(table.missing("ema_decay", "a number, which `ema_warmup` needs")),
        None => Ok(None),
    }
}

#[derive(Clone, Copy)]
enum OptimizerKind {
    Sgd,
    RmsProp,
    AdaGrad,
    Adam,
    AdamW,
    Lamb,
    Lion,
    BarzilaiBorwein,
}

const OPTIMIZERS: [(&str, OptimizerKind); 8] = [
    ("sgd", OptimizerKind::Sgd),
    ("rmsprop", OptimizerKind::RmsProp),
    ("adagrad", OptimizerKind::AdaGrad),
    ("adam", OptimizerKind::Adam),
    ("adamw", OptimizerKind::AdamW),
    ("lamb", OptimizerKind::Lamb),
    ("lion", OptimizerKind::Lion),
    ("barzilai_borwein", OptimizerKind::BarzilaiBorwein),
];

fn optimizer(table: Reader<'_>) -> Result<OptimizerSpec, Located> {
    let kind = table.choice("kind", &OPTIMIZERS)?;
    let rate = table.number("learning_rate")?;
    let weight_decay = |default| table.number_or("weight_decay", default);
    let optimizer = match kind {
        OptimizerKind::Sgd => {
            let default = SgdOptions::new(rate);
            OptimizerSpec::Sgd(SgdOptions {
                learning_rate: rate,
                momentum: table.number_or("momentum", default.momentum)?,
                dampening: table.number_or("dampening", default.dampening)?,
                nesterov: table.boolean_or("nesterov", default.nesterov)?,
                weight_decay: weight_decay(default.weight_decay)?,
            })
        }
        OptimizerKind::RmsProp => {
            let default = RmsPropOptions::new(rate);
            OptimizerSpec::RmsProp(RmsPropOptions {
                learning_rate: rate,
                alpha: table.number_or("alpha", default.alpha)?,
                epsilon: table.number_or("epsilon", default.epsilon)?,
                momentum: table.number_or("momentum", default.momentum)?,
                centered: table.boolean_or("centered", default.centered)?,
                weight_decay: weight_decay(default.weight_decay)?,
            })
        }
        OptimizerKind::AdaGrad => {
            let default = AdaGradOptions::new(rate);
            OptimizerSpec::AdaGrad(AdaGradOptions {
                learning_rate: rate,
                rate_decay: table.number_or("rate_decay", default.rate_decay)?,
                initial_accumulator: table
                    .number_or("initial_accumulator", default.initial_accumulator)?,
                epsilon: table.number_or("epsilon", default.epsilon)?,
                weight_decay: weight_decay(default.weight_decay)?,
            })
        }
        OptimizerKind::Adam => OptimizerSpec::Adam(adam(&table, AdamOptions::adam(rate))?),
        OptimizerKind::AdamW => OptimizerSpec::AdamW(adam(&table, AdamOptions::adamw(rate))?),
        OptimizerKind::Lamb => {
            let default = LambOptions::new(rate);
            OptimizerSpec::Lamb(LambOptions {
                learning_rate: rate,
                beta1: table.number_or("beta1", default.beta1)?,
                beta2: table.number_or("beta2", default.beta2)?,
                epsilon: table.number_or("epsilon", default.epsilon)?,
                weight_decay: weight_decay(default.weight_decay)?,
            })
        }
        OptimizerKind::Lion => {
            let default = LionOptions::new(rate);
            OptimizerSpec::Lion(LionOptions {
                learning_rate: rate,
                beta1: table.number_or("beta1", default.beta1)?,
                beta2: table.number_or("beta2", default.beta2)?,
                weight_decay: weight_decay(default.weight_decay)?,
            })
        }
        OptimizerKind::BarzilaiBorwein => {
            OptimizerSpec::BarzilaiBorwein(barzilai_borwein(&table, rate)?)
        }
    };
    table.finish()?;
    Ok(optimizer)
}

fn adam(table: &Reader<'_>, default: AdamOptions) -> Result<AdamOptions, Located> {
    Ok(AdamOptions {
        learning_rate: default.learning_rate,
        beta1: table.number_or("beta1", default.beta1)?,
        beta2: table.number_or("beta2", default.beta2)?,
        epsilon: table.number_or("epsilon", default.epsilon)?,
        amsgrad: table.boolean_or("amsgrad", default.amsgrad)?,
        weight_decay: table.number_or("weight_decay", default.weight_decay)?,
    })
}

fn barzilai_borwein(table: &Reader<'_>, rate: f64) -> Result<BarzilaiBorweinOptions, Located> {
    let formulas = [
        ("alternate", BarzilaiBorweinFormula::Alternate),
        ("long", BarzilaiBorweinFormula::Long),
        ("short", BarzilaiBorweinFormula::Short),
    ];
    let default = BarzilaiBorweinOptions::new(rate);
    Ok(BarzilaiBorweinOptions {
        learning_rate: rate,
        formula: table.choice_or("formula", &formulas, default.formula)?,
        period_steps: table.whole("period_steps")?,
        min_rate: table.number_or("min_rate", default.min_rate)?,
        max_rate: table.number_or("max_rate", default.max_rate)?,
        weight_decay: table.number_or("weight_decay", default.weight_decay)?,
    })
}

fn groups(table: &Reader<'_>) -> Result<Vec<GroupSpec>, Located> {
    let Some(item) = table.get("group") else {
        return Ok(Vec::new());
    };
    let Value::Array(items) = &item.value else {
        let expected = "tables that each start with [[train.group]]";
        return Err(table.bad(item, "group", expected, item.value.describe()));
    };
    items.iter().enumerate().map(group).collect()
}

fn group((i, item): (usize, &Item)) -> Result<GroupSpec, Located> {
    let table = Reader::new(item, &format!("train.group[{i}]"))?;
    let group = GroupSpec {
        pattern: table.string("match", "a pattern of parameter names such as \"*.bias\"")?,
        weight_decay: table.optional_number("weight_decay")?,
        learning_rate_factor: table.number_or("learning_rate_factor", 1.0)?,
    };
    table.finish()?;
    Ok(group)
}

#[derive(Clone, Copy)]
enum ScheduleKind {
    Constant,
    Step,
    MultiStep,
    Exponential,
    Cosine,
    CosineRestarts,
    OneCycle,
    Polynomial,
    Linear,
}

const SCHEDULES: [(&str, ScheduleKind); 9] = [
    ("constant", ScheduleKind::Constant),
    ("step", ScheduleKind::Step),
    ("multi_step", ScheduleKind::MultiStep),
    ("exponential", ScheduleKind::Exponential),
    ("cosine", ScheduleKind::Cosine),
    ("cosine_restarts", ScheduleKind::CosineRestarts),
    ("one_cycle", ScheduleKind::OneCycle),
    ("polynomial", ScheduleKind::Polynomial),
    ("linear", ScheduleKind::Linear),
];

fn schedule(table: Reader<'_>) -> Result<ScheduleSpec, Located> {
    let every = || {
        period(&table, "every_epochs", "every_steps")?
            .ok_or_else(|| table.missing("every_epochs", "a whole number, or `every_steps`"))
    };
    let over = || period(&table, "over_epochs", "over_steps");
    let decay = match table.choice_or("kind", &SCHEDULES, ScheduleKind::Constant)? {
        ScheduleKind::Constant => Decay::Constant,
        ScheduleKind::Step => Decay::Step {
            every: every()?,
            gamma: table.number("gamma")?,
        },
        ScheduleKind::MultiStep => Decay::MultiStep {
            milestones: milestones(&table)?,
            gamma: table.number_or("gamma", 0.1)?,
        },
        ScheduleKind::Exponential => Decay::Exponential {
            every: every()?,
            gamma: table.number("gamma")?,
        },
        ScheduleKind::Cosine => Decay::Cosine {
            min_rate: table.number_or("min_rate", 0.0)?,
        },
        ScheduleKind::CosineRestarts => Decay::CosineRestarts {
            first: period(&table, "first_epochs", "first_steps")?
                .ok_or_else(|| table.missing("first_epochs", "a whole number, or `first_steps`"))?,
            factor: table.whole_u32("factor")?.unwrap_or(1),
            min_rate: table.number_or("min_rate", 0.0)?,
        },
        ScheduleKind::OneCycle => Decay::OneCycle(OneCycle {
            pct_start: table.number_or("pct_start", 0.3)?,
            div_factor: table.number_or("div_factor", 25.0)?,
            final_div_factor: table.number_or("final_div_factor", 1e4)?,
            anneal: table.choice_or(
                "anneal",
                &[("cosine", Anneal::Cosine), ("linear", Anneal::Linear)],
                Anneal::Cosine,
            )?,
        }),
        ScheduleKind::Polynomial => Decay::Polynomial {
            over: over()?,
            power: table.number_or("power", 1.0)?,
        },
        ScheduleKind::Linear => Decay::Linear {
            over: over()?,
            start_factor: table.number_or("start_factor", 1.0 / 3.0)?,
            end_factor: table.number_or("end_factor", 1.0)?,
        },
    };
    let spec = ScheduleSpec {
        warmup_steps: table.whole_or("warmup_steps", 0)?,
        decay,
    };
    table.finish()?;
    Ok(spec)
}

fn milestones(table: &Reader<'_>) -> Result<Milestones, Located> {
    table.exclusive("milestones_epochs", "milestones_steps")?;
    let expected = "a list of whole numbers such as [30, 60]";
    if let Some(epochs) = table.optional_whole_list("milestones_epochs", expected)? {
        return Ok(Milestones::Epochs(epochs));
    }
    table
        .optional_whole_list("milestones_steps", expected)?
        .map(Milestones::Steps)
        .ok_or_else(|| {
            let expected = "a list of whole numbers, or `milestones_steps`";
            table.missing("milestones_epochs", expected)
        })
}
