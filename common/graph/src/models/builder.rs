//! A graph under construction: layers with their parameters, named and started.

use ringfold_common::job::AttentionLayer;

use super::{Frame, objective};
use crate::error::GraphError;
use crate::graph::{Graph, ValueId};
use crate::init::{Initialiser, InitialiserScheme};
use crate::layers::{self, SelfAttention, self_attention};
use crate::op::{
    Conv, ConvPart, Dense, Dropout, Pool, Pooling, Reduce, Reduction, Reshape, Unary, Windows,
};
use crate::shape::{Dim, Shape};

/// A model under construction.
pub(super) struct Builder<'a> {
    pub graph: Graph,
    frame: &'a Frame,
    scheme: InitialiserScheme,
    features: ValueId,
    labels: ValueId,
    /// What the penalty is on.
    weights: Vec<ValueId>,
    dropouts: u64,
}

/// A convolution over two dimensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Convolution {
    pub filters: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
    pub bias: bool,
}

impl Convolution {
    /// Square, of stride 1, without bias.
    pub fn square(filters: usize, kernel: usize, padding: usize) -> Self {
        Self {
            filters,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: [padding; 2],
            dilation: [1; 2],
            groups: 1,
            bias: false,
        }
    }

    fn windows(&self) -> Windows {
        Windows {
            stride: self.stride,
            before: self.padding,
            after: self.padding,
            dilation: self.dilation,
        }
    }
}

/// Windows of pooling over two dimensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolWindows {
    pub size: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
}

impl<'a> Builder<'a> {
    pub fn new(
        name: &str,
        frame: &'a Frame,
        scheme: InitialiserScheme,
    ) -> Result<Self, GraphError> {
        frame.check()?;
        let mut graph = Graph::new(name, frame.dtype)?;
        let (features, labels) = objective::add_inputs(&mut graph, frame)?;
        Ok(Self {
            graph,
            frame,
            scheme,
            features,
            labels,
            weights: Vec::new(),
            dropouts: 0,
        })
    }

    /// The features as rows.
    pub fn rows(&self) -> ValueId {
        self.features
    }

    /// The features under their dimensions: rows if there are none.
    pub fn records(&mut self) -> Result<ValueId, GraphError> {
        let dims = &self.frame.dims;
        if dims.is_empty() {
            return Ok(self.features);
        }
        let shape = Shape::batched(dims);
        self.graph.apply(Reshape { shape }, &[self.features])
    }

    /// The features as images `[batch, channels, height, width]`; an image of two dimensions has
    /// one channel.
    pub fn images(&mut self) -> Result<ValueId, GraphError> {
        let dims = match *self.frame.dims.as_slice() {
            [height, width] => [1, height, width],
            [channels, height, width] => [channels, height, width],
            _ => {
                return Err(GraphError::ModelOption {
                    option: "input",
                    expected: "[channels, height, width], since the model takes images and the \
                               data doesn't say their sizes",
                    got: format!("{:?}", self.frame.dims),
                });
            }
        };
        let shape = Shape::batched(&dims);
        self.graph.apply(Reshape { shape }, &[self.features])
    }

    /// The size of a dimension of `x`, if there is one that isn't the batch.
    pub fn dim(&self, x: ValueId, axis: usize) -> Option<usize> {
        let dims = self.graph.value(x).ty.shape.dims();
        dims.get(axis).copied().and_then(Dim::fixed)
    }

    fn rank(&self, x: ValueId) -> usize {
        self.graph.value(x).ty.shape.rank()
    }

    fn weight(&mut self, name: &str, dims: &[usize]) -> Result<ValueId, GraphError> {
        let initialiser = self.scheme.weight_of(dims);
        let name = format!("{name}.weight");
        let weight = self
            .graph
            .add_parameter(&name, Shape::fixed(dims), initialiser)?;
        self.weights.push(weight);
        Ok(weight)
    }

    fn bias(&mut self, name: &str, units: usize, fan_in: usize) -> Result<ValueId, GraphError> {
        let initialiser = self.scheme.bias(fan_in);
        let name = format!("{name}.bias");
        self.graph
            .add_parameter(&name, Shape::fixed(&[units]), initialiser)
    }

    /// `x [.., inputs] -> [.., units]`: parameters `NAME.weight [units, inputs]`, `NAME.bias`.
    pub fn dense(
        &mut self,
        name: &str,
        x: ValueId,
        units: usize,
        bias: bool,
    ) -> Result<ValueId, GraphError> {
        let last = self.rank(x).saturating_sub(1);
        let Some(inputs) = self.dim(x, last) else {
            return Err(self.misfit(x, "a last dimension beside the batch"));
        };
        let weight = self.weight(name, &[units, inputs])?;
        let mut operands = vec![x, weight];
        if bias {
            operands.push(self.bias(name, units, inputs)?);
        }
        self.graph.apply(Dense::Affine, &operands)
    }

    /// The same with other initial values.
    pub fn dense_started(
        &mut self,
        name: &str,
        x: ValueId,
        units: usize,
        scheme: InitialiserScheme,
    ) -> Result<ValueId, GraphError> {
        let before = std::mem::replace(&mut self.scheme, scheme);
        let result = self.dense(name, x, units, true);
        self.scheme = before;
        result
    }

    /// `x [n, channels, height, width]`: parameters `NAME.weight [filters, channels / groups, kernel]`,
    /// `NAME.bias`.
    pub fn conv2d(
        &mut self,
        name: &str,
        x: ValueId,
        conv: &Convolution,
    ) -> Result<ValueId, GraphError> {
        let channels = self.channels(x, 4, "an image [channels, height, width]")?;
        let [height, width] = conv.kernel;
        let inner = self.inner(x, channels, conv.groups)?;
        let weight = self.weight(name, &[conv.filters, inner, height, width])?;
        let mut operands = vec![x, weight];
        if conv.bias {
            let fan_in = inner.saturating_mul(height).saturating_mul(width);
            operands.push(self.bias(name, conv.filters, fan_in)?);
        }
        self.graph.apply(self::conv(conv), &operands)
    }

    /// `x [n, channels, length]`, with the second numbers of `conv`: `NAME.weight [filters, channels
    /// / groups, kernel]`.
    pub fn conv1d(
        &mut self,
        name: &str,
        x: ValueId,
        conv: &Convolution,
    ) -> Result<ValueId, GraphError> {
        let conv = &Convolution {
            kernel: [1, conv.kernel[1]],
            stride: [1, conv.stride[1]],
            padding: [0, conv.padding[1]],
            dilation: [1, conv.dilation[1]],
            ..*conv
        };
        let channels = self.channels(x, 3, "a sequence [channels, length]")?;
        let inner = self.inner(x, channels, conv.groups)?;
        let weight = self.weight(name, &[conv.filters, inner, conv.kernel[1]])?;
        let bias = if conv.bias {
            let fan_in = inner.saturating_mul(conv.kernel[1]);
            Some(self.bias(name, conv.filters, fan_in)?)
        } else {
            None
        };
        layers::conv1d(&mut self.graph, self::conv(conv), x, weight, bias)
    }

    /// PyTorch's `ConvTranspose2d`: `NAME.weight [channels, filters / groups, kernel]`.
    pub fn conv_transpose2d(
        &mut self,
        name: &str,
        x: ValueId,
        conv: &Convolution,
        output_padding: [usize; 2],
    ) -> Result<ValueId, GraphError> {
        let channels = self.channels(x, 4, "an image [channels, height, width]")?;
        self.inner(x, channels, conv.groups)?;
        let [height, width] = conv.kernel;
        let outputs = conv.filters / conv.groups;
        let weight = self.weight(name, &[channels, outputs, height, width])?;
        self.transposed(name, [x, weight], conv, output_padding)
    }

    /// PyTorch's `ConvTranspose1d` of `x [n, channels, length]`, with the second numbers of `conv` and
    /// `output_padding`: `NAME.weight [channels, filters / groups, kernel]`.
    pub fn conv_transpose1d(
        &mut self,
        name: &str,
        x: ValueId,
        conv: &Convolution,
        output_padding: usize,
    ) -> Result<ValueId, GraphError> {
        let conv = &Convolution {
            kernel: [1, conv.kernel[1]],
            stride: [1, conv.stride[1]],
            padding: [0, conv.padding[1]],
            dilation: [1, conv.dilation[1]],
            ..*conv
        };
        let channels = self.channels(x, 3, "a sequence [channels, length]")?;
        self.inner(x, channels, conv.groups)?;
        let weight = self.weight(
            name,
            &[channels, conv.filters / conv.groups, conv.kernel[1]],
        )?;
        let x = layers::insert_one(&mut self.graph, x)?;
        let weight = layers::insert_one(&mut self.graph, weight)?;
        let y = self.transposed(name, [x, weight], conv, [0, output_padding])?;
        let mut dims = self.graph.value(y).ty.shape.dims().to_vec();
        dims.remove(2);
        let shape = Shape::new(dims);
        self.graph.apply(Reshape { shape }, &[y])
    }

    /// A transposed convolution of images with a weight, and the bias that it has.
    fn transposed(
        &mut self,
        name: &str,
        [x, weight]: [ValueId; 2],
        conv: &Convolution,
        output_padding: [usize; 2],
    ) -> Result<ValueId, GraphError> {
        let mut size = [0; 2];
        for i in 0..2 {
            let Some(before) = self.dim(x, 2 + i) else {
                return Err(self.misfit(x, "an image [channels, height, width]"));
            };
            let reach = (conv.kernel[i] - 1) * conv.dilation[i] + 1;
            let all = (before - 1) * conv.stride[i] + reach + output_padding[i];
            size[i] = all.saturating_sub(2 * conv.padding[i]);
            if size[i] == 0 {
                return Err(self.misfit(x, "an image that padding leaves something of"));
            }
        }
        // The rows that the stride leaves open belong to no window.
        let mut windows = conv.windows();
        for (after, open) in windows.after.iter_mut().zip(output_padding) {
            *after = after.saturating_sub(open);
        }
        let transposed = Conv {
            windows,
            groups: conv.groups,
            part: ConvPart::Image { size },
        };
        let y = self.graph.apply(transposed, &[x, weight])?;
        if !conv.bias {
            return Ok(y);
        }
        let [height, width] = conv.kernel;
        let outputs = conv.filters / conv.groups;
        let fan_in = outputs.saturating_mul(height).saturating_mul(width);
        let bias = self.bias(name, conv.filters, fan_in)?;
        let shape = Shape::fixed(&[conv.filters, 1, 1]);
        let bias = self.graph.apply(Reshape { shape }, &[bias])?;
        self.graph.apply(crate::op::Binary::Add, &[y, bias])
    }

    /// PyTorch's batch norm; the weight starts at `scale`.
    pub fn batch_norm(
        &mut self,
        name: &str,
        x: ValueId,
        [eps, momentum]: [f64; 2],
        scale: f64,
    ) -> Result<ValueId, GraphError> {
        let scale = Initialiser::Constant(scale);
        layers::scaled_batch_norm(&mut self.graph, name, x, [eps, momentum], scale)
    }

    pub fn activation(
        &mut self,
        x: ValueId,
        activation: impl Into<Unary>,
    ) -> Result<ValueId, GraphError> {
        self.graph.apply(activation.into(), &[x])
    }

    /// Dropout with a stream of random numbers of its own; nothing at a rate of 0.
    pub fn dropout(&mut self, x: ValueId, rate: f64) -> Result<ValueId, GraphError> {
        if rate == 0.0 {
            return Ok(x);
        }
        let key = self.dropouts;
        self.dropouts += 1;
        self.graph.apply(Dropout { rate, key }, &[x])
    }

    /// Self-attention of `x [.., positions, width]` with the names of PyTorch's `MultiheadAttention`;
    /// see [`self_attention`]. Biases start as zeros, as there.
    pub fn attention(
        &mut self,
        name: &str,
        x: ValueId,
        layer: &AttentionLayer,
    ) -> Result<ValueId, GraphError> {
        let (rank, heads) = (self.rank(x), layer.heads as usize);
        let fixed = |back: usize| {
            let axis = rank.checked_sub(back).filter(|&axis| axis > 0);
            axis.and_then(|axis| self.dim(x, axis))
        };
        let (Some(_), Some(width)) = (fixed(2), fixed(1)) else {
            return Err(self.misfit(x, "[positions, width]"));
        };
        if !width.is_multiple_of(heads.max(1)) {
            return Err(self.misfit(x, "a width that the heads divide"));
        }
        let key = self.dropouts;
        let dropout = (layer.dropout > 0.0).then_some(Dropout {
            rate: layer.dropout,
            key,
        });
        self.dropouts += u64::from(dropout.is_some());
        let options = SelfAttention {
            heads,
            causal: layer.causal,
            bias: layer.bias,
            input: self.scheme.weight_of(&[3 * width, width]),
            output: self.scheme.weight_of(&[width, width]),
            dropout,
        };
        let first = self.graph.parameters().len();
        let y = self_attention(&mut self.graph, name, x, &options)?;
        let added = self.graph.parameters()[first..].iter();
        // Matrices, not biases.
        let weights = added.filter(|p| p.name.ends_with("weight"));
        self.weights.extend(weights.map(|p| p.value));
        Ok(y)
    }

    pub fn pool2d(
        &mut self,
        pooling: Pooling,
        x: ValueId,
        windows: &PoolWindows,
    ) -> Result<ValueId, GraphError> {
        self.channels(x, 4, "an image [channels, height, width]")?;
        let pool = Pool {
            pooling,
            kernel: windows.size,
            windows: Windows {
                stride: windows.stride,
                before: windows.padding,
                after: windows.padding,
                dilation: [1; 2],
            },
            ceil: false,
        };
        self.graph.apply(pool, &[x])
    }

    /// The same over `[n, channels, length]`, with the second numbers.
    pub fn pool1d(
        &mut self,
        pooling: Pooling,
        x: ValueId,
        windows: &PoolWindows,
    ) -> Result<ValueId, GraphError> {
        self.channels(x, 3, "a sequence [channels, length]")?;
        let mut dims = self.graph.value(x).ty.shape.dims().to_vec();
        dims.insert(2, Dim::Fixed(1));
        let shape = Shape::new(dims);
        let image = self.graph.apply(Reshape { shape }, &[x])?;
        let windows = PoolWindows {
            size: [1, windows.size[1]],
            stride: [1, windows.stride[1]],
            padding: [0, windows.padding[1]],
        };
        let y = self.pool2d(pooling, image, &windows)?;
        let mut dims = self.graph.value(y).ty.shape.dims().to_vec();
        dims.remove(2);
        let shape = Shape::new(dims);
        self.graph.apply(Reshape { shape }, &[y])
    }

    /// `[n, channels, ..] -> [n, channels]`.
    pub fn global_pool(&mut self, reduction: Reduction, x: ValueId) -> Result<ValueId, GraphError> {
        let rank = self.rank(x);
        if rank < 3 {
            return Err(self.misfit(x, "channels with one dimension or more"));
        }
        let reduce = Reduce {
            reduction,
            axes: (2..rank).collect(),
            keep: false,
        };
        self.graph.apply(reduce, &[x])
    }

    /// Every dimension but the batch as one.
    pub fn flatten(&mut self, x: ValueId) -> Result<ValueId, GraphError> {
        let dims = self.graph.value(x).ty.shape.dims();
        let sizes = dims.iter().skip(1).map(|dim| dim.fixed().unwrap_or(1));
        let size = sizes.fold(1, usize::saturating_mul);
        let shape = Shape::batched(&[size]);
        self.graph.apply(Reshape { shape }, &[x])
    }

    /// Puts the penalty on every parameter of two dimensions so far.
    pub fn penalise_matrices(&mut self) {
        let parameters = self.graph.parameters().iter();
        let matrices = parameters.map(|parameter| parameter.value);
        let matrices = matrices.filter(|&value| self.rank(value) == 2);
        self.weights = matrices.collect();
    }

    /// Ends the model with `out [batch, outputs]`.
    pub fn finish(mut self, out: ValueId) -> Result<Graph, GraphError> {
        let (frame, labels) = (self.frame, self.labels);
        objective::finish(&mut self.graph, frame, out, labels, &self.weights)?;
        Ok(self.graph)
    }

    /// Outputs of the network.
    pub fn outputs(&self) -> usize {
        self.frame.network_outputs()
    }

    /// The shape of `x` isn't what was expected.
    pub fn misfit(&self, x: ValueId, expected: &'static str) -> GraphError {
        let dims = self.graph.value(x).ty.shape.dims();
        let shown: Vec<String> = dims.iter().skip(1).map(ToString::to_string).collect();
        GraphError::LayerInput {
            expected,
            got: format!("[{}]", shown.join(", ")),
        }
    }

    /// The channels of `x [n, channels, ..]` of this rank.
    fn channels(
        &self,
        x: ValueId,
        rank: usize,
        expected: &'static str,
    ) -> Result<usize, GraphError> {
        let channels = self.dim(x, 1).filter(|_| self.rank(x) == rank);
        channels.ok_or_else(|| self.misfit(x, expected))
    }

    /// The channels of one group.
    fn inner(&self, x: ValueId, channels: usize, groups: usize) -> Result<usize, GraphError> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(self.misfit(x, "channels that the groups divide"));
        }
        Ok(channels / groups)
    }
}

fn conv(conv: &Convolution) -> Conv {
    Conv {
        windows: conv.windows(),
        groups: conv.groups,
        part: ConvPart::Forward,
    }
}
