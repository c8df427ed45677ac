//! What can't be trained is refused before it is queued, at its line of the job file.

use std::fs;

use tempfile::TempDir;

use crate::support::{Cluster, args, ringfold, temp_dir, text};

/// Three records of 16 numbers and a class, for job files to train on.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: temp_dir() };
        let record = |label: &str| format!("{}{label}\n", "1,".repeat(16));
        let records = ["a", "b", "a"].map(record).concat();
        fs::write(place.path("data.csv"), records).expect("write the data");
        place
    }

    fn path(&self, name: &str) -> String {
        text(&self.dir.path().join(name))
    }

    /// A job file with this `[model]` and this at the end of `[train]`.
    fn job(&self, model: &str, train: &str) -> String {
        let file = format!(
            "[model]\n{model}\n\
             [data]\nformat = \"csv\"\npath = \"data.csv\"\nheader = false\nlabel = 16\n\
             [train.optimizer]\nkind = \"sgd\"\nlearning_rate = 0.1\n\
             [train]\nsteps = 1\nglobal_batch = 2\n{train}\n"
        );
        let path = self.path("job.toml");
        fs::write(&path, file).expect("write the job file");
        path
    }
}

/// A list of layers from line 4 on, the second of which takes an image.
const LIST: &str = "kind = \"sequential\"\nlayers = [\n  { kind = \"dense\", units = 4 },\n  \
                    { kind = \"conv2d\", filters = 2, kernel = 3 },\n]";

#[test]
fn a_layer_that_does_not_fit_is_named_with_its_line_by_every_command() {
    let place = Place::new();
    let job = place.job(LIST, "");
    let expected = format!(
        "{job}:5:3: can't build the model: model.layers[1] (conv2d, line 5): its input is [4], \
         expected an image [channels, height, width]"
    );
    assert_eq!(ringfold(&["check", &job]).error(2), expected);
    assert_eq!(ringfold(&["train", &job]).error(2), expected);
    let cluster = Cluster::start();
    assert_eq!(cluster.run(&["submit", &job]).error(2), expected);
    assert_eq!(cluster.run(&["jobs", "--json"]).succeeded().stdout, "");
}

#[test]
fn what_does_not_fit_the_data_is_named_by_its_key() {
    let place = Place::new();
    let refused = |model: &str, train: &str| {
        let job = place.job(model, train);
        let error = ringfold(&["check", &job]).error(2);
        let place = error.strip_prefix(&format!("{job}:"));
        let place = place.unwrap_or_else(|| panic!("no place: {error}"));
        place.to_owned()
    };
    let error = refused("kind = \"cnn\"", "");
    assert!(
        error.starts_with("1:2: ") && error.contains("model option input"),
        "{error}"
    );
    let error = refused(
        "kind = \"cnn\"\ninput = [1, 4, 4]\nblocks = [{ filters = 2, kernel = 9, padding = 0 }]",
        "",
    );
    assert!(
        error.starts_with("4:11: ") && error.contains("model.blocks[0]: "),
        "{error}"
    );
    let error = refused("kind = \"mlp\"\nhidden = []\ninput = [5, 3]", "");
    assert!(
        error.starts_with("4:1: ") && error.contains("records of 16"),
        "{error}"
    );
    let error = refused("kind = \"softmax\"\nclass_weights = [1, 2, 3]", "");
    assert!(
        error.starts_with("3:1: ") && error.contains("3 weights for 2 classes"),
        "{error}"
    );
    let groups = "[[train.group]]\nmatch = \"*.bias\"\n[[train.group]]\nmatch = \"norm.*\"";
    let error = refused("kind = \"softmax\"", groups);
    let expected = "train.group: \"norm.*\" matches no parameter; there are: layers.0.weight, \
                    layers.0.bias";
    assert!(
        error.starts_with("17:1: ") && error.ends_with(expected),
        "{error}"
    );
    let error = refused(
        "kind = \"softmax\"",
        "last_batch = \"drop\"\nglobal_batch2 = 1",
    );
    assert!(error.contains("unknown key"), "{error}");
    let error = refused("kind = \"softmax\"\nweights = \"w.safetensors\"", "");
    assert!(
        error.starts_with("3:1: ") && error.contains("w.safetensors: no such file"),
        "{error}"
    );
    fs::write(place.path("w.safetensors"), b"no weights").expect("write the weights");
    let error = refused("kind = \"softmax\"\nweights = \"w.safetensors\"", "");
    assert!(
        error.starts_with("3:1: ") && error.contains("not a valid safetensors"),
        "{error}"
    );
    let error = refused("onnx = \"data.csv\"", "");
    assert!(
        error.starts_with("2:1: ") && error.contains("data.csv: byte "),
        "{error}"
    );
}

#[test]
fn a_job_that_can_be_trained_is_described() {
    let place = Place::new();
    let job = place.job("kind = \"mlp\"\nhidden = [3]", "");
    let json = ["check", &job, "--json", "--output", &place.path("out")];
    let object = ringfold(&args(&[&json])).succeeded().json();
    assert_eq!(object["parameters"], 16 * 3 + 3 + 3 * 2 + 2);
    assert_eq!(
        (&object["steps"], &object["outputs"]),
        (&1.into(), &2.into())
    );
    let said = ringfold(&["check", &job]).succeeded().stdout;
    let expected = "job job: mlp of 59 parameters, 1 steps of 2\ndata: 3 training and 0 test \
                    records of 16 features, 2 classes\n";
    assert_eq!(said, expected);
}
