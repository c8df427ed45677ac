//! `predict`, `evaluate`, and the weights in Python.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use ringfold_storage::ModelFiles;
use serde_json::Value;

use crate::support::{args, digits, repository, ringfold, skipped, temp_dir, text};

/// Trains the digits job and gives the last line.
#[track_caller]
fn train_digits(dir: &str) -> Value {
    let job = digits();
    let train = ["train", &job, "--json", "--epochs", "8", "--output", dir];
    ringfold(&train).succeeded().finished()
}

/// The digits' lines: pixels, and labels apart.
fn digits_records() -> (Vec<String>, Vec<String>) {
    let file = fs::File::open(repository("examples/digits/digits.csv.gz")).expect("the digits");
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(file);
    decoder.read_to_string(&mut text).expect("unpack");
    let apart = text
        .lines()
        .map(|line| line.rsplit_once(',').expect("a label"));
    apart
        .map(|(pixels, label)| (pixels.to_owned(), label.to_owned()))
        .unzip()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

#[test]
fn predictions_are_as_good_as_evaluate_says() {
    let dir = temp_dir();
    let model = text(&dir.path().join("model"));
    let summary = train_digits(&model);
    let job = digits();
    let tested = ringfold(&["evaluate", "--model", &model, "--job", &job, "--json"]);
    let tested = tested.succeeded().json();
    assert_eq!(tested["records"], 359);
    for metric in ["test_accuracy", "test_loss"] {
        let (there, here) = (&summary["metrics"][metric], &tested["metrics"][metric]);
        let difference = (number(there) - number(here)).abs();
        assert!(
            difference < 1e-5,
            "{metric}: {there} in training, {here} now"
        );
    }

    // Over all records, labelled and not.
    let (pixels, labels) = digits_records();
    let unlabelled = text(&dir.path().join("unlabelled.csv"));
    fs::write(&unlabelled, pixels.join("\n")).expect("write records");
    let labelled = text(&repository("examples/digits/digits.csv.gz"));
    let predict = ["predict", "--model", &model, "--input"];
    let predicted = ringfold(&args(&[&predict, &[&unlabelled]])).succeeded();
    assert_eq!(predicted.stderr, "");
    let mut lines = predicted.stdout.lines();
    assert_eq!(lines.next(), Some("prediction"));
    let predictions: Vec<&str> = lines.collect();
    assert_eq!(predictions.len(), labels.len());
    let right = predictions.iter().zip(&labels).filter(|(a, b)| a == b);
    let accuracy = right.count() as f64 / labels.len() as f64;

    let evaluated = ringfold(&args(&[&[
        "evaluate", "--model", &model, "--input", &labelled, "--json",
    ]]));
    let evaluated = evaluated.succeeded().json();
    let difference = accuracy - number(&evaluated["metrics"]["test_accuracy"]);
    assert!(
        difference.abs() < 1e-9 && accuracy > 0.95,
        "{accuracy}: {evaluated}"
    );
    let matrix = evaluated["confusion_matrix"].as_array().expect("a matrix");
    let counts = matrix.iter().flat_map(|row| row.as_array().expect("a row"));
    assert_eq!(counts.filter_map(Value::as_u64).sum::<u64>(), 1797);

    let ignored = ringfold(&args(&[&predict, &[&labelled]])).succeeded();
    assert_eq!(ignored.stdout, predicted.stdout);
    assert_eq!(ignored.stderr, "note: the label column (64) is ignored\n");
}

#[test]
fn probabilities_sum_to_one_in_csv_and_json() {
    let dir = temp_dir();
    let model = text(&dir.path().join("model"));
    train_digits(&model);
    let (pixels, _) = digits_records();
    let input = text(&dir.path().join("few.csv"));
    fs::write(&input, pixels[..50].join("\n")).expect("write records");
    let output = text(&dir.path().join("p.csv"));
    let predict = [
        "predict",
        "--model",
        &model,
        "--input",
        &input,
        "--probabilities",
    ];
    let said = ringfold(&args(&[&predict, &["--output", &output]])).succeeded();
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", ""));
    let written = fs::read_to_string(&output).expect("predictions");
    let rows: Vec<Vec<&str>> = written
        .lines()
        .map(|line| line.split(',').collect())
        .collect();
    assert_eq!(rows.len(), 51);
    assert_eq!(
        rows[0][..3],
        ["prediction", "probability_0", "probability_1"]
    );

    let as_json = ringfold(&args(&[&predict, &["--json"]]))
        .succeeded()
        .json_lines();
    assert_eq!(as_json.len(), 50);
    for (row, object) in rows[1..].iter().zip(&as_json) {
        assert_eq!(object["prediction"], row[0]);
        let probabilities: Vec<f64> = row[1..]
            .iter()
            .map(|p| p.parse().expect("a number"))
            .collect();
        assert_eq!(probabilities.len(), 10);
        let sum: f64 = probabilities.iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{row:?}");
        let best = object["probabilities"][row[0]].as_f64();
        let most = probabilities.iter().copied().reduce(f64::max);
        let difference = best.zip(most).map(|(a, b)| (a - b).abs());
        assert!(difference < Some(1e-6), "{object}: {row:?}");
    }
}

#[test]
fn records_of_another_width_are_refused() {
    let dir = temp_dir();
    let model = text(&dir.path().join("model"));
    train_digits(&model);
    let narrow = text(&dir.path().join("narrow.csv"));
    fs::write(&narrow, "1,2,3\n").expect("write records");
    let error = ringfold(&["predict", "--model", &model, "--input", &narrow]).error(2);
    assert_eq!(error, format!("{narrow}: 3 columns, the model has 64"));
}

#[test]
fn a_regression_predicts_values() {
    let dir = temp_dir();
    // y = 3 a - 2 b + 100, with features of very different sizes.
    let rows = (0..400u32).map(|i| {
        (
            f64::from(i * 37 % 101) / 100.0,
            f64::from(i * 53 % 97) * 10.0,
        )
    });
    let value = |(a, b): (f64, f64)| 3.0 * a - 0.002 * b + 1.0;
    let rows: Vec<(f64, f64)> = rows.collect();
    let csv = rows
        .iter()
        .map(|&(a, b)| format!("{a},{b},{}\n", value((a, b))));
    let data = format!("a,b,y\n{}", csv.collect::<String>());
    fs::write(dir.path().join("data.csv"), data).expect("write data");
    let job = text(&dir.path().join("job.toml"));
    fs::write(&job, REGRESSION).expect("write the job file");
    let done = ringfold(&["train", &job, "--json"]).succeeded().finished();
    let loss = number(&done["metrics"]["test_loss"]);
    assert!(loss < 1e-3, "{done}");
    assert!(done["metrics"].get("test_accuracy").is_none(), "{done}");

    let input = text(&dir.path().join("new.csv"));
    let asked = [(0.5, 500.0), (0.1, 900.0), (0.9, 20.0)];
    let lines = asked.iter().map(|(a, b)| format!("{a},{b}\n"));
    fs::write(&input, format!("a,b\n{}", lines.collect::<String>())).expect("write records");
    let model = text(&dir.path().join("out"));
    let predict = ["predict", "--model", &model, "--input", &input];
    let csv = ringfold(&predict).succeeded().stdout;
    let objects = ringfold(&args(&[&predict, &["--json"]]))
        .succeeded()
        .json_lines();
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("prediction"));
    assert_eq!(objects.len(), asked.len());
    for ((at, line), object) in asked.into_iter().zip(lines).zip(&objects) {
        let (expected, got) = (value(at), line.parse::<f64>().expect("a number"));
        assert!(
            (expected - got).abs() < 0.1,
            "{at:?}: {expected}, predicted {got}"
        );
        assert!(
            (number(&object["prediction"]) - got).abs() < 1e-6,
            "{object}: {line}"
        );
    }

    let evaluated = ringfold(&["evaluate", "--model", &model, "--job", &job, "--json"]);
    let evaluated = evaluated.succeeded().json();
    assert!(
        (number(&evaluated["metrics"]["test_loss"]) - loss).abs() < 1e-6,
        "{evaluated}"
    );
    assert_eq!(evaluated["confusion_matrix"], Value::Null);
}

const REGRESSION: &str = r#"
name = "line"

[model]
kind = "mlp"
hidden = []
loss = "mean_squared_error"

[data]
format = "csv"
path = "data.csv"
header = true
label = "y"
scale = "standardize"

[data.test]
fraction = 0.25
seed = 3

[train]
epochs = 60
global_batch = 20
seed = 1

[train.optimizer]
kind = "adam"
learning_rate = 0.02

[cluster]
workers = 2
threads = 1

[output]
dir = "out"
"#;

/// Prints `{"name": [[shape], sum], ...}` of a file of weights.
const PYTHON: &str = r#"
import json, sys
import numpy
from safetensors.numpy import load_file
tensors = load_file(sys.argv[1])
print(json.dumps({
    name: [list(t.shape), str(t.dtype), float(t.astype(numpy.float64).sum())]
    for name, t in tensors.items()
}))
"#;

#[test]
fn python_reads_the_weights() {
    let Ok(python) = std::env::var("RINGFOLD_TEST_PYTHON") else {
        skipped("RINGFOLD_TEST_PYTHON names no Python with safetensors and numpy");
        return;
    };
    let dir = temp_dir();
    let model = text(&dir.path().join("model"));
    train_digits(&model);
    let weights = Path::new(&model).join(ModelFiles::WEIGHTS);
    let output = Command::new(&python)
        .args(["-c", PYTHON, &text(&weights)])
        .output()
        .expect("run Python");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{python}: {error}");
    let there: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let here = ModelFiles::read(Path::new(&model)).expect("read the model");
    assert_eq!(
        there.as_object().map(serde_json::Map::len),
        Some(here.tensors.len())
    );
    assert_eq!(here.tensors.len(), 6, "three layers of weights and biases");
    for tensor in &here.tensors {
        let seen = &there[tensor.name.as_str()];
        assert_eq!(seen[0], serde_json::json!(tensor.shape), "{}", tensor.name);
        assert_eq!(seen[1], "float32", "{}", tensor.name);
        let sum: f64 = tensor.values.iter().copied().map(f64::from).sum();
        let difference = (number(&seen[2]) - sum).abs();
        assert!(
            difference < 1e-9 * tensor.values.len() as f64,
            "{}: {sum}, {seen}",
            tensor.name
        );
    }
}

/// The sizes are those of the digits' perceptron, 64-256-128-10, whose ranks take 32 samples at once.
#[test]
fn inspect_tells_what_a_model_holds_costs_and_takes() {
    let job = digits();
    let look = |flags: &[&str]| ringfold(&args(&[&["model", "inspect", &job], flags]));
    let found = look(&["--json"]).succeeded().json();
    let (weights, biases) = (64 * 256 + 256 * 128 + 128 * 10, 256 + 128 + 10);
    assert_eq!(found["parameter_count"], weights + biases);
    assert_eq!(found["batch"], 32);
    assert_eq!(found["parameters"][0]["name"], "layers.0.weight");
    assert_eq!(
        found["parameters"][0]["shape"],
        serde_json::json!([256, 64])
    );
    assert!(number(&found["flops_forward_per_sample"]) >= f64::from(2 * weights));
    assert!(number(&found["workspace_bytes"]) >= number(&found["workspace_bytes_min"]));
    // AdamW keeps two numbers a parameter.
    let optimizer = number(&found["optimizer_bytes"]);
    assert_eq!(optimizer, 2.0 * number(&found["parameters_bytes"]));
    let passes = found["passes"].as_array().expect("a list of patches");
    assert!(!passes.is_empty() && found["simplified"].is_array());
    for patch in passes {
        let nodes = |of: &str| patch[of].as_array().expect("nodes").len() as f64;
        let grown = number(&patch["nodes_after"]) - number(&patch["nodes_before"]);
        assert_eq!(nodes("added") - nodes("removed"), grown, "{patch}");
    }
    let shown = look(&[]).succeeded().stdout;
    assert!(
        shown.contains("layers.2.bias") && shown.contains("passes: "),
        "{shown}"
    );

    let text = look(&["--dump", "text"]).succeeded().stdout;
    assert!(
        text.starts_with("// training, differentiated\ngraph mlp f32 {"),
        "{text}"
    );
    assert!(text.contains("// after dead\n"), "{text}");
    assert!(text.contains("\n//   - #"), "{text}");
    let dot = look(&["--dump", "dot", "--mode", "prediction"])
        .succeeded()
        .stdout;
    assert!(
        dot.starts_with("digraph \"mlp\" {") && !dot.contains("gradient"),
        "{dot}"
    );

    let error = look(&["--workspace-bytes-max", "64"]).error(2);
    assert!(error.contains("of 64 bytes was asked for"), "{error}");
    let (_, least) = error.split_once("the least is ").expect(&error);
    let limit = least.split(',').next().unwrap();
    look(&["--workspace-bytes-max", limit]).succeeded();
}

/// The digits as images of 8 x 8: every kind of network that takes them trains, is saved, and
/// evaluates to what training said, with its running statistics.
#[test]
fn networks_of_images_train_and_come_back() {
    let blocks = "[{ filters = 8, pool = 2, batch_norm = true }, { filters = 16, pool = 2 }]";
    let layers = "[{ kind = \"conv2d\", filters = 8, kernel = 3, stride = 2 }, { kind = \"relu\" }, \
                  { kind = \"batch_norm\" }, { kind = \"flatten\" }, { kind = \"dense\", units = 10 }]";
    let cnn = format!("{{ kind = \"cnn\", input = [1, 8, 8], hidden = [32], blocks = {blocks} }}");
    let sequential = format!("{{ kind = \"sequential\", input = [1, 8, 8], layers = {layers} }}");
    // The rows of an image as positions.
    let block = "{ kind = \"residual\", layers = [{ kind = \"layer_norm\" }, \
                 { kind = \"attention\", heads = 2, dropout = 0.1 }] }";
    let layers = format!(
        "[{{ kind = \"reshape\", shape = [8, 8] }}, {{ kind = \"positions\" }}, {block}, {block}, \
         {{ kind = \"flatten\" }}, {{ kind = \"dense\", units = 10 }}]"
    );
    let attention = format!("{{ kind = \"sequential\", input = [1, 8, 8], layers = {layers} }}");
    let resnet = "{ kind = \"resnet18\", input = [1, 8, 8], width = 4 }".to_owned();
    for (model, accuracy_min) in [
        (cnn, 0.93),
        (sequential, 0.84),
        (attention, 0.65),
        (resnet, 0.8),
    ] {
        let dir = temp_dir();
        let out = text(&dir.path().join("out"));
        let (job, set) = (digits(), format!("model={model}"));
        let flags = ["train", &job, "--json", "--epochs", "8", "--output", &out];
        let done = ringfold(&args(&[&flags, &["--set", &set]]))
            .succeeded()
            .finished();
        let accuracy = number(&done["metrics"]["test_accuracy"]);
        assert!(accuracy >= accuracy_min, "{model}: {accuracy}");
        let evaluate = ["evaluate", "--model", &out, "--job", &job, "--json"];
        let evaluated = ringfold(&evaluate).succeeded().json();
        let again = number(&evaluated["metrics"]["test_accuracy"]);
        assert!((again - accuracy).abs() < 1e-9, "{model}: {evaluated}");
    }
}

/// What doesn't fit is told with the layer and its line.
#[test]
fn a_layer_that_does_not_fit_fails_the_job_by_name() {
    let dir = temp_dir();
    let job = dir.path().join("job.toml");
    let data = text(&repository("examples/digits/digits.csv.gz"));
    let file = format!(
        r#"[model]
kind = "sequential"
layers = [
    {{ kind = "dense", units = 12 }},
    {{ kind = "conv2d", filters = 4, kernel = 3 }},
]
[data]
format = "csv"
path = "{data}"
label = 64
header = false
[train]
epochs = 1
global_batch = 64
[train.optimizer]
kind = "sgd"
learning_rate = 0.1
"#
    );
    fs::write(&job, file).expect("a job file");
    let (job, out) = (text(&job), text(&dir.path().join("out")));
    let output = ringfold(&["train", &job, "--output", &out]);
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(
        said.contains("model.layers[1] (conv2d, line 5): its input is [12]"),
        "{said}"
    );
}

/// Prints the class that ONNX Runtime finds for each line of a CSV file without a header.
const RUNTIME: &str = r#"
import sys
import numpy
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
x = numpy.loadtxt(sys.argv[2], delimiter=",", dtype=numpy.float32)
for row in session.run(["probabilities"], {"x": x})[0]:
    print(row.argmax())
"#;

#[test]
fn an_exported_model_predicts_the_same_in_onnx_runtime() {
    let dir = temp_dir();
    let model = text(&dir.path().join("model"));
    train_digits(&model);
    let onnx = text(&dir.path().join("digits.onnx"));
    ringfold(&["export", &model, "--onnx", &onnx]).succeeded();
    let (pixels, _) = digits_records();
    let records = text(&dir.path().join("records.csv"));
    fs::write(&records, pixels.join("\n")).expect("write records");
    let predict = ["predict", "--model", &model, "--input", &records];
    let predicted = ringfold(&predict).succeeded();
    let Ok(python) = std::env::var("RINGFOLD_TEST_PYTHON") else {
        skipped("RINGFOLD_TEST_PYTHON names no Python with onnxruntime");
        return;
    };
    let has_runtime = Command::new(&python)
        .args(["-c", "import numpy, onnxruntime"])
        .output();
    if !has_runtime.is_ok_and(|output| output.status.success()) {
        skipped("Python has no onnxruntime");
        return;
    }
    let output = Command::new(&python)
        .args(["-c", RUNTIME, &onnx, &records])
        .output()
        .expect("run Python");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{python}: {error}");
    let there = String::from_utf8_lossy(&output.stdout);
    let here: Vec<&str> = predicted.stdout.lines().skip(1).collect();
    assert_eq!(there.lines().collect::<Vec<_>>(), here);
}
