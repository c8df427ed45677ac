//! Ten steps of whole models against PyTorch, in `f32`: optimizers, parameter groups, clipping,
//! averaged weights; and the learning rates of schedules. Rules that PyTorch doesn't have are
//! compared with NumPy.

mod support;

use ringfold_common::dataset::Target;
use ringfold_common::ids::Step;
use ringfold_common::job::{
    Activation, AdaGradOptions, AdamOptions, Anneal, Architecture, BarzilaiBorweinFormula,
    BarzilaiBorweinOptions, Decay, EmaSpec, EvaluateEvery, GroupSpec, Initialiser, LambOptions,
    LastBatch, LionOptions, Loss, Milestones, MlpSpec, ModelSpec, OneCycle, OptimizerSpec, Period,
    RmsPropOptions, ScheduleSpec, SgdOptions, TrainDuration, TrainSpec,
};
use ringfold_compute::{Arena, Mode, RunArgs, TensorRef, TrainMemory};
use ringfold_graph::models::LOSS;
use ringfold_train::ema::Ema;
use ringfold_train::network::Network;
use ringfold_train::optimizer::{Optimizer, clip_scale, clip_values, global_norm, segments};
use ringfold_train::schedule::Schedule;
use serde_json::Value;

/// Relative, for losses and norms; relative to the tensor's norm, for weights.
const TOLERANCE: f64 = 1e-5;

fn assert_relative(what: &str, got: f64, expected: f64) {
    let error = (got - expected).abs() / expected.abs();
    assert!(
        error <= TOLERANCE,
        "{what}: expected {expected}, got {got} (error {error:e})"
    );
}

fn assert_tensor(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let norm = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = got.iter().zip(expected);
    let error = norm(&mut pairs.map(|(&a, &b)| f64::from(a) - f64::from(b)))
        / norm(&mut expected.iter().map(|&b| f64::from(b)));
    assert!(error <= TOLERANCE, "{what}: relative error {error:e}");
}

/// The job's network for a file's model; `None` if a job can't ask for it.
fn network(file: &Value) -> Option<Network> {
    let model = &file["model"];
    let activation = match model["activation"].as_str().unwrap() {
        "relu" => Activation::Relu,
        "gelu" => Activation::Gelu,
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        "gelu_tanh" => return None,
        other => panic!("unknown activation {other}"),
    };
    let outputs = u32::try_from(model["outputs"].as_u64().unwrap()).unwrap();
    let (loss, target) = match model["loss"].as_str().unwrap() {
        "cross_entropy" => {
            let names = (0..outputs).map(|class| class.to_string());
            (Loss::CrossEntropy, Target::Classes(names.collect()))
        }
        "mean_squared_error" => (Loss::MeanSquaredError, Target::Values(outputs)),
        other => panic!("unknown loss {other}"),
    };
    let hidden = support::sizes(&model["hidden"])
        .into_iter()
        .map(|width| width as u32);
    let spec = ModelSpec {
        architecture: Architecture::Mlp(MlpSpec {
            hidden: hidden.collect(),
            activation,
            dropout: 0.0,
            initialiser: Initialiser::FanInUniform,
        }),
        loss,
        loss_options: ringfold_common::job::LossOptions::default(),
        input: Vec::new(),
        weights: None,
    };
    let features = u32::try_from(model["inputs"].as_u64().unwrap()).unwrap();
    Some(
        Network::new(
            &spec,
            (features, &[]),
            &target,
            model["l2"].as_f64().unwrap(),
            1,
        )
        .unwrap(),
    )
}

fn optimizer(spec: &Value) -> OptimizerSpec {
    let number = |key: &str| spec[key].as_f64().unwrap();
    let truth = |key: &str| spec[key].as_bool().unwrap_or(false);
    let (learning_rate, weight_decay) = (number("lr"), number("weight_decay"));
    let beta = |i: usize| spec["betas"][i].as_f64().unwrap();
    let adam = || AdamOptions {
        learning_rate,
        beta1: beta(0),
        beta2: beta(1),
        epsilon: number("eps"),
        amsgrad: truth("amsgrad"),
        weight_decay,
    };
    match spec["kind"].as_str().unwrap() {
        "sgd" => OptimizerSpec::Sgd(SgdOptions {
            learning_rate,
            momentum: number("momentum"),
            dampening: number("dampening"),
            nesterov: truth("nesterov"),
            weight_decay,
        }),
        "rmsprop" => OptimizerSpec::RmsProp(RmsPropOptions {
            learning_rate,
            alpha: number("alpha"),
            epsilon: number("eps"),
            momentum: number("momentum"),
            centered: truth("centered"),
            weight_decay,
        }),
        "adagrad" => OptimizerSpec::AdaGrad(AdaGradOptions {
            learning_rate,
            rate_decay: number("lr_decay"),
            initial_accumulator: number("initial_accumulator_value"),
            epsilon: number("eps"),
            weight_decay,
        }),
        "adam" => OptimizerSpec::Adam(adam()),
        "adamw" => OptimizerSpec::AdamW(adam()),
        "lamb" => OptimizerSpec::Lamb(LambOptions {
            learning_rate,
            beta1: beta(0),
            beta2: beta(1),
            epsilon: number("eps"),
            weight_decay,
        }),
        "lion" => OptimizerSpec::Lion(LionOptions {
            learning_rate,
            beta1: beta(0),
            beta2: beta(1),
            weight_decay,
        }),
        "barzilai_borwein" => OptimizerSpec::BarzilaiBorwein(BarzilaiBorweinOptions {
            learning_rate,
            formula: match spec["formula"].as_str().unwrap() {
                "alternate" => BarzilaiBorweinFormula::Alternate,
                "long" => BarzilaiBorweinFormula::Long,
                "short" => BarzilaiBorweinFormula::Short,
                other => panic!("unknown formula {other}"),
            },
            period_steps: spec["period"].as_u64(),
            min_rate: number("min_rate"),
            max_rate: number("max_rate"),
            weight_decay,
        }),
        other => panic!("unknown optimizer {other}"),
    }
}

/// The `[train]` that a run's file asks for.
fn train_spec(run: &Value) -> TrainSpec {
    let groups = run["groups"].as_array().cloned().unwrap_or_default();
    let group = |group: &Value| GroupSpec {
        pattern: group["match"].as_str().unwrap().to_owned(),
        weight_decay: group["weight_decay"].as_f64(),
        learning_rate_factor: group["lr_factor"].as_f64().unwrap(),
    };
    let mut groups: Vec<GroupSpec> = groups.iter().map(group).collect();
    // One key of a job file says what this run's only group does.
    let decay_biases = run["name"] != "decay_biases";
    if !decay_biases {
        groups.clear();
    }
    TrainSpec {
        duration: TrainDuration::Steps(10),
        global_batch: 1,
        last_batch: LastBatch::Keep,
        seed: 0,
        accumulate: 1,
        precision: ringfold_common::job::Precision::F32,
        workspace_mb_max: None,
        optimizer: optimizer(&run["optimizer"]),
        groups,
        decay_biases,
        schedule: ScheduleSpec::constant(),
        clip_norm: run["clip_norm"].as_f64(),
        clip_value: run["clip_value"].as_f64(),
        ema: run["ema_decay"].as_f64().map(|decay| EmaSpec {
            decay,
            warmup: false,
        }),
        l2: 0.0,
        evaluate: EvaluateEvery::End,
        report_steps: 1,
        check_steps: 0,
    }
}

/// Repeats one run; true if it could be.
fn run(name: &str, file: &Value, run: &Value) -> bool {
    let what = format!("{name}, {}", run["name"].as_str().unwrap());
    let Some(network) = network(file) else {
        return false;
    };
    let train = train_spec(run);
    let layout = network.layout();
    let mut parameters: Arena<f32> = layout.zeros().unwrap();
    for slot in layout.slots() {
        let data = support::floats::<f32>(&file["initial"][&slot.name]["data"]);
        parameters[slot.range()].copy_from_slice(&data);
    }
    let mut gradients = layout.zeros().unwrap();
    let batch = file["batch"].as_u64().unwrap() as usize;
    let mut plans = network.plans([(Mode::Training, batch)]).unwrap();
    let mut optimizer = Optimizer::new(&train.optimizer, segments(layout, &train).unwrap(), 1);
    let mut ema = train.ema.map(|ema| Ema::new(ema, layout.len()).unwrap());
    for (step, batch_file) in file["batches"].as_array().unwrap().iter().enumerate() {
        let x = support::floats::<f32>(&batch_file["x"]);
        let (classes, values);
        let y = match network.target() {
            Target::Classes(_) | Target::Tokens(_) => {
                classes = support::ints(&batch_file["y"]);
                TensorRef::Int(&classes)
            }
            Target::Values(_) => {
                values = support::floats::<f32>(&batch_file["y"]);
                TensorRef::Float(&values)
            }
        };
        let (plan, workspace, _) = plans.get(Mode::Training, batch);
        let memory = TrainMemory {
            workspace: &mut *workspace,
            parameters: &*parameters,
            gradients: &mut *gradients,
        };
        let inputs = [TensorRef::Float(&x), y];
        plan.train(
            memory,
            &inputs,
            &RunArgs::default(),
            &mut |_: usize, _: &[f32]| {},
        )
        .unwrap();
        let loss = plan.scalar(workspace, LOSS).unwrap();
        let expected = run["losses"][step].as_f64().unwrap();
        assert_relative(&format!("{what}: loss {step}"), loss.into(), expected);

        if let Some(max) = train.clip_value {
            clip_values(&mut gradients, max);
        }
        let norm = global_norm(&gradients);
        let scale = train.clip_norm.map_or(1.0, |max| {
            let expected = run["gradient_norms"][step].as_f64().unwrap();
            assert_relative(&format!("{what}: norm {step}"), norm, expected);
            clip_scale(norm, max)
        });
        let rate = train.optimizer.learning_rate();
        optimizer.update(rate, scale, &mut parameters, &gradients);
        if let Some(ema) = &mut ema {
            ema.update(&parameters);
        }
    }
    let assert_all = |kind: &str, got: &[f32]| {
        for slot in layout.slots() {
            assert_tensor(
                &format!("{what}: {kind} {}", slot.name),
                &got[slot.range()],
                &support::floats::<f32>(&run[kind][&slot.name]["data"]),
            );
        }
    };
    assert_all("final", &parameters);
    if let Some(ema) = &ema {
        assert_all("average", ema.average());
    }
    true
}

/// Every run of a file that a job can ask for; at least `least` of them.
fn runs(name: &str, least: usize) {
    let file = support::read(name);
    let runs = file["runs"].as_array().unwrap();
    let repeated = runs.iter().filter(|one| run(name, &file, one)).count();
    assert!(repeated >= least, "{name}: only {repeated} runs");
}

#[test]
fn every_optimizer_takes_ten_steps_as_pytorch_does() {
    runs("mlp_relu.json", 9);
    runs("mlp_rules.json", 23);
}

#[test]
fn other_activations_and_losses_take_ten_steps_too() {
    for name in [
        "mlp_gelu.json",
        "mlp_tanh.json",
        "mlp_sigmoid.json",
        "linear.json",
    ] {
        runs(name, 1);
    }
}

/// The schedule that an entry of the file was made of, and the job's steps.
fn schedule(entry: &Value) -> (ScheduleSpec, u64) {
    let number = |key: &str| entry[key].as_f64().unwrap();
    let whole = |key: &str| entry[key].as_u64().unwrap();
    let steps = |key: &str| Period::Steps(whole(key));
    let mut steps_total = entry["rates"].as_array().unwrap().len() as u64;
    let decay = match entry["kind"].as_str().unwrap() {
        "step" => Decay::Step {
            every: steps("step_size"),
            gamma: number("gamma"),
        },
        "multi_step" => {
            let milestones = entry["milestones"].as_array().unwrap();
            let milestones = milestones.iter().map(|step| step.as_u64().unwrap());
            Decay::MultiStep {
                milestones: Milestones::Steps(milestones.collect()),
                gamma: number("gamma"),
            }
        }
        "exponential" => Decay::Exponential {
            every: Period::Steps(1),
            gamma: number("gamma"),
        },
        "cosine" => {
            steps_total = whole("total_steps");
            Decay::Cosine {
                min_rate: number("minimum"),
            }
        }
        "cosine_restarts" => Decay::CosineRestarts {
            first: steps("first"),
            factor: u32::try_from(whole("factor")).unwrap(),
            min_rate: number("minimum"),
        },
        "one_cycle" => Decay::OneCycle(OneCycle {
            pct_start: number("pct_start"),
            div_factor: number("div_factor"),
            final_div_factor: number("final_div_factor"),
            anneal: match entry["anneal"].as_str().unwrap() {
                "cosine" => Anneal::Cosine,
                "linear" => Anneal::Linear,
                other => panic!("unknown curve {other}"),
            },
        }),
        "polynomial" => Decay::Polynomial {
            over: Some(steps("over")),
            power: number("power"),
        },
        "linear" => Decay::Linear {
            over: Some(steps("over")),
            start_factor: number("start_factor"),
            end_factor: number("end_factor"),
        },
        other => panic!("unknown schedule {other}"),
    };
    let warmup_steps = entry["warmup_steps"].as_u64().unwrap_or(0);
    (
        ScheduleSpec {
            warmup_steps,
            decay,
        },
        steps_total,
    )
}

#[test]
fn schedules_give_the_rates_of_pytorch() {
    let file = support::read("schedules.json");
    for entry in file["schedules"].as_array().unwrap() {
        let rates = support::floats::<f64>(&entry["rates"]);
        let (spec, steps_total) = schedule(entry);
        let base = entry["base_lr"].as_f64().unwrap();
        let ours = Schedule::new(&spec, base, steps_total, 1);
        let ours: Vec<f64> = (1..=rates.len() as u64)
            .map(|step| ours.rate(Step(step)))
            .collect();
        support::assert_close(&entry.to_string(), &ours, &rates, 1e-9);
    }
}
