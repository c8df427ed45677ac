//! Operators: what they compute, which operands they take.
//!
//! `x` is an activation, `w` and `b` parameters, `d…` the gradient of the scaled loss with respect
//! to `…`. `[]` is a scalar. Every operator has one result now; a node can hold several.

use std::fmt;

/// A function that is applied to each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `max(x, 0)`; the derivative at 0 is 0.
    Relu,
    /// `x · Φ(x)` with the error function (Hendrycks, Gimpel: "Gaussian error linear units",
    /// 2016), PyTorch's default.
    Gelu,
    /// The tanh approximation of the same paper: `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl Activation {
    /// The name in dumps and errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
        }
    }

    /// True if the derivative is a function of the result. Then backward keeps the result and not
    /// the operand.
    #[must_use]
    pub fn derivative_uses_result(self) -> bool {
        match self {
            Self::Relu | Self::Tanh | Self::Sigmoid => true,
            Self::Gelu | Self::GeluTanh => false,
        }
    }
}

/// An operator with its attributes.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `(x [n, i], w [o, i], b [o]?) -> [n, o]`: `x · wᵀ + b`.
    Affine,
    /// `(x) -> x's shape`: the function on each element.
    Activation(Activation),
    /// `(x) -> x's shape`: in training each element is zeroed with probability `rate`, the others
    /// are multiplied by `1 / (1 - rate)`; in inference the identity. The mask is a pure function
    /// of (seed, step, replica, `key`, element index), so that the gradient is the same operator
    /// applied to `dy`.
    Dropout {
        /// The probability of zero, in `[0, 1)`.
        rate: f64,
        /// The number that names this node's stream of random numbers. A forward dropout node
        /// and its gradient share it; no two forward nodes do.
        key: u64,
    },
    /// `(x [.., c]) -> x's shape`: softmax over the last dimension.
    Softmax,
    /// `(logits [n, c], labels i32 [n]) -> []`: the mean over `n` of
    /// `log Σⱼ exp(logitsⱼ) - logits[label]`. Labels lie in `0..c`.
    SoftmaxCrossEntropy,
    /// `(prediction, target of the same shape) -> []`: the mean over all elements of the squared
    /// difference.
    MeanSquaredError,
    /// `(w) -> []`: `lambda / 2 · Σ w²`.
    L2Penalty {
        /// The factor, finite and not negative.
        lambda: f64,
    },
    /// `(a, b of the same shape) -> that shape`.
    Add,
    /// `(x) -> x's shape`: `factor · x`.
    Scale {
        /// The factor, finite.
        factor: f64,
    },
    /// `(x) -> x's shape`: a copy. Autodiff uses it where a gradient needs a place of its own.
    Identity,

    /// `(dy [n, o], w [o, i]) -> dx [n, i]`: `dy · w`.
    AffineGradInput,
    /// `(dy [n, o], x [n, i]) -> dw [o, i]`: `dyᵀ · x`.
    AffineGradWeight,
    /// `(dy [n, o]) -> db [o]`: the sum of the rows.
    AffineGradBias,
    /// `(saved, dy) -> dx`: `dy · f'`, where `saved` is the result or the operand of `f`, as
    /// [`Activation::derivative_uses_result`] says.
    ActivationGrad(Activation),
    /// `(y [.., c], dy) -> dx`: `y · (dy - Σⱼ yⱼ dyⱼ)` over the last dimension.
    SoftmaxGrad,
    /// `(logits [n, c], labels i32 [n], dloss []) -> dlogits`:
    /// `dloss / n · (softmax(logits) - onehot(labels))`.
    SoftmaxCrossEntropyGrad,
    /// `(prediction, target, dloss []) -> dprediction`:
    /// `dloss · 2 / elements · (prediction - target)`.
    MeanSquaredErrorGrad,
    /// `(w, dloss [], other of w's shape?) -> dw`: `other + lambda · dloss · w`.
    L2PenaltyGrad {
        /// The factor of the penalty.
        lambda: f64,
    },
}

impl Op {
    /// The name in dumps and errors, without attributes.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Activation(activation) => activation.name(),
            Self::Dropout { .. } => "dropout",
            Self::Softmax => "softmax",
            Self::SoftmaxCrossEntropy => "softmax_cross_entropy",
            Self::MeanSquaredError => "mean_squared_error",
            Self::L2Penalty { .. } => "l2_penalty",
            Self::Add => "add",
            Self::Scale { .. } => "scale",
            Self::Identity => "identity",
            Self::AffineGradInput => "affine_grad_input",
            Self::AffineGradWeight => "affine_grad_weight",
            Self::AffineGradBias => "affine_grad_bias",
            Self::ActivationGrad(activation) => match activation {
                Activation::Relu => "relu_grad",
                Activation::Gelu => "gelu_grad",
                Activation::GeluTanh => "gelu_tanh_grad",
                Activation::Tanh => "tanh_grad",
                Activation::Sigmoid => "sigmoid_grad",
            },
            Self::SoftmaxGrad => "softmax_grad",
            Self::SoftmaxCrossEntropyGrad => "softmax_cross_entropy_grad",
            Self::MeanSquaredErrorGrad => "mean_squared_error_grad",
            Self::L2PenaltyGrad { .. } => "l2_penalty_grad",
        }
    }

    /// True if the operator applies one function to each element, so that its result may take the
    /// place of operand `operand` when nothing else reads that operand.
    #[must_use]
    pub fn may_run_in_place(&self, operand: usize) -> bool {
        match self {
            Self::Activation(_)
            | Self::Dropout { .. }
            | Self::Scale { .. }
            | Self::Identity
            | Self::Softmax => operand == 0,
            Self::Add | Self::ActivationGrad(_) => operand < 2,
            Self::SoftmaxGrad => operand == 1,
            Self::SoftmaxCrossEntropyGrad | Self::MeanSquaredErrorGrad => operand == 0,
            Self::L2PenaltyGrad { .. } => operand == 2,
            Self::Affine
            | Self::SoftmaxCrossEntropy
            | Self::MeanSquaredError
            | Self::L2Penalty { .. }
            | Self::AffineGradInput
            | Self::AffineGradWeight
            | Self::AffineGradBias => false,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Dropout { rate, key } => write!(f, "<rate={rate}, key={key}>"),
            Self::L2Penalty { lambda } | Self::L2PenaltyGrad { lambda } => {
                write!(f, "<lambda={lambda}>")
            }
            Self::Scale { factor } => write!(f, "<factor={factor}>"),
            _ => Ok(()),
        }
    }
}
