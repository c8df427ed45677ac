//! Names, shapes and refusals of built-in models. Values are compared with PyTorch in
//! `tests/conformance`.

use ringfold_common::job::{
    AttentionLayer, CnnBlock, CnnSpec, ConvLayer, DenseLayer, Initialiser, Layer, LayerSpec,
    LinearSpec, PoolLayer, Resnet18Spec, SequentialSpec, Stem,
};

use super::*;
use crate::autodiff::differentiate;
use crate::shape::Shape;

/// `name shape`, of parameters and states.
fn names(graph: &Graph) -> Vec<String> {
    let named = |name: &str, value| format!("{name} {}", graph.value(value).ty.shape);
    let parameters = graph.parameters().iter();
    let states = graph.states().iter();
    parameters
        .map(|p| named(&p.name, p.value))
        .chain(states.map(|s| named(&s.name, s.value)))
        .collect()
}

fn output(graph: &Graph, name: &str) -> Shape {
    let output = graph.outputs().iter().find(|output| output.name == name);
    graph.value(output.unwrap().value).ty.shape.clone()
}

fn sequential_of(layers: Vec<Layer>) -> SequentialSpec {
    let located = |(i, layer)| LayerSpec {
        line: 10 + i as u32,
        layer,
    };
    SequentialSpec {
        layers: layers.into_iter().enumerate().map(located).collect(),
        initialiser: Initialiser::HeNormal,
    }
}

fn conv(filters: u32, kernel: u32, padding: u32) -> ConvLayer {
    ConvLayer {
        filters,
        kernel: [kernel; 2],
        stride: [1; 2],
        padding: [padding; 2],
        dilation: [1; 2],
        groups: 1,
        bias: true,
        output_padding: [0; 2],
    }
}

fn dense(units: u32) -> Layer {
    Layer::Dense(DenseLayer { units, bias: true })
}

fn cnn_spec(batch_norm: bool) -> CnnSpec {
    let block = |filters| CnnBlock {
        filters,
        kernel: 5,
        padding: 2,
        pool: 2,
        batch_norm,
    };
    CnnSpec {
        blocks: vec![block(4), block(6)],
        hidden: vec![16],
        activation: Activation::Relu,
        dropout: 0.5,
        initialiser: Initialiser::HeUniform,
    }
}

#[test]
fn a_cnn_halves_images_and_names_its_parts() {
    let frame = Frame::image_classifier(&[1, 28, 28], 10);
    let graph = cnn(&cnn_spec(false), &frame).unwrap();
    differentiate(&graph, LOSS).unwrap();
    assert_eq!(
        names(&graph),
        [
            "blocks.0.conv.weight [4, 1, 5, 5]",
            "blocks.0.conv.bias [4]",
            "blocks.1.conv.weight [6, 4, 5, 5]",
            "blocks.1.conv.bias [6]",
            "hidden.0.weight [16, 294]",
            "hidden.0.bias [16]",
            "output.weight [10, 16]",
            "output.bias [10]",
        ]
    );
    let graph = cnn(&cnn_spec(true), &frame).unwrap();
    let graph = differentiate(&graph, LOSS).unwrap();
    graph.verify().unwrap();
    let names = names(&graph);
    assert!(names.contains(&"blocks.1.norm.running_var [6]".to_owned()));
    assert!(!names.iter().any(|name| name.contains("conv.bias")));
}

#[test]
fn the_default_cnn_is_that_of_the_benchmark() {
    let spec = CnnSpec {
        blocks: CnnSpec::default_blocks(),
        hidden: vec![512],
        ..cnn_spec(false)
    };
    let graph = cnn(&spec, &Frame::image_classifier(&[28, 28], 10)).unwrap();
    let count: usize = graph
        .parameters()
        .iter()
        .map(|p| graph.value(p.value).ty.shape.elements(1).unwrap())
        .sum();
    assert_eq!(
        count,
        (25 + 1) * 32 + (25 * 32 + 1) * 64 + (7 * 7 * 64 + 1) * 512 + 513 * 10
    );
}

#[test]
fn a_resnet_has_the_parameters_of_torchvision() {
    let spec = Resnet18Spec {
        stem: Stem::Imagenet,
        width: 64,
        zero_init_residual: true,
        initialiser: Initialiser::HeNormalFanOut,
    };
    let graph = resnet18(&spec, &Frame::image_classifier(&[3, 224, 224], 1000)).unwrap();
    let parameters = graph.parameters().iter();
    let elements = |p: &crate::Parameter| graph.value(p.value).ty.shape.elements(1).unwrap();
    // torchvision's model card: 11,689,512.
    assert_eq!(parameters.map(elements).sum::<usize>(), 11_689_512);
    assert_eq!(graph.parameters().len(), 62);
    assert_eq!(graph.states().len(), 60);
    let names = names(&graph);
    for name in [
        "conv1.weight [64, 3, 7, 7]",
        "layer2.0.downsample.0.weight [128, 64, 1, 1]",
        "layer4.1.bn2.running_mean [512]",
        "layer1.0.bn1.num_batches_tracked []",
        "fc.weight [1000, 512]",
    ] {
        assert!(names.contains(&name.to_owned()), "{name}");
    }
    let starts = |name: &str| {
        let parameter = graph.parameters().iter().find(|p| p.name == name);
        parameter.unwrap().initialiser
    };
    assert_eq!(
        starts("layer3.0.bn2.weight"),
        crate::Initialiser::Constant(0.0)
    );
    assert_eq!(
        starts("layer3.0.bn1.weight"),
        crate::Initialiser::Constant(1.0)
    );
    let cifar = Resnet18Spec {
        stem: Stem::Cifar,
        width: 8,
        ..spec
    };
    let graph = resnet18(&cifar, &Frame::image_classifier(&[3, 32, 32], 10)).unwrap();
    differentiate(&graph, LOSS).unwrap().verify().unwrap();
    assert!(self::names(&graph).contains(&"conv1.weight [8, 3, 3, 3]".to_owned()));
}

/// Every kind of layer once, with its shape.
#[test]
fn a_list_of_layers_is_named_by_position() {
    let pool = PoolLayer {
        size: [2; 2],
        stride: [2; 2],
        padding: [0; 2],
    };
    let up = ConvLayer {
        stride: [2; 2],
        padding: [1; 2],
        output_padding: [1; 2],
        ..conv(4, 3, 0)
    };
    let grouped = ConvLayer {
        groups: 2,
        bias: false,
        ..conv(4, 3, 1)
    };
    let inner = sequential_of(vec![
        Layer::Conv2d(conv(4, 3, 1)),
        Layer::BatchNorm {
            eps: 1e-5,
            momentum: 0.1,
        },
    ]);
    let spec = sequential_of(vec![
        Layer::Conv2d(conv(4, 3, 1)),        // [4, 8, 8]
        Layer::Residual(inner.layers),       // [4, 8, 8]
        Layer::Activation(Activation::Silu), // [4, 8, 8]
        Layer::MaxPool2d(pool),              // [4, 4, 4]
        Layer::ConvTranspose2d(up),          // [4, 8, 8]
        Layer::GroupNorm {
            groups: 2,
            eps: 1e-5,
        }, // [4, 8, 8]
        Layer::AvgPool2d(pool),              // [4, 4, 4]
        Layer::Conv2d(grouped),              // [4, 4, 4]
        Layer::Reshape(vec![8, 8]),          // [8, 8]
        Layer::Conv1d(conv(6, 3, 1)),        // [6, 8]
        Layer::MaxPool1d(pool),              // [6, 4]
        Layer::LayerNorm { eps: 1e-5 },      // [6, 4]
        Layer::AvgPool1d(pool),              // [6, 2]
        Layer::RmsNorm { eps: 1e-5 },        // [6, 2]
        Layer::ConvTranspose1d(up),          // [4, 4]
        Layer::GlobalAvgPool,                // [4]
        Layer::Dropout(0.5),
        dense(5),
    ]);
    let graph = sequential(&spec, &Frame::image_classifier(&[3, 8, 8], 5)).unwrap();
    let graph = differentiate(&graph, LOSS).unwrap();
    graph.verify().unwrap();
    let names = names(&graph);
    for name in [
        "0.weight [4, 3, 3, 3]",
        "1.0.weight [4, 4, 3, 3]",
        "1.1.running_mean [4]",
        "4.weight [4, 4, 3, 3]",
        "5.bias [4]",
        "7.weight [4, 2, 3, 3]",
        "9.weight [6, 8, 3]",
        "11.weight [4]",
        "13.weight [2]",
        "14.weight [6, 4, 3]",
        "17.weight [5, 4]",
    ] {
        assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.starts_with("7.bias")));
}

#[test]
fn tokens_are_embedded() {
    let spec = sequential_of(vec![
        Layer::Embedding {
            vocabulary: 30,
            width: 4,
        },
        Layer::Flatten,
        dense(2),
    ]);
    let graph = sequential(&spec, &Frame::classifier(6, 2)).unwrap();
    differentiate(&graph, LOSS).unwrap().verify().unwrap();
    assert_eq!(names(&graph)[..2], ["0.weight [30, 4]", "2.weight [2, 24]"]);
}

/// A transformer's block as a list of layers.
#[test]
fn positions_and_attention_have_the_names_of_pytorch() {
    let attention = |heads, dropout| {
        Layer::Attention(AttentionLayer {
            heads,
            causal: true,
            bias: true,
            dropout,
        })
    };
    let inner = sequential_of(vec![Layer::LayerNorm { eps: 1e-5 }, attention(2, 0.1)]);
    let spec = sequential_of(vec![
        Layer::Embedding {
            vocabulary: 30,
            width: 4,
        },
        Layer::Positions,
        Layer::Residual(inner.layers.clone()),
        Layer::Residual(inner.layers),
        Layer::Flatten,
        dense(2),
    ]);
    let mut frame = Frame::classifier(6, 2);
    frame.l2 = 0.5;
    let graph = sequential(&spec, &frame).unwrap();
    differentiate(&graph, LOSS).unwrap().verify().unwrap();
    let names = names(&graph);
    for name in [
        "1.weight [6, 4]",
        "2.1.in_proj_weight [12, 4]",
        "2.1.in_proj_bias [12]",
        "3.1.out_proj.weight [4, 4]",
        "3.1.out_proj.bias [4]",
    ] {
        assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
    }
    // The penalty is on the matrices of both attentions and of the dense layer.
    let ops = graph.nodes().iter().map(|node| node.op.name());
    assert_eq!(ops.filter(|name| *name == "l2_penalty").count(), 5);
    let refused = |layers| {
        sequential(&sequential_of(layers), &frame)
            .unwrap_err()
            .to_string()
    };
    let said = refused(vec![attention(2, 0.0), dense(2)]);
    assert!(
        said.contains("attention") && said.contains("[positions, width]"),
        "{said}"
    );
    let said = refused(vec![
        Layer::Reshape(vec![2, 3]),
        attention(2, 0.0),
        dense(2),
    ]);
    assert!(said.contains("a width that the heads divide"), "{said}");
    let said = refused(vec![Layer::Positions, dense(2)]);
    assert!(
        said.contains("positions") && said.contains("[positions, width]"),
        "{said}"
    );
}

#[test]
fn a_layer_that_does_not_fit_is_named_with_its_line() {
    let refused = |layers, frame: &Frame| {
        let error = sequential(&sequential_of(layers), frame).unwrap_err();
        error.to_string()
    };
    let row = Frame::classifier(12, 3);
    assert_eq!(
        refused(vec![dense(4), Layer::Conv2d(conv(2, 3, 0))], &row),
        "model.layers[1] (conv2d, line 11): its input is [4], expected an image [channels, height, \
         width]"
    );
    assert_eq!(
        refused(vec![dense(4)], &row),
        "the last layer gives [4] a sample: expected [3], one number for each class or target \
         (under \"normal\" a mean and a variance)"
    );
    assert_eq!(
        refused(vec![Layer::Reshape(vec![5]), dense(3)], &row),
        "model.layers[0] (reshape, line 10): its input is [12], expected as many elements as the new \
         shape has"
    );
    let inner = sequential_of(vec![dense(12), Layer::GlobalMaxPool]);
    assert_eq!(
        refused(vec![Layer::Residual(inner.layers), dense(3)], &row),
        "model.layers[0].layers[1] (global_max_pool, line 11): its input is [12], expected channels \
         with one dimension or more"
    );
    let inner = sequential_of(vec![dense(11)]);
    assert!(
        refused(vec![Layer::Residual(inner.layers), dense(3)], &row)
            .contains("its input is [11], expected layers that leave the shape of their input")
    );
    // What only the operator knows is located too.
    let image = Frame::image_classifier(&[1, 4, 4], 3);
    let error = refused(vec![Layer::Conv2d(conv(2, 7, 0))], &image);
    assert!(
        error.starts_with("model.layers[0] (conv2d, line 10): "),
        "{error}"
    );
    let blocks = cnn(
        &CnnSpec {
            blocks: vec![
                CnnBlock {
                    filters: 1,
                    kernel: 1,
                    padding: 0,
                    pool: 8,
                    batch_norm: false
                };
                2
            ],
            ..cnn_spec(false)
        },
        &Frame::image_classifier(&[1, 28, 28], 3),
    );
    let error = blocks.unwrap_err().to_string();
    assert!(error.starts_with("model.blocks[1]: "), "{error}");
    let error = cnn(&cnn_spec(false), &row).unwrap_err().to_string();
    assert!(error.contains("option input"), "{error}");
}

#[test]
fn every_loss_has_its_outputs() {
    let linear = Architecture::Linear(LinearSpec {
        initialiser: Initialiser::Zeros,
    });
    for (name, loss) in JobLoss::NAMES {
        let model = ModelSpec::new(linear.clone(), loss);
        let frame = Frame::of_model(&model, 7, &[], 2, 0.1).unwrap();
        let graph = build(&model, &frame).unwrap();
        let graph = differentiate(&graph, LOSS).unwrap();
        graph.verify().unwrap();
        assert_eq!(output(&graph, DATA_LOSS), Shape::scalar(), "{name}");
        let out = if loss.takes_classes() {
            PROBABILITIES
        } else {
            PREDICTION
        };
        assert_eq!(output(&graph, out), Shape::batched(&[2]), "{name}");
        let weight = graph.parameters()[0].value;
        let numbers = if loss == JobLoss::Normal { 4 } else { 2 };
        let shape = Shape::fixed(&[numbers, 7]);
        assert_eq!(graph.value(weight).ty.shape, shape, "{name}");
        let variances = graph.outputs().iter().any(|output| output.name == VARIANCE);
        assert_eq!(variances, loss == JobLoss::Normal, "{name}");
    }
    let mut model = ModelSpec::new(linear, JobLoss::CrossEntropy);
    model.loss_options.class_weights = vec![1.0, 2.0, 3.0];
    let frame = |outputs| Frame::of_model(&model, 7, &[], outputs, 0.0).unwrap();
    differentiate(&build(&model, &frame(3)).unwrap(), LOSS).unwrap();
    let error = build(&model, &frame(2)).unwrap_err().to_string();
    assert!(error.contains("3 weights for 2 classes"), "{error}");
    model.input = vec![2, 2, 2];
    let error = Frame::of_model(&model, 7, &[], 2, 0.0).unwrap_err();
    assert!(error.to_string().contains("records of 7"), "{error}");
}
