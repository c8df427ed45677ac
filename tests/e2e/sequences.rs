//! Sequences of numbers through an LSTM: classes, and values with their spread.

use std::fmt::Write as _;
use std::fs;

use crate::support::{args, ringfold, temp_dir, text};

const STEPS: usize = 6;
const RECORDS: u64 = 400;

/// Records of six steps of two features, and whether the first feature rises more than the second.
fn records(label: impl Fn(f64) -> String) -> String {
    let mut seed = 1u64;
    let mut uniform = || {
        // Knuth's generator: the upper half is good enough here.
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 32) as f64 / f64::from(u32::MAX) * 2.0 - 1.0
    };
    let mut csv = String::new();
    for _ in 0..RECORDS {
        let numbers: Vec<f64> = (0..2 * STEPS).map(|_| uniform()).collect();
        let rise = |feature: usize| numbers[2 * (STEPS - 1) + feature] - numbers[feature];
        for number in &numbers {
            let _ = write!(csv, "{number:.4},");
        }
        let _ = writeln!(csv, "{}", label(rise(0) - rise(1)));
    }
    csv
}

fn job(dir: &std::path::Path, data: &str, loss: &str) -> String {
    fs::write(dir.join("data.csv"), data).expect("write the data");
    let file = format!(
        r#"
[model]
kind = "lstm"
hidden = 12
layers = 2
input = [{STEPS}, 2]
loss = "{loss}"
[data]
format = "csv"
path = "data.csv"
header = false
label = {}
[data.test]
fraction = 0.2
[train]
epochs = 25
global_batch = 20
[train.optimizer]
kind = "adam"
learning_rate = 0.02
[cluster]
workers = 2
threads = 1
"#,
        2 * STEPS
    );
    let path = dir.join("job.toml");
    fs::write(&path, file).expect("write the job file");
    text(&path)
}

#[test]
fn classes_of_sequences_are_learnt() {
    let dir = temp_dir();
    let label = |rise: f64| if rise > 0.0 { "up" } else { "down" }.to_owned();
    let job = job(dir.path(), &records(label), "cross_entropy");
    let output = ringfold(&args(&[&["train", &job, "--json"]])).succeeded();
    let accuracy = output.finished()["metrics"]["test_accuracy"].as_f64();
    assert!(accuracy.is_some_and(|share| share > 0.9), "{output}");
}

#[test]
fn values_of_sequences_come_with_a_variance() {
    let dir = temp_dir();
    let data = records(|rise| format!("{rise:.4}"));
    let job = job(dir.path(), &data, "normal");
    ringfold(&args(&[&["train", &job]])).succeeded();
    let (model, input) = (
        text(&dir.path().join("out")),
        text(&dir.path().join("data.csv")),
    );
    let predict = ["predict", "--model", &model, "--input", &input];
    let predicted = ringfold(&args(&[&predict])).succeeded().stdout;
    let mut lines = predicted.lines();
    assert_eq!(lines.next(), Some("prediction,variance"));
    let truths = data
        .lines()
        .map(|line| line.rsplit(',').next().unwrap_or_default());
    let number = |text: &str| text.parse::<f64>().expect("a number");
    let (mut squares, mut variances, mut spread) = (0.0, 0.0, 0.0);
    for (line, truth) in lines.zip(truths) {
        let (mean, variance) = line.split_once(',').expect("two columns");
        let truth = number(truth);
        squares += (number(mean) - truth).powi(2);
        variances += number(variance);
        spread += truth.powi(2);
    }
    // The means explain most of the spread, and the variances are about what is left of it.
    assert!(squares < 0.2 * spread, "{squares} of {spread}");
    let ratio = variances / squares;
    assert!((0.2..5.0).contains(&ratio), "{variances} for {squares}");

    let json = args(&[&predict, &["--json"]]);
    let first = ringfold(&json).succeeded().json_lines().remove(0);
    assert!(
        first["variance"].as_f64().is_some_and(|v| v > 0.0),
        "{first}"
    );
}

#[test]
fn an_lstm_says_what_it_lacks() {
    let dir = temp_dir();
    let job = job(dir.path(), &records(|_| "1".to_owned()), "huber");
    let refused = |set: &str| ringfold(&args(&[&["check", &job, "--set", set]])).error(2);
    let error = refused("model.embedding=4");
    assert!(
        error.starts_with("--set model.embedding=4: `model.embedding` is 4: expected none"),
        "{error}"
    );
    let error = refused("model.input=[2, 3, 2]");
    assert!(error.contains("expected [steps, features]"), "{error}");
}
