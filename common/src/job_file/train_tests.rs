//! `[train]`: optimizers, groups, schedules, averages, accumulation.

use super::*;
use crate::job::{
    AdaGradOptions, AdamOptions, Anneal, BarzilaiBorweinFormula, BarzilaiBorweinOptions, Decay,
    EmaSpec, GroupSpec, LambOptions, LionOptions, Milestones, OneCycle, OptimizerSpec, Period,
    Precision, RmsPropOptions, SgdOptions, TrainSpec,
};

/// A file with these lines in `[train]`, `[train.optimizer]`, and after it.
fn file(train: &str, optimizer: &str, rest: &str) -> String {
    format!(
        r#"[model]
kind = "mlp"
hidden = [8]
[data]
format = "csv"
path = "d.csv"
label = "y"
[train]
epochs = 2
global_batch = 4
{train}
[train.optimizer]
{optimizer}
{rest}"#
    )
}

const SGD: &str = "kind = \"sgd\"\nlearning_rate = 0.1";

fn read(text: &str) -> TrainSpec {
    match parse(text, "job.toml", "/base", &[]) {
        Ok(spec) => spec.train,
        Err(error) => panic!("{error}:\n{text}"),
    }
}

fn message(text: &str) -> String {
    parse(text, "job.toml", "/base", &[])
        .unwrap_err()
        .to_string()
}

#[test]
fn every_optimizer_has_its_documented_defaults() {
    let of = |kind: &str| {
        let optimizer = format!("kind = \"{kind}\"\nlearning_rate = 0.1");
        read(&file("", &optimizer, "")).optimizer
    };
    let expected = [
        ("sgd", OptimizerSpec::Sgd(SgdOptions::new(0.1))),
        ("rmsprop", OptimizerSpec::RmsProp(RmsPropOptions::new(0.1))),
        ("adagrad", OptimizerSpec::AdaGrad(AdaGradOptions::new(0.1))),
        ("adam", OptimizerSpec::Adam(AdamOptions::adam(0.1))),
        ("adamw", OptimizerSpec::AdamW(AdamOptions::adamw(0.1))),
        ("lamb", OptimizerSpec::Lamb(LambOptions::new(0.1))),
        ("lion", OptimizerSpec::Lion(LionOptions::new(0.1))),
        (
            "barzilai_borwein",
            OptimizerSpec::BarzilaiBorwein(BarzilaiBorweinOptions::new(0.1)),
        ),
    ];
    for (kind, expected) in expected {
        assert_eq!(of(kind), expected);
    }
}

#[test]
fn every_key_of_every_optimizer_is_read() {
    let of = |text: &str| read(&file("", text, "")).optimizer;
    assert_eq!(
        of("kind = \"sgd\"\nlearning_rate = 1\nmomentum = 0.9\ndampening = 0.5\nweight_decay = 2"),
        OptimizerSpec::Sgd(SgdOptions {
            learning_rate: 1.0,
            momentum: 0.9,
            dampening: 0.5,
            nesterov: false,
            weight_decay: 2.0,
        })
    );
    assert_eq!(
        of(
            "kind = \"rmsprop\"\nlearning_rate = 1\nalpha = 0.5\nepsilon = 0.1\nmomentum = 0.9\n\
            centered = true\nweight_decay = 2"
        ),
        OptimizerSpec::RmsProp(RmsPropOptions {
            learning_rate: 1.0,
            alpha: 0.5,
            epsilon: 0.1,
            momentum: 0.9,
            centered: true,
            weight_decay: 2.0,
        })
    );
    assert_eq!(
        of(
            "kind = \"adagrad\"\nlearning_rate = 1\nrate_decay = 0.5\ninitial_accumulator = 0.1\n\
            epsilon = 0.2\nweight_decay = 2"
        ),
        OptimizerSpec::AdaGrad(AdaGradOptions {
            learning_rate: 1.0,
            rate_decay: 0.5,
            initial_accumulator: 0.1,
            epsilon: 0.2,
            weight_decay: 2.0,
        })
    );
    assert_eq!(
        of(
            "kind = \"adamw\"\nlearning_rate = 1\nbeta1 = 0.5\nbeta2 = 0.6\nepsilon = 0.1\n\
            amsgrad = true\nweight_decay = 2"
        ),
        OptimizerSpec::AdamW(AdamOptions {
            learning_rate: 1.0,
            beta1: 0.5,
            beta2: 0.6,
            epsilon: 0.1,
            amsgrad: true,
            weight_decay: 2.0,
        })
    );
    assert_eq!(
        of(
            "kind = \"lamb\"\nlearning_rate = 1\nbeta1 = 0.5\nbeta2 = 0.6\nepsilon = 0.1\n\
            weight_decay = 2"
        ),
        OptimizerSpec::Lamb(LambOptions {
            learning_rate: 1.0,
            beta1: 0.5,
            beta2: 0.6,
            epsilon: 0.1,
            weight_decay: 2.0,
        })
    );
    assert_eq!(
        of("kind = \"lion\"\nlearning_rate = 1\nbeta1 = 0.5\nbeta2 = 0.6\nweight_decay = 2"),
        OptimizerSpec::Lion(LionOptions {
            learning_rate: 1.0,
            beta1: 0.5,
            beta2: 0.6,
            weight_decay: 2.0,
        })
    );
    assert_eq!(
        of(
            "kind = \"barzilai_borwein\"\nlearning_rate = 1\nformula = \"short\"\n\
            period_steps = 7\nmin_rate = 0.5\nmax_rate = 3\nweight_decay = 2"
        ),
        OptimizerSpec::BarzilaiBorwein(BarzilaiBorweinOptions {
            learning_rate: 1.0,
            formula: BarzilaiBorweinFormula::Short,
            period_steps: Some(7),
            min_rate: 0.5,
            max_rate: 3.0,
            weight_decay: 2.0,
        })
    );
}

#[test]
fn every_schedule_is_read() {
    let of = |text: &str| {
        let rest = format!("[train.schedule]\n{text}");
        read(&file("", SGD, &rest)).schedule.decay
    };
    assert_eq!(
        of("kind = \"multi_step\"\nmilestones_epochs = [2, 5]"),
        Decay::MultiStep {
            milestones: Milestones::Epochs(vec![2, 5]),
            gamma: 0.1,
        }
    );
    assert_eq!(
        of("kind = \"multi_step\"\nmilestones_steps = [3]\ngamma = 0.5"),
        Decay::MultiStep {
            milestones: Milestones::Steps(vec![3]),
            gamma: 0.5,
        }
    );
    assert_eq!(
        of("kind = \"exponential\"\nevery_epochs = 1\ngamma = 0.9"),
        Decay::Exponential {
            every: Period::Epochs(1),
            gamma: 0.9,
        }
    );
    assert_eq!(
        of("kind = \"cosine_restarts\"\nfirst_steps = 10\nfactor = 2\nmin_rate = 0.01"),
        Decay::CosineRestarts {
            first: Period::Steps(10),
            factor: 2,
            min_rate: 0.01,
        }
    );
    assert_eq!(
        of("kind = \"one_cycle\""),
        Decay::OneCycle(OneCycle {
            pct_start: 0.3,
            div_factor: 25.0,
            final_div_factor: 1e4,
            anneal: Anneal::Cosine,
        })
    );
    assert_eq!(
        of(
            "kind = \"one_cycle\"\npct_start = 0.5\ndiv_factor = 10\nfinal_div_factor = 100\n\
            anneal = \"linear\""
        ),
        Decay::OneCycle(OneCycle {
            pct_start: 0.5,
            div_factor: 10.0,
            final_div_factor: 100.0,
            anneal: Anneal::Linear,
        })
    );
    assert_eq!(
        of("kind = \"polynomial\"\nover_epochs = 3\npower = 2"),
        Decay::Polynomial {
            over: Some(Period::Epochs(3)),
            power: 2.0,
        }
    );
    assert_eq!(
        of("kind = \"linear\"\nstart_factor = 1\nend_factor = 0"),
        Decay::Linear {
            over: None,
            start_factor: 1.0,
            end_factor: 0.0,
        }
    );
}

#[test]
fn groups_averages_and_accumulation_are_read() {
    let bare = read(&file("", SGD, ""));
    assert!(bare.groups.is_empty() && bare.decay_biases);
    assert_eq!(
        (bare.ema, bare.accumulate, bare.clip_value),
        (None, 1, None)
    );
    assert_eq!(bare.precision, Precision::F32);

    let text = "accumulate = 2\nworkspace_mb_max = 300\nprecision = \"bf16\"\ndecay_biases = false\nclip_value = 0.5\nema_decay = 0.99\n\
                ema_warmup = true";
    let groups = "[[train.group]]\nmatch = \"*.bias\"\nweight_decay = 0\n\
                  [[train.group]]\nmatch = \"layers.0.*\"\nlearning_rate_factor = 0.1";
    let spec = read(&file(text, SGD, groups));
    assert!(!spec.decay_biases);
    assert_eq!((spec.accumulate, spec.clip_value), (2, Some(0.5)));
    assert_eq!(
        (bare.workspace_mb_max, spec.workspace_mb_max),
        (None, Some(300))
    );
    assert_eq!(spec.precision, Precision::Bf16);
    let ema = EmaSpec {
        decay: 0.99,
        warmup: true,
    };
    assert_eq!(spec.ema, Some(ema));
    let expected = [("*.bias", Some(0.0), 1.0), ("layers.0.*", None, 0.1)];
    let expected = expected.map(|(pattern, weight_decay, learning_rate_factor)| GroupSpec {
        pattern: pattern.to_owned(),
        weight_decay,
        learning_rate_factor,
    });
    assert_eq!(spec.groups, expected);
}

#[test]
fn a_flag_sets_groups_too() {
    let change = Override {
        flag: "--set".into(),
        key: "train.group".into(),
        value: "[{ match = \"*\", weight_decay = 1 }]".into(),
    };
    let spec = parse(&file("", SGD, ""), "job.toml", "/", &[change]).unwrap();
    assert_eq!(spec.train.groups[0].weight_decay, Some(1.0));
}

#[test]
fn errors_of_train_name_line_key_and_what_was_expected() {
    let optimizer = |kind: &str, keys: &str| {
        file(
            "",
            &format!("kind = \"{kind}\"\nlearning_rate = 0.1\n{keys}"),
            "",
        )
    };
    let schedule = |keys: &str| file("", SGD, &format!("[train.schedule]\n{keys}"));
    let cases = [
        (
            optimizer("sgd", "dampening = 0.5"),
            "job.toml:15:1: `train.optimizer.dampening` is 0.5: expected 0, or a train.optimizer.momentum above 0",
        ),
        (
            optimizer("sgd", "momentum = 0.9\ndampening = 0.5\nnesterov = true"),
            "job.toml:17:1: `train.optimizer.nesterov` is true: expected false, or a train.optimizer.dampening of 0",
        ),
        (
            optimizer("rmsprop", "alpha = 1"),
            "job.toml:15:1: `train.optimizer.alpha` is 1: expected a number from 0 up to, but not, 1",
        ),
        (
            optimizer("adagrad", "initial_accumulator = -1"),
            "`train.optimizer.initial_accumulator` is -1: expected a finite number, 0 or more",
        ),
        (
            optimizer("adam", "epsilon = 1e-50"),
            "`train.optimizer.epsilon` is 0.00000000000000000000000000000000000000000000000001: expected a number that single precision can hold",
        ),
        (
            optimizer("adam", "momentum = 0.9"),
            "job.toml:15:1: unknown key `train.optimizer.momentum`",
        ),
        (
            optimizer("lion", "epsilon = 0.9"),
            "unknown key `train.optimizer.epsilon`",
        ),
        (
            optimizer("barzilai_borwein", "min_rate = 2\nmax_rate = 1"),
            "job.toml:15:1: `train.optimizer.min_rate` is 2: expected at most train.optimizer.max_rate (1)",
        ),
        (
            optimizer("barzilai_borwein", "formula = \"middle\""),
            "expected \"alternate\" or \"long\" or \"short\"",
        ),
        (
            schedule("kind = \"multi_step\""),
            "job.toml:15:8: missing key `train.schedule.milestones_epochs`: expected a list of whole numbers, or `milestones_steps`",
        ),
        (
            schedule("kind = \"multi_step\"\nmilestones_steps = [5, 5]"),
            "job.toml:17:1: `train.schedule.milestones_steps` is a list with 5 before 5: expected milestones that grow",
        ),
        (
            schedule("kind = \"multi_step\"\nmilestones_steps = []"),
            "is a list of 0: expected 1 to 1000 milestones",
        ),
        (
            schedule("kind = \"exponential\"\nevery_epochs = 0\ngamma = 0.5"),
            "job.toml:17:1: `train.schedule.every_epochs` is 0: expected a whole number from 1",
        ),
        (
            schedule("kind = \"cosine_restarts\"\nfirst_steps = 5\nfactor = 0"),
            "job.toml:18:1: `train.schedule.factor` is 0: expected a whole number from 1",
        ),
        (
            schedule("kind = \"cosine_restarts\"\nfirst_steps = 5\nmin_rate = 1"),
            "`train.schedule.min_rate` is 1: expected from 0 to the learning rate (0.1)",
        ),
        (
            schedule("kind = \"one_cycle\"\nwarmup_steps = 5"),
            "job.toml:17:1: `train.schedule.warmup_steps` is 5: expected 0, because the schedule \"one_cycle\"",
        ),
        (
            schedule("kind = \"one_cycle\"\ndiv_factor = 0.5"),
            "`train.schedule.div_factor` is 0.5: expected a finite number, 1 or more",
        ),
        (
            schedule("kind = \"linear\"\nend_factor = 2"),
            "`train.schedule.end_factor` is 2: expected a number from 0 to 1",
        ),
        (
            schedule("kind = \"polynomial\"\nover_steps = 2\nover_epochs = 2"),
            "`train.schedule.over_epochs` and `train.schedule.over_steps` exclude each other",
        ),
        (file("precision = \"f16\"", SGD, ""), "`train.precision`"),
        (
            file("accumulate = 5", SGD, ""),
            "job.toml:11:1: `train.accumulate` is 5: expected at most train.global_batch (4) / cluster.replicas (1)",
        ),
        (
            file("workspace_mb_max = 0", SGD, ""),
            "`train.workspace_mb_max` is 0: expected",
        ),
        (
            file("accumulate = 3", SGD, "[cluster]\nworkers = 2"),
            "`train.accumulate` is 3: expected at most train.global_batch (4) / cluster.replicas (2)",
        ),
        (
            file("ema_warmup = true", SGD, ""),
            "missing key `train.ema_decay`: expected a number, which `ema_warmup` needs",
        ),
        (
            file("ema_decay = 1", SGD, ""),
            "job.toml:11:1: `train.ema_decay` is 1: expected a number between 0 and 1",
        ),
        (
            file("clip_value = 0", SGD, ""),
            "job.toml:11:1: `train.clip_value` is 0: expected a finite number above 0",
        ),
        (
            file("group = 3", SGD, ""),
            "job.toml:11:1: `train.group` is the number 3: expected tables that each start with [[train.group]]",
        ),
        (
            file("", SGD, "[train.group]\nmatch = \"*\""),
            "`train.group` is a table: expected tables that each start with [[train.group]]",
        ),
        (
            file(
                "",
                SGD,
                "[[train.group]]\nmatch = \"*\"\n[[train.group]]\nweight_decay = 1",
            ),
            "job.toml:17:1: missing key `train.group[1].match`: expected a pattern",
        ),
        (
            file("", SGD, "[[train.group]]\nmatch = \"*\"\nweight_decay = -1"),
            "job.toml:17:1: `train.group[0].weight_decay` is -1: expected a finite number, 0 or more",
        ),
        (
            file("", SGD, "[[train.group]]\nmatch = \"\""),
            "job.toml:16:1: `train.group[0].match` is \"\": expected a pattern of 1 to 200 bytes",
        ),
        (
            file("", SGD, "[[train.group]]\nmatsch = \"a\""),
            "job.toml:16:1: unknown key `train.group[0].matsch` (did you mean `match`?)",
        ),
    ];
    for (text, expected) in cases {
        let got = message(&text);
        assert!(
            got.contains(expected),
            "\n got      {got}\n expected {expected}"
        );
    }
}
