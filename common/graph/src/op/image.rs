//! Convolutions and pooling over two dimensions. One dimension is two of which the first is 1:
//! reshapes are free.

use super::{Operator, list};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::infer::{Inferred, Operands};
use crate::op::{Reduce, Reduction};
use crate::shape::{Dim, Shape};

/// How windows lie over an image; two numbers are of height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// From one window to the next, at least 1.
    pub stride: [usize; 2],
    /// Rows of margin above and columns at the left.
    pub before: [usize; 2],
    /// Rows of margin below and columns at the right.
    pub after: [usize; 2],
    /// From one element of a window to the next, at least 1.
    pub dilation: [usize; 2],
}

impl Default for Windows {
    /// Stride and dilation 1, no margin.
    fn default() -> Self {
        Self {
            stride: [1; 2],
            before: [0; 2],
            after: [0; 2],
            dilation: [1; 2],
        }
    }
}

impl Windows {
    /// The same margin on both sides, everything else the default.
    #[must_use]
    pub fn padded(rows: usize, columns: usize) -> Self {
        Self {
            before: [rows, columns],
            after: [rows, columns],
            ..Self::default()
        }
    }

    fn printed(&self) -> Vec<(&'static str, String)> {
        vec![
            ("stride", list(&self.stride)),
            ("before", list(&self.before)),
            ("after", list(&self.after)),
            ("dilation", list(&self.dilation)),
        ]
    }

    /// The number of windows along each dimension, `None` if there is none. With `ceil`, a last
    /// window may stick out, if it begins inside the image or its margin before.
    fn count(&self, image: [usize; 2], kernel: [usize; 2], ceil: bool) -> Option<[usize; 2]> {
        let mut count = [0; 2];
        for i in 0..2 {
            let stride = Some(self.stride[i]).filter(|&stride| stride > 0)?;
            let dilation = Some(self.dilation[i]).filter(|&dilation| dilation > 0)?;
            let reach = kernel[i].checked_sub(1)?.checked_mul(dilation)?;
            let reach = reach.checked_add(1)?;
            let all = image[i].checked_add(self.before[i])?;
            let room = all.checked_add(self.after[i])?.checked_sub(reach)?;
            count[i] = room / stride + 1;
            let sticks_out =
                ceil && !room.is_multiple_of(stride) && count[i].saturating_mul(stride) < all;
            count[i] += usize::from(sticks_out);
        }
        Some(count)
    }
}

/// A convolution (cross-correlation, as PyTorch's), or a part of its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// How the kernel moves.
    pub windows: Windows,
    /// Channels are cut into so many groups, each convolved apart; as many as channels: depthwise.
    pub groups: usize,
    /// What is computed.
    pub part: ConvPart,
}

/// What [`Conv`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvPart {
    /// `(x [n, c, h, w], w [o, c/groups, kh, kw], b [o]?) -> y [n, o, ..]`.
    Forward,
    /// `(dy [n, o, ..], w [o, c/groups, kh, kw]) -> dx [n, c, h, w]` for an image of this size: the
    /// gradient for the image, and the transposed convolution of `dy` (PyTorch's `ConvTranspose2d`,
    /// whose weight is `[in, out/groups, kh, kw]`).
    Image {
        /// Height and width of the image.
        size: [usize; 2],
    },
    /// `(dy [n, o, ..], x [n, c, h, w]) -> dw [o, c/groups, kh, kw]` for a kernel of this size.
    Weight {
        /// Height and width of the kernel.
        size: [usize; 2],
    },
}

/// The batch and the fixed channels, height and width of an image.
fn image(o: &Operands<'_>, operand: usize) -> Result<(Dim, [usize; 3]), GraphError> {
    let shape = o.float(operand)?;
    let &[n, c, h, w] = shape.dims() else {
        return Err(o.rank_error(operand, "4"));
    };
    match [c, h, w].map(Dim::fixed) {
        [Some(c), Some(h), Some(w)] => Ok((n, [c, h, w])),
        _ => Err(o.rank_error(operand, "4, the batch only the first of them")),
    }
}

fn image_shape(n: Dim, sizes: [usize; 3]) -> Shape {
    let [c, h, w] = sizes.map(Dim::Fixed);
    Shape::new(vec![n, c, h, w])
}

impl Conv {
    fn with(self, part: ConvPart) -> Self {
        Self { part, ..self }
    }

    /// Checks groups; returns the number of windows.
    fn check(
        &self,
        o: &Operands<'_>,
        image: [usize; 2],
        kernel: [usize; 2],
        channels: usize,
        outputs: usize,
    ) -> Result<[usize; 2], GraphError> {
        let groups = self.groups;
        let fits = groups > 0 && channels.is_multiple_of(groups) && outputs.is_multiple_of(groups);
        let expected = "a divisor of the channels in and out";
        o.attribute("groups", expected, groups as f64, fits)?;
        let count = self.windows.count(image, kernel, false);
        let expected = "windows that fit into the image";
        o.attribute("windows", expected, kernel[0] as f64, count.is_some())?;
        Ok(count.unwrap_or([1; 2]))
    }
}

impl Operator for Conv {
    fn name(&self) -> &'static str {
        match self.part {
            ConvPart::Forward => "conv",
            ConvPart::Image { .. } => "conv_image",
            ConvPart::Weight { .. } => "conv_weight",
        }
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let mut attributes = self.windows.printed();
        attributes.push(("groups", self.groups.to_string()));
        if let ConvPart::Image { size } | ConvPart::Weight { size } = self.part {
            attributes.push(("size", list(&size)));
        }
        attributes
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        match self.part {
            ConvPart::Forward => o.count(2, 3, "2 or 3")?,
            _ => o.count(2, 2, "2")?,
        }
        let (n, first) = image(o, 0)?;
        let (rows, second) = image(o, 1)?;
        match self.part {
            ConvPart::Forward => {
                let [c, h, w] = first;
                let [_, kh, kw] = second;
                let outputs = rows.fixed().unwrap_or(1);
                let [oh, ow] = self.check(o, [h, w], [kh, kw], c, outputs)?;
                let inner = c / self.groups;
                o.shape(1, image_shape(Dim::Fixed(outputs), [inner, kh, kw]).dims())?;
                if o.len() == 3 {
                    o.float_shape(2, &[Dim::Fixed(outputs)])?;
                }
                o.one(image_shape(n, [outputs, oh, ow]))
            }
            ConvPart::Image { size } => {
                let [outputs, ..] = first;
                let [inner, kh, kw] = second;
                let c = inner.saturating_mul(self.groups);
                o.shape(1, image_shape(Dim::Fixed(outputs), second).dims())?;
                let [oh, ow] = self.check(o, size, [kh, kw], c, outputs)?;
                o.shape(0, image_shape(n, [outputs, oh, ow]).dims())?;
                o.one(image_shape(n, [c, size[0], size[1]]))
            }
            ConvPart::Weight { size } => {
                let [outputs, ..] = first;
                let [c, h, w] = second;
                let [oh, ow] = self.check(o, [h, w], size, c, outputs)?;
                o.shape(0, image_shape(rows, [outputs, oh, ow]).dims())?;
                let inner = c / self.groups;
                o.one(image_shape(Dim::Fixed(outputs), [inner, size[0], size[1]]))
            }
        }
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let (a, b) = (rule.operand(0), rule.operand(1));
        let size = |rule: &Rule<'_>, value| -> [usize; 2] {
            let shape = rule.shape(value);
            [2, 3].map(|axis| shape.dims()[axis].fixed().unwrap_or(1))
        };
        let (size_a, size_b) = (size(rule, a), size(rule, b));
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        let weight = ConvPart::Weight { size: size_b };
        match self.part {
            ConvPart::Forward => {
                rule.emit_to(1, self.with(weight), &[dy, a])?;
                if rule.operand_count() == 3 {
                    let sum = Reduce {
                        reduction: Reduction::Sum,
                        axes: vec![0, 2, 3],
                        keep: false,
                    };
                    rule.emit_to(2, sum, &[dy])?;
                }
                rule.emit_to(0, self.with(ConvPart::Image { size: size_a }), &[dy, b])
            }
            // Linear in both: the image's gradient is a convolution, the weight's one of the image.
            ConvPart::Image { .. } => {
                rule.emit_to(1, self.with(weight), &[a, dy])?;
                rule.emit_to(0, self.with(ConvPart::Forward), &[dy, b])
            }
            ConvPart::Weight { .. } => Err(rule.not_differentiable()),
        }
    }
}

/// What pooling computes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The largest element, never of the margin; the first of equals has the gradient.
    Max,
    /// The mean of the elements.
    Average {
        /// The margin counts as zeros.
        count_margin: bool,
    },
}

/// `(x [n, c, h, w]) -> [n, c, ..]`: each channel's windows. Of whole images: [`Reduce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What is computed.
    pub pooling: Pooling,
    /// Height and width of a window.
    pub kernel: [usize; 2],
    /// How the window moves.
    pub windows: Windows,
    /// A last window may stick out (PyTorch's and ONNX's `ceil_mode`).
    pub ceil: bool,
}

/// `(x, dy) -> dx` for the maximum, `(dy) -> dx` for the mean: the gradient of [`Pool`] of an image of
/// this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolGrad {
    /// The pooling.
    pub pool: Pool,
    /// Height and width of the image.
    pub size: [usize; 2],
}

impl Pool {
    fn names(&self) -> (&'static str, &'static str) {
        match self.pooling {
            Pooling::Max => ("max_pool", "max_pool_grad"),
            Pooling::Average { .. } => ("average_pool", "average_pool_grad"),
        }
    }

    fn printed(&self) -> Vec<(&'static str, String)> {
        let mut attributes = vec![("kernel", list(&self.kernel))];
        attributes.extend(self.windows.printed());
        attributes.push(("ceil", self.ceil.to_string()));
        if let Pooling::Average { count_margin } = self.pooling {
            attributes.push(("count_margin", count_margin.to_string()));
        }
        attributes
    }

    fn check(&self, o: &Operands<'_>, image: [usize; 2]) -> Result<[usize; 2], GraphError> {
        let count = self.windows.count(image, self.kernel, self.ceil);
        // A window then always has an element of the image. One that begins in the margin before it
        // steps over an image that is smaller than the dilation.
        let narrow = |i: usize| {
            let (before, dilation) = (self.windows.before[i], self.windows.dilation[i]);
            let most = before.max(self.windows.after[i]);
            match dilation > 1 {
                true => {
                    most.saturating_mul(2) <= self.kernel[i]
                        && (before == 0 || image[i] >= dilation)
                }
                false => most < self.kernel[i],
            }
        };
        let fits = (0..2).all(narrow) && count.is_some();
        let expected = "windows that fit into the image, margins smaller than a window (with \
                        dilation at most half as large, and an image at least as large as it)";
        o.attribute("windows", expected, self.kernel[0] as f64, fits)?;
        Ok(count.unwrap_or([1; 2]))
    }
}

impl Operator for Pool {
    fn name(&self) -> &'static str {
        self.names().0
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        o.count(1, 1, "1")?;
        let (n, [c, h, w]) = image(o, 0)?;
        let [oh, ow] = self.check(o, [h, w])?;
        o.one(image_shape(n, [c, oh, ow]))
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let x = rule.operand(0);
        let shape = rule.shape(x);
        let grad = PoolGrad {
            pool: *self,
            size: [2, 3].map(|axis| shape.dims()[axis].fixed().unwrap_or(1)),
        };
        let Some(dy) = rule.dy(0) else { return Ok(()) };
        match self.pooling {
            Pooling::Max => rule.emit_to(0, grad, &[x, dy]),
            Pooling::Average { .. } => rule.emit_to(0, grad, &[dy]),
        }
    }
}

impl Operator for PoolGrad {
    fn name(&self) -> &'static str {
        self.pool.names().1
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let mut attributes = self.pool.printed();
        attributes.push(("size", list(&self.size)));
        attributes
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        let operand = match self.pool.pooling {
            Pooling::Max => 1,
            Pooling::Average { .. } => 0,
        };
        o.count(
            operand + 1,
            operand + 1,
            if operand == 1 { "2" } else { "1" },
        )?;
        let (n, [c, ..]) = image(o, operand)?;
        let [oh, ow] = self.pool.check(o, self.size)?;
        o.shape(operand, image_shape(n, [c, oh, ow]).dims())?;
        let x = image_shape(n, [c, self.size[0], self.size[1]]);
        if operand == 1 {
            o.float_shape(0, x.dims())?;
        }
        o.one(x)
    }
}
