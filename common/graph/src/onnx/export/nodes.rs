//! The ONNX nodes that a node of the graph becomes.

use super::Attribute::{Float, Int, Ints, Text};
use super::{Exporter, code};
use crate::graph::{Node, NodeId};
use crate::onnx::error::OnnxError;
use crate::op::{
    Binary, Compare, Conv, ConvPart, Dense, Logic, Margin, MatMul, Norm, NormOver, Op, Pool,
    Pooling, Reduce, Reduction, Softmax, Unary, Windows,
};
use crate::shape::{Dim, Shape};

fn signed(sizes: &[usize]) -> Vec<i64> {
    sizes.iter().map(|&n| n as i64).collect()
}

impl Exporter<'_> {
    pub(super) fn node(&mut self, position: usize, node: &Node) -> Result<(), OnnxError> {
        let inputs: Vec<String> = node.operands.iter().map(|&v| self.name(v)).collect();
        let x: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let result = self.name(node.results[0]);
        let y = result.as_str();
        let none = || OnnxError::NoForm {
            node: NodeId(position as u32),
            op: node.op.name(),
        };
        match &node.op.in_inference() {
            Op::Dense(Dense::Affine) => self.affine(node, &x, y),
            Op::Unary(unary) => self.unary(*unary, x[0], y),
            Op::Binary(binary) => {
                let op = match binary {
                    Binary::Add => "Add",
                    Binary::Sub => "Sub",
                    Binary::Mul => "Mul",
                    Binary::Div => "Div",
                    Binary::Pow => "Pow",
                    Binary::Min => "Min",
                    Binary::Max => "Max",
                    Binary::Fmod => {
                        self.emit("Mod", &x, &[y], &[("fmod", Int(1))]);
                        return Ok(());
                    }
                    // ONNX has it for integers only.
                    Binary::Mod => {
                        let ratio = self.step("Div", &x, &[]);
                        let times = self.step("Floor", &[&ratio], &[]);
                        let taken = self.step("Mul", &[x[1], &times], &[]);
                        self.emit("Sub", &[x[0], &taken], &[y], &[]);
                        return Ok(());
                    }
                };
                self.emit(op, &x, &[y], &[]);
            }
            Op::Compare(compare) => {
                let op = match compare {
                    Compare::Equal => "Equal",
                    Compare::NotEqual => {
                        let equal = self.step("Equal", &x, &[]);
                        self.emit("Not", &[&equal], &[y], &[]);
                        return Ok(());
                    }
                    Compare::Less => "Less",
                    Compare::LessOrEqual => "LessOrEqual",
                    Compare::Greater => "Greater",
                    Compare::GreaterOrEqual => "GreaterOrEqual",
                };
                self.emit(op, &x, &[y], &[]);
            }
            Op::Logic(logic) => {
                let op = match logic {
                    Logic::Not => "Not",
                    Logic::And => "And",
                    Logic::Or => "Or",
                    Logic::Xor => "Xor",
                };
                self.emit(op, &x, &[y], &[]);
            }
            Op::Where(_) => self.emit("Where", &x, &[y], &[]),
            Op::Cast(cast) => self.emit("Cast", &x, &[y], &[("to", Int(code(cast.to)))]),
            Op::Expand(expand) => {
                let shape = self.shape_tensor(&expand.shape);
                self.emit("Expand", &[x[0], &shape], &[y], &[]);
            }
            Op::Reduce(reduce) => self.reduce(reduce, x[0], y),
            Op::ArgMax(arg) => self.emit(
                "ArgMax",
                &x,
                &[y],
                &[
                    ("axis", Int(arg.axis as i64)),
                    ("keepdims", Int(i64::from(arg.keep))),
                ],
            ),
            Op::Reshape(reshape) => self.reshape(x[0], &reshape.shape, y),
            Op::Transpose(transpose) => {
                let order = signed(&transpose.order);
                self.emit("Transpose", &x, &[y], &[("perm", Ints(&order))]);
            }
            Op::Concat(concat) => {
                self.emit("Concat", &x, &[y], &[("axis", Int(concat.axis as i64))]);
            }
            Op::Slice(slice) => {
                let reach = slice.step as i64 * slice.len as i64;
                let end = slice.start as i64 + reach;
                // Beyond the first element, as a negative end means another.
                let end = if end < 0 { i64::MIN } else { end };
                let numbers = [
                    slice.start as i64,
                    end,
                    slice.axis as i64,
                    slice.step as i64,
                ];
                let [start, end, axis, step] = numbers.map(|n| self.ints(&[n]));
                self.emit("Slice", &[x[0], &start, &end, &axis, &step], &[y], &[]);
            }
            Op::Pad(pad) => {
                let pads = self.ints(&[pad.before as i64, pad.after as i64]);
                let axes = self.ints(&[pad.axis as i64]);
                let (mode, number) = match pad.margin {
                    Margin::Constant(number) => ("constant", number),
                    Margin::Reflect => ("reflect", 0.0),
                    Margin::Edge => ("edge", 0.0),
                };
                let number = self.scalar(number);
                let inputs = [x[0], &pads, &number, &axes];
                self.emit("Pad", &inputs, &[y], &[("mode", Text(mode))]);
            }
            Op::Gather(gather) => {
                self.emit("Gather", &x, &[y], &[("axis", Int(gather.axis as i64))]);
            }
            Op::GatherElements(gather) => {
                self.emit(
                    "GatherElements",
                    &x,
                    &[y],
                    &[("axis", Int(gather.axis as i64))],
                );
            }
            Op::CumSum(sum) => {
                let axis = self.ints(&[sum.axis as i64]);
                let flags = [
                    ("exclusive", Int(i64::from(sum.exclusive))),
                    ("reverse", Int(i64::from(sum.reverse))),
                ];
                self.emit("CumSum", &[x[0], &axis], &[y], &flags);
            }
            Op::MatMul(matmul) => self.matmul(node, *matmul, &x, y),
            Op::Norm(norm) => self.norm(node, norm, &x, y),
            Op::Conv(conv) => self.conv(node, conv, &x, y).ok_or_else(none)?,
            Op::Recurrent(recurrent) => self.recurrent(node, recurrent, &x),
            Op::Attention(attention) => {
                self.attention(node, attention, &x, y).ok_or_else(none)?;
            }
            Op::Pool(pool) => self.pool(pool, &x, y),
            Op::Softmax(Softmax::Plain { axis }) => {
                self.emit("Softmax", &x, &[y], &[("axis", Int(*axis as i64))]);
            }
            Op::Softmax(Softmax::Log { axis }) => {
                self.emit("LogSoftmax", &x, &[y], &[("axis", Int(*axis as i64))]);
            }
            _ => return Err(none()),
        }
        Ok(())
    }

    fn unary(&mut self, unary: Unary, x: &str, y: &str) {
        let simple = match unary {
            Unary::Identity => "Identity",
            Unary::Neg => "Neg",
            Unary::Abs => "Abs",
            Unary::Exp => "Exp",
            Unary::Log => "Log",
            Unary::Sqrt => "Sqrt",
            Unary::Reciprocal => "Reciprocal",
            Unary::Erf => "Erf",
            Unary::Sin => "Sin",
            Unary::Cos => "Cos",
            Unary::Relu => "Relu",
            Unary::Tanh => "Tanh",
            Unary::Sigmoid => "Sigmoid",
            Unary::Softplus => "Softplus",
            Unary::HardSwish => "HardSwish",
            Unary::Sign => "Sign",
            Unary::Floor => "Floor",
            Unary::Ceil => "Ceil",
            Unary::Round => "Round",
            Unary::Gelu => "Gelu",
            Unary::GeluTanh => {
                return self.emit("Gelu", &[x], &[y], &[("approximate", Text("tanh"))]);
            }
            Unary::Elu { alpha } => {
                return self.emit("Elu", &[x], &[y], &[("alpha", Float(alpha as f32))]);
            }
            Unary::LeakyRelu { slope } => {
                return self.emit("LeakyRelu", &[x], &[y], &[("alpha", Float(slope as f32))]);
            }
            Unary::HardSigmoid { slope, offset } => {
                let numbers = [
                    ("alpha", Float(slope as f32)),
                    ("beta", Float(offset as f32)),
                ];
                return self.emit("HardSigmoid", &[x], &[y], &numbers);
            }
            Unary::Scale { factor } => {
                let factor = self.scalar(factor);
                return self.emit("Mul", &[x, &factor], &[y], &[]);
            }
            Unary::Rsqrt => {
                let root = self.step("Sqrt", &[x], &[]);
                return self.emit("Reciprocal", &[&root], &[y], &[]);
            }
            Unary::Silu => {
                let gate = self.step("Sigmoid", &[x], &[]);
                return self.emit("Mul", &[x, &gate], &[y], &[]);
            }
            Unary::Clip { min, max } => {
                let (min, max) = (self.scalar(min), self.scalar(max));
                return self.emit("Clip", &[x, &min, &max], &[y], &[]);
            }
        };
        self.emit(simple, &[x], &[y], &[]);
    }

    /// Of matrices one `Gemm`; else the product with the transposed weight, then the bias.
    fn affine(&mut self, node: &Node, x: &[&str], y: &str) {
        if self.dims(node.operands[0]).len() == 2 {
            return self.emit("Gemm", x, &[y], &[("transB", Int(1))]);
        }
        let w = self.step("Transpose", &[x[1]], &[("perm", Ints(&[1, 0]))]);
        match x.get(2) {
            None => self.emit("MatMul", &[x[0], &w], &[y], &[]),
            Some(bias) => {
                let product = self.step("MatMul", &[x[0], &w], &[]);
                self.emit("Add", &[&product, bias], &[y], &[]);
            }
        }
    }

    fn matmul(&mut self, node: &Node, matmul: MatMul, x: &[&str], y: &str) {
        let mut operands = [x[0].to_owned(), x[1].to_owned()];
        for (i, transposed) in [matmul.a_transposed, matmul.b_transposed]
            .into_iter()
            .enumerate()
        {
            if transposed {
                let rank = self.dims(node.operands[i]).len();
                let mut order: Vec<i64> = (0..rank as i64).collect();
                order.swap(rank - 1, rank - 2);
                operands[i] = self.step("Transpose", &[x[i]], &[("perm", Ints(&order))]);
            }
        }
        self.emit("MatMul", &[&operands[0], &operands[1]], &[y], &[]);
    }

    fn reduce(&mut self, reduce: &Reduce, x: &str, y: &str) {
        let op = match reduce.reduction {
            Reduction::Sum => "ReduceSum",
            Reduction::Mean => "ReduceMean",
            Reduction::Max => "ReduceMax",
            Reduction::Min => "ReduceMin",
            Reduction::Prod => "ReduceProd",
            Reduction::LogSumExp => "ReduceLogSumExp",
            Reduction::L1 => "ReduceL1",
            Reduction::L2 => "ReduceL2",
        };
        if reduce.axes.is_empty() {
            // Without axes ONNX would reduce them all; a tensor of one element a slice reduces to it.
            let last = self.ints(&[-1]);
            let column = self.step("Unsqueeze", &[x, &last], &[]);
            return self.emit(op, &[&column, &last], &[y], &[("keepdims", Int(0))]);
        }
        let axes = self.ints(&signed(&reduce.axes));
        let keep = i64::from(reduce.keep);
        self.emit(op, &[x, &axes], &[y], &[("keepdims", Int(keep))]);
    }

    /// A dimension of the batch is what remains, if there is one.
    fn reshape(&mut self, x: &str, shape: &Shape, y: &str) {
        let dims = shape.dims().iter();
        let to: Vec<i64> = dims
            .map(|dim| dim.fixed().map_or(-1, |n| n as i64))
            .collect();
        let to = match to.iter().filter(|&&n| n == -1).count() {
            0 | 1 => self.ints(&to),
            _ => self.shape_tensor(shape),
        };
        self.emit("Reshape", &[x, &to], &[y], &[]);
    }

    fn norm(&mut self, node: &Node, norm: &Norm, x: &[&str], y: &str) {
        let eps = ("epsilon", Float(norm.eps as f32));
        match norm.over {
            NormOver::Layer { axis } => {
                let axis = ("axis", Int(axis as i64));
                self.emit("LayerNormalization", x, &[y], &[axis, eps]);
            }
            NormOver::Batch { .. } | NormOver::Running => {
                self.emit("BatchNormalization", x, &[y], &[eps]);
            }
            NormOver::Rms { axis } => {
                let rank = self.dims(node.operands[0]).len();
                let axes: Vec<i64> = (axis as i64..rank as i64).collect();
                let axes = self.ints(&axes);
                let square = self.step("Mul", &[x[0], x[0]], &[]);
                let mean = self.step("ReduceMean", &[&square, &axes], &[("keepdims", Int(1))]);
                let number = self.scalar(norm.eps);
                let raised = self.step("Add", &[&mean, &number], &[]);
                let root = self.step("Sqrt", &[&raised], &[]);
                let unit = self.step("Div", &[x[0], &root], &[]);
                self.emit("Mul", &[&unit, x[1]], &[y], &[]);
            }
            NormOver::Group { groups } => {
                // Groups as channels of an instance normalisation without weights.
                let dims = self.dims(node.operands[0]).to_vec();
                let channels = dims[1].fixed().unwrap_or(1);
                let flat = self.ints(&[0, groups as i64, -1]);
                let rows = self.step("Reshape", &[x[0], &flat], &[]);
                let (ones, zeros) = (self.filled(1.0, groups), self.filled(0.0, groups));
                let inputs = [rows.as_str(), &ones, &zeros];
                let unit = self.step("InstanceNormalization", &inputs, &[eps]);
                let whole = self.shape_tensor(&Shape::new(dims.clone()));
                let unit = self.step("Reshape", &[&unit, &whole], &[]);
                let mut column = vec![1; dims.len() - 1];
                column[0] = channels as i64;
                let column = self.ints(&column);
                let w = self.step("Reshape", &[x[1], &column], &[]);
                let b = self.step("Reshape", &[x[2], &column], &[]);
                let scaled = self.step("Mul", &[&unit, &w], &[]);
                self.emit("Add", &[&scaled, &b], &[y], &[]);
            }
        }
    }

    fn conv(&mut self, node: &Node, conv: &Conv, x: &[&str], y: &str) -> Option<()> {
        let pads = pads(&conv.windows);
        let (strides, dilations) = (signed(&conv.windows.stride), signed(&conv.windows.dilation));
        let kernel = self.dims(node.operands[1])[2..].to_vec();
        let kernel: Vec<i64> = kernel.iter().map(|dim| dim.bind(1) as i64).collect();
        let mut attributes = vec![
            ("strides", Ints(&strides)),
            ("dilations", Ints(&dilations)),
            ("pads", Ints(&pads)),
            ("group", Int(conv.groups as i64)),
            ("kernel_shape", Ints(&kernel)),
        ];
        match conv.part {
            ConvPart::Forward => self.emit("Conv", x, &[y], &attributes),
            ConvPart::Image { size } => {
                let image: Vec<i64> = self.dims(node.operands[0])[2..]
                    .iter()
                    .map(|dim: &Dim| dim.bind(1) as i64)
                    .collect();
                let more: Vec<i64> = (0..2)
                    .map(|i| {
                        let reach = (kernel[i] - 1) * dilations[i] + 1;
                        let full = (image[i] - 1) * strides[i] + reach - pads[i] - pads[i + 2];
                        size[i] as i64 - full
                    })
                    .collect();
                attributes.push(("output_padding", Ints(&more)));
                self.emit("ConvTranspose", x, &[y], &attributes);
            }
            ConvPart::Weight { .. } => return None,
        }
        Some(())
    }

    fn pool(&mut self, pool: &Pool, x: &[&str], y: &str) {
        let pads = pads(&pool.windows);
        let (strides, dilations) = (signed(&pool.windows.stride), signed(&pool.windows.dilation));
        let kernel = signed(&pool.kernel);
        let mut attributes = vec![
            ("kernel_shape", Ints(&kernel)),
            ("strides", Ints(&strides)),
            ("pads", Ints(&pads)),
            ("ceil_mode", Int(i64::from(pool.ceil))),
            ("dilations", Ints(&dilations)),
        ];
        match pool.pooling {
            Pooling::Max => self.emit("MaxPool", x, &[y], &attributes),
            Pooling::Average { count_margin } => {
                attributes.push(("count_include_pad", Int(i64::from(count_margin))));
                self.emit("AveragePool", x, &[y], &attributes);
            }
        }
    }
}

/// ONNX's order: all margins before, then all after.
fn pads(windows: &Windows) -> Vec<i64> {
    let all = windows.before.iter().chain(&windows.after);
    all.map(|&n| n as i64).collect()
}
