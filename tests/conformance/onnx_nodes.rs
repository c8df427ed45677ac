//! ONNX's own tests of operators, against `onnx_nodes.txt`: which pass, and why others are skipped.
//!
//! `RINGFOLD_TEST_PYTHON` names a Python with the `onnx` package, which has the tests;
//! without it this prints `skipped:`. `RINGFOLD_BLESS=1` rewrites the list, which may lose no pass: a
//! listed pass that fails is a failure of this test either way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use ringfold_compute::{Cpu, CpuOptions, Mode, ParameterLayout, PlanOptions, TensorRef};
use ringfold_graph::onnx::{self, OnnxError, ReadOptions, Tensor};
use ringfold_graph::{ConstantData, DType};

/// Where the package's version may differ from the list's, new tests may appear.
const LIST: &str = "conformance/onnx_nodes.txt";

fn list_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(LIST)
}

/// Name and, of a skip, its reason.
fn read_list() -> BTreeMap<String, Option<String>> {
    let text = std::fs::read_to_string(list_path()).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let entry = |line: &str| match line.split_once(": ") {
        Some((name, reason)) => (name.to_owned(), Some(reason.to_owned())),
        None => (line.to_owned(), None),
    };
    lines.map(entry).collect()
}

fn write_list(results: &BTreeMap<String, Result<(), String>>, version: &str) {
    let passes = results.values().filter(|result| result.is_ok()).count();
    let mut text = format!(
        "# Node tests of onnx {version} whose operators Ringfold claims: {passes} pass, {} are skipped.\n\
         # A name alone passes; after a colon stands why a test is skipped. Written by onnx_nodes.rs.\n",
        results.len() - passes
    );
    for (name, result) in results {
        match result {
            Ok(()) => text += &format!("{name}\n"),
            Err(reason) => text += &format!("{name}: {reason}\n"),
        }
    }
    std::fs::write(list_path(), text).unwrap();
}

fn tensors(folder: &Path, kind: &str) -> Result<Vec<Tensor>, String> {
    let mut tensors = Vec::new();
    loop {
        let path = folder.join(format!("{kind}_{}.pb", tensors.len()));
        let Ok(bytes) = std::fs::read(&path) else {
            return Ok(tensors);
        };
        let (_, tensor) = onnx::read_tensor(&bytes).map_err(|e| e.to_string())?;
        tensors.push(tensor);
    }
}

fn describe(error: &OnnxError) -> String {
    let text = match error {
        OnnxError::Unsupported { operator, what, .. } => format!("{operator}: {what}"),
        OnnxError::Node {
            operator, source, ..
        } => format!("{operator}: {source}"),
        other => other.to_string(),
    };
    text.replace('\n', " ")
}

/// The names of a model's inputs, which the reader's error tells when one is asked for in vain.
fn input_names(bytes: &[u8]) -> Vec<String> {
    onnx::inputs(bytes).unwrap_or_default()
}

/// Tests that no other implementation can pass, or whose numbers are rounded.
const ASIDE: &[(&str, &str)] = &[
    ("test_training_dropout", "its random numbers are NumPy's"),
    (
        "test_training_dropout_default",
        "its random numbers are NumPy's",
    ),
    (
        "test_averagepool_2d_ceil_last_window_starts_on_pad",
        "its numbers have four digits",
    ),
];

/// Runs a test; `Err` says why it can't be run, a panic that it fails.
fn run(folder: &Path) -> Result<(), String> {
    let bytes = std::fs::read(folder.join("model.onnx")).unwrap();
    let name = folder.file_name().unwrap().to_string_lossy();
    if let Some((_, reason)) = ASIDE.iter().find(|(aside, _)| name == *aside) {
        return Err((*reason).to_owned());
    }
    let inputs = tensors(folder, "input")?;
    let expected = tensors(folder, "output")?;
    let names = input_names(&bytes);
    // Inputs stay open if that is possible; else sizes and the like are made known, at last all.
    let all: BTreeSet<usize> = (0..inputs.len()).collect();
    let whole: BTreeSet<usize> = all
        .iter()
        .copied()
        .filter(|&i| !matches!(inputs[i].data, ConstantData::Float(_)))
        .collect();
    let rest: BTreeSet<usize> = all.iter().copied().skip(1).collect();
    let mut reason = String::new();
    for known in [BTreeSet::new(), whole, rest, all] {
        let options = ReadOptions {
            known: known
                .iter()
                .filter_map(|&i| Some((names.get(i)?.clone(), inputs[i].clone())))
                .collect(),
            freeze: vec!["*".to_owned()],
            ..ReadOptions::default()
        };
        match onnx::read(&bytes, &options) {
            Ok(model) => return check(&model, &names, &inputs, &expected),
            Err(error) => reason = describe(&error),
        }
    }
    Err(reason)
}

enum Owned {
    Float(Vec<f32>),
    Int(Vec<i32>),
    Long(Vec<i64>),
    Bool(Vec<u8>),
}

fn owned(tensor: &Tensor, dtype: DType) -> Owned {
    match (&tensor.data, dtype) {
        (ConstantData::Float(data), _) => Owned::Float(data.iter().map(|&x| x as f32).collect()),
        (ConstantData::Int(data), DType::I32) => {
            Owned::Int(data.iter().map(|&x| x as i32).collect())
        }
        (ConstantData::Int(data), _) => Owned::Long(data.clone()),
        (ConstantData::Bool(data), _) => Owned::Bool(data.iter().map(|&b| u8::from(b)).collect()),
    }
}

fn check(
    model: &onnx::Imported,
    names: &[String],
    inputs: &[Tensor],
    expected: &[Tensor],
) -> Result<(), String> {
    let layout = ParameterLayout::new::<f32>(&model.graph).map_err(|e| e.to_string())?;
    let options = PlanOptions {
        mode: Mode::Prediction,
        batch: 1,
    };
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let plan = cpu
        .plan::<f32>(&model.graph, &layout, options)
        .map_err(|e| e.to_string())?;
    let mut given = Vec::new();
    for spec in plan.inputs() {
        let pair = model
            .report
            .inputs
            .iter()
            .find(|(_, own)| *own == spec.name);
        let (name, _) = pair.unwrap();
        let position = names.iter().position(|n| n == name).unwrap();
        given.push(owned(&inputs[position], spec.dtype));
    }
    let refs: Vec<TensorRef<'_, f32>> = given
        .iter()
        .map(|tensor| match tensor {
            Owned::Float(data) => TensorRef::Float(data),
            Owned::Int(data) => TensorRef::Int(data),
            Owned::Long(data) => TensorRef::Long(data),
            Owned::Bool(data) => TensorRef::Bool(data),
        })
        .collect();
    let mut workspace = plan.workspace().unwrap();
    plan.infer(&mut workspace, &[], &refs)
        .map_err(|e| e.to_string())?;
    for ((_, own), expected) in model.report.outputs.iter().zip(expected) {
        let got = plan.output(&workspace, own).unwrap();
        let spec = plan.outputs().find(|spec| spec.name == *own).unwrap();
        assert_eq!(spec.shape, expected.shape, "{own}: shape");
        let numbers: Vec<f64> = match &expected.data {
            ConstantData::Float(data) => data.clone(),
            ConstantData::Int(data) => data.iter().map(|&x| x as f64).collect(),
            ConstantData::Bool(data) => data.iter().map(|&b| f64::from(u8::from(b))).collect(),
        };
        for (i, (&got, &expected)) in got.iter().zip(&numbers).enumerate() {
            let got = f64::from(got);
            let same = got == expected
                || (got.is_nan() && expected.is_nan())
                || (got - expected).abs() <= 1e-6 + 1e-5 * expected.abs();
            assert!(same, "{own}[{i}]: expected {expected}, got {got}");
        }
    }
    Ok(())
}

#[test]
fn node_tests_of_onnx_pass() {
    let Some(python) = std::env::var_os("RINGFOLD_TEST_PYTHON") else {
        println!("skipped: ONNX's node tests: RINGFOLD_TEST_PYTHON isn't set");
        return;
    };
    let has_onnx = Command::new(&python).args(["-c", "import onnx"]).output();
    if !has_onnx.is_ok_and(|output| output.status.success()) {
        println!("skipped: ONNX's node tests: Python has no package onnx");
        return;
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("onnx_nodes");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/onnx_nodes.py");
    let _ = std::fs::remove_dir_all(&out);
    let made = Command::new(&python).arg(script).arg(&out).status();
    assert!(made.unwrap().success(), "onnx_nodes.py failed");

    let listed = read_list();
    let bless = std::env::var_os("RINGFOLD_BLESS").is_some();
    let version = std::fs::read_to_string(out.join("version")).unwrap();
    let mut results = BTreeMap::new();
    let mut failures = Vec::new();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let result = std::panic::catch_unwind(|| run(&folder));
        let result = result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!(
                "wrong: {}",
                text.unwrap_or_default().replace('\n', " ")
            ))
        });
        match (&result, listed.get(&name)) {
            (Err(reason), Some(None)) => failures.push(format!("{name}: {reason}")),
            // Operators and opsets that aren't claimed.
            (Err(reason), _)
                if reason.ends_with("the operator isn't supported")
                    || reason.starts_with("model: expected an opset") =>
            {
                continue;
            }
            _ => {}
        }
        results.insert(name, result);
    }
    for (name, _) in listed.iter().filter(|(_, reason)| reason.is_none()) {
        if !results.contains_key(name) {
            println!("skipped: {name}: onnx {} doesn't have it", version.trim());
        }
    }
    assert!(
        failures.is_empty(),
        "tests that passed before: {failures:#?}"
    );
    if bless {
        write_list(&results, version.trim());
    }
    let passes = results.values().filter(|result| result.is_ok()).count();
    let listed_passes = listed.values().filter(|reason| reason.is_none()).count();
    println!(
        "{passes} of {} pass; {listed_passes} are listed",
        results.len()
    );
    assert!(bless || passes > 0);
}
