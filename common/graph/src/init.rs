//! Initial values of parameters: a pure function of (seed, parameter name, element index).
//!
//! They depend neither on the order of declaration nor on who fills them in, so that every rank
//! computes the same ones without a broadcast.

use std::fmt;

use ringfold_common::job;
use ringfold_common::random::{Domain, Stream, stream_key};

use crate::orthogonal::orthogonal;

/// How the elements of a parameter are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialiser {
    /// Every element is 0.
    Zeros,
    /// Every element is this number.
    Constant(f64),
    /// Uniform on `[-bound, bound)`.
    Uniform {
        /// Half the width, finite and not negative.
        bound: f64,
    },
    /// Normal with mean 0.
    Normal {
        /// The standard deviation, finite and not negative.
        deviation: f64,
    },
    /// Normal with mean 0, drawn again until it is within two standard deviations.
    TruncatedNormal {
        /// The standard deviation before truncation, finite and not negative.
        deviation: f64,
    },
    /// `gain` times a matrix with orthonormal rows, or columns if there are fewer of them (Saxe et
    /// al.: "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
    /// 2013). The parameter is taken as a matrix of `rows` and `columns`.
    Orthogonal {
        /// The factor, finite.
        gain: f64,
        /// The parameter's first dimension.
        rows: usize,
        /// The product of the others.
        columns: usize,
    },
}

/// The most multiplications that an orthogonal matrix may take: 2³⁷, a minute or two.
const ORTHOGONAL_PRODUCTS_MAX: u128 = 1 << 37;

impl Initialiser {
    /// The value of the element at `element` (row-major) of the parameter `name`.
    #[must_use]
    pub fn value(&self, seed: u64, name: &str, element: u64) -> f64 {
        self.values(seed, name).at(element)
    }

    /// Random access to the values of the parameter `name`.
    #[must_use]
    pub fn values(&self, seed: u64, name: &str) -> InitialValues {
        let key = stream_key(seed, Domain::Initialiser, name_hash(name), 0);
        let stream = Stream::new(key, 0);
        let matrix = match *self {
            Self::Orthogonal { rows, columns, .. } => {
                orthogonal(rows, columns, |i| stream.normal(i))
            }
            _ => Vec::new(),
        };
        InitialValues {
            initialiser: *self,
            key,
            stream,
            matrix,
        }
    }

    /// A number of the initialiser that no parameter may have.
    pub(crate) fn invalid_number(&self) -> Option<f64> {
        let (number, fits) = match *self {
            Self::Zeros => return None,
            Self::Constant(value) => (value, value.is_finite()),
            Self::Uniform { bound: spread }
            | Self::Normal { deviation: spread }
            | Self::TruncatedNormal { deviation: spread } => {
                (spread, spread.is_finite() && spread >= 0.0)
            }
            Self::Orthogonal {
                gain,
                rows,
                columns,
            } => {
                let [rows, columns] = [rows as u128, columns as u128];
                let products = rows
                    .saturating_mul(columns)
                    .saturating_mul(rows.min(columns));
                if products > ORTHOGONAL_PRODUCTS_MAX {
                    return Some(products as f64);
                }
                (gain, gain.is_finite())
            }
        };
        (!fits).then_some(number)
    }
}

impl fmt::Display for Initialiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zeros => f.write_str("zeros"),
            Self::Constant(value) => write!(f, "constant({value})"),
            Self::Uniform { bound } => write!(f, "uniform({bound:.6})"),
            Self::Normal { deviation } => write!(f, "normal({deviation:.6})"),
            Self::TruncatedNormal { deviation } => write!(f, "truncated_normal({deviation:.6})"),
            Self::Orthogonal { gain, .. } => write!(f, "orthogonal({gain})"),
        }
    }
}

/// Random access to the initial values of one parameter.
#[derive(Clone, Debug)]
pub struct InitialValues {
    initialiser: Initialiser,
    key: u64,
    stream: Stream,
    /// Of an orthogonal parameter.
    matrix: Vec<f64>,
}

/// Draws of a truncated normal number; all miss once in 10⁸⁵.
const DRAWS_MAX: u64 = 64;

impl InitialValues {
    /// The value of the element at `element`.
    ///
    /// # Panics
    /// If an orthogonal matrix has no such element.
    #[must_use]
    pub fn at(&self, element: u64) -> f64 {
        match self.initialiser {
            Initialiser::Zeros => 0.0,
            Initialiser::Constant(value) => value,
            Initialiser::Uniform { bound } => bound * (2.0 * self.stream.uniform(element) - 1.0),
            Initialiser::Normal { deviation } => deviation * self.stream.normal(element),
            Initialiser::TruncatedNormal { deviation } => {
                let draw = |attempt| Stream::new(self.key, attempt).normal(element);
                let inside = |x: &f64| x.abs() <= 2.0;
                deviation * (0..DRAWS_MAX).map(draw).find(inside).unwrap_or(0.0)
            }
            Initialiser::Orthogonal { gain, .. } => gain * self.matrix[element as usize],
        }
    }
}

/// A family of initialisers that looks at a layer's fan-in (inputs of one unit) and fan-out (units
/// that one input feeds). Biases start at 0, except under [`InitialiserScheme::LinearDefault`].
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum InitialiserScheme {
    /// PyTorch's default for `Linear` and convolutions: weight and bias uniform on `±1/√fan_in`.
    #[default]
    LinearDefault,
    /// Uniform on `±√(6/fan_in)` (He et al.: "Delving deep into rectifiers", 2015).
    HeUniform,
    /// Normal with deviation `√(2/fan_in)` (same paper).
    HeNormal,
    /// Uniform on `±√(6/fan_out)` (same paper, equation 14).
    HeUniformFanOut,
    /// Normal with deviation `√(2/fan_out)` (same paper, equation 14).
    HeNormalFanOut,
    /// Uniform on `±√(6/(fan_in + fan_out))` (Glorot, Bengio: "Understanding the difficulty of
    /// training deep feedforward neural networks", 2010).
    GlorotUniform,
    /// Normal with deviation `√(2/(fan_in + fan_out))` (same paper).
    GlorotNormal,
    /// Everything 0: for linear models.
    Zeros,
    /// Weights of this number.
    Constant(f64),
    /// Weights uniform on `[-bound, bound)`.
    Uniform {
        /// Half the width.
        bound: f64,
    },
    /// Normal weights.
    Normal {
        /// The standard deviation.
        deviation: f64,
    },
    /// [`Initialiser::TruncatedNormal`] weights.
    TruncatedNormal {
        /// The standard deviation before truncation.
        deviation: f64,
    },
    /// [`Initialiser::Orthogonal`] weights.
    Orthogonal {
        /// The factor.
        gain: f64,
    },
}

impl InitialiserScheme {
    /// The initialiser of the weight of a layer of `fan_out` units, `[fan_out, fan_in]`.
    #[must_use]
    pub fn weight(self, fan_in: usize, fan_out: usize) -> Initialiser {
        self.weight_of(&[fan_out, fan_in])
    }

    /// The initialiser of a weight of these dimensions: units, their inputs, and the sizes of a
    /// kernel, whose product is a factor of both fans, as in PyTorch's `nn.init`.
    #[must_use]
    pub fn weight_of(self, dims: &[usize]) -> Initialiser {
        let product = |dims: &[usize]| dims.iter().copied().fold(1, usize::saturating_mul);
        let rows = dims.first().copied().unwrap_or(1);
        let columns = product(dims.get(1..).unwrap_or_default());
        let kernel = product(dims.get(2..).unwrap_or_default());
        let (fan_in, fan_out) = (columns as f64, rows as f64 * kernel as f64);
        let both = fan_in + fan_out;
        let uniform = |bound| Initialiser::Uniform { bound };
        let normal = |deviation| Initialiser::Normal { deviation };
        match self {
            Self::LinearDefault => uniform(1.0 / fan_in.sqrt()),
            Self::HeUniform => uniform((6.0 / fan_in).sqrt()),
            Self::HeNormal => normal((2.0 / fan_in).sqrt()),
            Self::HeUniformFanOut => uniform((6.0 / fan_out).sqrt()),
            Self::HeNormalFanOut => normal((2.0 / fan_out).sqrt()),
            Self::GlorotUniform => uniform((6.0 / both).sqrt()),
            Self::GlorotNormal => normal((2.0 / both).sqrt()),
            Self::Zeros => Initialiser::Zeros,
            Self::Constant(value) => Initialiser::Constant(value),
            Self::Uniform { bound } => uniform(bound),
            Self::Normal { deviation } => normal(deviation),
            Self::TruncatedNormal { deviation } => Initialiser::TruncatedNormal { deviation },
            Self::Orthogonal { gain } => Initialiser::Orthogonal {
                gain,
                rows,
                columns,
            },
        }
    }

    /// The initialiser of a layer's bias.
    #[must_use]
    pub fn bias(self, fan_in: usize) -> Initialiser {
        match self {
            Self::LinearDefault => self.weight(fan_in, 0),
            _ => Initialiser::Zeros,
        }
    }
}

impl From<job::Initialiser> for InitialiserScheme {
    fn from(initialiser: job::Initialiser) -> Self {
        use job::Initialiser as From;
        match initialiser {
            From::HeNormal => Self::HeNormal,
            From::HeUniform => Self::HeUniform,
            From::HeNormalFanOut => Self::HeNormalFanOut,
            From::HeUniformFanOut => Self::HeUniformFanOut,
            From::GlorotNormal => Self::GlorotNormal,
            From::GlorotUniform => Self::GlorotUniform,
            From::FanInUniform => Self::LinearDefault,
            From::Zeros => Self::Zeros,
            From::Ones => Self::Constant(1.0),
            From::Constant(value) => Self::Constant(value),
            From::Uniform(bound) => Self::Uniform { bound },
            From::Normal(deviation) => Self::Normal { deviation },
            From::TruncatedNormal(deviation) => Self::TruncatedNormal { deviation },
            From::Orthogonal(gain) => Self::Orthogonal { gain },
        }
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo), over the name's bytes.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of draft-eastlake-fnv.
    #[test]
    fn name_hash_known_answers() {
        assert_eq!(name_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(name_hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(name_hash("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn values_depend_on_seed_name_and_element_only() {
        let initialiser = Initialiser::Normal { deviation: 1.0 };
        let value = initialiser.value(1, "layers.0.weight", 5);
        assert_eq!(value, initialiser.value(1, "layers.0.weight", 5));
        assert_ne!(value, initialiser.value(2, "layers.0.weight", 5));
        assert_ne!(value, initialiser.value(1, "layers.1.weight", 5));
        assert_ne!(value, initialiser.value(1, "layers.0.weight", 6));
    }

    #[test]
    fn schemes_have_the_moments_of_their_papers() {
        let n = 40_000;
        for (scheme, variance) in [
            (InitialiserScheme::LinearDefault, 1.0 / (3.0 * 50.0_f64)),
            (InitialiserScheme::HeUniform, 2.0 / 50.0),
            (InitialiserScheme::HeNormal, 2.0 / 50.0),
            (InitialiserScheme::HeUniformFanOut, 2.0 / 30.0),
            (InitialiserScheme::HeNormalFanOut, 2.0 / 30.0),
            (InitialiserScheme::Uniform { bound: 0.3 }, 0.03),
            (InitialiserScheme::Normal { deviation: 0.3 }, 0.09),
            (InitialiserScheme::GlorotUniform, 2.0 / 80.0),
            (InitialiserScheme::GlorotNormal, 2.0 / 80.0),
            (InitialiserScheme::Zeros, 0.0),
        ] {
            let values = scheme.weight(50, 30).values(3, "w");
            let sum: f64 = (0..n).map(|i| values.at(i)).sum();
            let squares: f64 = (0..n).map(|i| values.at(i).powi(2)).sum();
            assert!((sum / n as f64).abs() <= 0.02 * variance.sqrt().max(0.01));
            assert!((squares / n as f64 - variance).abs() <= 0.03 * variance);
        }
    }

    /// The variance of a normal number within two deviations is 1 - 4 φ(2) / (2 Φ(2) - 1).
    #[test]
    fn a_truncated_normal_stays_inside_and_has_its_variance() {
        let n = 40_000;
        let values = Initialiser::TruncatedNormal { deviation: 0.5 }.values(3, "w");
        let squares: f64 = (0..n).map(|i| values.at(i).powi(2)).sum();
        assert!((0..n).all(|i| values.at(i).abs() <= 1.0));
        assert!((squares / n as f64 - 0.25 * 0.773_741).abs() < 0.004);
        // Where the first draw is inside, it is the normal number.
        let normal = Initialiser::Normal { deviation: 0.5 }.values(3, "w");
        let differ = (0..n).filter(|&i| values.at(i) != normal.at(i)).count();
        assert!(
            (0.04..0.05).contains(&(differ as f64 / n as f64)),
            "{differ}"
        );
    }

    #[test]
    fn fans_of_a_kernel_count_its_elements() {
        let dims = [8, 3, 5, 2];
        assert_eq!(
            InitialiserScheme::HeNormal.weight_of(&dims),
            Initialiser::Normal {
                deviation: (2.0f64 / 30.0).sqrt()
            }
        );
        assert_eq!(
            InitialiserScheme::HeNormalFanOut.weight_of(&dims),
            Initialiser::Normal {
                deviation: (2.0f64 / 80.0).sqrt()
            }
        );
        let orthogonal = InitialiserScheme::Orthogonal { gain: 2.0 }.weight_of(&dims);
        let values = orthogonal.values(1, "w");
        let row = |r: u64| (0..30).map(move |i| r * 30 + i);
        let dot = |a: u64, b: u64| -> f64 {
            row(a)
                .zip(row(b))
                .map(|(a, b)| values.at(a) * values.at(b))
                .sum()
        };
        assert!((dot(0, 0) - 4.0).abs() < 1e-12);
        assert!(dot(0, 7).abs() < 1e-12);
        assert_eq!(orthogonal.value(1, "w", 17), values.at(17));
    }

    #[test]
    fn a_matrix_that_takes_too_long_is_refused() {
        let scheme = InitialiserScheme::Orthogonal { gain: 1.0 };
        assert_eq!(scheme.weight(4096, 4096).invalid_number(), None);
        assert!(scheme.weight(1 << 16, 1 << 16).invalid_number().is_some());
    }

    #[test]
    fn a_constant_is_constant_and_bad_numbers_are_found() {
        assert_eq!(Initialiser::Constant(2.5).value(1, "w", 9), 2.5);
        let bad = Initialiser::Uniform { bound: -1.0 };
        assert_eq!(bad.invalid_number(), Some(-1.0));
        assert!(
            Initialiser::Constant(f64::NAN)
                .invalid_number()
                .is_some_and(f64::is_nan)
        );
    }
}
