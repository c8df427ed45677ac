//! Clipping by global norm and by value.

use ringfold_compute::cpu::parallel::for_units;
use ringfold_compute::cpu::simd::widest;

use super::LANES;

/// Elements of one sum of squares.
const NORM_ELEMENTS: usize = 1 << 15;
/// Sums that are made at a time, on the whole team.
const NORM_SUMS: usize = 64;

/// The L2 norm of all gradients, summed in double precision in a fixed order: pieces of fixed length,
/// added up one after another, whoever sums them.
#[must_use]
pub fn global_norm(gradients: &[f32]) -> f64 {
    let mut total = 0.0;
    for gradients in gradients.chunks(NORM_SUMS * NORM_ELEMENTS) {
        let mut sums = [0f64; NORM_SUMS];
        let count = gradients.len().div_ceil(NORM_ELEMENTS);
        for_units(0..count, [&mut sums[..]], [1], count, &|i, [sum]| {
            let start = i * NORM_ELEMENTS;
            let end = (start + NORM_ELEMENTS).min(gradients.len());
            sum[0] = widest(|| sum_of_squares(&gradients[start..end]));
        });
        total += sums[..count].iter().sum::<f64>();
    }
    total.sqrt()
}

#[inline(always)]
fn sum_of_squares(gradients: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (chunks, rest) = gradients.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &g) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(g) * f64::from(g);
        }
    }
    let rest = rest.iter().map(|&g| f64::from(g) * f64::from(g));
    lanes.iter().sum::<f64>() + rest.sum::<f64>()
}

/// What gradients of norm `norm` are multiplied by to keep them within `norm_max`: PyTorch's
/// `clip_grad_norm_`.
#[must_use]
pub fn clip_scale(norm: f64, norm_max: f64) -> f32 {
    (norm_max / (norm + 1e-6)).min(1.0) as f32
}

/// Brings every gradient into [−`value_max`, `value_max`]: PyTorch's `clip_grad_value_`. NaN stays.
pub fn clip_values(gradients: &mut [f32], value_max: f64) {
    let max = value_max as f32;
    for g in gradients {
        *g = g.clamp(-max, max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_bounds_the_norm_and_leaves_small_gradients() {
        let gradients: Vec<f32> = (0..37).map(|i| i as f32 * 0.1).collect();
        let norm = global_norm(&gradients);
        let expected = gradients
            .iter()
            .map(|g| f64::from(g * g))
            .sum::<f64>()
            .sqrt();
        assert!((norm - expected).abs() < 1e-5);
        let scale = clip_scale(norm, 1.0);
        let clipped: Vec<f32> = gradients.iter().map(|g| g * scale).collect();
        assert!((global_norm(&clipped) - 1.0).abs() < 1e-5);
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert_eq!(clip_scale(0.0, 1.0), 1.0);
    }

    #[test]
    fn clipping_by_value_leaves_what_is_within() {
        let mut gradients = [-3.0, -0.5, 0.0, 0.25, 9.0, f32::NAN];
        clip_values(&mut gradients, 0.5);
        assert_eq!(gradients[..5], [-0.5, -0.5, 0.0, 0.25, 0.5]);
        assert!(gradients[5].is_nan());
    }
}
