//! What can be wrong with what another rank sent.

use std::fmt;

/// Why a compressed block can't be right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PayloadFault {
    /// Not as long as its elements need.
    Length {
        /// Its bytes.
        got: usize,
        /// What was needed, or the most.
        expected: usize,
    },
    /// A scale that no block has.
    Scale {
        /// The number of the block that it is for.
        block: usize,
        /// What it is.
        scale: f32,
        /// The greatest that a block can have.
        max: f32,
    },
    /// A byte that stands for no number.
    Quantum {
        /// The element that it is for.
        element: usize,
    },
    /// An index that is outside the vector, or not above the one before.
    Index {
        /// Its place in the block.
        place: usize,
        /// What it is.
        index: u32,
        /// The one before.
        before: Option<u32>,
        /// The length of the vector.
        elements: usize,
    },
    /// A value that is not finite.
    Value {
        /// Its place in the block.
        place: usize,
        /// What it is.
        value: f32,
    },
}

impl fmt::Display for PayloadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Length { got, expected } => write!(f, "{got} bytes: expected {expected}"),
            Self::Scale { block, scale, max } => {
                write!(
                    f,
                    "the scale of block {block} is {scale}: expected 0 to {max:e}"
                )
            }
            Self::Quantum { element } => {
                write!(f, "element {element} is -128: expected -127 to 127")
            }
            Self::Index {
                place,
                index,
                before,
                elements,
            } => {
                write!(f, "index {place} is {index}: expected one ")?;
                if let Some(before) = before {
                    write!(f, "above {before} and ")?;
                }
                write!(f, "below {elements}")
            }
            Self::Value { place, value } => {
                write!(f, "value {place} is {value}: expected a finite number")
            }
        }
    }
}
