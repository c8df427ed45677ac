//! LeNet-like convolutional networks.

use ringfold_common::job::CnnSpec;

use super::Frame;
use super::builder::{Builder, Convolution, PoolWindows};
use crate::error::{GraphError, LayerPlace};
use crate::graph::Graph;
use crate::op::Pooling;

/// A convolutional network with its loss: blocks of convolution, batch norm, activation and maximum
/// pooling, then hidden layers with activation and dropout, then the output.
///
/// Parameters: `blocks.N.conv.weight` and `.bias`, or with batch norm `blocks.N.norm.*` and no bias;
/// `hidden.N.weight`, `.bias`; `output.weight`, `.bias`.
///
/// # Errors
/// [`GraphError::ModelOption`] without the images' sizes; [`GraphError::Layer`] names a block that
/// doesn't fit.
pub fn cnn(spec: &CnnSpec, frame: &Frame) -> Result<Graph, GraphError> {
    let mut builder = Builder::new("cnn", frame, spec.initialiser.into())?;
    let mut x = builder.images()?;
    for (i, block) in spec.blocks.iter().enumerate() {
        let name = format!("blocks.{i}");
        let mut apply = |x| {
            let conv = Convolution {
                bias: !block.batch_norm,
                ..Convolution::square(
                    block.filters as usize,
                    block.kernel as usize,
                    block.padding as usize,
                )
            };
            let mut x = builder.conv2d(&format!("{name}.conv"), x, &conv)?;
            if block.batch_norm {
                x = builder.batch_norm(&format!("{name}.norm"), x, [1e-5, 0.1], 1.0)?;
            }
            x = builder.activation(x, spec.activation)?;
            if block.pool > 1 {
                let size = [block.pool as usize; 2];
                let windows = PoolWindows {
                    size,
                    stride: size,
                    padding: [0; 2],
                };
                x = builder.pool2d(Pooling::Max, x, &windows)?;
            }
            Ok(x)
        };
        x = apply(x).map_err(|problem| GraphError::Layer {
            place: LayerPlace {
                key: format!("model.blocks[{i}]"),
                kind: "",
                line: 0,
            },
            problem: Box::new(problem),
        })?;
    }
    x = builder.flatten(x)?;
    for (i, &width) in spec.hidden.iter().enumerate() {
        x = builder.dense(&format!("hidden.{i}"), x, width as usize, true)?;
        x = builder.activation(x, spec.activation)?;
        x = builder.dropout(x, spec.dropout)?;
    }
    let outputs = builder.outputs();
    let out = builder.dense("output", x, outputs, true)?;
    builder.finish(out)
}
