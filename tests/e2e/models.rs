//! What is left of a job: predictions, evaluations, files for other programs.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::harness::{digits, run, text};

#[test]
fn predictions_and_evaluation_agree() {
    let dir = tempfile::tempdir().unwrap();
    let out = text(&dir.path().join("out"));
    let job = digits();
    let trained = run(&["train", &job, "--json", "--epochs", "5", "--output", &out]);
    let trained = trained.succeeded().last_json();

    let evaluated = run(&["evaluate", "--model", &out, "--job", &job, "--json"]).succeeded();
    let evaluated = evaluated.last_json();
    let accuracy = evaluated["metrics"]["test_accuracy"].as_f64().unwrap();
    assert_eq!(trained["metrics"]["test_accuracy"].as_f64(), Some(accuracy));
    let matrix = evaluated["confusion_matrix"].as_array().unwrap();
    let count = |i: usize, j: usize| matrix[i][j].as_u64().unwrap();
    let right: u64 = (0..10).map(|i| count(i, i)).sum();
    let all: u64 = (0..100).map(|k| count(k / 10, k % 10)).sum();
    assert_eq!(Some(all), evaluated["records"].as_u64());
    assert!((right as f64 / all as f64 - accuracy).abs() < 1e-12);

    // The whole file, labelled and not.
    let data = text(&crate::harness::repository("examples/digits/digits.csv.gz"));
    let whole = run(&["evaluate", "--model", &out, "--input", &data, "--json"]).succeeded();
    let whole = whole.last_json();
    let predicted = run(&[
        "predict",
        "--model",
        &out,
        "--input",
        &data,
        "--probabilities",
    ]);
    let predicted = predicted.succeeded().stdout;
    let mut rows = predicted.lines();
    assert!(
        rows.next()
            .unwrap()
            .starts_with("prediction,probability_0,")
    );
    let labels = labels();
    let mut hits = 0;
    for (row, label) in rows.zip(&labels) {
        let fields: Vec<&str> = row.split(',').collect();
        let sum: f64 = fields[1..].iter().map(|p| p.parse::<f64>().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{row}");
        hits += usize::from(fields[0] == label);
    }
    let accuracy = whole["metrics"]["test_accuracy"].as_f64().unwrap();
    assert_eq!(whole["records"].as_u64(), Some(labels.len() as u64));
    assert!((hits as f64 / labels.len() as f64 - accuracy).abs() < 1e-12);

    let json = run(&["predict", "--model", &out, "--input", &data, "--json"])
        .succeeded()
        .json();
    assert_eq!(json.len(), labels.len());
    assert!(json[0]["prediction"].is_string());
}

/// The labels of the digits, as text.
fn labels() -> Vec<String> {
    let path = crate::harness::repository("examples/digits/digits.csv.gz");
    let output = Command::new("gzip")
        .args(["-dc", &text(&path)])
        .output()
        .unwrap();
    let all = String::from_utf8(output.stdout).unwrap();
    all.lines()
        .map(|line| line.rsplit(',').next().unwrap().to_owned())
        .collect()
}

#[test]
fn a_regression_predicts_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut csv = String::from("a;b;y\n");
    for i in 0..200 {
        let (a, b) = (f64::from(i % 17), f64::from(i % 11) * 100.0);
        writeln!(csv, "{a};{b};{}", 2.0 * a - 0.01 * b + 1.0).unwrap();
    }
    fs::write(dir.path().join("train.csv"), csv).unwrap();
    fs::write(dir.path().join("new.csv"), "a;b\n3;400\n16;0\n").unwrap();
    let job = dir.path().join("job.toml");
    fs::write(
        &job,
        r#"
[model]
kind = "mlp"
hidden = []
loss = "mean_squared_error"
[data]
format = "csv"
path = "train.csv"
label = "y"
delimiter = ";"
scale = "standardize"
test = { fraction = 0.1 }
[train]
epochs = 60
global_batch = 20
optimizer = { kind = "sgd", learning_rate = 0.1 }
"#,
    )
    .unwrap();
    let trained = run(&["train", &text(&job), "--workers", "2", "--json"])
        .succeeded()
        .last_json();
    assert!(
        trained["metrics"]["test_loss"].as_f64().unwrap() < 1e-3,
        "{trained:#}"
    );
    let (out, new) = (
        text(&dir.path().join("out")),
        text(&dir.path().join("new.csv")),
    );
    let predicted = run(&["predict", "--model", &out, "--input", &new])
        .succeeded()
        .stdout;
    let values: Vec<f64> = predicted
        .lines()
        .skip(1)
        .map(|v| v.parse().unwrap())
        .collect();
    assert!(
        (values[0] - 3.0).abs() < 0.05 && (values[1] - 33.0).abs() < 0.05,
        "{values:?}"
    );
}

#[test]
fn weights_load_in_python() {
    let Ok(python) = std::env::var("RINGFOLD_TEST_PYTHON") else {
        println!("skipped: RINGFOLD_TEST_PYTHON names no interpreter with safetensors");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let out = text(&dir.path().join("out"));
    run(&["train", &digits(), "--epochs", "1", "--output", &out]).succeeded();
    let program = "import sys, json\n\
        from safetensors.numpy import load_file\n\
        t = load_file(sys.argv[1] + '/weights.safetensors')\n\
        print(json.dumps({k: list(v.shape) for k, v in sorted(t.items())}))\n";
    let output = Command::new(python)
        .args(["-c", program, &out])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let shapes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        shapes,
        serde_json::json!({
            "layers.0.bias": [256], "layers.0.weight": [256, 64],
            "layers.1.bias": [128], "layers.1.weight": [128, 256],
            "layers.2.bias": [10], "layers.2.weight": [10, 128],
        })
    );
}
