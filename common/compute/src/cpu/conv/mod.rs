//! Convolution: functions over slices of `f32`, on the calling thread, without
//! allocation.
//!
//! # Layout
//! Activations are dense planes, `[batch, channels, h, w]`, in and out; weights
//! `[out_channels, in_channels / groups, kernel_h, kernel_w]`. The kernels work on blocks of 16
//! channels in scratch memory and convert as they go, image by image, while the data is in the
//! cache.
//!
//! # Threads and bits
//! A [`Convolution`] is made once for its shapes and shared. The forward pass and the input gradient
//! treat images independently: callers may cut the batch anywhere. The weight gradient comes in
//! [`Convolution::weight_units`], which may run in any order and on any threads before the fold.
//! The bits depend on the convolution and on the level of vector instructions, on nothing else.
//!
//! | module | what it holds |
//! |---|---|
//! | `shape` | [`Conv2d`]: the parameters |
//! | `correlate` | the forward pass and the input gradient |
//! | `depthwise` | all three where every channel is a group of its own |
//! | `weights` | the weight gradient |
//! | `pack` | planes to blocks and back |
//! | `winograd`, `winograd_weights`, `winograd_operands`, `winograd_pairs` | 3 × 3 with a quarter of the multiplications, 5 × 5 with a third |
//! | `points` | their transforms |
//! | `tile` | the innermost loops |
//! | `lanes` | [`Simd`]: the levels of vector instructions |
//! | [`peak`] | the limit that benchmarks compare with |
//! | [`mod@reference`] | the same, as the definition says |

mod correlate;
mod depthwise;
mod lanes;
mod pack;
pub mod peak;
mod points;
pub mod reference;
mod shape;
#[cfg(test)]
mod tests;
mod tile;
mod units;
mod weights;
mod winograd;
mod winograd_operands;
mod winograd_pairs;
mod winograd_weights;

use std::ops::Range;

use self::correlate::Correlation;
use self::depthwise::{Depthwise, DepthwiseWeights};
pub use self::lanes::Simd;
pub use self::shape::{Conv2d, ELEMENTS_MAX};
pub use self::units::UNITS_MAX;
use self::weights::WeightGradient;
use self::winograd::Winograd;
use self::winograd_pairs::WinogradPairs;
use self::winograd_weights::WinogradWeights;

/// Why there is no kernel for a shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvError {
    /// A field that must be positive.
    #[error("{field} of a convolution is 0")]
    Zero {
        /// The name of the field.
        field: &'static str,
    },
    /// Groups that don't divide the channels.
    #[error("{groups} groups don't divide {channels} channels")]
    Groups {
        /// Channels of the input or output.
        channels: usize,
        /// Groups.
        groups: usize,
    },
    /// A kernel beyond the padded input.
    #[error("a kernel of {kernel:?} doesn't fit the padded input of {input:?}")]
    Kernel {
        /// Rows and columns.
        kernel: [usize; 2],
        /// Rows and columns, without the padding.
        input: [usize; 2],
    },
    /// Tensors beyond [`ELEMENTS_MAX`].
    #[error("a convolution takes more than {ELEMENTS_MAX} elements")]
    TooLarge,
}

/// What follows the sums of the forward pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// `[out_channels]`; none is 0.
    pub bias: Option<&'a [f32]>,
    /// Negative results become 0; NaN stays.
    pub relu: bool,
}

/// Which sums a convolution takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Winograd's, where it is faster: for 3 × 3 and 5 × 5 kernels of stride 1 with whole blocks of
    /// channels.
    /// Its error is about ten times that of the direct sum.
    #[default]
    Fastest,
    /// The sum of the definition.
    Direct,
}

/// A convolution for fixed shapes, ready to run.
///
/// Every function panics if a slice's length is not the one that its documentation says. Scratch
/// may be longer and hold anything.
#[derive(Clone, Debug)]
pub struct Convolution {
    conv: Conv2d,
    forward: Pass,
    input_gradient: Pass,
    weight_gradient: Weights,
}

/// How the forward pass or the input gradient is computed.
#[derive(Clone, Debug)]
enum Pass {
    Direct(Correlation),
    Depthwise(Depthwise),
    Winograd(Winograd),
}

/// How the weight gradient is computed.
#[derive(Clone, Debug)]
enum Weights {
    Direct(WeightGradient),
    Depthwise(DepthwiseWeights),
    Winograd(WinogradWeights),
    Pairs(WinogradPairs),
}

/// The same call on whichever variant it is.
macro_rules! either {
    ($kernels:expr, $of:ident: $($variant:ident)|+, $one:ident => $call:expr) => {
        match &$kernels {
            $($of::$variant($one) => $call,)+
        }
    };
}

impl Pass {
    fn packed_weights(&self) -> usize {
        either!(*self, Pass: Direct | Depthwise | Winograd, pass => pass.packed_weights())
    }

    fn pack_weights(&self, packed: &mut [f32], weights: &[f32]) {
        either!(*self, Pass: Direct | Depthwise | Winograd, pass => pass.pack_weights(packed, weights));
    }

    fn scratch(&self, images: usize) -> usize {
        match self {
            Self::Direct(pass) => pass.scratch(images),
            Self::Depthwise(pass) => pass.scratch(),
            Self::Winograd(pass) => pass.scratch(),
        }
    }

    fn run(
        &self,
        images: usize,
        memory: [&mut [f32]; 2],
        x: &[f32],
        packed: &[f32],
        Epilogue { bias, relu }: Epilogue<'_>,
    ) {
        either!(
            *self,
            Pass: Direct | Depthwise | Winograd,
            pass => pass.run(images, memory, x, packed, bias, relu)
        );
    }
}

impl Weights {
    fn units(&self) -> usize {
        either!(*self, Weights: Direct | Depthwise | Winograd | Pairs, pass => pass.units())
    }

    fn partials(&self) -> usize {
        either!(*self, Weights: Direct | Depthwise | Winograd | Pairs, pass => pass.partials())
    }

    fn unit_range(&self, unit: usize) -> Range<usize> {
        either!(*self, Weights: Direct | Depthwise | Winograd | Pairs, pass => pass.unit_range(unit))
    }

    fn scratch(&self) -> usize {
        either!(*self, Weights: Direct | Depthwise | Winograd | Pairs, pass => pass.scratch())
    }

    fn run(&self, units: Range<usize>, memory: [&mut [f32]; 2], x: &[f32], dy: &[f32]) {
        either!(*self, Weights: Direct | Depthwise | Winograd | Pairs, pass => pass.run(units, memory, x, dy));
    }

    fn fold(&self, dw: &mut [f32], partials: &[f32]) {
        either!(*self, Weights: Direct | Depthwise | Winograd | Pairs, pass => pass.fold(dw, partials));
    }
}

impl Convolution {
    /// Prepares for these shapes, this level of instructions and these sums.
    ///
    /// # Errors
    /// As [`Conv2d::check`].
    pub fn new(conv: &Conv2d, simd: Simd, algorithm: Algorithm) -> Result<Self, ConvError> {
        conv.check()?;
        if Depthwise::fits(conv) {
            return Ok(Self {
                conv: *conv,
                forward: Pass::Depthwise(Depthwise::forward(conv, simd)),
                input_gradient: Pass::Depthwise(Depthwise::input_gradient(conv, simd)),
                weight_gradient: Weights::Depthwise(DepthwiseWeights::new(conv, simd)),
            });
        }
        let fastest = algorithm == Algorithm::Fastest;
        let weight_gradient = if fastest && WinogradPairs::pays(conv) {
            Weights::Pairs(WinogradPairs::new(conv, simd))
        } else if fastest && WinogradWeights::pays(conv) {
            Weights::Winograd(WinogradWeights::new(conv, simd))
        } else {
            Weights::Direct(WeightGradient::new(conv, simd))
        };
        let (forward, input_gradient) = if fastest && Winograd::pays(conv) {
            (
                Pass::Winograd(Winograd::forward(conv, simd)),
                Pass::Winograd(Winograd::input_gradient(conv, simd)),
            )
        } else {
            (
                Pass::Direct(Correlation::forward(conv, simd)),
                Pass::Direct(Correlation::input_gradient(conv, simd)),
            )
        };
        Ok(Self {
            conv: *conv,
            forward,
            input_gradient,
            weight_gradient,
        })
    }

    /// The parameters.
    pub fn conv(&self) -> &Conv2d {
        &self.conv
    }

    /// Elements of the weights as [`Self::pack_forward`] packs them.
    pub fn forward_packed(&self) -> usize {
        self.forward.packed_weights()
    }

    /// Packs the weights for [`Self::forward`], once for all images.
    pub fn pack_forward(&self, packed: &mut [f32], weights: &[f32]) {
        assert_eq!(weights.len(), self.conv.weights(), "weights");
        self.forward.pack_weights(packed, weights);
    }

    /// Elements of scratch that [`Self::forward`] wants for this many images at a time.
    pub fn forward_scratch(&self, images: usize) -> usize {
        self.forward.scratch(images)
    }

    /// `y = conv(x, w) + bias`, for `images` images of the batch, whose slices `x` and `y` are.
    pub fn forward(
        &self,
        images: usize,
        y: &mut [f32],
        x: &[f32],
        packed: &[f32],
        epilogue: Epilogue<'_>,
        scratch: &mut [f32],
    ) {
        self.forward.run(images, [y, scratch], x, packed, epilogue);
    }

    /// Elements of the weights as [`Self::pack_input_gradient`] packs them.
    pub fn input_gradient_packed(&self) -> usize {
        self.input_gradient.packed_weights()
    }

    /// Packs the weights for [`Self::input_gradient`], once for all images.
    pub fn pack_input_gradient(&self, packed: &mut [f32], weights: &[f32]) {
        assert_eq!(weights.len(), self.conv.weights(), "weights");
        self.input_gradient.pack_weights(packed, weights);
    }

    /// Elements of scratch that [`Self::input_gradient`] wants for this many images at a time.
    pub fn input_gradient_scratch(&self, images: usize) -> usize {
        self.input_gradient.scratch(images)
    }

    /// Overwrites `dx` with the gradient, for `images` images of the batch, whose slices `dx` and
    /// `dy` are.
    pub fn input_gradient(
        &self,
        images: usize,
        dx: &mut [f32],
        dy: &[f32],
        packed: &[f32],
        scratch: &mut [f32],
    ) {
        let none = Epilogue::default();
        self.input_gradient
            .run(images, [dx, scratch], dy, packed, none);
    }

    /// Units that the weight gradient is cut into, at most [`UNITS_MAX`].
    pub fn weight_units(&self) -> usize {
        self.weight_gradient.units()
    }

    /// Elements of the partial sums of all units together.
    pub fn weight_partials(&self) -> usize {
        self.weight_gradient.partials()
    }

    /// Where a unit's partial sums lie among those of all units. The ranges follow each other.
    pub fn weight_unit_range(&self, unit: usize) -> Range<usize> {
        self.weight_gradient.unit_range(unit)
    }

    /// Elements of scratch that [`Self::weight_run`] wants.
    pub fn weight_scratch(&self) -> usize {
        self.weight_gradient.scratch()
    }

    /// Computes the partial sums of units that follow each other, at least one, from the whole
    /// batch's `x` and `dy`. More at once share some of the work; the bits are the same.
    pub fn weight_run(
        &self,
        units: Range<usize>,
        partials: &mut [f32],
        x: &[f32],
        dy: &[f32],
        scratch: &mut [f32],
    ) {
        self.weight_gradient.run(units, [partials, scratch], x, dy);
    }

    /// Overwrites `dw` with the sum of the units' partial sums, in a fixed order.
    pub fn fold_weights(&self, dw: &mut [f32], partials: &[f32]) {
        self.weight_gradient.fold(dw, partials);
    }

    /// Overwrites `db` with the gradient with respect to the bias of output channels `channels`,
    /// from the whole batch's `dy`.
    pub fn bias_gradient(&self, channels: Range<usize>, db: &mut [f32], dy: &[f32]) {
        let conv = &self.conv;
        assert_eq!(db.len(), channels.len(), "bias gradient");
        assert_eq!(dy.len(), conv.batch * conv.image_out(), "output gradient");
        let plane = conv.out_h() * conv.out_w();
        for (channel, db) in channels.zip(db) {
            let planes = (0..conv.batch).map(|n| n * conv.out_channels + channel);
            let planes = planes.map(|at| &dy[at * plane..][..plane]);
            *db = planes
                .map(|plane| super::kernels::sum(plane, |dy| dy))
                .sum();
        }
    }
}
