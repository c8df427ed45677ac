//! Errors to gRPC statuses with details. The one place where a code is chosen is
//! `ringfold_common::error`.

use std::collections::HashMap;

use ringfold_common::error::ErrorCode;
use ringfold_coordinator_core::Refusal;
use ringfold_proto::FieldError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::submission::SubmissionError;

/// The domain of `google.rpc.ErrorInfo` details.
const DOMAIN: &str = "ringfold";

/// A status with an `ErrorInfo` detail.
pub(crate) fn new(code: ErrorCode, message: impl ToString) -> Status {
    with_details(code, message, ErrorDetails::new())
}

fn with_details(code: ErrorCode, message: impl ToString, mut details: ErrorDetails) -> Status {
    details.set_error_info(code.name().to_uppercase(), DOMAIN, HashMap::new());
    Status::with_error_details(Code::from_i32(code.grpc()), message.to_string(), details)
}

/// A field that is missing or out of range: a `BadRequest` detail names it.
pub(crate) fn field(error: &FieldError) -> Status {
    let violation = format!("expected {}, got {}", error.expected, error.got);
    let details = ErrorDetails::with_bad_request_violation(&error.field, violation);
    with_details(ErrorCode::InvalidArgument, error, details)
}

/// A job id that does not parse.
pub(crate) fn job_id(error: impl ToString) -> Status {
    let details = ErrorDetails::with_bad_request_violation("job_id", error.to_string());
    with_details(ErrorCode::InvalidArgument, error, details)
}

/// A request that the core refused.
pub(crate) fn refusal(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::InvalidSpec(error) => field(&error.clone().into()),
        _ => new(refusal.code(), refusal),
    }
}

/// A job that can't be trained.
pub(crate) fn submission(error: &SubmissionError) -> Status {
    let message = error.message();
    let field = format!("spec.{}", error.field());
    let details = ErrorDetails::with_bad_request_violation(field, &message);
    with_details(ErrorCode::InvalidArgument, message, details)
}

#[cfg(test)]
mod tests {
    use ringfold_common::ids::JobId;

    use super::*;

    #[test]
    fn a_bad_field_is_named_in_the_details() {
        let error = FieldError {
            field: "spec.train.global_batch".into(),
            expected: "a whole number".into(),
            got: "0".into(),
        };
        let status = field(&error);
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "spec.train.global_batch");
        assert_eq!(
            status.get_details_error_info().unwrap().reason,
            "INVALID_ARGUMENT"
        );
    }

    #[test]
    fn refusals_keep_their_code_and_words() {
        let status = refusal(&Refusal::UnknownJob { job: JobId(7) });
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "job-7 is unknown")
        );
    }
}
