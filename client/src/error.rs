//! Why a call failed.

use ringfold_common::error::ErrorCode;
use ringfold_net::channel::ConnectError;
use tonic::Status;
use tonic_types::StatusExt;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The coordinator can't be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The coordinator said no.
    #[error("{message}")]
    Refused {
        /// Why.
        code: ErrorCode,
        /// In words.
        message: String,
        /// The fields that can't be right.
        fields: Vec<FieldViolation>,
    },
    /// The coordinator's answer lacks a part.
    #[error("the coordinator's answer has no {field}")]
    Incomplete {
        /// What is missing.
        field: &'static str,
    },
}

/// A field that can't be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path, such as `spec.train.global_batch`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl ClientError {
    /// The code at the edge.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Connect(ConnectError::BadAddress { .. }) => ErrorCode::InvalidArgument,
            Self::Connect(ConnectError::Unreachable { .. }) => ErrorCode::Unavailable,
            Self::Refused { code, .. } => *code,
            Self::Incomplete { .. } => ErrorCode::Internal,
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let violations = status
            .get_details_bad_request()
            .map(|bad| bad.field_violations);
        let fields = violations
            .unwrap_or_default()
            .into_iter()
            .map(|violation| FieldViolation {
                field: violation.field,
                description: violation.description,
            });
        Self::Refused {
            code: ErrorCode::from_grpc(status.code() as i32),
            message: status.message().to_owned(),
            fields: fields.collect(),
        }
    }
}
