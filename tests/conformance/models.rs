//! Forward, loss and gradients of whole models against PyTorch, in `f32`.
//!
//! The ten-step optimizer runs in the same files are compared in `optimizers.rs`.

mod support;

use ringfold_compute::{
    Cpu, CpuOptions, Mode, ParameterLayout, PlanOptions, RunArgs, TensorRef, TrainMemory,
};
use ringfold_graph::models::{LOSS, Loss, MlpOptions, mlp};
use ringfold_graph::{Activation, Graph, differentiate};
use serde_json::Value;

const TOLERANCE: f64 = 1e-6;

fn model(file: &Value) -> (Graph, Loss) {
    let model = &file["model"];
    let size = |name: &str| model[name].as_u64().unwrap() as usize;
    let hidden = support::sizes(&model["hidden"]);
    let mut options = MlpOptions::classifier(size("inputs"), &hidden, size("outputs"));
    options.activation = match model["activation"].as_str().unwrap() {
        "relu" => Activation::Relu,
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        "tanh" => Activation::Tanh,
        "sigmoid" => Activation::Sigmoid,
        other => panic!("unknown activation {other}"),
    };
    options.loss = match model["loss"].as_str().unwrap() {
        "cross_entropy" => Loss::CrossEntropy,
        "mean_squared_error" => Loss::MeanSquaredError,
        other => panic!("unknown loss {other}"),
    };
    options.l2 = model["l2"].as_f64().unwrap();
    let graph = differentiate(&mlp(&options).unwrap(), LOSS).unwrap();
    (graph, options.loss)
}

fn assert_first_batch(name: &str) {
    let file = support::read(name);
    let (graph, loss) = model(&file);
    let layout = ParameterLayout::new::<f32>(&graph).unwrap();
    let options = PlanOptions {
        mode: Mode::Training,
        batch: file["batch"].as_u64().unwrap() as usize,
    };
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let plan = cpu.plan::<f32>(&graph, &layout, options).unwrap();
    let mut parameters = layout.zeros::<f32>().unwrap();
    let initial = file["initial"].as_object().unwrap();
    assert_eq!(initial.len(), layout.slots().len());
    for slot in layout.slots() {
        let tensor = &initial[&slot.name];
        assert_eq!(support::sizes(&tensor["shape"]), slot.shape);
        parameters[slot.range()].copy_from_slice(&support::floats::<f32>(&tensor["data"]));
    }
    let batch = &file["batches"][0];
    let x = support::floats::<f32>(&batch["x"]);
    let (classes, targets);
    let (y, output) = if loss.takes_classes() {
        classes = support::ints(&batch["y"]);
        (TensorRef::Int(&classes), "logits")
    } else {
        targets = support::floats::<f32>(&batch["y"]);
        (TensorRef::Float(&targets), "prediction")
    };
    let mut gradients = layout.zeros::<f32>().unwrap();
    let mut workspace = plan.workspace().unwrap();
    let memory = TrainMemory {
        workspace: &mut workspace,
        parameters: &*parameters,
        gradients: &mut *gradients,
    };
    let mut ready = |_: usize, _: &[f32]| {};
    let inputs = [TensorRef::Float(&x), y];
    plan.train(memory, &inputs, &RunArgs::default(), &mut ready)
        .unwrap();

    let first = &file["first"];
    support::assert_close(
        &format!("{name}: {output}"),
        plan.output(&workspace, output).unwrap(),
        &support::floats(&first["output"]["data"]),
        TOLERANCE,
    );
    support::assert_close(
        &format!("{name}: loss"),
        &[plan.scalar(&workspace, LOSS).unwrap()],
        &[first["loss"].as_f64().unwrap() as f32],
        TOLERANCE,
    );
    for slot in layout.slots() {
        support::assert_close(
            &format!("{name}: gradient of {}", slot.name),
            &gradients[slot.range()],
            &support::floats(&first["gradients"][&slot.name]["data"]),
            TOLERANCE,
        );
    }
}

#[test]
fn relu() {
    assert_first_batch("mlp_relu.json");
}

#[test]
fn gelu_with_penalty() {
    assert_first_batch("mlp_gelu.json");
}

#[test]
fn tanh_regression() {
    assert_first_batch("mlp_tanh.json");
}

#[test]
fn sigmoid() {
    assert_first_batch("mlp_sigmoid.json");
}

#[test]
fn gelu_tanh_regression() {
    assert_first_batch("mlp_gelu_tanh.json");
}

#[test]
fn linear() {
    assert_first_batch("linear.json");
}
