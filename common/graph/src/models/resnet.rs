//! ResNet-18.

use ringfold_common::job::{Resnet18Spec, Stem};

use super::Frame;
use super::builder::{Builder, Convolution, PoolWindows};
use crate::error::GraphError;
use crate::graph::{Graph, ValueId};
use crate::init::InitialiserScheme;
use crate::op::{Binary, Pooling, Reduction, Unary};

/// Batch norm as torchvision's: eps and momentum.
const NORM: [f64; 2] = [1e-5, 0.1];

/// A residual network of 18 layers with its loss: four stages of two basic blocks (He et al., "Deep
/// residual learning for image recognition", 2015, table 1). Parameters and states are named as in
/// torchvision's state dict.
///
/// # Errors
/// [`GraphError::ModelOption`] without the images' sizes, or images that are too small.
pub fn resnet18(spec: &Resnet18Spec, frame: &Frame) -> Result<Graph, GraphError> {
    let mut builder = Builder::new("resnet18", frame, spec.initialiser.into())?;
    let width = spec.width as usize;
    let mut x = builder.images()?;
    let stem = match spec.stem {
        Stem::Cifar => Convolution::square(width, 3, 1),
        Stem::Imagenet => Convolution {
            stride: [2; 2],
            ..Convolution::square(width, 7, 3)
        },
    };
    x = builder.conv2d("conv1", x, &stem)?;
    x = builder.batch_norm("bn1", x, NORM, 1.0)?;
    x = builder.activation(x, Unary::Relu)?;
    if spec.stem == Stem::Imagenet {
        let windows = PoolWindows {
            size: [3; 2],
            stride: [2; 2],
            padding: [1; 2],
        };
        x = builder.pool2d(Pooling::Max, x, &windows)?;
    }
    for stage in 0..4 {
        for block in 0..2 {
            let shape = Block {
                channels: width << stage,
                stride: if stage > 0 && block == 0 { 2 } else { 1 },
                last_scale: if spec.zero_init_residual { 0.0 } else { 1.0 },
            };
            x = basic_block(
                &mut builder,
                &format!("layer{}.{block}", stage + 1),
                x,
                shape,
            )?;
        }
    }
    x = builder.global_pool(Reduction::Mean, x)?;
    let outputs = builder.outputs();
    let out = builder.dense_started("fc", x, outputs, InitialiserScheme::LinearDefault)?;
    builder.finish(out)
}

#[derive(Clone, Copy)]
struct Block {
    channels: usize,
    stride: usize,
    last_scale: f64,
}

/// Two convolutions, and the way around them.
fn basic_block(
    builder: &mut Builder<'_>,
    name: &str,
    x: ValueId,
    block: Block,
) -> Result<ValueId, GraphError> {
    let part = |part: &str| format!("{name}.{part}");
    let stride = [block.stride; 2];
    let first = Convolution {
        stride,
        ..Convolution::square(block.channels, 3, 1)
    };
    let mut y = builder.conv2d(&part("conv1"), x, &first)?;
    y = builder.batch_norm(&part("bn1"), y, NORM, 1.0)?;
    y = builder.activation(y, Unary::Relu)?;
    y = builder.conv2d(
        &part("conv2"),
        y,
        &Convolution::square(block.channels, 3, 1),
    )?;
    y = builder.batch_norm(&part("bn2"), y, NORM, block.last_scale)?;
    let mut around = x;
    if block.stride > 1 || builder.dim(x, 1) != Some(block.channels) {
        let projection = Convolution {
            stride,
            ..Convolution::square(block.channels, 1, 0)
        };
        around = builder.conv2d(&part("downsample.0"), x, &projection)?;
        around = builder.batch_norm(&part("downsample.1"), around, NORM, 1.0)?;
    }
    let sum = builder.graph.apply(Binary::Add, &[y, around])?;
    builder.activation(sum, Unary::Relu)
}
