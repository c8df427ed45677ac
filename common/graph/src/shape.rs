//! Element types, dimensions, shapes and tensor types.

use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64: for gradient checks.
    F64,
    /// Signed 32-bit integers: class labels, indices.
    I32,
    /// Signed 64-bit integers: indices.
    I64,
    /// Truth values, one byte each; 0 is false.
    Bool,
}

impl DType {
    /// The name in dumps and errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::Bool => "bool",
        }
    }

    /// True for the floating-point types.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// True for the types that can name positions.
    #[must_use]
    pub fn is_index(self) -> bool {
        matches!(self, Self::I32 | Self::I64)
    }

    /// Bytes per element.
    #[must_use]
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
            Self::Bool => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One dimension of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// The number of samples in the micro-batch; bound when the graph is planned.
    Batch,
    /// This many times the number of samples, at least 2: the batch merged with other dimensions.
    BatchTimes(usize),
    /// A number that is part of the model.
    Fixed(usize),
}

impl Dim {
    /// `times` samples' worth: [`Dim::Batch`] for 1.
    #[must_use]
    pub fn batches(times: usize) -> Self {
        if times == 1 {
            Self::Batch
        } else {
            Self::BatchTimes(times)
        }
    }

    /// The number for a batch of `batch` samples; saturates.
    #[must_use]
    pub fn bind(self, batch: usize) -> usize {
        match self {
            Self::Batch => batch,
            Self::BatchTimes(times) => times.saturating_mul(batch),
            Self::Fixed(n) => n,
        }
    }

    /// The number, if it doesn't depend on the batch.
    #[must_use]
    pub fn fixed(self) -> Option<usize> {
        match self {
            Self::Fixed(n) => Some(n),
            _ => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch => f.write_str("batch"),
            Self::BatchTimes(times) => write!(f, "{times}*batch"),
            Self::Fixed(n) => write!(f, "{n}"),
        }
    }
}

/// The dimensions of a tensor, outermost first. No dimension: a scalar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape(Vec<Dim>);

impl Shape {
    /// A shape of the given dimensions.
    #[must_use]
    pub fn new(dims: Vec<Dim>) -> Self {
        Self(dims)
    }

    /// The shape `[]` of one element.
    #[must_use]
    pub fn scalar() -> Self {
        Self(Vec::new())
    }

    /// A shape without the batch.
    #[must_use]
    pub fn fixed(dims: &[usize]) -> Self {
        Self(dims.iter().map(|&n| Dim::Fixed(n)).collect())
    }

    /// The shape `[batch, dims...]`.
    #[must_use]
    pub fn batched(dims: &[usize]) -> Self {
        let mut all = vec![Dim::Batch];
        all.extend(dims.iter().map(|&n| Dim::Fixed(n)));
        Self(all)
    }

    /// The dimensions, outermost first.
    #[must_use]
    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// The number of dimensions.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// True if a dimension is the batch.
    #[must_use]
    pub fn has_batch(&self) -> bool {
        self.0.iter().any(|dim| dim.fixed().is_none())
    }

    /// The dimensions as numbers, for a batch of `batch` samples.
    #[must_use]
    pub fn bind(&self, batch: usize) -> Vec<usize> {
        self.0.iter().map(|dim| dim.bind(batch)).collect()
    }

    /// The number of elements for a batch of `batch` samples; `None` if it overflows `usize`.
    #[must_use]
    pub fn elements(&self, batch: usize) -> Option<usize> {
        self.bind(batch)
            .into_iter()
            .try_fold(1usize, |product, n| product.checked_mul(n))
    }

    /// The number of elements as `count · batch^power`; `None` if `count` overflows.
    #[must_use]
    pub fn size(&self) -> Option<(usize, u32)> {
        self.0.iter().try_fold((1usize, 0), |(count, power), dim| {
            let (factor, more) = match dim {
                Dim::Batch => (1, 1),
                Dim::BatchTimes(times) => (*times, 1),
                Dim::Fixed(n) => (*n, 0),
            };
            Some((count.checked_mul(factor)?, power + more))
        })
    }

    /// The shape that both broadcast to under NumPy's rules: aligned at the last dimension, a
    /// dimension of 1 stretches. `None` if they don't fit.
    #[must_use]
    pub fn broadcast(&self, other: &Self) -> Option<Self> {
        let rank = self.rank().max(other.rank());
        let at = |shape: &Self, i: usize| {
            let missing = rank - shape.rank();
            if i < missing {
                Dim::Fixed(1)
            } else {
                shape.0[i - missing]
            }
        };
        let dims = (0..rank).map(|i| match (at(self, i), at(other, i)) {
            (a, b) if a == b => Some(a),
            (Dim::Fixed(1), b) => Some(b),
            (a, Dim::Fixed(1)) => Some(a),
            _ => None,
        });
        dims.collect::<Option<Vec<Dim>>>().map(Self)
    }

    /// The shape of the same elements with the dimensions `to`, as PyTorch's and ONNX's `reshape`:
    /// 0 copies the dimension at its position, one -1 is what remains. Where the batch isn't among
    /// the copied ones, the remaining dimension takes it. `None` if the elements don't fit.
    #[must_use]
    pub fn reshape(&self, to: &[i64]) -> Option<Self> {
        let mut dims = Vec::with_capacity(to.len());
        let mut rest = None;
        for (i, &n) in to.iter().enumerate() {
            dims.push(match n {
                -1 if rest.is_none() => {
                    rest = Some(i);
                    Dim::Fixed(1)
                }
                0 => *self.0.get(i)?,
                n => Dim::Fixed(usize::try_from(n).ok()?),
            });
        }
        let (count, power) = self.size()?;
        let (known, known_power) = Self(dims.clone()).size()?;
        if let Some(rest) = rest {
            if known == 0 || !count.is_multiple_of(known) {
                return None;
            }
            dims[rest] = match power.checked_sub(known_power)? {
                0 => Dim::Fixed(count / known),
                1 => Dim::batches(count / known),
                _ => return None,
            };
        } else if (count, power) != (known, known_power) {
            return None;
        }
        Some(Self(dims))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{dim}")?;
        }
        f.write_str("]")
    }
}

/// The type of a value: elements and shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The type of the elements.
    pub dtype: DType,
    /// The dimensions.
    pub shape: Shape,
}

impl TensorType {
    /// A tensor type.
    #[must_use]
    pub fn new(dtype: DType, shape: Shape) -> Self {
        Self { dtype, shape }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_bind_and_print() {
        let shape = Shape::batched(&[3, 4]);
        assert_eq!(shape.bind(5), [5, 3, 4]);
        assert_eq!(shape.elements(5), Some(60));
        assert_eq!(
            TensorType::new(DType::F32, shape).to_string(),
            "f32[batch, 3, 4]"
        );
        assert_eq!(Shape::scalar().elements(9), Some(1));
        assert_eq!(Shape::scalar().to_string(), "[]");
    }

    #[test]
    fn shapes_broadcast_as_numpy_says() {
        let shape = |dims: &[usize]| Shape::fixed(dims);
        let both = |a: &[usize], b: &[usize]| shape(a).broadcast(&shape(b));
        assert_eq!(both(&[3, 1], &[2, 1, 4]), Some(shape(&[2, 3, 4])));
        assert_eq!(both(&[], &[5]), Some(shape(&[5])));
        assert_eq!(both(&[2], &[3]), None);
        let batched = Shape::batched(&[4]);
        assert_eq!(batched.broadcast(&shape(&[1, 4])), Some(batched.clone()));
        assert_eq!(batched.broadcast(&shape(&[2, 4])), None);
    }

    #[test]
    fn reshapes_keep_the_batch_symbolic() {
        let shape = Shape::batched(&[6, 4]);
        assert_eq!(shape.reshape(&[0, -1]), Some(Shape::batched(&[24])));
        let merged = Shape::new(vec![Dim::BatchTimes(6), Dim::Fixed(4)]);
        assert_eq!(shape.reshape(&[-1, 4]), Some(merged.clone()));
        assert_eq!(merged.to_string(), "[6*batch, 4]");
        assert_eq!(merged.reshape(&[-1, 6, 4]), Some(Shape::batched(&[6, 4])));
        assert_eq!(shape.reshape(&[6, 4]), None);
        assert_eq!(shape.reshape(&[0, 7, -1]), None);
    }

    #[test]
    fn element_counts_that_overflow_are_none() {
        assert_eq!(Shape::fixed(&[usize::MAX, 2]).elements(1), None);
        assert_eq!(Shape::batched(&[2]).elements(usize::MAX), None);
    }
}
