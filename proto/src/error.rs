//! What is wrong with a message.

use ringfold_common::job::SpecError;

/// A field that is missing or out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, got {got}")]
pub struct FieldError {
    /// The path of the field, such as `spec.train.optimizer`.
    pub field: String,
    /// What would have been right.
    pub expected: String,
    /// What was there.
    pub got: String,
}

impl FieldError {
    pub(crate) fn missing(field: &str) -> Self {
        Self::new(field, "a value", "nothing")
    }

    pub(crate) fn new(field: &str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self {
            field: field.to_owned(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

impl From<SpecError> for FieldError {
    fn from(error: SpecError) -> Self {
        Self {
            field: format!("spec.{}", error.field),
            expected: error.expected,
            got: error.got,
        }
    }
}

/// The value, or the error that the field is missing.
pub(crate) fn required<T>(value: Option<T>, field: &str) -> Result<T, FieldError> {
    value.ok_or_else(|| FieldError::missing(field))
}
