//! `docs/job-file.md` says what the job-file reader does: its whole file is read, every example is
//! accepted, every default is what a missing key means, and a required key is required.

use std::collections::BTreeSet;

use ringfold_common::job::JobSpec;
use ringfold_common::job_file::{JobFileError, Override, parse};

const DOC: &str = include_str!("../../docs/job-file.md");

/// What most of the files have.
const MLP: &str = r#"[model]
kind = "mlp"
hidden = [8]
"#;
const CSV: &str = r#"[data]
format = "csv"
path = "d.csv"
label = "y"
"#;
const EPOCHS: &str = "[train]
epochs = 2
global_batch = 64
";
const SGD: &str = r#"[train.optimizer]
kind = "sgd"
learning_rate = 0.1
"#;

/// The parts of files that together have a place for every key.
const PARTS: [&[&str]; 31] = [
    &[
        MLP,
        r#"[data]
format = "parquet"
path = "d.parquet"
label = "y"
"#,
        EPOCHS,
        SGD,
    ],
    &[
        MLP,
        r#"[data]
format = "jsonl"
path = "d.jsonl"
label = "y"
"#,
        EPOCHS,
        SGD,
        "[cluster]
workers = 2
",
    ],
    &[
        r#"[model]
kind = "onnx"
path = "net.onnx"
[[model.inputs]]
name = "image"
features = [0, 784]
"#,
        CSV,
        EPOCHS,
        SGD,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        SGD,
        r#"[cluster.compression]
kind = "bf16"
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        SGD,
        r#"[cluster.compression]
kind = "int8"
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        SGD,
        r#"[cluster.compression]
kind = "topk"
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        SGD,
        r#"[cluster.compression]
kind = "powersgd"
"#,
    ],
    &[
        r#"[model]
kind = "onnx"
path = "net.onnx"
"#,
        CSV,
        EPOCHS,
        SGD,
    ],
    &[
        r#"[model]
onnx = "net.onnx"
"#,
        CSV,
        EPOCHS,
        SGD,
    ],
    &[
        r#"[model]
kind = "lstm"
embedding = 8
hidden = 8
"#,
        r#"[data]
format = "text"
path = "t.txt"
tokeniser = "byte"
context = 8
[data.test]
fraction = 0.5
"#,
        EPOCHS,
        r#"[train.optimizer]
kind = "adam"
learning_rate = 0.1
"#,
    ],
    &[
        r#"[model]
kind = "linear"
loss = "huber"
delta = 2.0
"#,
        CSV,
        EPOCHS,
        SGD,
    ],
    &[
        r#"[model]
kind = "linear"
loss = "gamma"
[model.initialiser]
kind = "uniform"
bound = 1
"#,
        CSV,
        EPOCHS,
        SGD,
    ],
    &[
        r#"[model]
kind = "softmax"
[model.initialiser]
kind = "constant"
value = 1
"#,
        CSV,
        EPOCHS,
        SGD,
    ],
    &[
        r#"[model]
kind = "softmax"
[model.initialiser]
kind = "normal"
std = 1
"#,
        CSV,
        EPOCHS,
        SGD,
    ],
    &[
        r#"[model]
kind = "cnn"
[[model.blocks]]
filters = 4
"#,
        CSV,
        EPOCHS,
        SGD,
    ],
    &[
        r#"[model]
kind = "resnet18"
"#,
        CSV,
        EPOCHS,
        SGD,
    ],
    &[
        r#"[model]
kind = "sequential"
[[model.layers]]
kind = "conv2d"
filters = 4
kernel = 3
[[model.layers]]
kind = "max_pool2d"
size = 2
[[model.layers]]
kind = "group_norm"
groups = 2
[[model.layers]]
kind = "reshape"
shape = [4]
[[model.layers]]
kind = "embedding"
vocabulary = 4
width = 3
[[model.layers]]
kind = "attention"
heads = 4
[[model.layers]]
kind = "dense"
units = 4
"#,
        CSV,
        EPOCHS,
        SGD,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        SGD,
        "momentum = 0.5
",
    ],
    &[
        MLP,
        r#"[data]
format = "idx"
images = "i"
labels = "l"
[data.test]
images = "ti"
labels = "tl"
"#,
        "[train]
steps = 2
global_batch = 64
",
        r#"[train.optimizer]
kind = "adam"
learning_rate = 0.1
[train.schedule]
kind = "cosine"
"#,
    ],
    &[
        MLP,
        CSV,
        r#"[data.test]
path = "t.csv"
"#,
        EPOCHS,
        r#"[train.optimizer]
kind = "adamw"
learning_rate = 0.1
[train.schedule]
kind = "step"
every_steps = 5
gamma = 0.1
"#,
    ],
    &[
        MLP,
        CSV,
        "[data.test]
fraction = 0.5
",
        EPOCHS,
        SGD,
        r#"[train.schedule]
kind = "step"
every_epochs = 5
gamma = 0.1
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        r#"[train.optimizer]
kind = "rmsprop"
learning_rate = 0.1
[train.schedule]
kind = "multi_step"
milestones_steps = [5]
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        r#"[train.optimizer]
kind = "adagrad"
learning_rate = 0.1
[train.schedule]
kind = "multi_step"
milestones_epochs = [5]
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        r#"[train.optimizer]
kind = "lamb"
learning_rate = 0.1
[train.schedule]
kind = "cosine_restarts"
first_steps = 5
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        r#"[train.optimizer]
kind = "lion"
learning_rate = 0.1
[train.schedule]
kind = "cosine_restarts"
first_epochs = 5
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        r#"[train.optimizer]
kind = "barzilai_borwein"
learning_rate = 0.1
[train.schedule]
kind = "one_cycle"
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        SGD,
        r#"[train.schedule]
kind = "polynomial"
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        SGD,
        r#"[train.schedule]
kind = "linear"
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        SGD,
        r#"[train.schedule]
kind = "exponential"
every_epochs = 1
gamma = 0.9
"#,
    ],
    &[
        MLP,
        CSV,
        EPOCHS,
        SGD,
        r#"[[train.group]]
match = "*.bias"
"#,
    ],
    &[
        r#"[model]
kind = "gpt"
layers = 1
heads = 6
width = 12
"#,
        r#"[data]
format = "text"
path = "t.txt"
tokeniser = "byte"
context = 8
[data.test]
path = "u.txt"
"#,
        EPOCHS,
        r#"[train.optimizer]
kind = "adamw"
learning_rate = 0.1
"#,
    ],
];

fn bases() -> Vec<String> {
    PARTS.iter().map(|parts| parts.concat()).collect()
}

/// One line of a table.
#[derive(Debug)]
struct Row {
    /// Which table of the doc it stands in.
    table: usize,
    key: &'static str,
    default: &'static str,
    example: &'static str,
}

fn rows() -> Vec<Row> {
    let mut table = 0;
    let mut rows = Vec::new();
    for line in DOC.lines() {
        table += usize::from(line.starts_with("| key |"));
        if !line.starts_with("| `") {
            continue;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 8, "cells of {line}");
        let quoted = |cell: &'static str| cell.split('`').nth(1).unwrap_or_default();
        rows.push(Row {
            table,
            key: quoted(cells[1]),
            default: cells[3],
            example: quoted(cells[5]),
        });
    }
    rows
}

fn read(text: &str) -> Result<JobSpec, JobFileError> {
    parse(text, "job.toml", "/base", &[])
}

fn read_with(base: &str, key: &str, value: &str) -> Result<JobSpec, JobFileError> {
    let change = Override {
        flag: "the doc".to_owned(),
        key: key.to_owned(),
        value: value.to_owned(),
    };
    parse(base, "job.toml", "/base", &[change])
}

/// The base without the line of `key`, if it has one.
fn without(base: &str, key: &str) -> Option<String> {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut inside = table.is_empty();
    let mut kept = Vec::new();
    for line in base.lines() {
        if line.starts_with('[') {
            inside = line == format!("[{table}]") || line == format!("[[{table}]]");
        }
        if !(inside && line.starts_with(&format!("{name} ="))) {
            kept.push(line);
        }
    }
    let text = kept.join("\n");
    (text.trim() != base.trim()).then_some(text)
}

/// What the doc shows is set: the key of the row, or the table around it.
fn example_of(row: &Row) -> (&'static str, &'static str) {
    let (name, value) = row
        .example
        .split_once(" = ")
        .expect("an example sets a key");
    let (table, last) = row.key.rsplit_once('.').unwrap_or(("", row.key));
    if name == last {
        return (row.key, value);
    }
    let outer = table.rsplit('.').next();
    assert_eq!(
        outer,
        Some(name),
        "the example of {} sets another key",
        row.key
    );
    (table, value)
}

#[test]
fn the_whole_file_is_read() {
    let whole = DOC
        .split("```toml")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let spec = read(whole.expect("the doc shows a whole file")).unwrap();
    assert_eq!((spec.name.as_str(), spec.cluster.workers), ("digits", 3));
}

#[test]
fn every_base_is_read() {
    for base in bases() {
        read(&base).unwrap_or_else(|error| panic!("{base}\n{error}"));
    }
}

#[test]
fn every_example_is_accepted() {
    for row in rows() {
        let (key, value) = example_of(&row);
        let tried: Vec<_> = bases()
            .iter()
            .map(|base| read_with(base, key, value))
            .collect();
        assert!(tried.iter().any(Result::is_ok), "{row:?}: {tried:?}");
    }
}

#[test]
fn every_default_is_what_a_missing_key_means() {
    let mut checked = 0;
    for row in rows().iter().filter(|row| row.default.starts_with('`')) {
        // Several defaults: each belongs to another choice, which some base makes.
        for default in row.default.split('`').skip(1).step_by(4) {
            let holds = bases().iter().any(|base| {
                let bare = without(base, row.key).unwrap_or_else(|| base.clone());
                let set = read_with(&bare, row.key, default);
                set.is_ok() && set == read(&bare)
            });
            assert!(holds, "{row:?}: {default} is not the default");
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked} defaults were found");
}

#[test]
fn every_required_key_is_required() {
    for row in rows()
        .iter()
        .filter(|row| row.default.starts_with("required"))
    {
        let mut found = false;
        for base in bases() {
            if let Some(text) = without(&base, row.key) {
                found = true;
                assert!(read(&text).is_err(), "{row:?} is not required");
            }
        }
        assert!(found, "no base has {row:?}");
    }
}

#[test]
fn keys_are_listed_once_a_table() {
    let rows = rows();
    let keys: BTreeSet<_> = rows.iter().map(|row| (row.table, row.key)).collect();
    assert_eq!(keys.len(), rows.len());
}
