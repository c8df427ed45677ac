//! Functions of one element and their derivatives.
//!
//! Functions and the closures that call them are always inlined: a call left in a loop would keep
//! it from being vectorised.

use ringfold_graph::op::Unary;

use super::{Source, map, zip};
use crate::cpu::simd::widest;
use crate::element::Element;

/// `dst = f(src)`.
pub fn unary<T: Element>(function: Unary, dst: &mut [T], src: Source<'_, T>) {
    macro_rules! map {
        (|$x:ident| $y:expr) => {
            map(
                dst,
                src,
                #[inline(always)]
                |$x| $y,
            )
        };
    }
    let c = T::from_f64;
    match function {
        Unary::Identity => map!(|x| x),
        Unary::Scale { factor } => {
            let factor = c(factor);
            map!(|x| factor * x)
        }
        Unary::Neg => map!(|x| -x),
        Unary::Abs => map!(|x| x.abs()),
        Unary::Exp => map!(|x| x.exp()),
        Unary::Log => map!(|x| x.ln()),
        Unary::Sqrt => map!(|x| x.sqrt()),
        Unary::Rsqrt => map!(|x| T::ONE / x.sqrt()),
        Unary::Reciprocal => map!(|x| T::ONE / x),
        Unary::Erf => map!(|x| x.erf()),
        Unary::Sin if are_near(dst, src) => map!(|x| x.sin_near()),
        Unary::Sin => map!(|x| x.sin()),
        Unary::Cos if are_near(dst, src) => map!(|x| x.cos_near()),
        Unary::Cos => map!(|x| x.cos()),
        Unary::Relu => map!(|x| relu(x)),
        Unary::Gelu => map!(|x| x * normal_cdf(x)),
        Unary::GeluTanh => map!(|x| gelu_tanh(x)),
        Unary::Tanh => map!(|x| x.tanh()),
        Unary::Sigmoid => map!(|x| sigmoid(x)),
        Unary::Softplus => map!(|x| softplus(x)),
        Unary::Silu => map!(|x| x * sigmoid(x)),
        Unary::Elu { alpha } => {
            let alpha = c(alpha);
            map!(|x| T::select(x > T::ZERO, x, alpha * (x.exp() - T::ONE)))
        }
        Unary::LeakyRelu { slope } => {
            let slope = c(slope);
            map!(|x| T::select(x > T::ZERO, x, slope * x))
        }
        Unary::HardSwish => map!(|x| x * clip(x + c(3.0), T::ZERO, c(6.0)) / c(6.0)),
        Unary::HardSigmoid { slope, offset } => {
            let (slope, offset) = (c(slope), c(offset));
            map!(|x| clip(slope * x + offset, T::ZERO, T::ONE))
        }
        Unary::Clip { min, max } => {
            let (min, max) = (c(min), c(max));
            map!(|x| clip(x, min, max))
        }
        Unary::Sign => map!(|x| sign(x)),
        Unary::Floor => map!(|x| x.floor()),
        Unary::Ceil => map!(|x| x.ceil()),
        Unary::Round => map!(|x| x.round()),
    }
}

/// `dst = dy · f'`, where `saved` is the result or the operand of `f` ([`Unary::saved`]).
pub fn unary_grad<T: Element>(
    function: Unary,
    dst: &mut [T],
    saved: Source<'_, T>,
    dy: Source<'_, T>,
) {
    macro_rules! zip {
        (|$s:ident, $dy:ident| $dx:expr) => {
            zip(
                dst,
                saved,
                dy,
                #[inline(always)]
                |$s, $dy| $dx,
            )
        };
    }
    let c = T::from_f64;
    match function {
        Unary::Identity => zip!(|_s, dy| dy),
        Unary::Scale { factor } => {
            let factor = c(factor);
            zip!(|_s, dy| factor * dy)
        }
        Unary::Neg => zip!(|_s, dy| -dy),
        Unary::Abs => zip!(|x, dy| dy * sign(x)),
        Unary::Exp => zip!(|y, dy| dy * y),
        Unary::Log => zip!(|x, dy| dy / x),
        Unary::Sqrt => zip!(|y, dy| dy / (y + y)),
        Unary::Rsqrt => zip!(|y, dy| dy * c(-0.5) * (y * y * y)),
        Unary::Reciprocal => zip!(|y, dy| -(dy * y * y)),
        Unary::Erf => {
            let factor = c(std::f64::consts::FRAC_2_SQRT_PI);
            zip!(|x, dy| dy * factor * (-(x * x)).exp())
        }
        Unary::Sin if are_near(dst, saved) => zip!(|x, dy| dy * x.cos_near()),
        Unary::Sin => zip!(|x, dy| dy * x.cos()),
        Unary::Cos if are_near(dst, saved) => zip!(|x, dy| -(dy * x.sin_near())),
        Unary::Cos => zip!(|x, dy| -(dy * x.sin())),
        Unary::Relu => zip!(|y, dy| relu_grad(y, dy)),
        Unary::Gelu => zip!(|x, dy| gelu_grad(x, dy)),
        Unary::GeluTanh => zip!(|x, dy| gelu_tanh_grad(x, dy)),
        Unary::Tanh => zip!(|y, dy| dy * (T::ONE - y * y)),
        Unary::Sigmoid => zip!(|y, dy| dy * (y * (T::ONE - y))),
        Unary::Softplus => zip!(|x, dy| dy * sigmoid(x)),
        Unary::Silu => zip!(|x, dy| silu_grad(x, dy)),
        Unary::Elu { alpha } => {
            let alpha = c(alpha);
            zip!(|x, dy| dy * T::select(x > T::ZERO, T::ONE, alpha * x.exp()))
        }
        Unary::LeakyRelu { slope } => {
            let slope = c(slope);
            zip!(|x, dy| dy * T::select(x > T::ZERO, T::ONE, slope))
        }
        Unary::HardSwish => zip!(|x, dy| dy * hard_swish_slope(x)),
        Unary::HardSigmoid { slope, offset } => {
            let (slope, offset) = (c(slope), c(offset));
            zip!(|x, dy| {
                let y = slope * x + offset;
                T::select((y > T::ZERO) & (y < T::ONE), dy * slope, T::ZERO)
            })
        }
        Unary::Clip { min, max } => {
            let (min, max) = (c(min), c(max));
            zip!(|x, dy| T::select((x >= min) & (x <= max), dy, T::ZERO))
        }
        Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round => zip!(|_s, _dy| T::ZERO),
    }
}

/// True if sines and cosines need no branch. The bits are the same either way.
fn are_near<T: Element>(dst: &[T], src: Source<'_, T>) -> bool {
    let operand = match src {
        Source::InPlace => dst,
        Source::Apart(src) => src,
    };
    widest(
        #[inline(always)]
        || operand.iter().fold(true, |all, x| all & x.is_near()),
    )
}

/// √(2/π).
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
/// 1/√(2π).
const INV_SQRT_TAU: f64 = 0.398_942_280_401_432_7;
/// The cubic term of the tanh approximation.
const GELU_CUBIC: f64 = 0.044715;

#[inline(always)]
fn relu<T: Element>(x: T) -> T {
    // NaN isn't `<=` 0, and stays.
    if x <= T::ZERO { T::ZERO } else { x }
}

#[inline(always)]
fn relu_grad<T: Element>(y: T, dy: T) -> T {
    if y <= T::ZERO { T::ZERO } else { dy }
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub fn sigmoid<T: Element>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// `log(1 + exp(x))`, with an exponent that is never positive.
#[inline(always)]
pub fn softplus<T: Element>(x: T) -> T {
    relu(x) + (-x.abs()).exp().ln_1p()
}

/// -1, 0 or 1; 0 for NaN.
#[inline(always)]
pub fn sign<T: Element>(x: T) -> T {
    let positive = T::select(x > T::ZERO, T::ONE, T::ZERO);
    T::select(x < T::ZERO, -T::ONE, positive)
}

#[inline(always)]
fn clip<T: Element>(x: T, min: T, max: T) -> T {
    // NaN is neither below nor above, and stays.
    let x = T::select(x < min, min, x);
    T::select(x > max, max, x)
}

/// `d/dx x σ(x) = σ (1 + x (1 - σ))`.
#[inline(always)]
fn silu_grad<T: Element>(x: T, dy: T) -> T {
    let s = sigmoid(x);
    dy * (s * (T::ONE + x * (T::ONE - s)))
}

#[inline(always)]
fn hard_swish_slope<T: Element>(x: T) -> T {
    let three = T::from_f64(3.0);
    let middle = (x + x + three) / T::from_f64(6.0);
    let right = T::select(x >= three, T::ONE, middle);
    T::select(x <= -three, T::ZERO, right)
}

/// `d/dx x Φ(x) = Φ(x) + x φ(x)`.
#[inline(always)]
fn gelu_grad<T: Element>(x: T, dy: T) -> T {
    let density = T::from_f64(INV_SQRT_TAU) * (T::from_f64(-0.5) * x * x).exp();
    dy * (normal_cdf(x) + x * density)
}

#[inline(always)]
fn gelu_tanh<T: Element>(x: T) -> T {
    T::from_f64(0.5) * x * (T::ONE + tanh_argument(x).tanh())
}

#[inline(always)]
fn gelu_tanh_grad<T: Element>(x: T, dy: T) -> T {
    let half = T::from_f64(0.5);
    let t = tanh_argument(x).tanh();
    let slope = T::from_f64(SQRT_2_OVER_PI) * (T::ONE + T::from_f64(3.0 * GELU_CUBIC) * x * x);
    dy * (half * (T::ONE + t) + half * x * (T::ONE - t * t) * slope)
}

/// Φ(x), the distribution function of the standard normal.
#[inline(always)]
fn normal_cdf<T: Element>(x: T) -> T {
    T::from_f64(0.5) * (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

#[inline(always)]
fn tanh_argument<T: Element>(x: T) -> T {
    T::from_f64(SQRT_2_OVER_PI) * (x + T::from_f64(GELU_CUBIC) * x * x * x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::UNARY;

    #[test]
    fn the_place_of_operands_does_not_change_results() {
        let x: Vec<f32> = (0..37).map(|i| (i as f32 - 18.0) / 5.0).collect();
        let dy: Vec<f32> = (0..37).map(|i| (i % 7) as f32 - 3.0).collect();
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for function in UNARY {
            let mut apart = vec![0.0; 37];
            unary(function, &mut apart, Source::Apart(&x));
            let mut in_place = x.clone();
            unary(function, &mut in_place, Source::InPlace);
            assert_eq!(bits(&apart), bits(&in_place), "{function:?}");

            unary_grad(function, &mut apart, Source::Apart(&x), Source::Apart(&dy));
            let mut in_place = x.clone();
            unary_grad(function, &mut in_place, Source::InPlace, Source::Apart(&dy));
            assert_eq!(bits(&apart), bits(&in_place), "{function:?}");
            let mut in_place = dy.clone();
            unary_grad(function, &mut in_place, Source::Apart(&x), Source::InPlace);
            assert_eq!(bits(&apart), bits(&in_place), "{function:?}");
        }
    }

    /// Sines of numbers far from 0 take another way, whatever stands beside them.
    #[test]
    fn neighbours_do_not_change_sines() {
        let near: Vec<f32> = (0..50).map(|i| i as f32 * 1.7 - 40.0).collect();
        let mixed: Vec<f32> = near.iter().copied().chain([3e9, -1e30]).collect();
        for function in [Unary::Sin, Unary::Cos] {
            let (mut alone, mut beside) = ([0.0; 50], [0.0; 52]);
            unary(function, &mut alone, Source::Apart(&near));
            unary(function, &mut beside, Source::Apart(&mixed));
            assert_eq!(alone, beside[..50]);
            let exact: fn(f64) -> f64 = match function {
                Unary::Sin => libm::sin,
                _ => libm::cos,
            };
            assert!((f64::from(beside[50]) - exact(3e9)).abs() < 1e-6);
        }
    }

    #[test]
    fn activations_of_extremes_stay_finite_and_nan_stays() {
        let x = [-1e30f32, -1e4, 1e4, f32::NAN];
        for function in [
            Unary::Relu,
            Unary::Gelu,
            Unary::GeluTanh,
            Unary::Tanh,
            Unary::Sigmoid,
            Unary::Softplus,
            Unary::Silu,
            Unary::HardSwish,
        ] {
            let mut y = [0.0; 4];
            unary(function, &mut y, Source::Apart(&x));
            assert!(y[..3].iter().all(|y| y.is_finite()), "{function:?} {y:?}");
            assert!(y[3].is_nan(), "{function:?}");
        }
    }
}
