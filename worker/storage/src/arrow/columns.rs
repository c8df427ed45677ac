//! Columns of a batch: numbers, truth values, text, text by number, and fixed-size lists of those.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, LargeStringArray, PrimitiveArray,
    StringArray, StringViewArray,
};
use arrow_schema::DataType;

use crate::table::Field;

/// What a column holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ColumnKind {
    /// One value a record.
    Single(DataType),
    /// So many values of a kind a record.
    List(u32, Box<ColumnKind>),
}

impl ColumnKind {
    /// The kind of a type that is read here; none of others: dates, decimals, binary, lists of any
    /// length.
    pub fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::UInt64
            | DataType::Float16
            | DataType::Float32
            | DataType::Float64
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View => Some(Self::Single(data_type.clone())),
            DataType::Dictionary(_, values) if **values == DataType::Utf8 => {
                Some(Self::Single(data_type.clone()))
            }
            DataType::FixedSizeList(item, len) => {
                let len = u32::try_from(*len).ok().filter(|&len| len > 0)?;
                Some(Self::List(len, Box::new(Self::of(item.data_type())?)))
            }
            _ => None,
        }
    }

    /// Values of a record; saturates.
    pub fn width(&self) -> u64 {
        match self {
            Self::Single(_) => 1,
            Self::List(len, item) => u64::from(*len).saturating_mul(item.width()),
        }
    }

    /// Lengths of the lists, outermost first.
    pub fn dims(&self) -> Vec<u32> {
        match self {
            Self::Single(_) => Vec::new(),
            Self::List(len, item) => [vec![*len], item.dims()].concat(),
        }
    }
}

/// The values of a column in a batch.
pub(super) enum Values {
    Bool(BooleanArray),
    I8(PrimitiveArray<Int8Type>),
    I16(PrimitiveArray<Int16Type>),
    I32(PrimitiveArray<Int32Type>),
    I64(PrimitiveArray<Int64Type>),
    U8(PrimitiveArray<UInt8Type>),
    U16(PrimitiveArray<UInt16Type>),
    U32(PrimitiveArray<UInt32Type>),
    U64(PrimitiveArray<UInt64Type>),
    F16(PrimitiveArray<Float16Type>),
    F32(PrimitiveArray<Float32Type>),
    F64(PrimitiveArray<Float64Type>),
    Text(StringArray),
    LargeText(LargeStringArray),
    TextView(StringViewArray),
    /// The number of the text of each record, and the texts.
    Dictionary(ArrayRef, Vec<usize>, StringArray),
    /// The lists, the values of one, and the values of all.
    List(FixedSizeListArray, usize, Box<Values>),
}

impl Values {
    /// The values of `array`; none if it isn't of the kind.
    pub fn read(array: &ArrayRef, kind: &ColumnKind) -> Option<Self> {
        if let ColumnKind::List(len, item) = kind {
            let lists = array.as_fixed_size_list_opt()?;
            if u32::try_from(lists.value_length()) != Ok(*len) {
                return None;
            }
            let width = usize::try_from(item.width()).ok()?;
            let items = Self::read(lists.values(), item)?;
            return Some(Self::List(lists.clone(), width, Box::new(items)));
        }
        if ColumnKind::of(array.data_type()).as_ref() != Some(kind) {
            return None;
        }
        Some(match array.data_type() {
            DataType::Boolean => Self::Bool(array.as_boolean_opt()?.clone()),
            DataType::Int8 => Self::I8(array.as_primitive_opt()?.clone()),
            DataType::Int16 => Self::I16(array.as_primitive_opt()?.clone()),
            DataType::Int32 => Self::I32(array.as_primitive_opt()?.clone()),
            DataType::Int64 => Self::I64(array.as_primitive_opt()?.clone()),
            DataType::UInt8 => Self::U8(array.as_primitive_opt()?.clone()),
            DataType::UInt16 => Self::U16(array.as_primitive_opt()?.clone()),
            DataType::UInt32 => Self::U32(array.as_primitive_opt()?.clone()),
            DataType::UInt64 => Self::U64(array.as_primitive_opt()?.clone()),
            DataType::Float16 => Self::F16(array.as_primitive_opt()?.clone()),
            DataType::Float32 => Self::F32(array.as_primitive_opt()?.clone()),
            DataType::Float64 => Self::F64(array.as_primitive_opt()?.clone()),
            DataType::Utf8 => Self::Text(array.as_string_opt()?.clone()),
            DataType::LargeUtf8 => Self::LargeText(array.as_string_opt()?.clone()),
            DataType::Utf8View => Self::TextView(array.as_string_view_opt()?.clone()),
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary_opt()?;
                let texts = dictionary.values().as_string_opt::<i32>()?.clone();
                // Without texts every record is null, and has no number.
                let numbers = if texts.is_empty() {
                    Vec::new()
                } else {
                    dictionary.normalized_keys()
                };
                Self::Dictionary(array.clone(), numbers, texts)
            }
            _ => return None,
        })
    }

    /// The value at a place of a row.
    pub fn field(&self, row: usize, place: usize) -> Field<'_> {
        /// The value of a row, or nothing.
        macro_rules! value {
            ($array:expr, $field:expr) => {
                if $array.is_null(row) {
                    Field::Missing
                } else {
                    $field($array.value(row))
                }
            };
        }
        match self {
            Self::Bool(array) => value!(array, Field::Bool),
            Self::I8(array) => value!(array, |x| Field::Integer(i128::from(x))),
            Self::I16(array) => value!(array, |x| Field::Integer(i128::from(x))),
            Self::I32(array) => value!(array, |x| Field::Integer(i128::from(x))),
            Self::I64(array) => value!(array, |x| Field::Integer(i128::from(x))),
            Self::U8(array) => value!(array, |x| Field::Integer(i128::from(x))),
            Self::U16(array) => value!(array, |x| Field::Integer(i128::from(x))),
            Self::U32(array) => value!(array, |x| Field::Integer(i128::from(x))),
            Self::U64(array) => value!(array, |x| Field::Integer(i128::from(x))),
            Self::F16(array) => value!(array, |x| Field::Single(f32::from(x))),
            Self::F32(array) => value!(array, Field::Single),
            Self::F64(array) => value!(array, Field::Double),
            Self::Text(array) => value!(array, Field::of_text),
            Self::LargeText(array) => value!(array, Field::of_text),
            Self::TextView(array) => value!(array, Field::of_text),
            Self::Dictionary(array, numbers, texts) => match numbers.get(row) {
                Some(&number) if !array.is_null(row) && !texts.is_null(number) => {
                    Field::of_text(texts.value(number))
                }
                _ => Field::Missing,
            },
            Self::List(lists, width, items) => {
                if lists.is_null(row) {
                    return Field::Missing;
                }
                let start = lists.value_offset_at(row);
                items.field(start.saturating_add(place / width), place % width)
            }
        }
    }
}
