//! 60,000 images of 28 x 28 pixels from IDX files, if Debian's `dataset-fashion-mnist` is there.

use std::path::Path;
use std::time::Duration;

use crate::support::{Process, args, repository, skipped, temp_dir, text};

/// Half a minute on two free cores.
const TRAINING_LIMIT: Duration = Duration::from_secs(600);

/// Trains the example with these flags and gives the accuracy on the test images; `None` if the data isn't
/// installed.
#[track_caller]
fn test_accuracy(file: &str, flags: &[&str]) -> Option<f64> {
    if !Path::new("/usr/share/datasets/fashion-mnist").is_dir() {
        skipped("dataset-fashion-mnist isn't installed");
        return None;
    }
    let dir = temp_dir();
    let job = text(&repository(&format!("examples/fashion-mnist/{file}")));
    let out = text(&dir.path().join("out"));
    let train = args(&[&["train", &job, "--json", "--output", &out], flags]);
    let output = Process::start(&train).wait_within(TRAINING_LIMIT);
    let done = output.succeeded().finished();
    Some(
        done["metrics"]["test_accuracy"]
            .as_f64()
            .expect("an accuracy"),
    )
}

#[test]
fn two_epochs_learn_clothes() {
    if let Some(accuracy) = test_accuracy("job.toml", &["--epochs", "2"]) {
        assert!(accuracy >= 0.85, "{accuracy}");
    }
}

#[test]
fn the_whole_job_learns_them_better() {
    if let Some(accuracy) = test_accuracy("job.toml", &[]) {
        assert!(accuracy >= 0.88, "{accuracy}");
    }
}

/// A tenth of an epoch, with the running statistics of two ranks in the evaluation.
#[test]
fn a_convolutional_network_begins_to_learn_them() {
    let steps = [
        "--set",
        "train.steps=60",
        "--set",
        "train.schedule.warmup_steps=5",
    ];
    if let Some(accuracy) = test_accuracy("cnn.toml", &steps) {
        assert!(accuracy >= 0.6, "{accuracy}");
    }
}
