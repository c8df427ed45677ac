//! Forward and gradient of every operator against PyTorch, in `f64` and `f32`.

mod support;

use ringfold_compute::{
    Cpu, CpuOptions, Element, Mode, ParameterLayout, PlanOptions, RunArgs, TensorRef, TrainMemory,
};
use ringfold_graph::op::{
    Attention, AttentionLayout, Binary, Cell, Concat, Conv, ConvPart, CrossEntropy, CumSum, Dense,
    Distance, Gather, GatherElements, L2Penalty, LossReduction, Margin, MatMul, MeanSquaredError,
    Norm, NormOver, Pad, PairLoss, Pool, Pooling, Recurrent, Reduce, Reduction, Slice, Softmax,
    SoftmaxCrossEntropy, Transpose, Unary, Windows,
};
use ringfold_graph::{
    ConstantData, DType, Graph, Initialiser, Op, OutputRole, Shape, TensorType, ValueId,
    differentiate,
};
use serde_json::Value;

fn op(case: &Value) -> Op {
    let spec = &case["op"];
    let number = |name: &str| spec[name].as_f64().expect("a number");
    let size = |name: &str| spec[name].as_u64().expect("a size") as usize;
    match spec["kind"].as_str().expect("a kind") {
        "affine" => Dense::Affine.into(),
        "relu" => Unary::Relu.into(),
        "gelu" => Unary::Gelu.into(),
        "gelu_tanh" => Unary::GeluTanh.into(),
        "tanh" => Unary::Tanh.into(),
        "sigmoid" => Unary::Sigmoid.into(),
        "neg" => Unary::Neg.into(),
        "abs" => Unary::Abs.into(),
        "exp" => Unary::Exp.into(),
        "log" => Unary::Log.into(),
        "sqrt" => Unary::Sqrt.into(),
        "rsqrt" => Unary::Rsqrt.into(),
        "reciprocal" => Unary::Reciprocal.into(),
        "erf" => Unary::Erf.into(),
        "sin" => Unary::Sin.into(),
        "cos" => Unary::Cos.into(),
        "softplus" => Unary::Softplus.into(),
        "silu" => Unary::Silu.into(),
        "elu" => Unary::Elu {
            alpha: number("alpha"),
        }
        .into(),
        "leaky_relu" => Unary::LeakyRelu {
            slope: number("slope"),
        }
        .into(),
        "hard_swish" => Unary::HardSwish.into(),
        "hard_sigmoid" => Unary::HardSigmoid {
            slope: 1.0 / 6.0,
            offset: 0.5,
        }
        .into(),
        "clip" => Unary::Clip {
            min: number("min"),
            max: number("max"),
        }
        .into(),
        "scale" => Unary::Scale {
            factor: number("factor"),
        }
        .into(),
        "add" => Binary::Add.into(),
        "sub" => Binary::Sub.into(),
        "mul" => Binary::Mul.into(),
        "div" => Binary::Div.into(),
        "pow" => Binary::Pow.into(),
        "min" => Binary::Min.into(),
        "max" => Binary::Max.into(),
        "fmod" => Binary::Fmod.into(),
        "mod" => Binary::Mod.into(),
        "softmax" => Softmax::Plain { axis: size("axis") }.into(),
        "log_softmax" => Softmax::Log { axis: size("axis") }.into(),
        "softmax_cross_entropy" => SoftmaxCrossEntropy::Loss.into(),
        "mean_squared_error" => MeanSquaredError::Loss.into(),
        "l2_penalty" => L2Penalty {
            lambda: number("lambda"),
        }
        .into(),
        "reduce" => Reduce {
            reduction: reduction(text(spec, "reduction")),
            axes: support::sizes(&spec["axes"]),
            keep: spec["keep"].as_bool().unwrap(),
        }
        .into(),
        "transpose" => Transpose {
            order: support::sizes(&spec["order"]),
        }
        .into(),
        "concat" => Concat { axis: size("axis") }.into(),
        "slice" => Slice {
            axis: size("axis"),
            start: size("start"),
            step: size("step") as isize,
            len: size("len"),
        }
        .into(),
        "pad" => Pad {
            axis: size("axis"),
            before: size("before"),
            after: size("after"),
            margin: match spec["margin"].as_str() {
                Some("reflect") => Margin::Reflect,
                Some("edge") => Margin::Edge,
                _ => Margin::Constant(number("margin")),
            },
        }
        .into(),
        "gather_elements" => GatherElements { axis: size("axis") }.into(),
        "cum_sum" => CumSum {
            axis: size("axis"),
            exclusive: flag(spec, "exclusive"),
            reverse: flag(spec, "reverse"),
        }
        .into(),
        "attention" => Attention {
            layout: match spec.get("heads") {
                Some(_) => AttentionLayout::Packed {
                    heads: size("heads"),
                    groups: size("groups"),
                },
                None => AttentionLayout::Heads,
            },
            causal: flag(spec, "causal"),
            scale: spec["scale"].as_f64(),
            dropout: None,
        }
        .into(),
        kind @ ("lstm" | "gru" | "gru_reset_first") => Recurrent {
            cell: match kind {
                "lstm" => Cell::Lstm,
                "gru" => Cell::Gru,
                _ => Cell::GruResetFirst,
            },
            time_first: flag(spec, "time_first"),
            reverse: flag(spec, "reverse"),
        }
        .into(),
        "gather" => Gather { axis: size("axis") }.into(),
        "matmul" => MatMul {
            a_transposed: spec["a_transposed"].as_bool().unwrap(),
            b_transposed: spec["b_transposed"].as_bool().unwrap(),
        }
        .into(),
        "norm" => Norm {
            over: match text(spec, "over") {
                "layer" => NormOver::Layer { axis: size("axis") },
                "rms" => NormOver::Rms { axis: size("axis") },
                "group" => NormOver::Group {
                    groups: size("groups"),
                },
                _ => NormOver::Batch { momentum: 0.1 },
            },
            eps: number("eps"),
        }
        .into(),
        "pair_loss" => PairLoss {
            distance: distance(spec),
            reduction: loss_reduction(spec),
        }
        .into(),
        "cross_entropy" => CrossEntropy {
            log_probabilities: spec["log_probabilities"].as_bool().unwrap_or(false),
            ignore: spec["ignore"].as_i64(),
            smoothing: spec["smoothing"].as_f64().unwrap_or(0.0),
            reduction: loss_reduction(spec),
        }
        .into(),
        "conv" | "conv_transposed" => Conv {
            windows: windows(spec),
            groups: size("groups"),
            part: match spec.get("size") {
                Some(image) => ConvPart::Image { size: pair(image) },
                None => ConvPart::Forward,
            },
        }
        .into(),
        "pool" => Pool {
            pooling: match text(spec, "pooling") {
                "max" => Pooling::Max,
                _ => Pooling::Average {
                    count_margin: spec["count_margin"].as_bool().unwrap(),
                },
            },
            kernel: pair(&spec["kernel"]),
            windows: windows(spec),
            ceil: spec["ceil"].as_bool().unwrap(),
        }
        .into(),
        other => panic!("unknown operator {other}"),
    }
}

fn text<'a>(spec: &'a Value, name: &str) -> &'a str {
    spec[name].as_str().expect("a text")
}

fn flag(spec: &Value, name: &str) -> bool {
    spec[name].as_bool().expect("true or false")
}

fn pair(value: &Value) -> [usize; 2] {
    support::sizes(value).try_into().expect("two sizes")
}

fn windows(spec: &Value) -> Windows {
    Windows {
        stride: pair(&spec["stride"]),
        before: pair(&spec["padding"]),
        after: pair(spec.get("after").unwrap_or(&spec["padding"])),
        dilation: pair(&spec["dilation"]),
    }
}

fn reduction(name: &str) -> Reduction {
    match name {
        "sum" => Reduction::Sum,
        "mean" => Reduction::Mean,
        "max" => Reduction::Max,
        "min" => Reduction::Min,
        "prod" => Reduction::Prod,
        "log_sum_exp" => Reduction::LogSumExp,
        "l1" => Reduction::L1,
        "l2" => Reduction::L2,
        other => panic!("unknown reduction {other}"),
    }
}

fn loss_reduction(spec: &Value) -> LossReduction {
    match text(spec, "reduction") {
        "none" => LossReduction::None,
        "sum" => LossReduction::Sum,
        "mean" => LossReduction::Mean,
        "batch_mean" => LossReduction::BatchMean,
        other => panic!("unknown reduction {other}"),
    }
}

fn distance(spec: &Value) -> Distance {
    let number = |name: &str| spec[name].as_f64().expect("a number");
    match text(spec, "distance") {
        "squared" => Distance::Squared,
        "absolute" => Distance::Absolute,
        "huber" => Distance::Huber {
            delta: number("delta"),
        },
        "smooth_absolute" => Distance::SmoothAbsolute {
            beta: number("beta"),
        },
        "logistic" => Distance::Logistic,
        "kullback_leibler" => Distance::KullbackLeibler,
        "poisson_log" => Distance::PoissonLog,
        "poisson" => Distance::Poisson,
        other => panic!("unknown distance {other}"),
    }
}

/// The operator on parameters named by position, and the loss that the case describes.
fn graph(case: &Value, dtype: DType) -> Graph {
    let mut graph = Graph::new("case", dtype).unwrap();
    let mut operands: Vec<ValueId> = Vec::new();
    for (i, operand) in case["operands"].as_array().unwrap().iter().enumerate() {
        let shape = Shape::fixed(&support::sizes(&operand["shape"]));
        let name = i.to_string();
        let parameter = graph.add_parameter(&name, shape, Initialiser::Zeros);
        operands.push(parameter.unwrap());
    }
    if let Some(labels) = case.get("labels") {
        let shape = match case.get("labels_shape") {
            Some(shape) => support::sizes(shape),
            None => vec![labels.as_array().unwrap().len()],
        };
        let shape = Shape::fixed(&shape);
        let ty = TensorType::new(DType::I32, shape);
        operands.push(graph.add_input("labels", ty).unwrap());
    }
    if let Some(fixed) = case.get("fixed") {
        let data = support::floats::<f64>(fixed);
        let shape = match case.get("labels") {
            Some(_) => Shape::fixed(&[data.len()]),
            None => graph.value(operands[0]).ty.shape.clone(),
        };
        let ty = TensorType::new(dtype, shape);
        let constant = graph.add_constant(ty, ConstantData::Float(data));
        operands.push(constant.unwrap());
    }
    let op = op(case);
    if let Op::Norm(Norm {
        over: NormOver::Batch { .. },
        ..
    }) = op
    {
        // Running statistics don't matter here: constants.
        let shape = graph.value(operands[1]).ty.shape.clone();
        let data = vec![1.0; shape.elements(1).unwrap()];
        let ty = TensorType::new(dtype, shape);
        let constant = graph.add_constant(ty, ConstantData::Float(data)).unwrap();
        operands.extend([constant, constant]);
    }
    let mut loss = graph.apply(op, &operands).unwrap();
    if let Some(result) = case.get("result") {
        let ty = graph.value(loss).ty.clone();
        assert_eq!(ty.shape.bind(1), support::sizes(&result["shape"]));
        graph
            .add_output("result", OutputRole::Prediction, loss)
            .unwrap();
        let target = graph.add_input("target", ty).unwrap();
        loss = graph
            .apply(MeanSquaredError::Loss, &[loss, target])
            .unwrap();
    }
    graph.add_output("loss", OutputRole::Loss, loss).unwrap();
    differentiate(&graph, "loss").unwrap()
}

fn assert_case<T: Element>(case: &Value, tolerance: f64) {
    let name = case["name"].as_str().unwrap();
    let graph = graph(case, T::DTYPE);
    let layout = ParameterLayout::new::<T>(&graph).unwrap();
    let options = PlanOptions {
        mode: Mode::Training,
        batch: 1,
    };
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let plan = cpu.plan::<T>(&graph, &layout, options).unwrap();
    let mut parameters = layout.zeros::<T>().unwrap();
    for (i, operand) in case["operands"].as_array().unwrap().iter().enumerate() {
        let slot = layout.slot(&i.to_string()).unwrap();
        parameters[slot.range()].copy_from_slice(&support::floats::<T>(&operand["data"]));
    }
    let labels = case.get("labels").map(support::ints);
    let target = case.get("target").map(support::floats::<T>);
    let inputs: Vec<TensorRef<'_, T>> = labels
        .iter()
        .map(|labels| TensorRef::Int(labels))
        .chain(target.iter().map(|target| TensorRef::Float(target)))
        .collect();
    let mut gradients = layout.zeros::<T>().unwrap();
    let mut workspace = plan.workspace().unwrap();
    let memory = TrainMemory {
        workspace: &mut workspace,
        parameters: &*parameters,
        gradients: &mut *gradients,
    };
    let mut ready = |_: usize, _: &[T]| {};
    plan.train(memory, &inputs, &RunArgs::default(), &mut ready)
        .unwrap();

    let loss = T::from_f64(case["loss"].as_f64().unwrap());
    let got = plan.scalar(&workspace, "loss").unwrap();
    support::assert_close(&format!("{name}: loss"), &[got], &[loss], tolerance);
    if let Some(result) = case.get("result") {
        let got = plan.output(&workspace, "result").unwrap();
        let expected = support::floats(&result["data"]);
        support::assert_close(&format!("{name}: result"), got, &expected, tolerance);
    }
    for (i, expected) in case["gradients"].as_array().unwrap().iter().enumerate() {
        let slot = layout.slot(&i.to_string()).unwrap();
        support::assert_close(
            &format!("{name}: gradient of operand {i}"),
            &gradients[slot.range()],
            &support::floats(expected),
            tolerance,
        );
    }
}

#[test]
fn operators_agree_with_pytorch() {
    let file = support::read("operators.json");
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(file["count"].as_u64(), Some(cases.len() as u64));
    assert!(cases.len() > 100);
    for case in cases {
        let tolerance = case.get("tolerance").and_then(Value::as_f64);
        assert_case::<f64>(case, tolerance.unwrap_or(1e-14));
        assert_case::<f32>(case, 1e-6);
    }
}
