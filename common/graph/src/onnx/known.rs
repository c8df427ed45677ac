//! Tensors whose elements are known when the model is read: constants, and shapes, in which the batch
//! stays a symbol.

use super::error::OnnxError;
use super::proto;
use crate::graph::ConstantData;
use crate::shape::Dim;

/// The most elements of a tensor that is computed while a model is read.
pub const FOLDED_ELEMENTS_MAX: usize = 1 << 24;
/// The most elements of all tensors that are computed while a model is read.
pub const FOLDED_TOTAL_MAX: usize = 1 << 26;
/// The most dimensions of a tensor.
pub const RANK_MAX: usize = 16;

/// The type of a tensor's elements in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// IEEE 754 binary32.
    Float,
    /// IEEE 754 binary64: in constants only.
    Double,
    /// IEEE 754 binary16: in constants only.
    Float16,
    /// The upper half of binary32: in constants only.
    BFloat16,
    /// Signed 32-bit integers.
    Int32,
    /// Signed 64-bit integers.
    Int64,
    /// Other integers, of so many bits and perhaps signed: in constants only.
    Int {
        /// 8, 16, 32 or 64.
        bits: u8,
        /// Two's complement.
        signed: bool,
    },
    /// Truth values.
    Bool,
}

impl ElementType {
    pub(super) fn of_code(code: i64) -> Option<Self> {
        let int = |bits, signed| Self::Int { bits, signed };
        Some(match code {
            1 => Self::Float,
            2 => int(8, false),
            3 => int(8, true),
            4 => int(16, false),
            5 => int(16, true),
            6 => Self::Int32,
            7 => Self::Int64,
            9 => Self::Bool,
            10 => Self::Float16,
            11 => Self::Double,
            12 => int(32, false),
            13 => int(64, false),
            16 => Self::BFloat16,
            _ => return None,
        })
    }

    pub(super) fn is_float(self) -> bool {
        matches!(
            self,
            Self::Float | Self::Double | Self::Float16 | Self::BFloat16
        )
    }

    fn bytes(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Int { bits, .. } => usize::from(bits / 8),
            Self::Float16 | Self::BFloat16 => 2,
            Self::Float | Self::Int32 => 4,
            Self::Double | Self::Int64 => 8,
        }
    }
}

/// A tensor of a model, or of a file of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The type of the elements.
    pub elements: ElementType,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub data: ConstantData,
}

/// An integer that may be a multiple of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Fixed(i64),
    /// So many times the batch, at least 1.
    Batches(i64),
}

impl Size {
    pub(super) fn of(dim: Dim) -> Self {
        match dim {
            Dim::Fixed(n) => Self::Fixed(i64::try_from(n).unwrap_or(i64::MAX)),
            Dim::Batch => Self::Batches(1),
            Dim::BatchTimes(n) => Self::Batches(i64::try_from(n).unwrap_or(i64::MAX)),
        }
    }

    pub(super) fn dim(self) -> Option<Dim> {
        match self {
            Self::Fixed(n) => usize::try_from(n).ok().map(Dim::Fixed),
            Self::Batches(n) => usize::try_from(n).ok().filter(|&n| n > 0).map(Dim::batches),
        }
    }

    pub(super) fn fixed(self) -> Option<i64> {
        match self {
            Self::Fixed(n) => Some(n),
            Self::Batches(_) => None,
        }
    }
}

/// The elements of [`Known`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Float(Vec<f64>),
    Int(Vec<Size>),
    Bool(Vec<bool>),
}

/// A tensor whose elements are known.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub elements: ElementType,
    pub shape: Vec<usize>,
    pub data: Data,
}

impl Known {
    pub(super) fn new(elements: ElementType, shape: Vec<usize>, data: Data) -> Self {
        Self {
            elements,
            shape,
            data,
        }
    }

    /// A vector of 64-bit integers.
    pub(super) fn sizes(sizes: Vec<Size>) -> Self {
        Self::new(ElementType::Int64, vec![sizes.len()], Data::Int(sizes))
    }

    pub(super) fn len(&self) -> usize {
        match &self.data {
            Data::Float(data) => data.len(),
            Data::Int(data) => data.len(),
            Data::Bool(data) => data.len(),
        }
    }

    /// The elements as integers and multiples of the batch.
    pub(super) fn as_sizes(&self) -> Option<&[Size]> {
        match &self.data {
            Data::Int(data) => Some(data),
            _ => None,
        }
    }

    /// The elements, if they are fixed integers.
    pub(super) fn as_ints(&self) -> Option<Vec<i64>> {
        self.as_sizes()?.iter().map(|size| size.fixed()).collect()
    }

    /// The elements as numbers.
    pub(super) fn numbers(&self) -> Option<Vec<f64>> {
        match &self.data {
            Data::Float(data) => Some(data.clone()),
            Data::Int(_) => Some(self.as_ints()?.into_iter().map(|n| n as f64).collect()),
            Data::Bool(data) => Some(data.iter().map(|&b| f64::from(u8::from(b))).collect()),
        }
    }

    /// The only element as a number.
    pub(super) fn number(&self) -> Option<f64> {
        if self.len() != 1 {
            return None;
        }
        self.numbers()?.first().copied()
    }

    /// The elements at these positions.
    pub(super) fn pick(&self, shape: Vec<usize>, positions: &[usize]) -> Self {
        fn of<T: Copy>(data: &[T], positions: &[usize]) -> Vec<T> {
            positions.iter().map(|&i| data[i]).collect()
        }
        let data = match &self.data {
            Data::Float(data) => Data::Float(of(data, positions)),
            Data::Int(data) => Data::Int(of(data, positions)),
            Data::Bool(data) => Data::Bool(of(data, positions)),
        };
        Self::new(self.elements, shape, data)
    }

    /// The same elements under another shape of as many.
    pub(super) fn reshaped(&self, shape: Vec<usize>) -> Self {
        Self {
            shape,
            ..self.clone()
        }
    }

    /// What a graph's constant holds; `None` if an element depends on the batch.
    pub(super) fn constant(&self) -> Option<ConstantData> {
        Some(match &self.data {
            Data::Float(data) => ConstantData::Float(data.clone()),
            Data::Int(_) => ConstantData::Int(self.as_ints()?),
            Data::Bool(data) => ConstantData::Bool(data.clone()),
        })
    }
}

impl From<Tensor> for Known {
    fn from(tensor: Tensor) -> Self {
        let data = match tensor.data {
            ConstantData::Float(data) => Data::Float(data),
            ConstantData::Int(data) => Data::Int(data.into_iter().map(Size::Fixed).collect()),
            ConstantData::Bool(data) => Data::Bool(data),
        };
        Self::new(tensor.elements, tensor.shape, data)
    }
}

/// What gives the bytes of data that stand outside of the model file.
pub type Resolver<'a> = &'a dyn Fn(&proto::External<'_>) -> Option<Vec<u8>>;

/// The dimensions and number of elements of a tensor.
pub(super) fn tensor_shape(tensor: &proto::Tensor<'_>) -> Result<(Vec<usize>, usize), OnnxError> {
    let refuse = || OnnxError::Tensor {
        tensor: tensor.name.to_owned(),
        expected: "dimensions of a tensor that fits in memory",
        got: format!("{:?}", &tensor.dims[..tensor.dims.len().min(16)]),
    };
    let dims = tensor.dims.iter().map(|&dim| usize::try_from(dim).ok());
    let dims: Vec<usize> = dims.collect::<Option<_>>().ok_or_else(refuse)?;
    let len = dims
        .iter()
        .try_fold(1usize, |len, &dim| len.checked_mul(dim));
    let len = len.filter(|&len| len < proto::MODEL_BYTES_MAX && dims.len() <= RANK_MAX);
    Ok((dims, len.ok_or_else(refuse)?))
}

/// The elements of a tensor message. Memory is taken for no more elements than the message or the
/// resolver has bytes for.
pub(super) fn decode(
    tensor: &proto::Tensor<'_>,
    resolver: Option<Resolver<'_>>,
) -> Result<Tensor, OnnxError> {
    let refuse = |expected, got| OnnxError::Tensor {
        tensor: tensor.name.to_owned(),
        expected,
        got,
    };
    let elements = ElementType::of_code(tensor.data_type).ok_or_else(|| {
        let expected = "elements of a float, integer or bool type";
        refuse(expected, format!("type {}", tensor.data_type))
    })?;
    let (shape, len) = tensor_shape(tensor)?;
    let fetched;
    let raw = match &tensor.external {
        None => tensor.raw,
        Some(external) => {
            fetched = resolver.and_then(|resolver| resolver(external));
            let bytes = fetched.as_deref().ok_or_else(|| OnnxError::ExternalData {
                tensor: tensor.name.to_owned(),
                location: external.location.to_owned(),
            });
            Some(bytes?)
        }
    };
    let data = match raw {
        Some(raw) => {
            if Some(raw.len()) != len.checked_mul(elements.bytes()) {
                let got = format!("{} bytes for {len} elements", raw.len());
                return Err(refuse("as many bytes as the shape says", got));
            }
            decode_raw(elements, raw)
        }
        None => decode_lists(elements, tensor),
    };
    if data.len() != len {
        let got = format!("{} for {len}", data.len());
        return Err(refuse("as many elements as the shape says", got));
    }
    Ok(Tensor {
        elements,
        shape,
        data,
    })
}

fn decode_raw(elements: ElementType, raw: &[u8]) -> ConstantData {
    fn each<const N: usize, T>(raw: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
        raw.as_chunks::<N>()
            .0
            .iter()
            .map(|&chunk| of(chunk))
            .collect()
    }
    use ConstantData::{Bool, Float, Int};
    match elements {
        ElementType::Float => Float(each(raw, |b| f64::from(f32::from_le_bytes(b)))),
        ElementType::Double => Float(each(raw, f64::from_le_bytes)),
        ElementType::Float16 => Float(each(raw, |b| half(u16::from_le_bytes(b)))),
        ElementType::BFloat16 => Float(each(raw, |b| bfloat(u16::from_le_bytes(b)))),
        ElementType::Int32 => Int(each(raw, |b| i64::from(i32::from_le_bytes(b)))),
        ElementType::Int64 => Int(each(raw, i64::from_le_bytes)),
        ElementType::Bool => Bool(each(raw, |[b]: [u8; 1]| b != 0)),
        ElementType::Int { bits, signed } => Int(match (bits, signed) {
            (8, true) => each(raw, |b| i64::from(i8::from_le_bytes(b))),
            (8, false) => each(raw, |[b]: [u8; 1]| i64::from(b)),
            (16, true) => each(raw, |b| i64::from(i16::from_le_bytes(b))),
            (16, false) => each(raw, |b| i64::from(u16::from_le_bytes(b))),
            (32, _) => each(raw, |b| i64::from(u32::from_le_bytes(b))),
            // Beyond 63 bits the largest: such numbers aren't sizes or positions.
            _ => each(raw, |b| {
                i64::try_from(u64::from_le_bytes(b)).unwrap_or(i64::MAX)
            }),
        }),
    }
}

fn decode_lists(elements: ElementType, tensor: &proto::Tensor<'_>) -> ConstantData {
    use ConstantData::{Bool, Float, Int};
    let halves = |of: fn(u16) -> f64| Float(tensor.ints.iter().map(|&n| of(n as u16)).collect());
    match elements {
        ElementType::Float => Float(tensor.floats.iter().map(|&x| f64::from(x)).collect()),
        ElementType::Double => Float(tensor.doubles.clone()),
        ElementType::Float16 => halves(half),
        ElementType::BFloat16 => halves(bfloat),
        ElementType::Bool => Bool(tensor.ints.iter().map(|&n| n != 0).collect()),
        ElementType::Int32 | ElementType::Int64 | ElementType::Int { .. } => {
            Int(tensor.ints.clone())
        }
    }
}

fn bfloat(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let size = match bits >> 10 & 0x1f {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction / 1024.0) * 2f64.powi(i32::from(exponent) - 15),
    };
    if bits >> 15 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_those_of_ieee() {
        let pairs = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_477_539_063e-8),
            (0x7c00, f64::INFINITY),
        ];
        for (bits, number) in pairs {
            assert_eq!(half(bits), number);
        }
        assert!(half(0x7c01).is_nan());
        assert_eq!(bfloat(0x3fc0), 1.5);
    }

    #[test]
    fn data_that_do_not_fit_the_shape_are_refused() {
        let tensor = proto::Tensor {
            dims: vec![1 << 20, 1 << 10],
            data_type: 1,
            raw: Some(&[0; 8]),
            ..proto::Tensor::default()
        };
        assert!(matches!(
            decode(&tensor, None),
            Err(OnnxError::Tensor { .. })
        ));
        let tensor = proto::Tensor {
            dims: vec![-1],
            ..tensor
        };
        assert!(matches!(
            decode(&tensor, None),
            Err(OnnxError::Tensor { .. })
        ));
    }
}
