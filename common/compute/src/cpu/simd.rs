//! Running a loop with the widest vectors that the machine has: [`widest`], which all crates share.

pub use ringfold_common::simd::widest;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::Element;

    #[test]
    fn bits_do_not_depend_on_the_width() {
        let x: Vec<f32> = (0..1001).map(|i| (i as f32 - 500.0) / 61.0).collect();
        let all = |x: &[f32], y: &mut [f32]| {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = Element::exp(x) + Element::tanh(x) * Element::erf(x);
                *y += Element::ln(x.abs()) + Element::ln_1p(x * x);
            }
        };
        let (mut narrow, mut wide) = (x.clone(), x.clone());
        all(&x, &mut narrow);
        widest(|| all(&x, &mut wide));
        assert!(
            narrow
                .iter()
                .zip(&wide)
                .all(|(a, b)| a.to_bits() == b.to_bits())
        );
    }
}
