//! Convolution as its definition says: slow, for any parameters and either float type.
//!
//! Sums run in the type of the elements, in the order of the loops. The fast kernels are tested
//! against these in `f64`.

use super::Conv2d;
use crate::element::Element;

/// Calls `f(y, x, w)` with the indices of every product.
fn products(conv: &Conv2d, mut f: impl FnMut(usize, usize, usize)) {
    let (out_h, out_w) = (conv.out_h(), conv.out_w());
    let (group_in, group_out) = (conv.group_in(), conv.group_out());
    let inside =
        |at: usize, padding: usize, size: usize| at.checked_sub(padding).filter(|&at| at < size);
    for n in 0..conv.batch {
        for o in 0..conv.out_channels {
            for c in 0..group_in {
                let plane = n * conv.in_channels + o / group_out * group_in + c;
                for k in 0..conv.kernel_h {
                    for l in 0..conv.kernel_w {
                        let w = ((o * group_in + c) * conv.kernel_h + k) * conv.kernel_w + l;
                        for i in 0..out_h {
                            let row = i * conv.stride[0] + k * conv.dilation[0];
                            let Some(row) = inside(row, conv.padding[0], conv.in_h) else {
                                continue;
                            };
                            for j in 0..out_w {
                                let col = j * conv.stride[1] + l * conv.dilation[1];
                                let Some(col) = inside(col, conv.padding[1], conv.in_w) else {
                                    continue;
                                };
                                let y = ((n * conv.out_channels + o) * out_h + i) * out_w + j;
                                f(y, (plane * conv.in_h + row) * conv.in_w + col, w);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `y = conv(x, w) + bias`, then the larger of it and 0 if `relu`.
pub fn forward<T: Element>(
    conv: &Conv2d,
    y: &mut [T],
    x: &[T],
    weights: &[T],
    bias: Option<&[T]>,
    relu: bool,
) {
    let plane = conv.out_h() * conv.out_w();
    for (i, y) in y.iter_mut().enumerate() {
        *y = bias.map_or(T::ZERO, |bias| bias[i / plane % conv.out_channels]);
    }
    products(conv, |at, i, w| y[at] += weights[w] * x[i]);
    if relu {
        for y in y {
            *y = if *y <= T::ZERO { T::ZERO } else { *y };
        }
    }
}

/// The gradient with respect to the input.
pub fn input_gradient<T: Element>(conv: &Conv2d, dx: &mut [T], dy: &[T], weights: &[T]) {
    dx.fill(T::ZERO);
    products(conv, |at, i, w| dx[i] += weights[w] * dy[at]);
}

/// The gradient with respect to the weights.
pub fn weight_gradient<T: Element>(conv: &Conv2d, dw: &mut [T], x: &[T], dy: &[T]) {
    dw.fill(T::ZERO);
    products(conv, |at, i, w| dw[w] += x[i] * dy[at]);
}

/// The gradient with respect to the bias.
pub fn bias_gradient<T: Element>(conv: &Conv2d, db: &mut [T], dy: &[T]) {
    db.fill(T::ZERO);
    let plane = conv.out_h() * conv.out_w();
    for (i, &dy) in dy.iter().enumerate() {
        db[i / plane % conv.out_channels] += dy;
    }
}
