//! The text dump is stable. `RINGFOLD_BLESS=1 cargo test -p ringfold-graph` rewrites the goldens.

use std::path::Path;

use ringfold_graph::dump::dot;
use ringfold_graph::models::{LOSS, MlpOptions, mlp};
use ringfold_graph::pass::{Mode, Record, optimise_watched};
use ringfold_graph::{Activation, Graph, differentiate};

fn assert_golden(name: &str, graph: &Graph) {
    assert_golden_text(name, &graph.to_string());
}

fn assert_golden_text(name: &str, got: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("RINGFOLD_BLESS").is_some() {
        std::fs::write(&path, got).expect("golden is writable");
    }
    let expected = std::fs::read_to_string(&path).expect("golden exists");
    assert!(
        expected == got,
        "{name} differs; expected:\n{expected}\ngot:\n{got}"
    );
}

#[test]
fn classifier_with_dropout_and_penalty() {
    let mut options = MlpOptions::classifier(8, &[16, 12], 4);
    options.dropout = 0.25;
    options.l2 = 0.001;
    options.activation = Activation::Gelu;
    let graph = mlp(&options).unwrap();
    assert_golden("classifier_forward.txt", &graph);
    let graph = differentiate(&graph, LOSS).unwrap();
    assert_golden("classifier.txt", &graph);
    assert_golden_text("classifier.dot", &dot(&graph));
}

/// The patches of each pass that changed the graph, and what it left.
#[test]
fn a_classifier_through_the_passes() {
    let mut options = MlpOptions::classifier(8, &[16, 12], 4);
    options.dropout = 0.25;
    options.activation = Activation::Gelu;
    let graph = differentiate(&mlp(&options).unwrap(), LOSS).unwrap();
    for (name, mode) in [
        ("classifier_training.txt", Mode::Training),
        ("classifier_prediction.txt", Mode::Prediction),
    ] {
        let mut text = format!("before\n{graph}");
        let mut watch = |records: &[Record], graph: &Graph| {
            let patches: String = records.iter().map(Record::to_string).collect();
            text.push_str(&format!("{patches}after {}\n{graph}", records[0].pass));
        };
        optimise_watched(&graph, mode, &mut watch).unwrap();
        assert_golden_text(name, &text);
    }
}

#[test]
fn regression() {
    let graph = mlp(&MlpOptions::regression(3, &[5], 2)).unwrap();
    assert_golden("regression.txt", &differentiate(&graph, LOSS).unwrap());
}
