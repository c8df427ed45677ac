//! Small networks that PyTorch exported (`golden/onnx`, written by `make_onnx_goldens.py`): scores,
//! loss, every gradient and five steps of training as PyTorch computes them; and what is written back,
//! read again and run by ONNX Runtime.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringfold_common::job::{AdamOptions, OptimizerSpec, SgdOptions};
use ringfold_compute::{
    Cpu, CpuOptions, Mode, ParameterLayout, PlanOptions, RunArgs, StateLayout, TensorRef,
    TrainMemory,
};
use ringfold_graph::models::LOSS;
use ringfold_graph::onnx::{self, Imported, Loss, ReadOptions, TensorKind, append_loss};
use ringfold_graph::op::Distance;
use ringfold_graph::{Graph, differentiate};
use ringfold_train::optimizer::{Optimizer, Segment};
use safetensors::SafeTensors;
use serde_json::Value;

/// Relative to the largest number of a tensor.
const TOLERANCE: f64 = 1e-4;
const STEPS: u64 = 5;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/golden/onnx")
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = tensors
        .tensor(name)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let chunks = tensor.data().chunks_exact(4);
    chunks
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn longs(tensors: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let tensor = tensors.tensor(name).unwrap();
    let chunks = tensor.data().chunks_exact(8);
    chunks
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn size(data: &[f32]) -> f64 {
    data.iter()
        .fold(0.0f64, |size, &x| size.max(f64::from(x.abs())))
}

/// `floor` is what counts as the largest number where all are tiny.
fn assert_near(what: &str, got: &[f32], expected: &[f32], floor: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let size = size(expected).max(floor);
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - f64::from(expected)).abs() / size;
        assert!(
            error <= TOLERANCE,
            "{what}[{i}]: expected {expected}, got {got} (error {error:e})"
        );
    }
}

enum Owned {
    Float(Vec<f32>),
    Long(Vec<i64>),
    Int(Vec<i32>),
}

impl Owned {
    fn tensor(&self) -> TensorRef<'_, f32> {
        match self {
            Self::Float(data) => TensorRef::Float(data),
            Self::Long(data) => TensorRef::Long(data),
            Self::Int(data) => TensorRef::Int(data),
        }
    }
}

/// A network in training, and what PyTorch says of it.
struct Case {
    name: String,
    imported: Imported,
    graph: Graph,
    layout: ParameterLayout,
    states: StateLayout,
    x: Owned,
    y: Owned,
    batch: usize,
}

fn read_case(name: &str, tensors: &SafeTensors<'_>, loss: &str) -> Case {
    let bytes = std::fs::read(folder().join(format!("{name}.onnx"))).unwrap();
    let imported = onnx::read(&bytes, &ReadOptions::default()).unwrap_or_else(|e| {
        panic!("{name}: {e}");
    });
    let mut graph = imported.graph.clone();
    let rank = tensors.tensor("output").unwrap().shape().len();
    let loss = match loss {
        "cross_entropy" => Loss::CrossEntropy {
            axis: if rank == 4 { 1 } else { -1 },
            ignore: None,
            smoothing: 0.0,
        },
        "mse" => Loss::MeanSquaredError,
        _ => Loss::Distance(Distance::Logistic),
    };
    append_loss(&mut graph, Some("scores"), &loss).unwrap();
    let graph = differentiate(&graph, LOSS).unwrap_or_else(|e| panic!("{name}: {e}"));
    let x = tensors.tensor("input.x").unwrap();
    let either = |key: &str| match tensors.tensor(key).unwrap().dtype() {
        safetensors::Dtype::F32 => Owned::Float(floats(tensors, key)),
        _ => Owned::Long(longs(tensors, key)),
    };
    let y = match either("labels") {
        Owned::Long(labels) => Owned::Int(labels.into_iter().map(|x| x as i32).collect()),
        other => other,
    };
    Case {
        name: name.to_owned(),
        layout: ParameterLayout::new::<f32>(&graph).unwrap(),
        states: StateLayout::new::<f32>(&graph).unwrap(),
        batch: x.shape()[0],
        x: either("input.x"),
        y,
        imported,
        graph,
    }
}

fn optimizer(case: &Case, spec: &Value) -> Optimizer {
    let number = |key: &str| spec[key].as_f64().unwrap();
    let spec = match spec["kind"].as_str().unwrap() {
        "sgd" => OptimizerSpec::Sgd(SgdOptions {
            learning_rate: number("lr"),
            momentum: number("momentum"),
            dampening: 0.0,
            nesterov: false,
            weight_decay: 0.0,
        }),
        _ => OptimizerSpec::AdamW(AdamOptions {
            learning_rate: number("lr"),
            beta1: 0.9,
            beta2: 0.999,
            epsilon: number("eps"),
            amsgrad: false,
            weight_decay: number("weight_decay"),
        }),
    };
    let decay = match spec {
        OptimizerSpec::AdamW(options) => options.weight_decay,
        _ => 0.0,
    };
    let slots = case.layout.slots();
    let ends = slots.iter().skip(1).map(|slot| slot.offset);
    let ends = ends.chain([case.layout.len()]);
    let segments = slots.iter().zip(ends).map(|(slot, end)| Segment {
        range: slot.offset..end,
        weight_decay: decay,
        rate_factor: 1.0,
    });
    Optimizer::new(&spec, segments.collect(), STEPS)
}

/// Trains as the golden file says and compares; returns parameters and states by name.
fn train(case: &Case, tensors: &SafeTensors<'_>, spec: &Value) -> BTreeMap<String, Vec<f32>> {
    let name = &case.name;
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let options = PlanOptions {
        mode: Mode::Training,
        batch: case.batch,
    };
    let plan = cpu.plan::<f32>(&case.graph, &case.layout, options).unwrap();
    let mut parameters = case.layout.zeros::<f32>().unwrap();
    let mut state = case.states.initial::<f32>().unwrap();
    let onnx_names: BTreeMap<&str, &str> = case
        .imported
        .tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.onnx_name.as_str()))
        .collect();
    for tensor in &case.imported.tensors {
        match tensor.kind {
            TensorKind::Parameter => {
                let slot = case.layout.slot(&tensor.name).unwrap();
                parameters[slot.range()].copy_from_slice(&tensor.data);
            }
            TensorKind::State => {
                let slot = case.states.slot(&tensor.name).unwrap();
                state[slot.range()].copy_from_slice(&tensor.data);
            }
        }
    }
    // What is trained is what PyTorch trains.
    let mut expected: Vec<String> = tensors
        .names()
        .iter()
        .filter_map(|name| name.strip_prefix("gradient.").map(str::to_owned))
        .collect();
    expected.sort();
    let mut got: Vec<String> = case
        .layout
        .slots()
        .iter()
        .map(|slot| onnx_names[slot.name.as_str()].to_owned())
        .collect();
    got.sort();
    assert_eq!(got, expected, "{name}: parameters");

    let mut rule = optimizer(case, spec);
    let mut gradients = case.layout.zeros::<f32>().unwrap();
    let mut workspace = plan.workspace().unwrap();
    for step in 0..STEPS {
        let memory = TrainMemory {
            workspace: &mut workspace,
            parameters: &*parameters,
            gradients: &mut *gradients,
        };
        let args = RunArgs {
            step,
            ..RunArgs::default()
        };
        let inputs = [case.x.tensor(), case.y.tensor()];
        let mut ready = |_: usize, _: &[f32]| {};
        plan.train_with_state(memory, &mut state, &inputs, &args, &mut ready)
            .unwrap();
        if step == 0 {
            let scores = plan.output(&workspace, "scores").unwrap();
            assert_near(
                &format!("{name}: scores"),
                scores,
                &floats(tensors, "output"),
                0.0,
            );
            let loss = plan.scalar(&workspace, LOSS).unwrap();
            assert_near(
                &format!("{name}: loss"),
                &[loss],
                &floats(tensors, "loss"),
                0.0,
            );
            // Gradients that are zero but for rounding are compared with the others.
            let all = tensors
                .names()
                .into_iter()
                .filter(|name| name.starts_with("gradient."));
            let largest = all
                .map(|name| size(&floats(tensors, name)))
                .fold(0.0, f64::max);
            for slot in case.layout.slots() {
                let onnx_name = onnx_names[slot.name.as_str()];
                assert_near(
                    &format!("{name}: gradient of {onnx_name}"),
                    &gradients[slot.range()],
                    &floats(tensors, &format!("gradient.{onnx_name}")),
                    1e-3 * largest,
                );
            }
        }
        let rate = spec["lr"].as_f64().unwrap();
        rule.update(rate, 1.0, &mut parameters, &gradients);
    }
    let mut trained = BTreeMap::new();
    for slot in case.layout.slots() {
        let onnx_name = onnx_names[slot.name.as_str()];
        let got = &parameters[slot.range()];
        let expected = floats(tensors, &format!("final.{onnx_name}"));
        assert_near(&format!("{name}: trained {onnx_name}"), got, &expected, 0.0);
        trained.insert(slot.name.clone(), got.to_vec());
    }
    for slot in case.states.slots() {
        let onnx_name = onnx_names[slot.name.as_str()];
        let got = &state[slot.range()];
        let expected = floats(tensors, &format!("state.{onnx_name}"));
        assert_near(&format!("{name}: state {onnx_name}"), got, &expected, 0.0);
        trained.insert(slot.name.clone(), got.to_vec());
    }
    trained
}

/// The scores that a model predicts, all of its tensors constants.
fn predict(bytes: &[u8], x: &Owned, batch: usize) -> Vec<f32> {
    let options = ReadOptions {
        freeze: vec!["*".to_owned()],
        ..ReadOptions::default()
    };
    let model = onnx::read(bytes, &options).unwrap();
    let layout = ParameterLayout::new::<f32>(&model.graph).unwrap();
    let options = PlanOptions {
        mode: Mode::Prediction,
        batch,
    };
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let plan = cpu.plan::<f32>(&model.graph, &layout, options).unwrap();
    let mut workspace = plan.workspace().unwrap();
    plan.infer(&mut workspace, &[], &[x.tensor()]).unwrap();
    plan.output(&workspace, "scores").unwrap().to_vec()
}

/// The scores of the network in training, without its batch's own statistics.
fn predict_with(case: &Case, trained: &BTreeMap<&str, &[f32]>) -> Vec<f32> {
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let options = PlanOptions {
        mode: Mode::Prediction,
        batch: case.batch,
    };
    let plan = cpu.plan::<f32>(&case.graph, &case.layout, options).unwrap();
    let mut parameters = case.layout.zeros::<f32>().unwrap();
    let mut state = case.states.initial::<f32>().unwrap();
    for slot in case.layout.slots() {
        parameters[slot.range()].copy_from_slice(trained[slot.name.as_str()]);
    }
    for slot in case.states.slots() {
        state[slot.range()].copy_from_slice(trained[slot.name.as_str()]);
    }
    let mut workspace = plan.workspace().unwrap();
    plan.infer_with_state(&mut workspace, &parameters, &state, &[case.x.tensor()])
        .unwrap();
    plan.output(&workspace, "scores").unwrap().to_vec()
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Compares in ONNX Runtime: its arguments are triples of a model, a golden file and a file of scores.
const RUNTIME: &str = r#"
import sys
import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file
for model, golden, scores in zip(*[iter(sys.argv[1:])] * 3):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    got = session.run(["scores"], {"x": load_file(golden)["input.x"]})[0]
    expected = np.fromfile(scores, np.float32).reshape(got.shape)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error < 1e-4, (model, error)
    print("ran", model)
"#;

/// The model written after training, the golden file, and the scores that are expected of the model.
fn train_and_write(name: &str, out: &Path) -> [PathBuf; 3] {
    let golden = folder().join(format!("{name}.safetensors"));
    let bytes = std::fs::read(&golden).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let spec: Value = serde_json::from_str(&metadata["optimizer"]).unwrap();
    let case = read_case(name, &tensors, &metadata["loss"]);
    let trained = train(&case, &tensors, &spec);
    let views = trained.iter();
    let trained: BTreeMap<&str, &[f32]> = views
        .map(|(name, data)| (name.as_str(), data.as_slice()))
        .collect();
    let written = onnx::write(&case.imported.graph, &trained).unwrap();
    let scores = predict(&written, &case.x, case.batch);
    let own = predict_with(&case, &trained);
    assert_near(&format!("{name}: read again"), &scores, &own, 0.0);
    let model = out.join(format!("{name}.onnx"));
    std::fs::write(&model, &written).unwrap();
    let file = out.join(format!("{name}.scores"));
    let raw: Vec<u8> = own.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(&file, raw).unwrap();
    [model, golden, file]
}

#[test]
fn exported_networks_train_as_in_pytorch_and_run_elsewhere() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("onnx_models");
    std::fs::create_dir_all(&out).unwrap();
    let names = names();
    assert!(names.len() >= 12);
    let mut triples = Vec::new();
    let mut failures = Vec::new();
    for name in &names {
        // All networks that differ are told at once.
        match std::panic::catch_unwind(|| train_and_write(name, &out)) {
            Ok(triple) => triples.extend(triple),
            Err(_) => failures.push(name),
        }
    }
    assert!(failures.is_empty(), "these differ: {failures:?}");
    let Some(python) = std::env::var_os("RINGFOLD_TEST_PYTHON") else {
        println!("skipped: written models in ONNX Runtime: RINGFOLD_TEST_PYTHON isn't set");
        return;
    };
    let check = "import numpy, onnx, onnxruntime, safetensors";
    let has = Command::new(&python).args(["-c", check]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        println!("skipped: written models in ONNX Runtime: Python lacks onnx or onnxruntime");
        return;
    }
    let ran = Command::new(&python)
        .args(["-c", RUNTIME])
        .args(&triples)
        .output();
    let ran = ran.unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let lines = String::from_utf8_lossy(&ran.stdout).lines().count();
    assert_eq!(lines, names.len());
}
