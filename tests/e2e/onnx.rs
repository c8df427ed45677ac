//! Models from ONNX files, and models written as ONNX.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{args, digits, repository, ringfold, skipped, temp_dir, text};

/// Prints the greatest difference between the probabilities of ONNX Runtime and those of a table of
/// predictions, for the lines of a CSV file whose last column is the label.
const DIFFERENCE: &str = r#"
import sys
import numpy
import onnxruntime
model, records, predictions = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
x = numpy.loadtxt(records, delimiter=",", dtype=numpy.float32)[:, :-1]
there = session.run(["probabilities"], {"x": x})[0]
here = numpy.loadtxt(predictions, delimiter=",", skiprows=1, dtype=numpy.float32)[:, 1:]
assert there.shape == here.shape, (there.shape, here.shape)
print(abs(there - here).max())
"#;

/// The example with its data, apart from the repository: what a test changes there is its own.
fn example(dir: &Path) -> String {
    for name in ["onnx/net.onnx", "onnx/job.toml", "digits/digits.csv.gz"] {
        let to = dir.join(name);
        fs::create_dir_all(to.parent().expect("a parent")).expect("make a directory");
        fs::copy(repository(&format!("examples/{name}")), to).expect("copy the example");
    }
    text(&dir.join("onnx/job.toml"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Predicts the digits with a saved model and with its ONNX form, and compares the probabilities.
#[track_caller]
fn assert_runs_elsewhere(model: &str, onnx: &str, dir: &Path) {
    let records = text(&repository("examples/digits/digits.csv.gz"));
    let predictions = text(&dir.join("predictions.csv"));
    ringfold(&args(&[
        &["predict", "--model", model, "--input", &records],
        &["--probabilities", "--output", &predictions],
    ]))
    .succeeded();
    let Ok(python) = std::env::var("RINGFOLD_TEST_PYTHON") else {
        skipped("RINGFOLD_TEST_PYTHON names no Python with onnxruntime");
        return;
    };
    let needs = "import numpy, onnxruntime";
    let has_runtime = Command::new(&python).args(["-c", needs]).output();
    if !has_runtime.is_ok_and(|output| output.status.success()) {
        skipped("Python has no onnxruntime");
        return;
    }
    let output = Command::new(&python)
        .args(["-c", DIFFERENCE, onnx, &records, &predictions])
        .output()
        .expect("run Python");
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{python}: {error}");
    let difference: f64 = said.trim().parse().expect("a number");
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn the_example_trains_on_one_worker_and_two_and_runs_elsewhere() {
    for workers in ["1", "2"] {
        let dir = temp_dir();
        let job = example(dir.path());
        let out = text(&dir.path().join("onnx/out"));
        let train = [
            "train",
            &job,
            "--json",
            "--epochs",
            "6",
            "--workers",
            workers,
        ];
        let summary = ringfold(&train).succeeded().finished();
        let accuracy = number(&summary["metrics"]["test_accuracy"]);
        assert!(accuracy > 0.96, "{workers} workers: {accuracy}");

        // The directory is all that is needed from here on.
        fs::remove_file(dir.path().join("onnx/net.onnx")).expect("remove the file");
        let records = text(&repository("examples/digits/digits.csv.gz"));
        let evaluate = ["evaluate", "--model", &out, "--input", &records, "--json"];
        let evaluated = ringfold(&evaluate).succeeded().json();
        let over_all = number(&evaluated["metrics"]["test_accuracy"]);
        assert!(over_all > 0.96, "{workers} workers: {over_all}");
        let exported = text(&dir.path().join("exported.onnx"));
        ringfold(&["export", &out, "--onnx", &exported]).succeeded();
        let model = format!("{out}/model.onnx");
        let read = |path: &str| fs::read(path).expect("a model");
        assert!(read(&model) == read(&exported));
        assert_runs_elsewhere(&out, &model, dir.path());
    }
}

/// What was trained further begins where it stood: weights by name, from any safetensors file.
#[test]
fn initial_weights_come_from_the_file_that_the_job_names() {
    let dir = temp_dir();
    let (job, first) = (example(dir.path()), text(&dir.path().join("onnx/out")));
    let train = |flags: &[&str]| {
        let all = args(&[&["train", &job, "--json"], flags]);
        ringfold(&all).succeeded().finished()
    };
    let before = train(&["--epochs", "4"]);
    let weights = format!("model.weights={first}/weights.safetensors");
    let second = text(&dir.path().join("second"));
    let again = [
        "--steps",
        "1",
        "--set",
        "train.optimizer.learning_rate=1e-9",
    ];
    let after = train(&[&again[..], &["--set", &weights, "--output", &second]].concat());
    let (before, after) = (&before["metrics"], &after["metrics"]);
    let difference = number(&before["test_loss"]) - number(&after["test_loss"]);
    // One step moves the running statistics a little, and a rate of 1e-9 the weights hardly.
    assert!(difference.abs() < 0.05, "{before} {after}");

    // A built-in network's too; one that lacks a tensor is refused by name.
    let mlp = digits();
    let wrong = args(&[
        &["train", &mlp, "--json", "--steps", "1", "--output", &second],
        &["--set", &weights],
    ]);
    let error = ringfold(&wrong).error(2);
    assert!(
        error.starts_with("--set model.weights=")
            && error.contains("weights.safetensors: no tensor \"layers.0.bias\""),
        "{error}"
    );
}

/// A record is cut for a model of two inputs; the model that comes out takes whole records.
#[test]
fn a_model_of_two_inputs_trains_and_runs_elsewhere() {
    let dir = temp_dir();
    let job = example(dir.path());
    let out = text(&dir.path().join("out"));
    let cut = |above: &str, below: &str| {
        let net = text(&repository("tests/e2e/two_inputs.onnx"));
        format!(
            "model={{ kind = \"onnx\", path = \"{net}\", loss = \"cross_entropy\", inputs = [\
             {{ name = \"above\", features = {above} }}, {{ name = \"below\", features = {below} }}] }}"
        )
    };
    let train = |model: &str| {
        let flags = ["train", &job, "--json", "--epochs", "8", "--output", &out];
        ringfold(&args(&[&flags, &["--set", model]]))
    };
    let summary = train(&cut("[0, 32]", "[32, 64]")).succeeded().finished();
    let accuracy = number(&summary["metrics"]["test_accuracy"]);
    assert!(accuracy > 0.85, "{accuracy}");
    let evaluate = ["evaluate", "--model", &out, "--job", &job, "--json"];
    let evaluated = ringfold(&evaluate).succeeded().json();
    let again = number(&evaluated["metrics"]["test_accuracy"]);
    assert!((again - accuracy).abs() < 1e-9, "{evaluated}");
    assert_runs_elsewhere(&out, &format!("{out}/model.onnx"), dir.path());

    // What an input can't take is refused by its name.
    let error = train(&cut("[0, 32]", "[32, 60]")).error(2);
    assert!(error.contains("below"), "{error}");
}

#[test]
fn running_statistics_are_written_as_onnx() {
    let dir = temp_dir();
    let job = text(&dir.path().join("job.toml"));
    let records = text(&repository("examples/digits/digits.csv.gz"));
    let file = format!(
        r#"
[model]
kind = "cnn"
input = [1, 8, 8]
blocks = [{{ filters = 8, pool = 2, batch_norm = true }}]
hidden = []
[data]
format = "csv"
path = "{records}"
header = false
label = 64
scale = "standardize"
[train]
epochs = 2
global_batch = 64
[train.optimizer]
kind = "adam"
learning_rate = 0.005
"#
    );
    fs::write(&job, file).expect("a job file");
    let (out, onnx) = (dir.path().join("out"), dir.path().join("cnn.onnx"));
    let (out, onnx) = (text(&out), text(&onnx));
    ringfold(&["train", &job, "--output", &out]).succeeded();
    ringfold(&["export", &out, "--onnx", &onnx]).succeeded();
    assert_runs_elsewhere(&out, &onnx, dir.path());
}

#[test]
fn a_file_that_can_not_be_trained_is_refused_with_its_name() {
    let dir = temp_dir();
    let job = example(dir.path());
    let net = dir
        .path()
        .join("onnx/net.onnx")
        .canonicalize()
        .expect("a path");
    let refused = |flags: &[&str]| {
        let all = args(&[&["train", &job, "--steps", "1"], flags]);
        ringfold(&all).error(2)
    };
    let error = refused(&["--set", "model.output=\"score\""]);
    let expected = "output \"score\": expected one of the model's, got scores";
    assert!(
        error.contains(expected) && error.contains("net.onnx"),
        "{error}"
    );
    let error = refused(&["--set", "data.label=3", "--set", "model.input=[8, 8]"]);
    assert!(error.contains("scores"), "{error}");
    let error = refused(&["--set", "model.freeze=[\"9.*\"]"]);
    assert!(error.contains("freeze \"9.*\""), "{error}");

    let mut bytes = fs::read(&net).expect("the file");
    let relu = bytes.windows(4).position(|part| part == b"Relu");
    bytes[relu.expect("a ReLU")] = b'W';
    fs::write(&net, &bytes).expect("write the file");
    let error = refused(&[]);
    assert!(
        error.contains("net.onnx: node") && error.contains("operator Welu of opset 20"),
        "{error}"
    );
    fs::write(&net, &bytes[..1000]).expect("write the file");
    let error = refused(&[]);
    assert!(error.contains("net.onnx: byte "), "{error}");
    fs::remove_file(&net).expect("remove the file");
    let error = refused(&[]);
    assert!(error.contains("net.onnx: no such file"), "{error}");
}

#[test]
fn an_onnx_file_is_inspected_without_a_job() {
    let net = text(&repository("examples/onnx/net.onnx"));
    let json = ["model", "inspect", &net, "--json"];
    let inspected = ringfold(&json).succeeded().json();
    // 16 * 9 + 2 * 16, 32 * 16 * 9 + 32, and 10 * 512 + 10.
    assert_eq!(inspected["parameter_count"], 9946);
    assert_eq!(inspected["state_bytes"], 32 * 4);
    let dump = [
        "model",
        "inspect",
        &net,
        "--mode",
        "prediction",
        "--dump",
        "text",
    ];
    let dump = ringfold(&dump).succeeded();
    assert!(dump.stdout.contains("// after "), "{dump}");
}
