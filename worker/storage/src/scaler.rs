//! Scaling of features: fitted once on the training records, then applied to every record.

use ringfold_common::job::Scale;
use serde::{Deserialize, Serialize};

use crate::error::{Column, StorageError};
use crate::records::Records;

/// Maps a feature x to (x - offset) * factor, in 32-bit arithmetic.
///
/// | [`Scale`] | offset | factor |
/// |---|---|---|
/// | `None` | 0 | 1 |
/// | `Divide(d)` | 0 | 1 / d |
/// | `Standardize` | mean of the feature | 1 / its standard deviation (over n, not n - 1) |
/// | `MinMax` | its least value | 1 / (greatest - least) |
///
/// The moments are those of the training records, summed in 64 bits in record order, the deviation
/// in a second pass: they are the same on every rank. A constant feature, or one whose factor
/// would leave the range of 32-bit numbers, gets factor 0: it is 0 ever after.
///
/// JSON holds the numbers as decimals of 64 bits, from which they come back exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaler {
    /// Features as they are.
    None,
    /// One factor for all features, no offset.
    Uniform {
        /// The factor.
        #[serde(with = "exact")]
        factor: f32,
    },
    /// An offset and a factor for every feature.
    PerFeature {
        /// By feature.
        #[serde(with = "exact_list")]
        offset: Vec<f32>,
        /// By feature.
        #[serde(with = "exact_list")]
        factor: Vec<f32>,
    },
}

impl Scaler {
    /// Fits `scale` to the training records.
    ///
    /// # Errors
    /// [`StorageError::Divisor`], or [`StorageError::Unscalable`] for the first feature of which a
    /// scaled training value would not be finite.
    pub(crate) fn fit(
        scale: Scale,
        train: &Records,
        names: Option<&[String]>,
    ) -> Result<Self, StorageError> {
        let scaler = match scale {
            Scale::None => return Ok(Self::None),
            Scale::Divide(divisor) => {
                let factor = (1.0 / divisor) as f32;
                if !factor.is_finite() || factor == 0.0 {
                    return Err(StorageError::Divisor { divisor });
                }
                Self::Uniform { factor }
            }
            Scale::Standardize | Scale::MinMax => Self::None,
        };
        let (low, high) = extremes(train);
        let scaler = match scale {
            Scale::Standardize => standardize(train, &low, &high),
            Scale::MinMax => {
                let factor = low
                    .iter()
                    .zip(&high)
                    .map(|(&low, &high)| inverse_or_zero(f64::from(high) - f64::from(low)));
                Self::PerFeature {
                    factor: factor.collect(),
                    offset: low.clone(),
                }
            }
            Scale::None | Scale::Divide(_) => scaler,
        };
        // Scaling is monotonic: if both ends are finite, so is all between.
        let (mut low_out, mut high_out) = (vec![0.0; low.len()], vec![0.0; low.len()]);
        scaler.scale(&low, &mut low_out);
        scaler.scale(&high, &mut high_out);
        for index in 0..low.len() {
            if !(low_out[index].is_finite() && high_out[index].is_finite()) {
                return Err(StorageError::Unscalable {
                    feature: Column {
                        index,
                        name: names.map(|names| names[index].clone()),
                    },
                    low: low[index],
                    high: high[index],
                });
            }
        }
        Ok(scaler)
    }

    /// The number of features, if the scaler depends on it.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        match self {
            Self::None | Self::Uniform { .. } => None,
            Self::PerFeature { factor, .. } => Some(factor.len()),
        }
    }

    /// True if every number is finite and there is an offset for every factor.
    pub(crate) fn is_valid(&self) -> bool {
        match self {
            Self::None => true,
            Self::Uniform { factor } => factor.is_finite(),
            Self::PerFeature { offset, factor } => {
                let mut numbers = offset.iter().chain(factor);
                offset.len() == factor.len() && numbers.all(|number| number.is_finite())
            }
        }
    }

    /// Scales one record into `out`.
    ///
    /// # Panics
    /// If `row` and `out` differ in length from each other or from the scaler.
    #[inline]
    pub fn scale(&self, row: &[f32], out: &mut [f32]) {
        self.scale_row(row, out, |x| x);
    }

    /// Scales one record of bytes into `out`.
    ///
    /// # Panics
    /// If `row` and `out` differ in length from each other or from the scaler.
    #[inline]
    pub fn scale_bytes(&self, row: &[u8], out: &mut [f32]) {
        self.scale_row(row, out, f32::from);
    }

    /// Loops without bounds checks or branches, so that they compile to vector code.
    #[inline]
    fn scale_row<T: Copy>(&self, row: &[T], out: &mut [f32], number: impl Fn(T) -> f32) {
        assert_eq!(row.len(), out.len(), "values of a record");
        match self {
            Self::None => {
                for (out, &x) in out.iter_mut().zip(row) {
                    *out = number(x);
                }
            }
            Self::Uniform { factor } => {
                for (out, &x) in out.iter_mut().zip(row) {
                    *out = number(x) * factor;
                }
            }
            Self::PerFeature { offset, factor } => {
                assert!(
                    offset.len() == row.len() && factor.len() == row.len(),
                    "a scaler of {} features for {}",
                    factor.len(),
                    row.len()
                );
                let coefficients = offset.iter().zip(factor);
                for ((out, &x), (&offset, &factor)) in out.iter_mut().zip(row).zip(coefficients) {
                    *out = (number(x) - offset) * factor;
                }
            }
        }
    }
}

/// Least and greatest value of each feature.
fn extremes(train: &Records) -> (Vec<f32>, Vec<f32>) {
    let width = train.width();
    let (mut low, mut high) = (vec![f32::INFINITY; width], vec![f32::NEG_INFINITY; width]);
    for_each_row(train, |row| {
        for ((low, high), &x) in low.iter_mut().zip(&mut high).zip(row) {
            *low = low.min(x);
            *high = high.max(x);
        }
    });
    (low, high)
}

fn standardize(train: &Records, low: &[f32], high: &[f32]) -> Scaler {
    let count = train.len() as f64;
    let mut mean = vec![0f64; train.width()];
    for_each_row(train, |row| {
        for (sum, &x) in mean.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
    });
    mean.iter_mut().for_each(|sum| *sum /= count);
    let mut variance = vec![0f64; train.width()];
    for_each_row(train, |row| {
        for ((sum, &mean), &x) in variance.iter_mut().zip(&mean).zip(row) {
            *sum += (f64::from(x) - mean).powi(2);
        }
    });
    let factor = variance
        .iter()
        .zip(low.iter().zip(high))
        .map(|(sum, (low, high))| {
            // Rounding may leave a constant feature a deviation.
            let constant = low == high;
            if constant {
                0.0
            } else {
                inverse_or_zero((sum / count).sqrt())
            }
        });
    Scaler::PerFeature {
        factor: factor.collect(),
        offset: mean.iter().map(|&mean| mean as f32).collect(),
    }
}

/// 1 / x in 32 bits; 0 where that is not finite.
fn inverse_or_zero(x: f64) -> f32 {
    let inverse = (1.0 / x) as f32;
    if inverse.is_finite() { inverse } else { 0.0 }
}

fn for_each_row(records: &Records, mut f: impl FnMut(&[f32])) {
    let mut row = vec![0.0; records.width()];
    for index in 0..records.len() {
        records.copy_raw(index, &mut row);
        f(&row);
    }
}

/// 32-bit numbers as 64-bit ones: a decimal parser that is off by one in the last place of 64 bits
/// still gives the right 32.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
        f64::deserialize(deserializer).map(|value| value as f32)
    }
}

/// Lists of the same.
mod exact_list {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|&value| f64::from(value)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let values = Vec::<f64>::deserialize(deserializer)?;
        Ok(values.into_iter().map(|value| value as f32).collect())
    }
}
