//! Training on text, and text from the model.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{repository, ringfold, temp_dir, text};

/// The example's job with a network that trains in a moment.
fn small_job(dir: &Path) -> String {
    let example = fs::read_to_string(repository("examples/gpt/job.toml")).expect("the example");
    let plays = text(&repository("examples/gpt/plays.txt.gz"));
    let mut job = example;
    for (from, to) in [
        ("\"plays.txt.gz\"", format!("{plays:?}").as_str()),
        ("layers = 4", "layers = 1"),
        ("heads = 4", "heads = 2"),
        ("width = 128", "width = 16"),
        ("context = 64", "context = 16"),
        ("stride = 32", "stride = 150"),
        ("steps = 1200", "steps = 40"),
        ("evaluate_steps = 400", "report_steps = 5"),
        ("warmup_steps = 100", "warmup_steps = 5"),
        ("learning_rate = 0.002", "learning_rate = 0.01"),
    ] {
        assert!(job.contains(from), "the example has no {from}");
        job = job.replace(from, to);
    }
    let path = dir.join("job.toml");
    fs::write(&path, job).expect("write the job");
    text(&path)
}

fn losses(events: &[Value]) -> Vec<f64> {
    let progress = events.iter().filter(|event| event["event"] == "progress");
    progress
        .filter_map(|event| event["loss"].as_f64())
        .collect()
}

#[test]
fn text_is_trained_on_evaluated_and_written() {
    let dir = temp_dir();
    let job = small_job(dir.path());
    let train = |workers: &str, output: &str| {
        let args = [
            "train",
            &job,
            "--json",
            "--workers",
            workers,
            "--output",
            output,
        ];
        ringfold(&args).succeeded()
    };
    let one = train("1", "one");
    let two = train("2", "two");
    let (alone, both) = (losses(&one.json_lines()), losses(&two.json_lines()));
    assert!(
        alone.len() >= 8 && alone.len() == both.len(),
        "{one}\n{two}"
    );
    for (a, b) in alone.iter().zip(&both) {
        assert!(((a - b) / a).abs() < 1e-3, "{alone:?}\n{both:?}");
    }
    assert!(alone[alone.len() - 1] < 0.85 * alone[0], "{alone:?}");

    let metrics = &one.finished()["metrics"];
    let model = text(&dir.path().join("one"));
    let evaluate = ["evaluate", "--model", &model, "--json"];
    let tested = ringfold(&[&evaluate[..], &["--job", &job]].concat()).succeeded();
    for metric in ["test_loss", "test_perplexity", "test_accuracy"] {
        let here = tested.json()["metrics"][metric].as_f64().expect(metric);
        let there = metrics[metric].as_f64().expect(metric);
        assert!(
            (here - there).abs() < 1e-4 * there,
            "{metric}: {there} {here}"
        );
    }
    let more = text(&dir.path().join("more.txt"));
    fs::write(&more, "To be, or not to be, that is the question").expect("write text");
    let tested = ringfold(&[&evaluate[..], &["--input", &more]].concat()).succeeded();
    assert_eq!(tested.json()["records"], 1);

    let generate = |more: &[&str]| {
        let args = [&["generate", &model, "--tokens", "40", "--seed", "3"], more].concat();
        ringfold(&args)
    };
    let plain = generate(&["--prompt", "HAMLET."]).succeeded();
    assert_eq!(plain.stdout.chars().count(), 7 + 40 + 1, "{plain}");
    assert!(plain.stdout.starts_with("HAMLET."), "{plain}");
    assert_eq!(
        generate(&["--prompt", "HAMLET."]).succeeded().stdout,
        plain.stdout
    );
    let lines = generate(&["--prompt", "HAMLET.", "--json"])
        .succeeded()
        .json_lines();
    assert_eq!(lines.len(), 41);
    let pieces = lines[..40].iter().filter_map(|line| line["text"].as_str());
    let whole = lines[40]["text"].as_str().expect("the text");
    assert_eq!(pieces.collect::<String>(), whole);
    assert_eq!(plain.stdout, format!("HAMLET.{whole}\n"));
}

#[test]
fn what_a_model_of_text_cannot_do_is_said() {
    let dir = temp_dir();
    let job = small_job(dir.path());
    let output = text(&dir.path().join("model"));
    let train = ["train", &job, "--steps", "1", "--output", &output];
    ringfold(&train).succeeded();
    let said = ringfold(&["generate", &output, "--prompt", "to €"]).error(2);
    assert_eq!(
        said,
        "--prompt: the character '€' at byte 3 is not in the vocabulary"
    );
    let more = text(&dir.path().join("more.txt"));
    fs::write(&more, "a text with a \u{20ac}, which isn't in the plays").expect("write text");
    let said = ringfold(&["evaluate", "--model", &output, "--input", &more]).error(2);
    assert!(
        said.contains("byte 14 (from 0): the character '€'"),
        "{said}"
    );
    let said = ringfold(&["predict", "--model", &output, "--input", &more]).error(2);
    assert!(said.contains("the data is text"), "{said}");
    let said = ringfold(&["generate", &output, "--temperature=-1"]).exited(2);
    assert!(
        said.stderr.contains("expected a number of 0 or more"),
        "{said}"
    );
}
