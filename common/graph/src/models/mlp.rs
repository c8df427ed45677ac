//! Perceptrons.

use super::builder::Builder;
use super::options::{check_dropout, check_layers, check_sizes};
use super::{Activation, Frame, Loss};
use crate::error::GraphError;
use crate::graph::Graph;
use crate::init::InitialiserScheme;
use crate::shape::DType;

/// The options of [`mlp`].
#[derive(Clone, Debug, PartialEq)]
pub struct MlpOptions {
    /// Features per sample.
    pub inputs: usize,
    /// Units of each hidden layer; empty for a linear model.
    pub hidden: Vec<usize>,
    /// Classes, or targets per sample.
    pub outputs: usize,
    /// The function after each hidden layer.
    pub activation: Activation,
    /// The probability of zeroing a unit after each hidden activation, in `[0, 1)`.
    pub dropout: f64,
    /// The loss.
    pub loss: Loss,
    /// `lambda` of `lambda / 2 · Σ w²` over all weights (not biases); 0 for none.
    pub l2: f64,
    /// How parameters start.
    pub initialiser: InitialiserScheme,
    /// The type of all floats.
    pub dtype: DType,
}

impl MlpOptions {
    /// A classifier with ReLU, no dropout, no penalty, PyTorch's initial values, in `f32`.
    #[must_use]
    pub fn classifier(inputs: usize, hidden: &[usize], classes: usize) -> Self {
        Self {
            inputs,
            hidden: hidden.to_vec(),
            outputs: classes,
            activation: Activation::Relu,
            dropout: 0.0,
            loss: Loss::CrossEntropy,
            l2: 0.0,
            initialiser: InitialiserScheme::default(),
            dtype: DType::F32,
        }
    }

    /// A regression with the same defaults.
    #[must_use]
    pub fn regression(inputs: usize, hidden: &[usize], targets: usize) -> Self {
        Self {
            loss: Loss::MeanSquaredError,
            ..Self::classifier(inputs, hidden, targets)
        }
    }

    fn check(&self) -> Result<(), GraphError> {
        // With the output there is one layer more.
        check_layers("hidden", self.hidden.len() + 1, 1)?;
        let widths: Vec<_> = self.hidden.iter().map(|&units| ("hidden", units)).collect();
        check_sizes(&widths)?;
        check_dropout("dropout", self.dropout)
    }

    fn frame(&self) -> Frame {
        Frame {
            inputs: self.inputs,
            dims: Vec::new(),
            outputs: self.outputs,
            loss: self.loss.clone(),
            l2: self.l2,
            dtype: self.dtype,
        }
    }
}

/// A multi-layer perceptron with its loss, not differentiated yet: parameters `layers.N.weight` of
/// `[out, in]` and `layers.N.bias` of `[out]`.
///
/// # Errors
/// [`GraphError::ModelOption`] names an option that is out of range.
pub fn mlp(options: &MlpOptions) -> Result<Graph, GraphError> {
    options.check()?;
    let frame = options.frame();
    let mut builder = Builder::new("mlp", &frame, options.initialiser)?;
    let mut x = builder.rows();
    for (layer, &units) in options.hidden.iter().enumerate() {
        x = builder.dense(&format!("layers.{layer}"), x, units, true)?;
        x = builder.activation(x, options.activation)?;
        x = builder.dropout(x, options.dropout)?;
    }
    let last = format!("layers.{}", options.hidden.len());
    let outputs = builder.outputs();
    let out = builder.dense(&last, x, outputs, true)?;
    builder.finish(out)
}

#[cfg(test)]
mod tests {
    use super::super::{LAYERS_MAX, UNITS_MAX};
    use super::*;

    #[test]
    fn names_and_shapes_are_those_of_a_state_dict() {
        let graph = mlp(&MlpOptions::classifier(8, &[16, 12], 4)).unwrap();
        graph.verify().unwrap();
        let parameters: Vec<String> = graph
            .parameters()
            .iter()
            .map(|p| format!("{} {}", p.name, graph.value(p.value).ty))
            .collect();
        assert_eq!(
            parameters,
            [
                "layers.0.weight f32[16, 8]",
                "layers.0.bias f32[16]",
                "layers.1.weight f32[12, 16]",
                "layers.1.bias f32[12]",
                "layers.2.weight f32[4, 12]",
                "layers.2.bias f32[4]",
            ]
        );
    }

    #[test]
    fn options_out_of_range_are_named() {
        let good = MlpOptions::classifier(8, &[16], 4);
        let with = |change: &dyn Fn(&mut MlpOptions)| {
            let mut options = good.clone();
            change(&mut options);
            match mlp(&options) {
                Err(GraphError::ModelOption { option, .. }) => option,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(with(&|o| o.inputs = 0), "inputs");
        assert_eq!(with(&|o| o.outputs = UNITS_MAX + 1), "outputs");
        assert_eq!(with(&|o| o.hidden = vec![4, 0]), "hidden");
        assert_eq!(with(&|o| o.hidden = vec![1; LAYERS_MAX]), "hidden");
        assert_eq!(with(&|o| o.dropout = 1.0), "dropout");
        assert_eq!(with(&|o| o.dropout = f64::NAN), "dropout");
        assert_eq!(with(&|o| o.l2 = -1.0), "l2");
    }
}
