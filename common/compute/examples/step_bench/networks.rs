//! The networks that are measured.

use ringfold_graph::op::{
    Binary, Conv, ConvPart, Dense, Pool, Pooling, Reduce, Reduction, Reshape, SoftmaxCrossEntropy,
    Unary, Windows,
};
use ringfold_graph::{
    DType, Graph, GraphError, Initialiser, OutputRole, Shape, TensorType, ValueId, differentiate,
    layers,
};

/// A graph that grows, and the operations of one sample's forward pass and of the gradient that the
/// first layer doesn't need.
pub struct Builder {
    graph: Graph,
    flops: usize,
    first_flops: usize,
}

/// A differentiated network.
pub struct Network {
    pub graph: Graph,
    pub features: usize,
    /// Multiplications and additions of a training step on one sample, in matrix products and direct
    /// convolutions.
    pub flops: usize,
}

impl Builder {
    fn new(name: &str) -> Result<Self, GraphError> {
        Ok(Self {
            graph: Graph::new(name, DType::F32)?,
            flops: 0,
            first_flops: 0,
        })
    }

    fn dims(&self, x: ValueId) -> Vec<usize> {
        self.graph.value(x).ty.shape.bind(1)
    }

    fn parameter(&mut self, name: String, dims: &[usize]) -> Result<ValueId, GraphError> {
        let fan_in: usize = dims[1..].iter().product();
        let deviation = (2.0 / fan_in as f64).sqrt();
        let initialiser = match dims {
            [_] => Initialiser::Zeros,
            _ => Initialiser::Normal { deviation },
        };
        self.graph
            .add_parameter(&name, Shape::fixed(dims), initialiser)
    }

    fn count(&mut self, flops: usize) {
        self.flops += flops;
        if self.first_flops == 0 {
            self.first_flops = flops;
        }
    }

    fn conv(
        &mut self,
        name: &str,
        x: ValueId,
        [outs, kernel, stride]: [usize; 3],
        bias: bool,
    ) -> Result<ValueId, GraphError> {
        let ins = self.dims(x)[1];
        let margin = kernel / 2;
        let conv = Conv {
            windows: Windows {
                stride: [stride; 2],
                ..Windows::padded(margin, margin)
            },
            groups: 1,
            part: ConvPart::Forward,
        };
        let weight = self.parameter(format!("{name}.weight"), &[outs, ins, kernel, kernel])?;
        let mut operands = vec![x, weight];
        if bias {
            operands.push(self.parameter(format!("{name}.bias"), &[outs])?);
        }
        let y = self.graph.apply(conv, &operands)?;
        let elements: usize = self.dims(y).iter().product();
        self.count(2 * elements * ins * kernel * kernel);
        Ok(y)
    }

    fn dense(&mut self, name: &str, x: ValueId, outs: usize) -> Result<ValueId, GraphError> {
        let ins = self.dims(x)[1];
        let weight = self.parameter(format!("{name}.weight"), &[outs, ins])?;
        let bias = self.parameter(format!("{name}.bias"), &[outs])?;
        self.count(2 * ins * outs);
        self.graph.apply(Dense::Affine, &[x, weight, bias])
    }

    fn relu(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        self.graph.apply(Unary::Relu, &[x])
    }

    fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, GraphError> {
        layers::batch_norm(&mut self.graph, name, x, 1e-5, 0.1)
    }

    fn flat(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let shape = Shape::batched(&[self.dims(x)[1..].iter().product()]);
        self.graph.apply(Reshape { shape }, &[x])
    }

    fn half(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let pool = Pool {
            pooling: Pooling::Max,
            kernel: [2; 2],
            windows: Windows {
                stride: [2; 2],
                ..Windows::default()
            },
            ceil: false,
        };
        self.graph.apply(pool, &[x])
    }

    /// Two convolutions beside a shortcut.
    fn block(
        &mut self,
        name: &str,
        x: ValueId,
        outs: usize,
        stride: usize,
    ) -> Result<ValueId, GraphError> {
        let named = |part: &str| format!("{name}.{part}");
        let h = self.conv(&named("conv1"), x, [outs, 3, stride], false)?;
        let h = self.norm(&named("bn1"), h)?;
        let h = self.relu(h)?;
        let h = self.conv(&named("conv2"), h, [outs, 3, 1], false)?;
        let h = self.norm(&named("bn2"), h)?;
        let shortcut = if self.dims(x)[1] == outs {
            x
        } else {
            let y = self.conv(&named("downsample.0"), x, [outs, 1, stride], false)?;
            self.norm(&named("downsample.1"), y)?
        };
        let h = self.graph.apply(Binary::Add, &[h, shortcut])?;
        self.relu(h)
    }

    fn finish(mut self, logits: ValueId, features: usize) -> Result<Network, GraphError> {
        let labels = TensorType::new(DType::I32, Shape::batched(&[]));
        let y = self.graph.add_input("y", labels)?;
        let loss = self.graph.apply(SoftmaxCrossEntropy::Loss, &[logits, y])?;
        self.graph.add_output("loss", OutputRole::Loss, loss)?;
        Ok(Network {
            graph: differentiate(&self.graph, "loss")?,
            features,
            flops: 3 * self.flops - self.first_flops,
        })
    }
}

/// 1 × 28 × 28: 5 × 5 convolutions to 32 and 64 channels, each with ReLU and pooling by 2; 512 units
/// with ReLU; 10 classes.
pub fn cnn() -> Result<Network, GraphError> {
    let mut b = Builder::new("cnn")?;
    let ty = TensorType::new(DType::F32, Shape::batched(&[1, 28, 28]));
    let x = b.graph.add_input("x", ty)?;
    let mut h = x;
    for (name, outs) in [("conv1", 32), ("conv2", 64)] {
        h = b.conv(name, h, [outs, 5, 1], true)?;
        h = b.relu(h)?;
        h = b.half(h)?;
    }
    h = b.flat(h)?;
    h = b.dense("fc1", h, 512)?;
    h = b.relu(h)?;
    let logits = b.dense("fc2", h, 10)?;
    b.finish(logits, 28 * 28)
}

/// ResNet-18 for 3 × 32 × 32: He et al., 2015, with a 3 × 3 stem and no pooling after it.
pub fn resnet18() -> Result<Network, GraphError> {
    let mut b = Builder::new("resnet18")?;
    let ty = TensorType::new(DType::F32, Shape::batched(&[3, 32, 32]));
    let x = b.graph.add_input("x", ty)?;
    let h = b.conv("conv1", x, [64, 3, 1], false)?;
    let h = b.norm("bn1", h)?;
    let mut h = b.relu(h)?;
    for (stage, outs) in [64, 128, 256, 512].into_iter().enumerate() {
        for i in 0..2 {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            h = b.block(&format!("layer{}.{i}", stage + 1), h, outs, stride)?;
        }
    }
    let mean = Reduce {
        reduction: Reduction::Mean,
        axes: vec![2, 3],
        keep: false,
    };
    h = b.graph.apply(mean, &[h])?;
    let logits = b.dense("fc", h, 10)?;
    b.finish(logits, 3 * 32 * 32)
}
