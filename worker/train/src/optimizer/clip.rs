//! Clipping by global norm and by value.

use super::LANES;

/// The L2 norm of all gradients, summed in double precision in a fixed order.
#[must_use]
pub fn global_norm(gradients: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let chunks = gradients.chunks_exact(LANES);
    let tail: f64 = chunks
        .remainder()
        .iter()
        .map(|&g| f64::from(g) * f64::from(g))
        .sum();
    for chunk in chunks {
        for (lane, &g) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(g) * f64::from(g);
        }
    }
    (lanes.iter().sum::<f64>() + tail).sqrt()
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
