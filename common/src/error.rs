//! One table of error codes at the edge.
//!
//! Crates keep their own error enums. Where an error leaves the process, it is one of these codes;
//! gRPC status, exit code and words all come from this table.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure a caller sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request can't be right, whatever the state of the cluster.
    InvalidArgument,
    /// The thing named doesn't exist.
    NotFound,
    /// The thing exists already, and differs.
    AlreadyExists,
    /// The request is fine, the state of the cluster isn't.
    FailedPrecondition,
    /// The caller may not do this.
    PermissionDenied,
    /// A documented limit is reached.
    ResourceExhausted,
    /// The operation was stopped by someone.
    Aborted,
    /// It can't be reached now; trying again may help.
    Unavailable,
    /// Time ran out.
    DeadlineExceeded,
    /// A fault of ours.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::FailedPrecondition,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::Aborted,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Internal,
    ];

    /// The canonical gRPC status code's number.
    #[must_use]
    pub fn grpc(self) -> i32 {
        match self {
            Self::InvalidArgument => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::FailedPrecondition => 9,
            Self::Aborted => 10,
            Self::Internal => 13,
            Self::Unavailable => 14,
        }
    }

    /// The code for a gRPC status code's number; what is not in the table is [`Self::Internal`].
    #[must_use]
    pub fn from_grpc(number: i32) -> Self {
        Self::ALL
            .into_iter()
            .find(|code| code.grpc() == number)
            .unwrap_or(Self::Internal)
    }

    /// The exit code of the `ringfold` command.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::InvalidArgument | Self::NotFound | Self::AlreadyExists => 2,
            Self::Unavailable | Self::DeadlineExceeded => 3,
            _ => 1,
        }
    }

    /// The name used in logs and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::FailedPrecondition => "failed_precondition",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Aborted => "aborted",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error with its causes, as one line: `what failed: why: why that`. A cause whose words the line
/// already ends with is left out, since transparent errors repeat their cause.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_numbers_are_distinct_and_round_trip() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_grpc(code.grpc()), code);
        }
        assert_eq!(ErrorCode::from_grpc(2), ErrorCode::Internal);
    }

    #[derive(Debug, thiserror::Error)]
    enum Nested {
        #[error("outer")]
        Outer(#[source] Box<Nested>),
        #[error(transparent)]
        Same(Box<Nested>),
        #[error("inner")]
        Inner,
    }

    #[test]
    fn causes_are_said_once() {
        let outer = Nested::Outer(Box::new(Nested::Same(Box::new(Nested::Inner))));
        assert_eq!(one_line(&outer), "outer: inner");
        assert_eq!(one_line(&Nested::Same(Box::new(outer))), "outer: inner");
    }
}
