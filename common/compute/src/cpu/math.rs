//! Elementary functions of `f32` without branches, so that loops over them vectorise.
//!
//! Every function is a fixed sequence of IEEE operations (no fused multiply-add, no C library): the
//! bits are the same on every machine and at every vector width. Polynomial coefficients are
//! Chebyshev interpolants of the stated function on the stated interval, rounded to `f32`.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts: the first has few bits, so that its product with an exponent is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 · 2^23: adding it rounds to an integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `e^x`; the error is below 2 ulp. Overflows to infinity, underflows to zero, keeps NaN.
#[inline(always)]
pub fn exp_f32(x: f32) -> f32 {
    // Beyond these, the result is infinity or zero anyway. Comparisons keep NaN.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    // (e^r - 1 - r) / r² on |r| <= ln(2)/2.
    let p = 1.393_364_4e-3;
    let p = p * r + 8.363_175e-3;
    let p = p * r + 4.166_646_7e-2;
    let p = p * r + 1.666_657_6e-1;
    let p = p * r + 0.5;
    let y = (p * (r * r) + r) + 1.0;
    // Scale by 2^n in two halves: n reaches -150 and 128, exponents of `f32` don't.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n - half)
}

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `a` or `b`, without a branch: the compiler may not move the computation of either behind one.
#[inline(always)]
pub fn select_f32(condition: bool, a: f32, b: f32) -> f32 {
    let mask = u32::from(condition).wrapping_neg();
    f32::from_bits(a.to_bits() & mask | b.to_bits() & !mask)
}

/// `a` or `b`, without a branch.
#[inline(always)]
pub fn select_f64(condition: bool, a: f64, b: f64) -> f64 {
    let mask = u64::from(condition).wrapping_neg();
    f64::from_bits(a.to_bits() & mask | b.to_bits() & !mask)
}

/// The bits of √½.
const HALF_ROOT: u32 = 0x3f35_04f3;

/// `ln x`; the error is below 2 ulp. -∞ at 0, NaN below, keeps NaN and infinity.
#[inline(always)]
pub fn ln_f32(x: f32) -> f32 {
    // Subnormal numbers are scaled by 2^23.
    let is_tiny = x < f32::MIN_POSITIVE;
    let scaled = select_f32(is_tiny, x * 8_388_608.0, x);
    // x = 2^n · m with m from √½ to √2.
    let shifted = scaled.to_bits().wrapping_add(1.0f32.to_bits() - HALF_ROOT);
    let n = (shifted >> 23) as i32 - 127;
    let m = f32::from_bits((shifted & 0x007f_ffff) + HALF_ROOT);
    let n = n as f32 - select_f32(is_tiny, 23.0, 0.0);
    let f = m - 1.0;
    // (ln(1 + f) - f + f²/2) / f³ on √½ - 1 <= f <= √2 - 1.
    let p = 6.972_519e-2;
    let p = p * f - 1.148_121_2e-1;
    let p = p * f + 1.168_578_5e-1;
    let p = p * f - 1.242_552_3e-1;
    let p = p * f + 1.424_900_7e-1;
    let p = p * f - 1.666_780_7e-1;
    let p = p * f + 2.000_071_7e-1;
    let p = p * f - 2.499_999_7e-1;
    let p = p * f + 3.333_333e-1;
    let z = f * f;
    let y = n * LN_2_HIGH + (f - ((0.5 * z - z * f * p) - n * LN_2_LOW));
    let y = select_f32(x == 0.0, f32::NEG_INFINITY, y);
    let y = select_f32(x < 0.0, f32::NAN, y);
    // Infinity and NaN stay.
    select_f32(x < f32::INFINITY, y, x)
}

/// `ln(1 + x)`; the error is below 3 ulp. -∞ at -1, NaN below, keeps NaN and infinity.
#[inline(always)]
pub fn ln_1p_f32(x: f32) -> f32 {
    let u = 1.0 + x;
    // What rounding took from u, to first order.
    let lost = (x - (u - 1.0)) / u;
    let y = ln_f32(u);
    let is_plain = (u > 0.0) & (u < f32::INFINITY);
    let y = select_f32(is_plain, y + lost, y);
    // Zeros keep their sign.
    select_f32(x == 0.0, x, y)
}

/// `tanh x`; the error is below 3 ulp. Keeps NaN.
#[inline(always)]
pub fn tanh_f32(x: f32) -> f32 {
    let a = x.abs();
    // (tanh(a)/a - 1) / a² on a <= 0.625.
    let z = a * a;
    let p = 2.295_836e-3;
    let p = p * z - 8.346_975e-3;
    let p = p * z + 2.176_996e-2;
    let p = p * z - 5.395_940_7e-2;
    let p = p * z + 1.333_330_4e-1;
    let p = p * z - 3.333_333_4e-1;
    let small = a + a * (z * p);
    let large = 1.0 - 2.0 / (exp_f32(a + a) + 1.0);
    select_f32(a < 0.625, small, large).copysign(x)
}

/// `erf x`; the error is below 3e-7. Keeps NaN.
#[inline(always)]
pub fn erf_f32(x: f32) -> f32 {
    let a = x.abs();
    // erf(a)/a on a <= 1.
    let z = a * a;
    let p = -9.673_59e-6;
    let p = p * z + 1.126_825_4e-4;
    let p = p * z - 8.484_397e-4;
    let p = p * z + 5.221_053_5e-3;
    let p = p * z - 2.686_543_8e-2;
    let p = p * z + 1.128_378_3e-1;
    let p = p * z - 3.761_264e-1;
    let p = p * z + std::f32::consts::FRAC_2_SQRT_PI;
    let small = a * p;
    // erfc(a) e^(a²) / t with t = 1 / (1 + a/2) on 1 <= a <= 4; above, erfc is below half an ulp.
    let b = if a > 4.0 { 4.0 } else { a };
    let t = 1.0 / (1.0 + 0.5 * b);
    let q = 9.434_163e-2;
    let q = q * t - 3.841_04e-1;
    let q = q * t + 4.344_719e-1;
    let q = q * t + 1.195_270_2e-3;
    let q = q * t + 2.971_277_5e-1;
    let q = q * t + 2.742_441e-1;
    let q = q * t + 2.826_126_2e-1;
    let large = 1.0 - t * q * exp_f32(-(b * b));
    select_f32(a < 1.0, small, large).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units in the last place of the exact result between it and `got`.
    fn ulps(got: f32, exact: f64) -> f64 {
        let nearest = exact as f32;
        let ulp = f64::from(f32::from_bits(nearest.abs().to_bits() + 1) - nearest.abs());
        (f64::from(got) - exact).abs() / ulp
    }

    fn grid(from: f32, to: f32) -> impl Iterator<Item = f32> {
        const N: u32 = 400_000;
        (0..=N).map(move |i| from + (to - from) * (i as f32 / N as f32))
    }

    #[test]
    fn exp_is_accurate() {
        let worst = grid(-87.0, 88.7).map(|x| ulps(exp_f32(x), libm::exp(f64::from(x))));
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 2.0, "{worst} ulp");
        assert_eq!(exp_f32(0.0), 1.0);
        assert_eq!(exp_f32(100.0), f32::INFINITY);
        assert_eq!(exp_f32(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp_f32(-1e4), 0.0);
        assert_eq!(exp_f32(f32::NEG_INFINITY), 0.0);
        assert!(exp_f32(f32::NAN).is_nan());
        // Subnormal results lose bits, not their size.
        let tiny = f64::from(exp_f32(-95.0));
        assert!((tiny / libm::exp(-95.0) - 1.0).abs() < 1e-2);
    }

    #[test]
    fn ln_is_accurate() {
        let powers = (-149..128).map(|n| libm::exp2(f64::from(n)) as f32);
        let points = grid(1e-3, 4.0).chain(grid(0.9, 1.1)).chain(grid(1.0, 3e38));
        let points = points.chain(powers.flat_map(|p| [p, p * 1.37, p * 1.41]));
        let points = points.filter(|x| x.is_finite());
        let worst = points.map(|x| ulps(ln_f32(x), libm::log(f64::from(x))));
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 2.0, "{worst} ulp");
        assert_eq!(ln_f32(1.0), 0.0);
        assert_eq!(ln_f32(0.0), f32::NEG_INFINITY);
        assert_eq!(ln_f32(-0.0), f32::NEG_INFINITY);
        assert_eq!(ln_f32(f32::INFINITY), f32::INFINITY);
        assert!(ln_f32(-1e-40).is_nan());
        assert!(ln_f32(f32::NEG_INFINITY).is_nan());
        assert!(ln_f32(f32::NAN).is_nan());
    }

    #[test]
    fn ln_1p_is_accurate() {
        let points = grid(-0.999, 4.0)
            .chain(grid(-1e-3, 1e-3))
            .chain(grid(1.0, 1e9));
        let small = (1..149).map(|n| libm::exp2(f64::from(-n)) as f32);
        let points = points.chain(small.flat_map(|p| [p, -p * 0.9]));
        let worst = points.map(|x| ulps(ln_1p_f32(x), libm::log1p(f64::from(x))));
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 3.0, "{worst} ulp");
        assert_eq!(ln_1p_f32(-0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(ln_1p_f32(-1.0), f32::NEG_INFINITY);
        assert_eq!(ln_1p_f32(f32::INFINITY), f32::INFINITY);
        assert!(ln_1p_f32(-1.5).is_nan());
        assert!(ln_1p_f32(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_accurate() {
        let points = || grid(-10.0, 10.0).chain(grid(-1e-3, 1e-3));
        let worst = points().map(|x| ulps(tanh_f32(x), libm::tanh(f64::from(x))));
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 3.0, "{worst} ulp");
        assert_eq!(tanh_f32(1e9), 1.0);
        assert_eq!(tanh_f32(f32::NEG_INFINITY), -1.0);
        assert_eq!(tanh_f32(-0.0).to_bits(), (-0.0f32).to_bits());
        assert!(tanh_f32(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_accurate() {
        let worst =
            grid(-6.0, 6.0).map(|x| (f64::from(erf_f32(x)) - libm::erf(f64::from(x))).abs());
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 3e-7, "{worst}");
        assert_eq!(erf_f32(f32::INFINITY), 1.0);
        assert_eq!(erf_f32(f32::NEG_INFINITY), -1.0);
        assert!(erf_f32(f32::NAN).is_nan());
    }
}
