//! Activations and their derivatives.

use ringfold_graph::Activation;

use super::{Source, map, zip};
use crate::element::Element;

/// `dst = f(src)`.
pub fn activation<T: Element>(activation: Activation, dst: &mut [T], src: Source<'_, T>) {
    match activation {
        Activation::Relu => map(
            dst,
            src,
            #[inline(always)]
            |x| relu(x),
        ),
        Activation::Gelu => map(
            dst,
            src,
            #[inline(always)]
            |x| gelu(x),
        ),
        Activation::GeluTanh => map(
            dst,
            src,
            #[inline(always)]
            |x| gelu_tanh(x),
        ),
        Activation::Tanh => map(
            dst,
            src,
            #[inline(always)]
            |x| x.tanh(),
        ),
        Activation::Sigmoid => map(
            dst,
            src,
            #[inline(always)]
            |x| sigmoid(x),
        ),
    }
}

/// `dst = dy · f'`, where `saved` is the result or the operand of `f`
/// ([`Activation::derivative_uses_result`]).
pub fn activation_grad<T: Element>(
    activation: Activation,
    dst: &mut [T],
    saved: Source<'_, T>,
    dy: Source<'_, T>,
) {
    match activation {
        Activation::Relu => zip(
            dst,
            saved,
            dy,
            #[inline(always)]
            |s, dy| relu_grad(s, dy),
        ),
        Activation::Gelu => zip(
            dst,
            saved,
            dy,
            #[inline(always)]
            |s, dy| gelu_grad(s, dy),
        ),
        Activation::GeluTanh => zip(
            dst,
            saved,
            dy,
            #[inline(always)]
            |s, dy| gelu_tanh_grad(s, dy),
        ),
        Activation::Tanh => zip(
            dst,
            saved,
            dy,
            #[inline(always)]
            |s, dy| tanh_grad(s, dy),
        ),
        Activation::Sigmoid => zip(
            dst,
            saved,
            dy,
            #[inline(always)]
            |s, dy| sigmoid_grad(s, dy),
        ),
    }
}

// Functions and the closures that call them are always inlined: a call left in the loop would keep
// it from being vectorised.

#[inline(always)]
fn relu<T: Element>(x: T) -> T {
    // NaN isn't `<=` 0, and stays.
    if x <= T::ZERO { T::ZERO } else { x }
}

#[inline(always)]
fn relu_grad<T: Element>(y: T, dy: T) -> T {
    if y <= T::ZERO { T::ZERO } else { dy }
}

#[inline(always)]
fn gelu<T: Element>(x: T) -> T {
    x * normal_cdf(x)
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

#[inline(always)]
fn tanh_grad<T: Element>(y: T, dy: T) -> T {
    dy * (T::ONE - y * y)
}

#[inline(always)]
fn sigmoid<T: Element>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

#[inline(always)]
fn sigmoid_grad<T: Element>(y: T, dy: T) -> T {
    dy * (y * (T::ONE - y))
}

/// √(2/π).
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
/// 1/√(2π).
const INV_SQRT_TAU: f64 = 0.398_942_280_401_432_7;
/// The cubic term of the tanh approximation.
const GELU_CUBIC: f64 = 0.044715;

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

    const ALL: [Activation; 5] = [
        Activation::Relu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Tanh,
        Activation::Sigmoid,
    ];

    #[test]
    fn the_place_of_operands_does_not_change_results() {
        let x: Vec<f32> = (0..37).map(|i| (i as f32 - 18.0) / 5.0).collect();
        let dy: Vec<f32> = (0..37).map(|i| (i % 7) as f32 - 3.0).collect();
        for kind in ALL {
            let mut apart = vec![0.0; 37];
            activation(kind, &mut apart, Source::Apart(&x));
            let mut in_place = x.clone();
            activation(kind, &mut in_place, Source::InPlace);
            assert_eq!(apart, in_place);

            activation_grad(kind, &mut apart, Source::Apart(&x), Source::Apart(&dy));
            let mut in_place = x.clone();
            activation_grad(kind, &mut in_place, Source::InPlace, Source::Apart(&dy));
            assert_eq!(apart, in_place);
            let mut in_place = dy.clone();
            activation_grad(kind, &mut in_place, Source::Apart(&x), Source::InPlace);
            assert_eq!(apart, in_place);
        }
    }

    #[test]
    fn extremes_stay_finite_and_nan_stays() {
        let x = [-1e30f32, -1e4, 1e4, f32::NAN];
        for kind in ALL {
            let mut y = [0.0; 4];
            activation(kind, &mut y, Source::Apart(&x));
            assert!(y[..3].iter().all(|y| y.is_finite()), "{kind:?} {y:?}");
            assert!(y[3].is_nan(), "{kind:?}");
        }
    }
}
