//! Initial values of parameters: a pure function of (seed, parameter name, element index).
//!
//! They depend neither on the order of declaration nor on who fills them in, so that every rank
//! computes the same ones without a broadcast.

use std::fmt;

use ringfold_common::random::{Domain, Stream, stream_key};

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
}

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
        InitialValues {
            initialiser: *self,
            stream: Stream::new(key, 0),
        }
    }

    /// A number of the initialiser that no parameter may have.
    pub(crate) fn invalid_number(&self) -> Option<f64> {
        let (number, fits) = match *self {
            Self::Zeros => return None,
            Self::Constant(value) => (value, value.is_finite()),
            Self::Uniform { bound: spread } | Self::Normal { deviation: spread } => {
                (spread, spread.is_finite() && spread >= 0.0)
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
        }
    }
}

/// Random access to the initial values of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct InitialValues {
    initialiser: Initialiser,
    stream: Stream,
}

impl InitialValues {
    /// The value of the element at `element`.
    #[must_use]
    pub fn at(&self, element: u64) -> f64 {
        match self.initialiser {
            Initialiser::Zeros => 0.0,
            Initialiser::Constant(value) => value,
            Initialiser::Uniform { bound } => bound * (2.0 * self.stream.uniform(element) - 1.0),
            Initialiser::Normal { deviation } => deviation * self.stream.normal(element),
        }
    }
}

/// A family of initialisers that looks at a layer's fan-in (inputs of one unit) and fan-out (units
/// that one input feeds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum InitialiserScheme {
    /// PyTorch's default for `Linear`: weight and bias uniform on `±1/√fan_in`.
    #[default]
    LinearDefault,
    /// Uniform on `±√(6/fan_in)` (He et al.: "Delving deep into rectifiers", 2015); bias 0.
    HeUniform,
    /// Normal with deviation `√(2/fan_in)` (same paper); bias 0.
    HeNormal,
    /// Uniform on `±√(6/(fan_in + fan_out))` (Glorot, Bengio: "Understanding the difficulty of
    /// training deep feedforward neural networks", 2010); bias 0.
    GlorotUniform,
    /// Normal with deviation `√(2/(fan_in + fan_out))` (same paper); bias 0.
    GlorotNormal,
    /// Everything 0: for linear models.
    Zeros,
}

impl InitialiserScheme {
    /// The initialiser of a layer's weight.
    #[must_use]
    pub fn weight(self, fan_in: usize, fan_out: usize) -> Initialiser {
        let (fan_in, both) = (fan_in as f64, (fan_in + fan_out) as f64);
        match self {
            Self::LinearDefault => Initialiser::Uniform {
                bound: 1.0 / fan_in.sqrt(),
            },
            Self::HeUniform => Initialiser::Uniform {
                bound: (6.0 / fan_in).sqrt(),
            },
            Self::HeNormal => Initialiser::Normal {
                deviation: (2.0 / fan_in).sqrt(),
            },
            Self::GlorotUniform => Initialiser::Uniform {
                bound: (6.0 / both).sqrt(),
            },
            Self::GlorotNormal => Initialiser::Normal {
                deviation: (2.0 / both).sqrt(),
            },
            Self::Zeros => Initialiser::Zeros,
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
