//! Elementary functions of `f32` without branches, so that loops over them vectorise. Sine, cosine and
//! powers go through `f64`, in which a vector holds half as many.
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

/// 1.5 · 2^52: adding it rounds an `f64` to an integer, which then stands in the low bits.
const ROUND_WIDE: f64 = 6_755_399_441_055_744.0;
/// π/2 in two parts: the first has 25 bits, so that its product with a number of quarter turns is exact.
const QUARTER_HIGH: f64 = 1.570_796_310_901_641_8;
const QUARTER_LOW: f64 = 1.589_325_477_352_819_7e-8;

/// Below this size [`sin_f32`] and [`cos_f32`] hold.
pub const NEAR: f32 = 268_435_456.0;

/// `sin x` for `|x|` below [`NEAR`]; the error is below 1 ulp. Zeros keep their sign; NaN for NaN and
/// infinity.
#[inline(always)]
pub fn sin_f32(x: f32) -> f32 {
    wave(x, 0)
}

/// `cos x` for `|x|` below [`NEAR`]; the error is below 1 ulp. NaN for NaN and infinity.
#[inline(always)]
pub fn cos_f32(x: f32) -> f32 {
    wave(x, 1)
}

/// The sine of x and so many quarter turns.
#[inline(always)]
fn wave(x: f32, quarters: u64) -> f32 {
    let x = f64::from(x);
    let shifted = x * std::f64::consts::FRAC_2_PI + ROUND_WIDE;
    let n = shifted - ROUND_WIDE;
    let r = (x - n * QUARTER_HIGH) - n * QUARTER_LOW;
    let z = r * r;
    // (sin(r)/r - 1) / r² on |r| <= π/4.
    let p = 2.724_989_523_061_168e-6;
    let p = p * z - 1.984_008_649_959_36e-4;
    let p = p * z + 8.333_331_874_273_714e-3;
    let p = p * z - 1.666_666_666_385_416_8e-1;
    let sine = r * (1.0 + z * p);
    // (cos(r) - 1) / r² on |r| <= π/4.
    let q = -2.723_710_857_624_508_5e-7;
    let q = q * z + 2.479_986_184_636_145e-5;
    let q = q * z - 1.388_888_509_026_289_5e-3;
    let q = q * z + 4.166_666_663_738_438_6e-2;
    let q = q * z - 4.999_999_999_996_387_3e-1;
    let cosine = 1.0 + z * q;
    let turn = shifted.to_bits().wrapping_add(quarters);
    let y = select_f64(turn & 1 == 1, cosine, sine);
    select_f64(turn & 2 == 2, -y, y) as f32
}

/// The bits of √½ as `f64`.
const HALF_ROOT_WIDE: u64 = 0x3fe6_a09e_667f_3bcd;
/// 2^52: its low bits count from 0.
const COUNT_WIDE: f64 = 4_503_599_627_370_496.0;

/// `log2 x` for a positive `x` of `f32`, as `f64`; the relative error is below 1e-13.
#[inline(always)]
fn log2_wide(x: f64) -> f64 {
    // x = 2^n · m with m from √½ to √2.
    let shifted = x.to_bits().wrapping_add(1.0f64.to_bits() - HALF_ROOT_WIDE);
    let n = f64::from_bits(shifted >> 52 | COUNT_WIDE.to_bits()) - (COUNT_WIDE + 1023.0);
    let m = f64::from_bits((shifted & 0x000f_ffff_ffff_ffff) + HALF_ROOT_WIDE);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    // 2/ln(2) · artanh(s)/s on |s| <= (√2 - 1)/(√2 + 1).
    let p = 2.828_871_826_307_356_5e-1;
    let p = p * z + 3.199_066_608_891_474e-1;
    let p = p * z + 4.122_092_273_305_244_5e-1;
    let p = p * z + 5.770_779_426_302_618e-1;
    let p = p * z + 9.617_966_941_123_595e-1;
    let p = p * z + 2.885_390_081_777_850_4;
    n + s * p
}

/// `2^t` for `|t| <= 160`, as `f64`; the relative error is below 1e-10. Keeps NaN.
#[inline(always)]
fn exp2_wide(t: f64) -> f64 {
    let shifted = t + ROUND_WIDE;
    let f = t - (shifted - ROUND_WIDE);
    // 2^f on |f| <= 1/2.
    let p = 1.530_372_113_080_136_7e-5;
    let p = p * f + 1.546_975_574_492_582_4e-4;
    let p = p * f + 1.333_347_840_986_539_9e-3;
    let p = p * f + 9.618_025_530_398_209e-3;
    let p = p * f + 5.550_410_906_373_717e-2;
    let p = p * f + 2.402_265_121_412_005_3e-1;
    let p = p * f + 6.931_471_805_568_274e-1;
    let p = p * f + 9.999_999_999_594_97e-1;
    p * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52)
}

/// `x^y`; the error is below 1 ulp. Special cases are those of IEEE 754's `pow`: 1 for `y = 0` and for
/// `x = 1`, whatever the other is; NaN for a negative `x` and a `y` that isn't whole.
#[inline(always)]
pub fn pow_f32(x: f32, y: f32) -> f32 {
    let a = x.abs();
    let log = log2_wide(f64::from(a));
    let log = select_f64(a == 0.0, f64::NEG_INFINITY, log);
    let log = select_f64(a == f32::INFINITY, f64::INFINITY, log);
    let t = f64::from(y) * log;
    // Beyond these, the result is infinity or zero anyway. Comparisons keep NaN.
    let t = select_f64(t > 160.0, 160.0, t);
    let t = select_f64(t < -160.0, -160.0, t);
    let size = exp2_wide(t) as f32;
    let size = select_f32(a == 1.0, 1.0, size);
    let half = 0.5 * y;
    let (is_whole, is_even) = (y.floor() == y, half.floor() == half);
    let is_negative = x.to_bits() >> 31 == 1;
    let z = select_f32(is_negative & is_whole & !is_even, -size, size);
    let has_none = (x < 0.0) & (a < f32::INFINITY) & !is_whole;
    let z = select_f32(has_none | x.is_nan(), f32::NAN, z);
    select_f32(y == 0.0, 1.0, z)
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

    #[test]
    fn sines_are_accurate() {
        let large = (5..28).flat_map(|n| {
            let base = libm::exp2(f64::from(n)) as f32;
            (0..2000).map(move |i| base + base * (i as f32 / 2000.0))
        });
        // Where x is near a multiple of π/2, little is left of it.
        let zeros = (1..40_000).map(|n| (f64::from(n) * std::f64::consts::FRAC_PI_2) as f32);
        let tiny = (1..149).map(|n| libm::exp2(f64::from(-n)) as f32);
        let points = || {
            let ends = large.clone().chain(zeros.clone()).chain(tiny.clone());
            grid(-20.0, 20.0).chain(ends).flat_map(|x| [x, -x])
        };
        let worst = |f: fn(f32) -> f32, exact: fn(f64) -> f64| {
            let errors = points().map(|x| ulps(f(x), exact(f64::from(x))));
            errors.fold(0.0, f64::max)
        };
        let (sine, cosine) = (worst(sin_f32, libm::sin), worst(cos_f32, libm::cos));
        assert!(sine < 1.0 && cosine < 1.0, "{sine} and {cosine} ulp");
        assert_eq!(sin_f32(-0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(cos_f32(0.0), 1.0);
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(sin_f32(x).is_nan() && cos_f32(x).is_nan());
        }
    }

    #[test]
    fn powers_are_accurate() {
        let bases = (0..700).map(|i| libm::exp2(f64::from(i) / 2.5 - 148.5) as f32);
        let bases = bases
            .chain(grid(0.9, 1.1).step_by(2_000))
            .chain([f32::MAX, 1e-45]);
        let mut worst: f64 = 0.0;
        for x in bases.filter(|x| x.is_finite()) {
            let exponents = grid(-40.0, 40.0)
                .step_by(1_000)
                .chain([0.5, -0.5, 1e-6, 300.0]);
            for y in exponents {
                let exact = libm::pow(f64::from(x), f64::from(y));
                if (1.2e-38..3.4e38).contains(&exact) {
                    worst = worst.max(ulps(pow_f32(x, y), exact));
                }
            }
        }
        assert!(worst < 1.0, "{worst} ulp");
    }

    #[test]
    fn special_powers_are_those_of_ieee() {
        let ends = [
            0.0,
            0.5,
            1.0,
            1.5,
            2.0,
            3.0,
            7e8,
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
            1e-40,
        ];
        let all = || ends.into_iter().flat_map(|x| [x, -x]);
        for x in all() {
            for y in all() {
                let (got, exact) = (pow_f32(x, y), libm::pow(f64::from(x), f64::from(y)) as f32);
                let same = got.to_bits() == exact.to_bits() || (got.is_nan() && exact.is_nan());
                let near = (got - exact).abs() <= 1e-7 * exact.abs();
                assert!(same || near, "{x}^{y}: {got}, {exact}");
            }
        }
    }
}
