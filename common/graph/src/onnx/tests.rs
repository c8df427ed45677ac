//! What the reader makes of models that are written here, field by field.

use std::collections::BTreeMap;

use ringfold_common::job::{OnnxInput, OnnxSpec, SourceFile};

use super::wire::Writer;
use super::*;
use crate::graph::{Graph, OutputRole};
use crate::models::Frame;
use crate::shape::{DType, Dim, Shape};

/// A model of nodes in text form: `op(a, b) -> c` with attributes after `;` as `name=1` or
/// `name=[1, 2]`.
struct Builder {
    opset: i64,
    graph: Writer,
}

impl Builder {
    fn new(opset: i64) -> Self {
        let graph = Writer::default();
        Self { opset, graph }
    }

    fn node(
        mut self,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, &[i64])],
    ) -> Self {
        self.graph.message(1, |node| {
            inputs.iter().for_each(|name| node.text(1, name));
            outputs.iter().for_each(|name| node.text(2, name));
            node.text(3, &format!("the_{op}"));
            node.text(4, op);
            for (name, values) in attributes {
                node.message(5, |attribute| {
                    attribute.text(1, name);
                    match values {
                        [one] => {
                            attribute.int(3, *one);
                            attribute.int(20, 2);
                        }
                        list => {
                            attribute.ints(8, list.iter().copied());
                            attribute.int(20, 7);
                        }
                    }
                });
            }
        });
        self
    }

    fn place(mut self, field: u32, name: &str, code: i64, dims: &[&str]) -> Self {
        self.graph.message(field, |info| {
            info.text(1, name);
            info.message(2, |ty| {
                ty.message(1, |tensor| {
                    tensor.int(1, code);
                    tensor.message(2, |shape| {
                        for dim in dims {
                            shape.message(1, |extent| match dim.parse() {
                                Ok(n) => extent.int(1, n),
                                Err(_) => extent.text(2, dim),
                            });
                        }
                    });
                });
            });
        });
        self
    }

    fn input(self, name: &str, code: i64, dims: &[&str]) -> Self {
        self.place(11, name, code, dims)
    }

    fn output(self, name: &str) -> Self {
        self.place(12, name, 1, &[])
    }

    fn floats(mut self, name: &str, dims: &[i64], data: &[f32]) -> Self {
        self.graph.message(5, |tensor| {
            tensor.ints(1, dims.iter().copied());
            tensor.int(2, 1);
            tensor.text(8, name);
            let raw: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensor.bytes(9, &raw);
        });
        self
    }

    fn longs(mut self, name: &str, dims: &[i64], data: &[i64]) -> Self {
        self.graph.message(5, |tensor| {
            tensor.ints(1, dims.iter().copied());
            tensor.int(2, 7);
            tensor.ints(7, data.iter().copied());
            tensor.text(8, name);
        });
        self
    }

    fn external(mut self, name: &str, location: &str) -> Self {
        self.graph.message(5, |tensor| {
            tensor.ints(1, [2]);
            tensor.int(2, 1);
            tensor.text(8, name);
            for (key, value) in [("location", location), ("offset", "4")] {
                tensor.message(13, |entry| {
                    entry.text(1, key);
                    entry.text(2, value);
                });
            }
            tensor.int(14, 1);
        });
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut model = Writer::default();
        model.int(1, 10);
        model.bytes(7, &self.graph.0);
        model.message(8, |opset| opset.int(2, self.opset));
        model.0
    }

    fn read(&self) -> Result<Imported, OnnxError> {
        read(&self.bytes(), &ReadOptions::default())
    }
}

fn output_shape(imported: &Imported) -> Shape {
    let graph = &imported.graph;
    graph.value(graph.outputs()[0].value).ty.shape.clone()
}

#[test]
fn what_is_lacking_is_named_with_node_operator_and_opset() {
    let model = Builder::new(17)
        .input("x", 1, &["n", "3"])
        .node("Hardmax", &["x"], &["y"], &[])
        .output("y");
    let error = model.read().unwrap_err();
    assert_eq!(
        error.to_string(),
        "node \"the_Hardmax\": operator Hardmax of opset 17: the operator isn't supported"
    );
    let model = Builder::new(13)
        .input("x", 1, &["n", "3"])
        .node("Relu", &["x"], &["y"], &[("slope", &[1])])
        .output("y");
    let error = model.read().unwrap_err().to_string();
    assert!(error.ends_with("attribute \"slope\""), "{error}");
    let model = Builder::new(12).input("x", 1, &["n"]).output("x");
    let error = model.read().unwrap_err().to_string();
    assert_eq!(error, "model: expected an opset of 13 to 28, got 12");
}

#[test]
fn operators_that_no_output_needs_do_not_matter() {
    let model = Builder::new(13)
        .input("x", 1, &["n", "3"])
        .input("unused", 8, &[])
        .node("Hardmax", &["x"], &["z"], &[])
        .node("Relu", &["x"], &["y"], &[])
        .output("y");
    let imported = model.read().unwrap();
    assert_eq!(imported.graph.nodes().len(), 1);
    assert_eq!(imported.report.notices[0].onnx_name, "unused");
}

#[test]
fn dynamic_dimensions_but_the_batch_need_a_size() {
    let model = Builder::new(13)
        .input("x", 1, &["n", "t"])
        .node("Relu", &["x"], &["y"], &[])
        .output("y");
    let error = model.read().unwrap_err().to_string();
    assert!(
        error.contains("input \"x\"") && error.contains("\"t\" as dimension 1"),
        "{error}"
    );
    let options = ReadOptions {
        dims: BTreeMap::from([("t".to_owned(), 7)]),
        ..ReadOptions::default()
    };
    let imported = read(&model.bytes(), &options).unwrap();
    assert_eq!(output_shape(&imported), Shape::batched(&[7]));
}

/// `x.reshape(x.shape[0] * 2, x.shape[1] // 2)`, as exporters write it.
#[test]
fn shapes_are_computed_with_the_batch_as_a_symbol() {
    let model = Builder::new(13)
        .input("x", 1, &["n", "6"])
        .longs("zero", &[], &[0])
        .longs("one", &[], &[1])
        .longs("two", &[], &[2])
        .longs("axes", &[1], &[0])
        .node("Shape", &["x"], &["shape"], &[])
        .node("Gather", &["shape", "zero"], &["n"], &[("axis", &[0])])
        .node("Gather", &["shape", "one"], &["w"], &[("axis", &[0])])
        .node("Mul", &["n", "two"], &["rows"], &[])
        .node("Div", &["w", "two"], &["columns"], &[])
        .node("Unsqueeze", &["rows", "axes"], &["a"], &[])
        .node("Unsqueeze", &["columns", "axes"], &["b"], &[])
        .node("Concat", &["a", "b"], &["to"], &[("axis", &[0])])
        .node("Reshape", &["x", "to"], &["y"], &[])
        .output("y");
    let imported = model.read().unwrap();
    let expected = Shape::new(vec![Dim::BatchTimes(2), Dim::Fixed(3)]);
    assert_eq!(output_shape(&imported), expected);
    // The batch times itself is no shape.
    let model = Builder::new(13)
        .input("x", 1, &["n", "6"])
        .node("Shape", &["x"], &["shape"], &[])
        .node("Mul", &["shape", "shape"], &["square"], &[])
        .node("Reshape", &["x", "square"], &["y"], &[])
        .output("y");
    assert!(matches!(model.read(), Err(OnnxError::Unsupported { .. })));
}

fn initializers() -> Builder {
    Builder::new(13)
        .input("x", 1, &["n", "2"])
        .floats("fc.weight", &[2, 2], &[1.0, 2.0, 3.0, 4.0])
        .floats("mask", &[2], &[0.0, f32::NEG_INFINITY])
        .floats("half", &[1], &[0.5])
        .floats("one.bias", &[1], &[0.25])
        .node("MatMul", &["x", "fc.weight"], &["a"], &[])
        .node("Add", &["a", "mask"], &["b"], &[])
        .node("Mul", &["b", "half"], &["c"], &[])
        .node("Add", &["c", "one.bias"], &["y"], &[])
        .output("y")
}

fn parameters(imported: &Imported) -> Vec<&str> {
    let parameters = imported.graph.parameters().iter();
    parameters
        .map(|parameter| parameter.name.as_str())
        .collect()
}

#[test]
fn initializers_are_trained_unless_they_are_called_or_look_constant() {
    let model = initializers();
    let imported = model.read().unwrap();
    assert_eq!(parameters(&imported), ["fc.weight", "one.bias"]);
    assert_eq!(imported.tensors[0].data, [1.0, 2.0, 3.0, 4.0]);
    let notices = imported.report.notices.iter();
    let names: Vec<&str> = notices.map(|notice| notice.onnx_name.as_str()).collect();
    assert_eq!(names, ["mask", "half"]);
    let options = ReadOptions {
        freeze: vec!["fc.*".to_owned()],
        train: vec!["half".to_owned()],
        ..ReadOptions::default()
    };
    let imported = read(&model.bytes(), &options).unwrap();
    assert_eq!(parameters(&imported), ["half", "one.bias"]);
}

#[test]
fn data_in_other_files_come_from_the_caller_or_are_an_error() {
    let model = Builder::new(13)
        .input("x", 1, &["n", "2"])
        .external("b.bias", "weights.bin")
        .node("Add", &["x", "b.bias"], &["y"], &[])
        .output("y");
    let error = model.read().unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor \"b.bias\": its data stand in the file \"weights.bin\", which wasn't given: export \
         the model with its weights inside (in PyTorch, external_data=False)"
    );
    let resolver = |external: &External<'_>| {
        assert_eq!((external.location, external.offset), ("weights.bin", 4));
        Some([1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect())
    };
    let options = ReadOptions {
        resolver: Some(&resolver),
        ..ReadOptions::default()
    };
    let imported = read(&model.bytes(), &options).unwrap();
    assert_eq!(imported.tensors[0].data, [1.0, 2.0]);
}

#[test]
fn what_would_take_much_memory_is_refused() {
    let fill = |count: i64| {
        Builder::new(13)
            .longs("shape", &[1], &[count])
            .node("ConstantOfShape", &["shape"], &["y"], &[])
            .output("y")
            .read()
    };
    assert!(fill(8).is_ok());
    assert!(matches!(fill(1 << 25), Err(OnnxError::Unsupported { .. })));
    assert!(matches!(fill(-1), Err(OnnxError::Unsupported { .. })));
    // Each below the cap of one, together above that of all.
    let mut model = Builder::new(13).longs("shape", &[1], &[1 << 24]);
    let names: Vec<String> = (0..5).map(|i| format!("y{i}")).collect();
    for name in &names {
        model = model
            .node("ConstantOfShape", &["shape"], &[name], &[])
            .output(name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let model = model
        .node("Concat", &names, &["y"], &[("axis", &[0])])
        .output("y");
    assert!(matches!(
        model.read(),
        Err(OnnxError::Limit { .. } | OnnxError::Unsupported { .. })
    ));
    // Empty nodes of two bytes each.
    let many = [0x0a, 0x00].repeat(ITEMS_MAX + 1);
    let mut model = Writer::default();
    model.bytes(7, &many);
    assert!(matches!(
        read(&model.0, &ReadOptions::default()),
        Err(OnnxError::Limit { .. })
    ));
}

#[test]
fn a_loss_is_added_for_trainers() {
    let mut graph = initializers().read().unwrap().graph;
    let loss = Loss::CrossEntropy {
        axis: -1,
        ignore: None,
        smoothing: 0.0,
    };
    append_loss(&mut graph, None, &loss).unwrap();
    let roles: Vec<(&str, OutputRole)> = graph
        .outputs()
        .iter()
        .map(|output| (output.name.as_str(), output.role))
        .collect();
    assert_eq!(
        roles,
        [
            ("y", OutputRole::Prediction),
            ("loss", OutputRole::Loss),
            ("data_loss", OutputRole::Loss),
            ("logits", OutputRole::Prediction),
            ("probabilities", OutputRole::Derived),
        ]
    );
    let differentiated = crate::differentiate(&graph, "loss").unwrap();
    assert_eq!(differentiated.gradients().len(), 2);
    let mut other = Graph::new("g", DType::F32).unwrap();
    assert!(append_loss(&mut other, Some("z"), &Loss::MeanSquaredError).is_err());
}

#[test]
fn a_written_model_lacks_no_weight() {
    let graph = initializers().read().unwrap().graph;
    let error = write(&graph, &BTreeMap::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "weight \"fc.weight\": expected 4 elements, got 0"
    );
}

/// A job's model of so many numbers and dimensions of a record, and so many classes.
fn job(
    model: &Builder,
    (dims, classes): (&[usize], usize),
    change: impl FnOnce(&mut OnnxSpec),
) -> Result<Imported, OnnxError> {
    let mut onnx = OnnxSpec {
        file: SourceFile::unread("net.onnx".into()),
        output: None,
        freeze: Vec::new(),
        inputs: Vec::new(),
    };
    change(&mut onnx);
    let frame = match dims {
        [inputs] => Frame::classifier(*inputs, classes),
        dims => Frame::image_classifier(dims, classes),
    };
    read_for_job(&model.bytes(), &onnx, &frame)
}

/// Images of 1 x 2 x 2 to 3 scores, and a second output.
fn images() -> Builder {
    Builder::new(13)
        .input("images", 1, &["n", "1", "2", "2"])
        .longs("to", &[2], &[0, 4])
        .floats("w.weight", &[4, 3], &[0.5; 12])
        .floats("x", &[3], &[0.25; 3])
        .node("Reshape", &["images", "to"], &["rows"], &[])
        .node("MatMul", &["rows", "w.weight"], &["product"], &[])
        .node("Add", &["product", "x"], &["scores"], &[])
        .node("Relu", &["product"], &["side"], &[])
        .output("scores")
        .output("side")
}

#[test]
fn a_job_s_model_takes_rows_and_has_the_job_s_loss() {
    let scores = |onnx: &mut OnnxSpec| onnx.output = Some("scores".into());
    for dims in [&[4][..], &[2, 2], &[1, 2, 2], &[2, 2, 1]] {
        let read = job(&images(), (dims, 3), scores).unwrap();
        let graph = &read.graph;
        graph.verify().unwrap();
        let inputs = graph.inputs().iter();
        let inputs: Vec<String> = inputs
            .map(|input| format!("{} {}", input.name, graph.value(input.value).ty))
            .collect();
        assert_eq!(inputs, ["x f32[batch, 4]", "y i32[batch]"]);
        let outputs = graph.outputs().iter().map(|output| output.name.as_str());
        let outputs: Vec<&str> = outputs.collect();
        let expected = ["loss", "data_loss", "logits", "probabilities", "scores"];
        assert_eq!(outputs, expected);
        // A parameter of the features' name has another one, so that the written model has it too.
        let names = read.tensors.iter().map(|tensor| tensor.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["w.weight", "x_2"]);
    }
    let frozen = job(&images(), (&[4], 3), |onnx| {
        scores(onnx);
        onnx.freeze = vec!["w.*".into()];
    });
    let tensors = frozen.unwrap().tensors;
    assert_eq!(tensors.len(), 1);
}

#[test]
fn whole_numbers_are_made_of_features_that_are_tokens() {
    let model = Builder::new(13)
        .input("tokens", 7, &["n", "2"])
        .floats("table.weight", &[5, 3], &[0.5; 15])
        .node("Gather", &["table.weight", "tokens"], &["vectors"], &[])
        .output("vectors");
    let read = job(&model, (&[2], 6), |_| {}).unwrap();
    read.graph.verify().unwrap();
    let text = read.graph.to_string();
    assert!(text.contains("cast"), "{text}");
}

/// Found by mutants: the elements of a known tensor didn't fit its new shape.
#[test]
fn known_tensors_are_reshaped_to_as_many_elements() {
    let model = Builder::new(13)
        .input("x", 1, &["n", "4"])
        .longs("sizes", &[2], &[0, 4])
        .longs("to", &[2], &[2, 2])
        .node("Reshape", &["sizes", "to"], &["wide"], &[])
        .node("Add", &["wide", "sizes"], &["sum"], &[])
        .node("Reshape", &["x", "sum"], &["y"], &[])
        .output("y");
    let error = model.read().unwrap_err().to_string();
    assert!(error.contains("a reshape of [2]"), "{error}");
}

#[test]
fn several_inputs_take_their_features() {
    let model = Builder::new(13)
        .input("image", 1, &["n", "2", "2"])
        .input("token", 7, &["n"])
        .floats("table.weight", &[5, 4], &[0.5; 20])
        .node("Gather", &["table.weight", "token"], &["vector"], &[])
        .node("Flatten", &["image"], &["row"], &[])
        .node("Add", &["row", "vector"], &["c"], &[])
        .output("c");
    let input = |name: &str, features| OnnxInput {
        name: name.into(),
        features,
    };
    let with = |inputs: Vec<OnnxInput>| job(&model, (&[6], 4), |onnx| onnx.inputs = inputs);
    let read = with(vec![input("image", [1, 5]), input("token", [5, 6])]).unwrap();
    read.graph.verify().unwrap();
    let inputs = read.graph.inputs().iter().map(|input| input.name.as_str());
    assert_eq!(inputs.collect::<Vec<_>>(), ["x", "y"]);
    let text = read.graph.to_string();
    assert!(
        text.contains("start=1") && text.contains("start=5"),
        "{text}"
    );
    for (inputs, expected) in [
        (vec![], "2: image, token"),
        (vec![input("image", [0, 4])], "none for \"token\""),
        (
            vec![input("picture", [0, 4])],
            "\"picture\" for image, token",
        ),
        (
            vec![input("image", [0, 3]), input("token", [5, 6])],
            "features 0 to 3",
        ),
        (
            vec![input("image", [3, 7]), input("token", [5, 6])],
            "features 3 to 7 of 6",
        ),
    ] {
        let got = with(inputs).unwrap_err().to_string();
        assert!(got.contains(expected), "{expected}: {got}");
    }
}

#[test]
fn whole_batches_are_joined_and_cut_and_single_samples_are_not() {
    let model = |op: &str, inputs: &[&str]| {
        Builder::new(13)
            .input("a", 1, &["n", "3"])
            .floats("one", &[1, 3], &[0.5; 3])
            .longs("start", &[1], &[1])
            .longs("end", &[1], &[i64::MAX])
            .node("Concat", &["a", "a"], &["two"], &[("axis", &[0])])
            .node("Split", &["two"], &["first", "second"], &[("axis", &[0])])
            .node(op, inputs, &["c"], &[("axis", &[0])])
            .output("c")
    };
    let read = |model: &Builder| read(&model.bytes(), &ReadOptions::default());
    let graph = read(&model("Concat", &["second", "two"])).unwrap().graph;
    graph.verify().unwrap();
    let shape = graph.value(graph.outputs()[0].value).ty.shape.clone();
    assert_eq!(shape.to_string(), "[3*batch, 3]");
    let error = read(&model("Concat", &["a", "one"]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("samples beside the batch"), "{error}");
    let part = Builder::new(13)
        .input("a", 1, &["n", "3"])
        .longs("start", &[1], &[1])
        .longs("end", &[1], &[i64::MAX])
        .node("Slice", &["a", "start", "end"], &["c"], &[])
        .output("c");
    let error = read(&part).unwrap_err().to_string();
    assert!(error.contains("single samples of the batch"), "{error}");
}

#[test]
fn what_does_not_fit_a_job_is_named_with_both_sides() {
    let scores = |onnx: &mut OnnxSpec| onnx.output = Some("scores".into());
    let two_inputs = Builder::new(13)
        .input("a", 1, &["n", "3"])
        .input("b", 1, &["n", "3"])
        .node("Add", &["a", "b"], &["c"], &[])
        .output("c");
    let fixed = Builder::new(13)
        .input("a", 1, &["1", "3"])
        .node("Relu", &["a"], &["c"], &[])
        .output("c");
    let colours = Builder::new(13)
        .input("a", 1, &["n", "3", "2", "2"])
        .node("Flatten", &["a"], &["c"], &[])
        .output("c");
    let message = |result: Result<Imported, OnnxError>| result.unwrap_err().to_string();
    for (got, expected) in [
        (
            message(job(&two_inputs, (&[3], 3), |_| {})),
            "model: expected one input, which takes the features of a record, or model.inputs, got 2: \
             a, b",
        ),
        (
            message(job(&images(), (&[4], 3), |_| {})),
            "model: expected one output, or the name of one, got scores, side",
        ),
        (
            message(job(&images(), (&[4], 3), |onnx| {
                onnx.output = Some("score".into());
            })),
            "output \"score\": expected one of the model's, got scores, side",
        ),
        (
            message(job(&fixed, (&[3], 3), |_| {})),
            "input \"a\": expected a dynamic batch first and other dimensions of a known size: \
             export the model with a dynamic first dimension, got [1, 3]",
        ),
        (
            message(job(&images(), (&[5], 3), scores)),
            "input \"images\": expected dimensions that fit the data's records, got [batch, 1, 2, 2] \
             for records of 5 numbers",
        ),
        (
            message(job(&colours, (&[2, 2, 3], 12), |_| {})),
            "input \"a\": expected dimensions that fit the data's records, got [batch, 3, 2, 2] for \
             records of [2, 2, 3]",
        ),
        (
            message(job(&images(), (&[4], 2), scores)),
            "output \"scores\": expected the batch first, then a number for each class or target \
             of the data, or a mean and a variance for each target under \"normal\", got \
             [batch, 3] for 2 classes",
        ),
        (
            message(job(&images(), (&[4], 3), |onnx| {
                scores(onnx);
                onnx.freeze = vec!["v.*".into()];
            })),
            "freeze \"v.*\": expected a pattern that matches an initializer, got none of to, \
             w.weight, x",
        ),
    ] {
        assert_eq!(got, expected);
    }
}

#[test]
fn a_cast_to_the_type_of_what_is_not_known_is_computed() {
    let model = Builder::new(20)
        .input("x", 1, &["n", "3"])
        .input("t", 7, &["n", "3"])
        .longs("zero", &[1], &[0])
        .node("CastLike", &["zero", "x"], &["float"], &[])
        .node("CastLike", &["t", "x"], &["floats"], &[])
        .node("Add", &["floats", "float"], &["y"], &[])
        .output("y");
    let graph = model.read().unwrap().graph;
    let dtype = |value| graph.value(value).ty.dtype;
    assert_eq!(dtype(graph.outputs()[0].value), DType::F32);
    assert_eq!(graph.constants().len(), 1);
    assert_eq!(dtype(graph.constants()[0].value), DType::F32);
}
