//! `ringfold train` with 1 to 4 workers.

use serde_json::Value;

use crate::support::{args, digits, ringfold, temp_dir, text};

/// Runs the digits job and gives the lines that it printed.
#[track_caller]
fn train(flags: &[&str]) -> Vec<Value> {
    let out = temp_dir();
    let (job, dir) = (digits(), text(&out.path().join("out")));
    let output = ringfold(&args(&[
        &["train", &job, "--json", "--output", &dir],
        flags,
    ]))
    .succeeded();
    assert_eq!(output.finished()["state"], "succeeded", "{output}");
    for file in [
        "weights.safetensors",
        "model.json",
        "summary.json",
        "metrics.jsonl",
    ] {
        assert!(out.path().join("out").join(file).is_file(), "{file}");
    }
    output.json_lines()
}

#[track_caller]
fn last(lines: &[Value]) -> &Value {
    lines.last().expect("a line")
}

#[test]
fn losses_do_not_depend_on_the_number_of_workers() {
    let losses = |workers: &str| -> Vec<f64> {
        let every_step = ["--steps", "60", "--set", "train.report_steps=1"];
        let lines = train(&[&every_step[..], &["--workers", workers]].concat());
        let progress: Vec<&Value> = lines
            .iter()
            .filter(|line| line["event"] == "progress")
            .collect();
        let steps: Vec<u64> = progress
            .iter()
            .map(|line| line["step"].as_u64().expect("a step"))
            .collect();
        assert_eq!(steps, (1..=60).collect::<Vec<_>>(), "{workers} workers");
        progress
            .iter()
            .map(|line| line["loss"].as_f64().expect("a loss"))
            .collect()
    };
    let alone = losses("1");
    assert!(alone[59] < alone[0] / 2.0, "it learns: {alone:?}");
    for workers in ["2", "3", "4"] {
        let shared = losses(workers);
        for (step, (a, b)) in alone.iter().zip(&shared).enumerate().take(50) {
            let difference = (a - b).abs() / a.abs();
            assert!(
                difference < 1e-4,
                "step {}: {a} alone, {b} with {workers} workers",
                step + 1
            );
        }
    }
}

#[test]
fn the_weights_depend_on_the_replicas_and_not_on_workers_or_threads() {
    let weights = |flags: &[&str]| -> String {
        let job = [
            "--steps",
            "40",
            "--set",
            "cluster.replicas=6",
            "--set",
            "cluster.mode=\"reproducible\"",
        ];
        let lines = train(&[&job[..], flags].concat());
        let hash = last(&lines)["weights_blake3"].as_str().expect("a hash");
        hash.to_owned()
    };
    let expected = weights(&["--workers", "1", "--threads", "1"]);
    for (workers, threads) in [("1", "2"), ("2", "1"), ("3", "2"), ("4", "1"), ("6", "1")] {
        let got = weights(&["--workers", workers, "--threads", threads]);
        assert_eq!(got, expected, "{workers} workers of {threads} threads");
    }
}

#[test]
fn the_last_line_sums_the_job_up() {
    let lines = train(&["--epochs", "2", "--workers", "2"]);
    let last = last(&lines);
    // 1438 of the 1797 records are for training: 23 batches of 64 an epoch.
    assert_eq!(
        (&last["steps"], &last["epochs"], &last["samples"]),
        (&46.into(), &2.into(), &(2 * 1438).into()),
        "{last}"
    );
    for (key, least) in [
        ("samples_per_second", 1.0),
        ("wall_seconds", 1e-6),
        ("parameters", 1000.0),
    ] {
        let value = last[key].as_f64().unwrap_or_default();
        assert!(value >= least, "{key} is {value}");
    }
    for metric in ["test_accuracy", "test_loss", "train_loss"] {
        let value = last["metrics"][metric].as_f64().unwrap_or(-1.0);
        assert!((0.0..10.0).contains(&value), "{metric} is {value}");
    }
    let hash = last["weights_blake3"].as_str().unwrap_or_default();
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(is_hash, "{hash:?}");
    let evaluations = lines.iter().filter(|line| line["event"] == "evaluation");
    assert_eq!(evaluations.count(), 2);
}

#[test]
fn the_same_seed_gives_the_same_weights() {
    let weights = |seed: &str| {
        let flags = ["--steps", "40", "--workers", "3", "--seed", seed];
        last(&train(&flags))["weights_blake3"].clone()
    };
    let first = weights("7");
    assert_eq!(first, weights("7"));
    assert_ne!(first, weights("8"));
}

#[test]
fn the_whole_digits_job_learns_with_any_number_of_workers() {
    for workers in ["1", "2", "3", "4"] {
        let lines = train(&["--workers", workers]);
        let accuracy = last(&lines)["metrics"]["test_accuracy"].as_f64();
        assert!(
            accuracy.is_some_and(|accuracy| accuracy >= 0.97),
            "{workers} workers: {accuracy:?}"
        );
    }
}

#[test]
fn every_kind_of_compression_learns_the_digits() {
    let run = |flags: &[&str]| -> (f64, i64, i64) {
        let lines = train(flags);
        let last = last(&lines);
        let bytes = &last["execution"]["gradient_bytes"];
        (
            last["metrics"]["test_accuracy"].as_f64().expect("a number"),
            bytes["sent"].as_i64().expect("a number"),
            bytes["saved"].as_i64().expect("a number"),
        )
    };
    for workers in ["2", "3"] {
        let (plain, all, saved) = run(&["--workers", workers]);
        assert_eq!(saved, 0);
        // The least part of the bytes that is saved, and the accuracy that may be lost: about two of
        // 359 records.
        for (kind, least) in [
            ("{ kind = \"bf16\" }", 0.49),
            ("{ kind = \"f16\" }", 0.49),
            ("{ kind = \"int8\" }", 0.74),
            (
                "{ kind = \"topk\", fraction = 0.02, start_step = 50 }",
                0.85,
            ),
            ("{ kind = \"powersgd\", rank = 2, start_step = 50 }", 0.85),
        ] {
            let compression = format!("cluster.compression={kind}");
            let flags = ["--workers", workers, "--set", &compression];
            let (accuracy, sent, saved) = run(&flags);
            assert!(
                accuracy >= plain - 0.012,
                "{kind}, {workers} workers: {accuracy}, {plain} without"
            );
            assert_eq!(sent + saved, all, "{kind}");
            assert!(
                saved as f64 >= least * all as f64,
                "{kind}: {saved} of {all}"
            );
        }
    }
}

#[test]
fn sums_in_halves_depend_on_the_replicas_and_not_on_workers_or_transport() {
    let weights = |flags: &[&str]| {
        let job = [
            "--steps",
            "40",
            "--set",
            "cluster.replicas=6",
            "--set",
            "cluster.mode=\"reproducible\"",
            "--set",
            "cluster.compression={ kind = \"bf16\" }",
        ];
        let lines = train(&[&job[..], flags].concat());
        last(&lines)["weights_blake3"].clone()
    };
    let expected = weights(&["--workers", "1"]);
    for workers in ["2", "4"] {
        assert_eq!(weights(&["--workers", workers]), expected, "{workers}");
    }
}

#[test]
fn people_see_steps_metrics_and_where_the_model_is() {
    let out = temp_dir();
    let (job, dir) = (digits(), text(&out.path().join("model")));
    let output = ringfold(&["train", &job, "--epochs", "1", "--output", &dir]).succeeded();
    for part in [
        "job-1 training\n",
        "step     23 of 23: loss ",
        "test_accuracy 0.",
        "job-1 succeeded\n",
        "weights_blake3 ",
        &dir,
    ] {
        assert!(output.stdout.contains(part), "{part:?} in {output}");
    }
    assert_eq!(output.stderr, "", "{output}");
}
