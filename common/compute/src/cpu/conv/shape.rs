//! The parameters of a convolution.

use super::ConvError;

/// A two-dimensional convolution (cross-correlation) with zero padding; with `in_h`, `kernel_h`
/// and `stride[0]` of 1 and no vertical padding, a one-dimensional one.
///
/// `y[n, o, i, j] = bias[o] + Σ_{c, k, l} w[o, c, k, l] · x[n, g·C + c, i·s₀ + k·d₀ − p₀, j·s₁ + l·d₁ − p₁]`
/// with `C = in_channels / groups` and `g` the group of `o`. Activations are row-major
/// `[batch, channels, h, w]`, weights `[out_channels, in_channels / groups, kernel_h, kernel_w]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Images.
    pub batch: usize,
    /// Channels of the input; a multiple of `groups`.
    pub in_channels: usize,
    /// Channels of the output; a multiple of `groups`.
    pub out_channels: usize,
    /// Rows of the input.
    pub in_h: usize,
    /// Columns of the input.
    pub in_w: usize,
    /// Rows of the kernel.
    pub kernel_h: usize,
    /// Columns of the kernel.
    pub kernel_w: usize,
    /// Input rows and columns from one output to the next.
    pub stride: [usize; 2],
    /// Zero rows above, zero columns at the left.
    pub padding: [usize; 2],
    /// Zero rows below, zero columns at the right.
    pub padding_after: [usize; 2],
    /// Input rows and columns from one kernel element to the next.
    pub dilation: [usize; 2],
    /// Independent groups of channels.
    pub groups: usize,
}

/// Every length that is computed from a [`Conv2d`] stays below this, in elements.
pub const ELEMENTS_MAX: usize = 1 << 31;

impl Conv2d {
    /// Rows of the output; 0 if the kernel doesn't fit the padded input.
    pub fn out_h(&self) -> usize {
        self.out_size(0, self.in_h, self.kernel_h)
    }

    /// Columns of the output; 0 if the kernel doesn't fit the padded input.
    pub fn out_w(&self) -> usize {
        self.out_size(1, self.in_w, self.kernel_w)
    }

    fn out_size(&self, axis: usize, size: usize, kernel: usize) -> usize {
        let padded = size + self.padding[axis] + self.padding_after[axis];
        let extent = self.dilation[axis] * (kernel - 1) + 1;
        padded
            .checked_sub(extent)
            .map_or(0, |rest| rest / self.stride[axis] + 1)
    }

    /// Input channels of a group.
    pub fn group_in(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels of a group.
    pub fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Kernel elements.
    pub fn taps(&self) -> usize {
        self.kernel_h * self.kernel_w
    }

    /// Elements of one input image.
    pub fn image_in(&self) -> usize {
        self.in_channels * self.in_h * self.in_w
    }

    /// Elements of one output image.
    pub fn image_out(&self) -> usize {
        self.out_channels * self.out_h() * self.out_w()
    }

    /// Elements of the weights.
    pub fn weights(&self) -> usize {
        self.out_channels * self.group_in() * self.taps()
    }

    /// Floating-point operations of the forward pass or of either gradient, counting the taps
    /// that fall on padding.
    pub fn flops(&self) -> usize {
        2 * self.batch * self.image_out() * self.group_in() * self.taps()
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// A zero where none may be, channels that the groups don't divide, a kernel that doesn't fit,
    /// or tensors beyond [`ELEMENTS_MAX`].
    pub fn check(&self) -> Result<(), ConvError> {
        let positive = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("in_h", self.in_h),
            ("in_w", self.in_w),
            ("kernel_h", self.kernel_h),
            ("kernel_w", self.kernel_w),
            ("stride", self.stride[0].min(self.stride[1])),
            ("dilation", self.dilation[0].min(self.dilation[1])),
            ("groups", self.groups),
        ];
        if let Some(&(field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConvError::Zero { field });
        }
        for channels in [self.in_channels, self.out_channels] {
            if !channels.is_multiple_of(self.groups) {
                let groups = self.groups;
                return Err(ConvError::Groups { channels, groups });
            }
        }
        let per_axis = [(self.in_h, self.kernel_h, 0), (self.in_w, self.kernel_w, 1)];
        for (size, kernel, axis) in per_axis {
            let parts = [size, kernel, self.stride[axis], self.dilation[axis]];
            let largest = parts.into_iter().max().unwrap_or(0);
            let padding = self.padding[axis].max(self.padding_after[axis]);
            if largest.max(padding) >= 1 << 16 || kernel * self.dilation[axis] >= 1 << 20 {
                return Err(ConvError::TooLarge);
            }
        }
        if self.out_h() == 0 || self.out_w() == 0 {
            return Err(ConvError::Kernel {
                kernel: [self.kernel_h, self.kernel_w],
                input: [self.in_h, self.in_w],
            });
        }
        // With the padding and the blocks of 16 channels that the kernels work on.
        let rows =
            self.in_h + self.padding[0] + self.padding_after[0] + self.dilation[0] * self.kernel_h;
        let cols =
            self.in_w + self.padding[1] + self.padding_after[1] + self.dilation[1] * self.kernel_w;
        let blocked = |channels: usize| channels as u128 + 16 * self.groups as u128;
        let (ins, outs) = (blocked(self.in_channels), blocked(self.out_channels));
        let pixels = rows as u128 * cols as u128 * (self.stride[0] * self.stride[1]) as u128;
        let lens = [
            pixels * ins.max(outs),
            self.batch as u128 * ins * (self.in_h * self.in_w) as u128,
            self.batch as u128 * outs * (self.out_h() * self.out_w()) as u128,
            outs * ins * self.taps() as u128,
        ];
        if lens.iter().any(|&len| len >= ELEMENTS_MAX as u128) {
            return Err(ConvError::TooLarge);
        }
        Ok(())
    }
}
