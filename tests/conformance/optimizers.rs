//! Ten steps of whole models against PyTorch, in `f32`: optimizers, weight decay, clipping; and the
//! learning rates of schedules.

mod support;

use ringfold_common::dataset::Target;
use ringfold_common::ids::Step;
use ringfold_common::job::{
    Activation, AdamOptions, Architecture, Decay, Initialiser, Loss, MlpSpec, ModelSpec,
    OptimizerSpec, Period, ScheduleSpec, SgdOptions,
};
use ringfold_compute::{Arena, Mode, RunArgs, TensorRef, TrainMemory};
use ringfold_graph::models::LOSS;
use ringfold_train::network::Network;
use ringfold_train::optimizer::{Optimizer, clip_scale, global_norm};
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
    };
    let features = u32::try_from(model["inputs"].as_u64().unwrap()).unwrap();
    Some(Network::new(&spec, features, &target, model["l2"].as_f64().unwrap(), 1).unwrap())
}

/// `None` for what a job can't ask for.
fn optimizer(spec: &Value) -> Option<OptimizerSpec> {
    let number = |key: &str| spec[key].as_f64().unwrap();
    let kind = spec["kind"].as_str().unwrap();
    if kind == "sgd" {
        return (number("dampening") == 0.0).then(|| {
            OptimizerSpec::Sgd(SgdOptions {
                learning_rate: number("lr"),
                momentum: number("momentum"),
                nesterov: spec["nesterov"].as_bool().unwrap(),
                weight_decay: number("weight_decay"),
            })
        });
    }
    let options = AdamOptions {
        learning_rate: number("lr"),
        beta1: spec["betas"][0].as_f64().unwrap(),
        beta2: spec["betas"][1].as_f64().unwrap(),
        epsilon: number("eps"),
        weight_decay: number("weight_decay"),
    };
    match kind {
        "adam" => Some(OptimizerSpec::Adam(options)),
        "adamw" => Some(OptimizerSpec::AdamW(options)),
        other => panic!("unknown optimizer {other}"),
    }
}

/// Repeats one run; true if it could be.
fn run(name: &str, file: &Value, run: &Value) -> bool {
    let what = format!("{name}, {}", run["name"].as_str().unwrap());
    let (Some(network), Some(spec)) = (network(file), optimizer(&run["optimizer"])) else {
        return false;
    };
    let layout = network.layout();
    let mut parameters: Arena<f32> = layout.zeros().unwrap();
    for slot in layout.slots() {
        let data = support::floats::<f32>(&file["initial"][&slot.name]["data"]);
        parameters[slot.range()].copy_from_slice(&data);
    }
    let mut gradients = layout.zeros().unwrap();
    let batch = file["batch"].as_u64().unwrap() as usize;
    let mut plans = network.plans([(Mode::Training, batch)]).unwrap();
    let mut optimizer = Optimizer::new(&spec, layout.len());
    for (step, batch_file) in file["batches"].as_array().unwrap().iter().enumerate() {
        let x = support::floats::<f32>(&batch_file["x"]);
        let (classes, values);
        let y = match network.target() {
            Target::Classes(_) => {
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

        let norm = global_norm(&gradients);
        let scale = run["clip_norm"].as_f64().map_or(1.0, |max| {
            let expected = run["gradient_norms"][step].as_f64().unwrap();
            assert_relative(&format!("{what}: norm {step}"), norm, expected);
            clip_scale(norm, max)
        });
        optimizer.update(spec.learning_rate(), scale, &mut parameters, &gradients);
    }
    for slot in layout.slots() {
        assert_tensor(
            &format!("{what}: final {}", slot.name),
            &parameters[slot.range()],
            &support::floats::<f32>(&run["final"][&slot.name]["data"]),
        );
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
    runs("mlp_relu.json", 8);
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

#[test]
fn schedules_give_the_rates_of_pytorch() {
    let file = support::read("schedules.json");
    for schedule in file["schedules"].as_array().unwrap() {
        let number = |key: &str| schedule[key].as_f64().unwrap();
        let whole = |key: &str| schedule[key].as_u64().unwrap();
        let rates = support::floats::<f64>(&schedule["rates"]);
        let (spec, steps_total) = match schedule["kind"].as_str().unwrap() {
            "step" => {
                let every = Period::Steps(whole("step_size"));
                let decay = Decay::Step {
                    every,
                    gamma: number("gamma"),
                };
                (
                    ScheduleSpec {
                        warmup_steps: 0,
                        decay,
                    },
                    rates.len() as u64,
                )
            }
            "cosine" => {
                let decay = Decay::Cosine {
                    min_rate: number("minimum"),
                };
                let spec = ScheduleSpec {
                    warmup_steps: whole("warmup_steps"),
                    decay,
                };
                (spec, whole("total_steps"))
            }
            other => panic!("unknown schedule {other}"),
        };
        let ours = Schedule::new(spec, number("base_lr"), steps_total, 1);
        let ours: Vec<f64> = (1..=rates.len() as u64)
            .map(|step| ours.rate(Step(step)))
            .collect();
        support::assert_close(&schedule.to_string(), &ours, &rates, 1e-9);
    }
}
