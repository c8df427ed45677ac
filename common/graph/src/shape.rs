//! Element types, dimensions, shapes and tensor types.

use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64: for gradient checks.
    F64,
    /// Signed 32-bit integers: class labels.
    I32,
}

impl DType {
    /// True for the floating-point types.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// Bytes per element.
    #[must_use]
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F64 => 8,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I32 => "i32",
        })
    }
}

/// One dimension of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// The number of samples in the micro-batch; bound when the graph is planned.
    Batch,
    /// A number that is part of the model.
    Fixed(usize),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch => f.write_str("batch"),
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
        self.0.contains(&Dim::Batch)
    }

    /// The dimensions as numbers, for a batch of `batch` samples.
    #[must_use]
    pub fn bind(&self, batch: usize) -> Vec<usize> {
        self.0
            .iter()
            .map(|dim| match dim {
                Dim::Batch => batch,
                Dim::Fixed(n) => *n,
            })
            .collect()
    }

    /// The number of elements for a batch of `batch` samples; `None` if it overflows `usize`.
    #[must_use]
    pub fn elements(&self, batch: usize) -> Option<usize> {
        self.bind(batch)
            .into_iter()
            .try_fold(1usize, |product, n| product.checked_mul(n))
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
    fn element_counts_that_overflow_are_none() {
        assert_eq!(Shape::fixed(&[usize::MAX, 2]).elements(1), None);
        assert_eq!(Shape::batched(&[2]).elements(usize::MAX), None);
    }
}
