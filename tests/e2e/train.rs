//! `ringfold train`: one machine, any number of worker processes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{
    Process, children_of, digits, is_running, poll, processes_with, repository, run, text,
};

struct Trained {
    losses: BTreeMap<u64, f64>,
    last: Value,
}

fn train(arguments: &[&str]) -> Trained {
    let out = tempfile::tempdir().unwrap();
    let out = text(out.path());
    let job = digits();
    let mut all = vec!["train", &job, "--json", "--output", &out];
    all.extend(arguments);
    let lines = run(&all).succeeded().json();
    let losses = lines.iter().filter(|line| line["event"] == "progress");
    Trained {
        losses: losses
            .map(|line| {
                (
                    line["step"].as_u64().unwrap(),
                    line["loss"].as_f64().unwrap(),
                )
            })
            .collect(),
        last: lines.last().unwrap().clone(),
    }
}

#[test]
fn losses_do_not_depend_on_the_number_of_workers() {
    let of = |workers: &str| {
        train(&[
            "--workers",
            workers,
            "--steps",
            "60",
            "--set",
            "train.report_steps=1",
        ])
    };
    let alone = of("1");
    assert_eq!(alone.losses.len(), 60);
    for workers in ["2", "3", "4"] {
        let losses = of(workers).losses;
        for step in 1..=50 {
            let (expected, got) = (alone.losses[&step], losses[&step]);
            let error = ((got - expected) / expected).abs();
            assert!(
                error < 1e-4,
                "{workers} workers, step {step}: {got} for {expected}"
            );
        }
    }
}

#[test]
fn digits_are_learned_by_any_number_of_workers() {
    for workers in ["1", "2", "3", "4"] {
        let last = train(&["--workers", workers]).last;
        let accuracy = last["metrics"]["test_accuracy"].as_f64().unwrap();
        assert!(accuracy >= 0.97, "{workers} workers: {last:#}");
    }
}

#[test]
fn the_last_line_says_everything_and_a_seed_gives_the_same_weights() {
    let first = train(&["--epochs", "3"]).last;
    assert_eq!(first["event"], "finished");
    assert_eq!(first["state"], "succeeded");
    for key in [
        "steps",
        "epochs",
        "samples",
        "samples_per_second",
        "wall_seconds",
        "parameters",
    ] {
        assert!(
            first[key].as_f64().is_some_and(|number| number > 0.0),
            "{key}: {first:#}"
        );
    }
    for key in ["test_accuracy", "test_loss", "train_loss"] {
        assert!(first["metrics"][key].is_f64(), "{key}: {first:#}");
    }
    assert_eq!(first["weights_blake3"].as_str().unwrap().len(), 64);
    assert_eq!(
        first["weights_blake3"],
        train(&["--epochs", "3"]).last["weights_blake3"]
    );
    let other = train(&["--epochs", "3", "--seed", "2"]).last;
    assert_ne!(first["weights_blake3"], other["weights_blake3"]);
}

#[test]
fn people_get_a_summary() {
    let out = tempfile::tempdir().unwrap();
    let done = run(&[
        "train",
        &digits(),
        "--epochs",
        "2",
        "--output",
        &text(out.path()),
    ]);
    let stdout = done.succeeded().stdout;
    for words in [
        "job-1 succeeded",
        "test_accuracy",
        "2 epochs",
        "samples/s",
        "weights_blake3",
    ] {
        assert!(stdout.contains(words), "{words:?} is not in {stdout}");
    }
}

fn endless(out: &str) -> Process {
    let job = digits();
    let mut train = Process::start(&[
        "train",
        &job,
        "--json",
        "--epochs",
        "1000000",
        "--output",
        out,
        "--workers",
        "2",
    ]);
    train.json_line(|line| line["event"] == "progress");
    train
}

#[test]
fn an_interrupt_cancels_and_leaves_no_process() {
    for (name, code) in [("INT", 130), ("TERM", 130)] {
        let out = tempfile::tempdir().unwrap();
        let mut train = endless(&text(out.path()));
        let slots = children_of(train.pid());
        assert_eq!(slots.len(), 2);
        train.signal(name);
        let last = train.json_line(|line| line["event"] == "finished");
        assert_eq!(last["state"], "cancelled");
        assert_eq!(train.wait().code(), Some(code));
        assert!(slots.iter().all(|&pid| !is_running(pid)), "{slots:?}");
    }
}

#[test]
fn a_killed_parent_leaves_no_process() {
    let out = tempfile::tempdir().unwrap();
    let mut train = endless(&text(out.path()));
    let slots = children_of(train.pid());
    assert_eq!(slots.len(), 2);
    train.signal("KILL");
    train.wait();
    poll("the slots' end", || {
        slots.iter().all(|&pid| !is_running(pid)).then_some(())
    });
}

#[test]
fn a_killed_worker_ends_the_job_with_its_signal() {
    let out = tempfile::tempdir().unwrap();
    let mut train = endless(&text(out.path()));
    let slots = children_of(train.pid());
    crate::harness::signal(slots[0], "KILL");
    let last = train.json_line(|line| line["event"] == "finished");
    assert_eq!(last["state"], "failed");
    assert_eq!(last["failure"]["cause"], "signalled");
    assert_eq!(last["failure"]["detail"], 9);
    assert_eq!(last["failure"]["phase"], "training");
    assert!(last["failure"]["rank"].is_u64());
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.contains("killed by signal 9 (SIGKILL)"), "{reason}");
    assert_eq!(train.wait().code(), Some(1));
    assert!(slots.iter().all(|&pid| !is_running(pid)));
}

#[test]
fn fashion_mnist_is_learned() {
    if !std::path::Path::new("/usr/share/datasets/fashion-mnist").exists() {
        println!("skipped: the Debian package dataset-fashion-mnist isn't installed");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let job = text(&repository("examples/fashion-mnist/job.toml"));
    let done = run(&["train", &job, "--json", "--output", &text(out.path())]);
    let last = done.succeeded().last_json();
    let accuracy = last["metrics"]["test_accuracy"].as_f64().unwrap();
    assert!(accuracy >= 0.88, "{last:#}");
    assert!(processes_with(&text(out.path())).is_empty());
}
