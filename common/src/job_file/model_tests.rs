//! `[model]`: every kind, its defaults, and what is refused where.

use super::*;
use crate::job::{
    Activation, Architecture, CnnBlock, CnnSpec, Initialiser, Layer, LayerSpec, Loss, LossOptions,
    ModelSpec, OnnxSpec, SequentialSpec, SourceFile, Stem,
};

/// A file with these lines in `[model]`; the first of them is line 2.
fn file(model: &str) -> String {
    format!(
        r#"[model]
{model}
[data]
format = "csv"
path = "d.csv"
label = "y"
[train]
epochs = 2
global_batch = 4
[train.optimizer]
kind = "sgd"
learning_rate = 0.1
"#
    )
}

fn read(model: &str) -> ModelSpec {
    match parse(&file(model), "job.toml", "/base", &[]) {
        Ok(spec) => spec.model,
        Err(error) => panic!("{error}:\n{model}"),
    }
}

fn message(model: &str) -> String {
    parse(&file(model), "job.toml", "/base", &[])
        .unwrap_err()
        .to_string()
}

#[test]
fn kinds_have_their_documented_defaults() {
    let linear = read("kind = \"linear\"");
    assert_eq!(linear.loss, Loss::MeanSquaredError);
    assert!(matches!(linear.architecture, Architecture::Linear(spec)
        if spec.initialiser == Initialiser::Zeros));
    let softmax = read("kind = \"softmax\"");
    assert_eq!(softmax.loss, Loss::CrossEntropy);
    assert!(matches!(softmax.architecture, Architecture::Softmax(_)));
    let cnn = read("kind = \"cnn\"\ninput = [1, 28, 28]");
    assert_eq!(cnn.input, [1, 28, 28]);
    assert_eq!(
        cnn.architecture,
        Architecture::Cnn(CnnSpec {
            blocks: CnnSpec::default_blocks(),
            hidden: vec![512],
            activation: Activation::Relu,
            dropout: 0.0,
            initialiser: Initialiser::HeUniform,
        })
    );
    let blocks = read(
        "kind = \"cnn\"\nblocks = [{ filters = 8 }, { filters = 9, kernel = 5, padding = 0, pool = 3, batch_norm = true }]",
    );
    let Architecture::Cnn(cnn) = blocks.architecture else {
        panic!("cnn")
    };
    let first = CnnBlock {
        filters: 8,
        kernel: 3,
        padding: 1,
        pool: 1,
        batch_norm: false,
    };
    let second = CnnBlock {
        filters: 9,
        kernel: 5,
        padding: 0,
        pool: 3,
        batch_norm: true,
    };
    assert_eq!(cnn.blocks, [first, second]);
    let Architecture::Resnet18(resnet) = read("kind = \"resnet18\"").architecture else {
        panic!("resnet18")
    };
    assert_eq!((resnet.stem, resnet.width), (Stem::Cifar, 64));
    assert_eq!(resnet.initialiser, Initialiser::HeNormalFanOut);
    assert!(!resnet.zero_init_residual);
}

#[test]
fn initialisers_are_names_or_tables() {
    let of = |text: &str| {
        let model = read(&format!("kind = \"softmax\"\ninitialiser = {text}"));
        let Architecture::Softmax(softmax) = model.architecture else {
            panic!("softmax")
        };
        softmax.initialiser
    };
    assert_eq!(of("\"he_uniform_fan_out\""), Initialiser::HeUniformFanOut);
    assert_eq!(of("\"ones\""), Initialiser::Ones);
    assert_eq!(
        of("{ kind = \"truncated_normal\", std = 0.02 }"),
        Initialiser::TruncatedNormal(0.02)
    );
    assert_eq!(
        of("{ kind = \"constant\", value = -1 }"),
        Initialiser::Constant(-1.0)
    );
    assert_eq!(
        of("{ kind = \"orthogonal\" }"),
        Initialiser::Orthogonal(1.0)
    );
    for (text, expected) in [
        (
            "\"xavier\"",
            "`model.initialiser` is the string \"xavier\": expected \"he_normal\" or",
        ),
        ("{ kind = \"normal\" }", "`model.initialiser.std`"),
        (
            "{ kind = \"normal\", std = -1 }",
            "job.toml:3:1: `model.initialiser` is -1: expected a finite number, 0 or more",
        ),
        (
            "{ kind = \"uniform\", std = 1 }",
            "`model.initialiser.bound`",
        ),
        ("3", "`model.initialiser` is the number 3"),
    ] {
        let got = message(&format!("kind = \"softmax\"\ninitialiser = {text}"));
        assert!(got.contains(expected), "{got}\n{expected}");
    }
}

#[test]
fn losses_take_their_own_numbers() {
    let model = read("kind = \"softmax\"\nlabel_smoothing = 0.1\nclass_weights = [1, 0.5]");
    assert_eq!(model.loss_options.label_smoothing, 0.1);
    assert_eq!(model.loss_options.class_weights, [1.0, 0.5]);
    let model = read("kind = \"linear\"\nloss = \"huber\"\ndelta = 2");
    assert_eq!((model.loss, model.loss_options.delta), (Loss::Huber, 2.0));
    assert_eq!(
        read("kind = \"linear\"").loss_options,
        LossOptions::default()
    );
    for (text, expected) in [
        (
            "kind = \"linear\"\nlabel_smoothing = 0.1",
            "job.toml:3:1: `model.label_smoothing` is set, and model.loss is \
             \"mean_squared_error\": expected model.loss = \"cross_entropy\" with it",
        ),
        (
            "kind = \"linear\"\nloss = \"huber\"\ndelta = 0",
            "`model.delta` is 0: expected a finite number above 0",
        ),
        (
            "kind = \"softmax\"\nloss = \"huber\"",
            "expected \"cross_entropy\" for model.kind \"softmax\"",
        ),
        (
            "kind = \"linear\"\nloss = \"cross_entropy\"",
            "there is \"softmax\"",
        ),
        (
            "kind = \"softmax\"\nclass_weights = [1, -1]",
            "`model.class_weights` is -1",
        ),
        (
            "kind = \"cnn\"\ninput = [1, 0, 28]",
            "`model.input` is [1, 0, 28]: expected [channels, height, width]",
        ),
    ] {
        let got = message(text);
        assert!(got.contains(expected), "{got}\n{expected}");
    }
}

const LAYERS: &str = r#"kind = "sequential"
input = [1, 8, 8]
layers = [
    { kind = "conv2d", filters = 4, kernel = 3, padding = [1, 0] },
    { kind = "batch_norm" },
    { kind = "silu" },
    { kind = "residual", layers = [
        { kind = "conv2d", filters = 4, kernel = 3, padding = 1 },
    ] },
    { kind = "max_pool2d", size = 2 },
    { kind = "flatten" },
    { kind = "dropout", rate = 0.25 },
    { kind = "dense", units = 3 },
]"#;

fn layers(model: &str) -> Vec<LayerSpec> {
    let Architecture::Sequential(SequentialSpec { layers, .. }) = read(model).architecture else {
        panic!("sequential")
    };
    layers
}

#[test]
fn layers_know_their_lines() {
    let layers = layers(LAYERS);
    let lines: Vec<u32> = layers.iter().map(|layer| layer.line).collect();
    assert_eq!(lines, [5, 6, 7, 8, 11, 12, 13, 14]);
    let Layer::Conv2d(conv) = &layers[0].layer else {
        panic!("conv2d")
    };
    assert_eq!((conv.kernel, conv.padding), ([3, 3], [1, 0]));
    assert!(conv.bias);
    let Layer::Residual(inner) = &layers[3].layer else {
        panic!("residual")
    };
    assert_eq!(inner[0].line, 9);
    let Layer::MaxPool2d(pool) = &layers[4].layer else {
        panic!("max_pool2d")
    };
    assert_eq!((pool.size, pool.stride), ([2, 2], [2, 2]));
    assert_eq!(layers[2].layer, Layer::Activation(Activation::Silu));
}

#[test]
fn a_layer_that_can_not_be_is_located() {
    for (from, to, expected) in [
        (
            "rate = 0.25",
            "rate = 1.5",
            "job.toml:13:25: `model.layers[6].rate` is 1.5: expected a number from 0",
        ),
        (
            "units = 3",
            "unit = 3",
            "unknown key `model.layers[7].unit` (did you mean `units`?)",
        ),
        (
            "\"flatten\"",
            "\"flat\"",
            "`model.layers[5].kind` is the string \"flat\": expected \"dense\" or \"conv1d\"",
        ),
        (
            "size = 2",
            "size = 2, padding = 2",
            "`model.layers[4].padding` is [2, 2]: expected at most half the size",
        ),
        (
            "kernel = 3, padding = 1 ",
            "kernel = 0 ",
            "`model.layers[3].layers[0].kernel` is 0: expected a whole number from 1",
        ),
        (
            "filters = 4, kernel = 3, padding = [1, 0]",
            "filters = 4, kernel = [3]",
            "`model.layers[0].kernel` is a list of 1: expected a whole number, or a list of two",
        ),
    ] {
        assert!(LAYERS.contains(from), "{from}");
        let got = message(&LAYERS.replacen(from, to, 1));
        assert!(got.contains(expected), "{got}\n{expected}");
    }
    let deep = (0..20).fold("{ kind = \"relu\" }".to_owned(), |inner, _| {
        format!("{{ kind = \"residual\", layers = [{inner}] }}")
    });
    let got = message(&format!("kind = \"sequential\"\nlayers = [{deep}]"));
    assert!(got.contains("lists in each other"), "{got}");
    let got = message("kind = \"sequential\"\nlayers = []");
    assert!(got.contains("1 to 512 layers"), "{got}");
    let got = message("kind = \"sequential\"");
    assert!(got.contains("model.layers"), "{got}");
}

#[test]
fn inputs_of_an_onnx_file_take_ranges_of_features() {
    let with = |inputs: &str| format!("kind = \"onnx\"\npath = \"a.onnx\"\ninputs = [{inputs}]");
    let two = "{ name = \"a\", features = [0, 3] }, { name = \"b\", features = [1, 4] }";
    let Architecture::Onnx(onnx) = read(&with(two)).architecture else {
        panic!("not an ONNX file");
    };
    let inputs = onnx.inputs.iter();
    let inputs: Vec<_> = inputs.map(|input| (&*input.name, input.features)).collect();
    assert_eq!(inputs, [("a", [0, 3]), ("b", [1, 4])]);
    for (inputs, expected) in [
        ("{ name = \"a\", features = [3, 3] }", "[3, 3]"),
        ("{ name = \"a\", features = [3] }", "one past the last"),
        ("{ features = [0, 3] }", "name"),
        ("{ name = \"\", features = [0, 1] }", "a name of 0 bytes"),
        (&two.replace("\"b\"", "\"a\""), "\"a\" twice"),
        ("{ name = \"a\", features = [0, 3], odd = 1 }", "odd"),
    ] {
        let got = message(&with(inputs));
        assert!(got.contains(expected), "{inputs}: {got}");
    }
}

#[test]
fn an_onnx_file_is_named_in_a_table_or_in_one_line() {
    let whole = read("kind = \"onnx\"\npath = \"nets/a.onnx\"");
    let expected = |freeze: &[&str], output: Option<&str>| {
        Architecture::Onnx(OnnxSpec {
            file: SourceFile::unread("/base/nets/a.onnx".into()),
            output: output.map(Into::into),
            freeze: freeze.iter().map(|&pattern| pattern.into()).collect(),
            inputs: Vec::new(),
        })
    };
    assert_eq!(whole.architecture, expected(&[], None));
    assert_eq!((whole.loss, whole.weights), (Loss::CrossEntropy, None));

    let text = file("X").replace(
        "[model]\nX",
        "model = { onnx = \"./nets/a.onnx\", loss = \"huber\", output = \"y\", freeze = [\"a*\"] }",
    );
    let inline = parse(&text, "job.toml", "/base", &[]).unwrap().model;
    assert_eq!(inline.architecture, expected(&["a*"], Some("y")));
    assert_eq!(inline.loss, Loss::Huber);

    let with_weights = read("kind = \"softmax\"\nweights = \"/w.safetensors\"");
    let weights = SourceFile::unread("/w.safetensors".into());
    assert_eq!(with_weights.weights, Some(weights));
}

#[test]
fn keys_of_onnx_models_that_do_not_fit_are_named() {
    for (model, expected) in [
        ("kind = \"onnx\"", "job.toml:1:2: missing key `model.path`"),
        (
            "onnx = \"a\"\nkind = \"mlp\"",
            "job.toml:3:1: `model.onnx` and `model.kind` exclude each other",
        ),
        (
            "onnx = \"a\"\npath = \"b\"",
            "job.toml:3:1: `model.onnx` and `model.path` exclude each other",
        ),
        ("onnx = \"\"", "job.toml:2:1: `model.path` is \"\""),
        (
            "onnx = \"a\"\nfreeze = \"b\"",
            "job.toml:3:1: `model.freeze` is",
        ),
        (
            "onnx = \"a\"\nfreeze = [1]",
            "job.toml:3:11: `model.freeze` is",
        ),
        (
            "onnx = \"a\"\nfreeze = [\"\"]",
            "job.toml:3:1: `model.freeze` is a pattern of 0 bytes",
        ),
        (
            "onnx = \"a\"\noutput = \"\"",
            "job.toml:3:1: `model.output` is a name of 0 bytes",
        ),
        (
            "onnx = \"a\"\nhidden = [1]",
            "job.toml:3:1: unknown key `model.hidden`",
        ),
    ] {
        let got = message(model);
        assert!(got.starts_with(expected), "{got}\n{expected}");
    }
}
