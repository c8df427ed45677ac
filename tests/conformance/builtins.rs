//! Built-in models against PyTorch with the same weights, in `f64`: scores, loss, every gradient,
//! five steps of gradient descent, running statistics, and evaluation.

mod support;

use ringfold_common::job::ModelSpec;
use ringfold_common::job_file::parse;
use ringfold_compute::{
    Cpu, CpuOptions, Mode, ParameterLayout, PlanOptions, RunArgs, StateLayout, TensorRef,
    TrainMemory, Workspace,
};
use ringfold_graph::models::{Frame, LOGITS, LOSS, PREDICTION, build};
use ringfold_graph::{DType, Graph, differentiate};
use serde_json::Value;

/// Goldens hold nine digits.
const TOLERANCE: f64 = 1e-6;

fn model(file: &Value) -> ModelSpec {
    let table = file["model"].as_str().unwrap();
    let text = format!(
        r#"
[model]
{table}
[data]
format = "csv"
path = "d.csv"
label = "y"
[train]
epochs = 1
global_batch = 1
[train.optimizer]
kind = "sgd"
learning_rate = 1
"#
    );
    let spec = parse(&text, "job.toml", "/", &[]);
    spec.unwrap_or_else(|error| panic!("{error}")).model
}

fn graph(file: &Value, model: &ModelSpec) -> Graph {
    let dims = support::sizes(&file["dims"]);
    let outputs = file["outputs"].as_u64().unwrap() as usize;
    let dims_of_images = if dims.len() > 1 { &*dims } else { &[] };
    let inputs = dims.iter().product();
    let frame = Frame {
        dtype: DType::F64,
        ..Frame::of_model(model, inputs, dims_of_images, outputs, 0.0).unwrap()
    };
    differentiate(&build(model, &frame).unwrap(), LOSS).unwrap()
}

fn assert_builtin(name: &str) {
    let file = support::read(&format!("builtin_{name}.json"));
    let model = model(&file);
    let graph = graph(&file, &model);
    let layout = ParameterLayout::new::<f64>(&graph).unwrap();
    let states = StateLayout::new::<f64>(&graph).unwrap();
    let batch = file["batch"].as_u64().unwrap() as usize;
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let plan = |mode| {
        let options = PlanOptions { mode, batch };
        cpu.plan::<f64>(&graph, &layout, options).unwrap()
    };
    let (train, evaluate) = (plan(Mode::Training), plan(Mode::Evaluation));
    let mut parameters = layout.zeros::<f64>().unwrap();
    let initial = file["initial"].as_object().unwrap();
    assert_eq!(initial.len(), layout.slots().len(), "{name}");
    for slot in layout.slots() {
        let tensor = initial.get(&slot.name);
        let tensor = tensor.unwrap_or_else(|| panic!("{name}: PyTorch has no {}", slot.name));
        assert_eq!(
            support::sizes(&tensor["shape"]),
            slot.shape,
            "{}",
            slot.name
        );
        parameters[slot.range()].copy_from_slice(&support::floats::<f64>(&tensor["data"]));
    }
    let mut state = states.initial::<f64>().unwrap();
    let mut gradients = layout.zeros::<f64>().unwrap();
    let len = train.workspace_len().max(evaluate.workspace_len());
    let mut workspace = Workspace::new(len).unwrap();
    let x = support::floats::<f64>(&file["x"]);
    let takes_classes = model.loss.takes_classes();
    let labels = support::floats::<f64>(&file["y"]);
    let classes: Vec<i32> = labels.iter().map(|&class| class as i32).collect();
    let (y, scores) = if takes_classes {
        (TensorRef::Int(&classes), LOGITS)
    } else {
        (TensorRef::Float(&labels), PREDICTION)
    };
    let inputs = [TensorRef::Float(&x), y];
    let losses = support::floats::<f64>(&file["losses"]);
    let rate = file["rate"].as_f64().unwrap();
    for (step, loss) in losses.iter().enumerate() {
        let memory = TrainMemory {
            workspace: &mut workspace,
            parameters: &*parameters,
            gradients: &mut *gradients,
        };
        let mut ready = |_: usize, _: &[f64]| {};
        let args = RunArgs::default();
        train
            .train_with_state(memory, &mut state, &inputs, &args, &mut ready)
            .unwrap();
        let close = |what: &str, got: &[f64], expected: &Value| {
            let expected = support::floats(expected);
            support::assert_close(&format!("{name}: {what}"), got, &expected, TOLERANCE);
        };
        if step == 0 {
            if takes_classes {
                close(
                    "scores",
                    train.output(&workspace, scores).unwrap(),
                    &file["scores"],
                );
            }
            for slot in layout.slots() {
                close(
                    &format!("gradient of {}", slot.name),
                    &gradients[slot.range()],
                    &file["gradients"][&slot.name],
                );
            }
        }
        let got = train.scalar(&workspace, LOSS).unwrap();
        let what = format!("{name}: loss of step {step}");
        support::assert_close(&what, &[got], &[*loss], TOLERANCE);
        for (parameter, gradient) in parameters.iter_mut().zip(gradients.iter()) {
            *parameter -= rate * gradient;
        }
    }
    let expected = file["states"].as_object().unwrap();
    assert_eq!(expected.len(), states.slots().len(), "{name}");
    for slot in states.slots() {
        let tensor = &expected[&slot.name];
        let what = format!("{name}: {}", slot.name);
        support::assert_close(
            &what,
            &state[slot.range()],
            &support::floats(tensor),
            TOLERANCE,
        );
    }
    if takes_classes {
        evaluate
            .infer_with_state(&mut workspace, &parameters, &state, &inputs)
            .unwrap();
        let got = evaluate.output(&workspace, scores).unwrap();
        let expected = support::floats(&file["evaluated"]);
        support::assert_close(&format!("{name}: evaluated"), got, &expected, TOLERANCE);
    }
}

#[test]
fn cnn() {
    assert_builtin("cnn");
}

#[test]
fn cnn_batch_norm() {
    assert_builtin("cnn_batch_norm");
}

#[test]
fn resnet18_cifar() {
    assert_builtin("resnet18_cifar");
}

#[test]
fn resnet18_imagenet() {
    assert_builtin("resnet18_imagenet");
}

#[test]
fn sequential_images() {
    assert_builtin("sequential_images");
}

#[test]
fn sequential_tokens() {
    assert_builtin("sequential_tokens");
}

#[test]
fn lstm_of_numbers() {
    assert_builtin("lstm_classes");
    assert_builtin("lstm_numbers");
}

#[test]
fn losses_of_numbers() {
    for loss in [
        "mean_absolute_error",
        "huber",
        "binary_cross_entropy",
        "poisson",
        "gamma",
        "normal",
    ] {
        assert_builtin(loss);
    }
}
