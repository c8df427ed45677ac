//! Jobs and what they report.

use prost_types::Timestamp;
use ringfold_common::clock::UnixMillis;
use ringfold_common::dataset::{DatasetInfo, Target};
use ringfold_common::ids::{Epoch, Step};
use ringfold_common::job::{
    Cause, Evaluation, Execution, Failure, FoldMode, GradientBytes, JobEvent, JobEventKind,
    JobState, Phase, Progress, RankReport, Reason, Summary,
};
use ringfold_common::vocabulary::{Characters, Vocabulary};

use crate::error::{FieldError, required};
use crate::v1;

/// A moment as protobuf has it.
#[must_use]
pub fn timestamp(at: UnixMillis) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(at.0 / 1000).unwrap_or(i64::MAX),
        nanos: (at.0 % 1000) as i32 * 1_000_000,
    }
}

impl From<JobState> for v1::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Starting => Self::Starting,
            JobState::Running => Self::Running,
            JobState::Succeeded => Self::Succeeded,
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
        }
    }
}

impl TryFrom<v1::JobState> for JobState {
    type Error = FieldError;

    fn try_from(state: v1::JobState) -> Result<Self, FieldError> {
        Ok(match state {
            v1::JobState::Queued => Self::Queued,
            v1::JobState::Starting => Self::Starting,
            v1::JobState::Running => Self::Running,
            v1::JobState::Succeeded => Self::Succeeded,
            v1::JobState::Failed => Self::Failed,
            v1::JobState::Cancelled => Self::Cancelled,
            v1::JobState::Unspecified => {
                return Err(FieldError::new(
                    "state",
                    "a job state",
                    "an unspecified value",
                ));
            }
        })
    }
}

impl From<&RankReport> for v1::RankInfo {
    fn from(rank: &RankReport) -> Self {
        Self {
            rank: rank.rank.0,
            node: rank.node.0.clone(),
            host: rank.host.clone(),
            pid: rank.pid,
            ring_address: rank.ring_address.clone().unwrap_or_default(),
        }
    }
}

impl From<&DatasetInfo> for v1::DatasetInfo {
    fn from(info: &DatasetInfo) -> Self {
        Self {
            train_records: info.train_records,
            test_records: info.test_records,
            features: info.features,
            target: Some(match &info.target {
                Target::Classes(names) => v1::dataset_info::Target::Classes(v1::ClassNames {
                    names: names.clone(),
                }),
                Target::Values(count) => v1::dataset_info::Target::Values(*count),
                Target::Tokens(vocabulary) => v1::dataset_info::Target::Tokens(vocabulary.into()),
            }),
            fingerprint: info.fingerprint.to_vec(),
        }
    }
}

impl TryFrom<v1::DatasetInfo> for DatasetInfo {
    type Error = FieldError;

    fn try_from(info: v1::DatasetInfo) -> Result<Self, FieldError> {
        Ok(Self {
            train_records: info.train_records,
            test_records: info.test_records,
            features: info.features,
            target: match required(info.target, "dataset.target")? {
                v1::dataset_info::Target::Classes(classes) => Target::Classes(classes.names),
                v1::dataset_info::Target::Values(count) => Target::Values(count),
                v1::dataset_info::Target::Tokens(vocabulary) => {
                    Target::Tokens(vocabulary.try_into()?)
                }
            },
            fingerprint: hash_from_wire(&info.fingerprint, "dataset.fingerprint")?,
        })
    }
}

impl From<&Vocabulary> for v1::Vocabulary {
    fn from(vocabulary: &Vocabulary) -> Self {
        use v1::vocabulary::Kind;
        Self {
            kind: Some(match vocabulary {
                Vocabulary::Bytes => Kind::Bytes(v1::Unit {}),
                Vocabulary::Characters(characters) => {
                    Kind::Characters(characters.as_slice().iter().collect())
                }
            }),
        }
    }
}

impl TryFrom<v1::Vocabulary> for Vocabulary {
    type Error = FieldError;

    fn try_from(vocabulary: v1::Vocabulary) -> Result<Self, FieldError> {
        use v1::vocabulary::Kind;
        match required(vocabulary.kind, "dataset.tokens.kind")? {
            Kind::Bytes(_) => Ok(Self::Bytes),
            Kind::Characters(text) => {
                Characters::new(&text)
                    .map(Self::Characters)
                    .map_err(|error| {
                        let expected = "distinct characters in ascending order";
                        FieldError::new("dataset.tokens.characters", expected, error)
                    })
            }
        }
    }
}

pub(crate) fn hash_from_wire(bytes: &[u8], field: &str) -> Result<[u8; 32], FieldError> {
    bytes
        .try_into()
        .map_err(|_| FieldError::new(field, "32 bytes", format!("{} bytes", bytes.len())))
}

impl From<&JobEvent> for v1::JobEvent {
    fn from(event: &JobEvent) -> Self {
        use v1::job_event::Kind;
        Self {
            job_id: event.job.to_string(),
            sequence: event.sequence,
            at: Some(timestamp(event.at)),
            membership_epoch: event.membership_epoch.0,
            kind: Some(match &event.kind {
                JobEventKind::State {
                    state,
                    reason,
                    summary,
                } => Kind::State(v1::StateChange {
                    state: v1::JobState::from(*state).into(),
                    reason: reason.to_string(),
                    failure: failure_to_wire(reason),
                    summary: summary.as_deref().map(Into::into),
                }),
                JobEventKind::Progress(progress) => Kind::Progress(progress.into()),
                JobEventKind::Evaluation(evaluation) => Kind::Evaluation(evaluation.into()),
            }),
        }
    }
}

/// The failure in a reason, if it is one.
#[must_use]
pub fn failure_to_wire(reason: &Reason) -> Option<v1::Failure> {
    match reason {
        Reason::Failed(failure) => Some(failure.into()),
        _ => None,
    }
}

impl From<&Failure> for v1::Failure {
    fn from(failure: &Failure) -> Self {
        Self {
            rank: failure.rank.map(|rank| rank.0),
            node: failure
                .node
                .as_ref()
                .map(|node| node.0.clone())
                .unwrap_or_default(),
            host: failure.host.clone().unwrap_or_default(),
            phase: Some(failure.phase.into()),
            cause: Some((&failure.cause).into()),
            log_tail: failure.log_tail.clone(),
        }
    }
}

impl From<Phase> for v1::Phase {
    fn from(phase: Phase) -> Self {
        use v1::PhaseKind as Kind;
        let (kind, step) = match phase {
            Phase::Starting => (Kind::Starting, 0),
            Phase::LoadingData => (Kind::LoadingData, 0),
            Phase::FormingRing => (Kind::FormingRing, 0),
            Phase::Training(step) => (Kind::Training, step.0),
            Phase::Evaluating(step) => (Kind::Evaluating, step.0),
            Phase::Saving => (Kind::Saving, 0),
        };
        Self {
            kind: kind.into(),
            step,
        }
    }
}

impl TryFrom<v1::Phase> for Phase {
    type Error = FieldError;

    fn try_from(phase: v1::Phase) -> Result<Self, FieldError> {
        use v1::PhaseKind as Kind;
        Ok(match phase.kind() {
            Kind::Starting => Self::Starting,
            Kind::LoadingData => Self::LoadingData,
            Kind::FormingRing => Self::FormingRing,
            Kind::Training => Self::Training(Step(phase.step)),
            Kind::Evaluating => Self::Evaluating(Step(phase.step)),
            Kind::Saving => Self::Saving,
            Kind::Unspecified => {
                return Err(FieldError::new(
                    "phase.kind",
                    "a phase",
                    "an unspecified value",
                ));
            }
        })
    }
}

impl From<&Cause> for v1::Cause {
    fn from(cause: &Cause) -> Self {
        use v1::cause::Kind;
        Self {
            kind: Some(match cause {
                Cause::Exited(code) => Kind::Exited(*code),
                Cause::Signalled(signal) => Kind::Signalled(*signal),
                Cause::ConnectionLost => Kind::ConnectionLost(v1::Unit {}),
                Cause::LeaseExpired { silent_ms } => Kind::LeaseExpiredMs(*silent_ms),
                Cause::WorkerStopped => Kind::WorkerStopped(v1::Unit {}),
                Cause::Error(message) => Kind::Error(message.clone()),
                Cause::PeerLost(message) => Kind::PeerLost(message.clone()),
                Cause::WeightsDiffer(message) => Kind::WeightsDiffer(message.clone()),
            }),
        }
    }
}

impl TryFrom<v1::Cause> for Cause {
    type Error = FieldError;

    fn try_from(cause: v1::Cause) -> Result<Self, FieldError> {
        use v1::cause::Kind;
        Ok(match required(cause.kind, "cause.kind")? {
            Kind::Exited(code) => Self::Exited(code),
            Kind::Signalled(signal) => Self::Signalled(signal),
            Kind::ConnectionLost(_) => Self::ConnectionLost,
            Kind::LeaseExpiredMs(silent_ms) => Self::LeaseExpired { silent_ms },
            Kind::WorkerStopped(_) => Self::WorkerStopped,
            Kind::Error(message) => Self::Error(message),
            Kind::PeerLost(message) => Self::PeerLost(message),
            Kind::WeightsDiffer(message) => Self::WeightsDiffer(message),
        })
    }
}

impl From<&Progress> for v1::Progress {
    fn from(progress: &Progress) -> Self {
        Self {
            step: progress.step.0,
            steps_total: progress.steps_total,
            epoch: progress.epoch.0,
            epochs_total: progress.epochs_total,
            samples: progress.samples,
            loss: progress.loss,
            learning_rate: progress.learning_rate,
            gradient_norm: progress.gradient_norm,
            samples_per_second: progress.samples_per_second,
            communication_share: progress.communication_share,
            gradient_bytes: Some(progress.gradient_bytes.into()),
        }
    }
}

impl From<GradientBytes> for v1::GradientBytes {
    fn from(bytes: GradientBytes) -> Self {
        let GradientBytes { sent, saved } = bytes;
        Self { sent, saved }
    }
}

impl From<v1::GradientBytes> for GradientBytes {
    fn from(bytes: v1::GradientBytes) -> Self {
        let v1::GradientBytes { sent, saved } = bytes;
        Self { sent, saved }
    }
}

impl From<v1::Progress> for Progress {
    fn from(progress: v1::Progress) -> Self {
        Self {
            step: Step(progress.step),
            steps_total: progress.steps_total,
            epoch: Epoch(progress.epoch),
            epochs_total: progress.epochs_total,
            samples: progress.samples,
            loss: progress.loss,
            learning_rate: progress.learning_rate,
            gradient_norm: progress.gradient_norm,
            samples_per_second: progress.samples_per_second,
            communication_share: progress.communication_share,
            gradient_bytes: progress.gradient_bytes.unwrap_or_default().into(),
        }
    }
}

impl From<&Evaluation> for v1::Evaluation {
    fn from(evaluation: &Evaluation) -> Self {
        Self {
            step: evaluation.step.0,
            epoch: evaluation.epoch.0,
            records: evaluation.records,
            metrics: evaluation.metrics.clone(),
        }
    }
}

impl From<v1::Evaluation> for Evaluation {
    fn from(evaluation: v1::Evaluation) -> Self {
        Self {
            step: Step(evaluation.step),
            epoch: Epoch(evaluation.epoch),
            records: evaluation.records,
            metrics: evaluation.metrics,
        }
    }
}

impl From<&Summary> for v1::Summary {
    fn from(summary: &Summary) -> Self {
        Self {
            steps: summary.steps,
            epochs: summary.epochs,
            samples: summary.samples,
            wall_seconds: summary.wall_seconds,
            samples_per_second: summary.samples_per_second,
            parameters: summary.parameters,
            metrics: summary.metrics.clone(),
            weights_blake3: summary.weights_blake3.clone(),
            output_dir: summary.output_dir.clone(),
            execution: Some(summary.execution.into()),
        }
    }
}

impl From<Execution> for v1::Execution {
    fn from(execution: Execution) -> Self {
        Self {
            mode: v1::FoldMode::from(execution.mode).into(),
            replicas: execution.replicas,
            replicas_at_once: execution.replicas_at_once,
            threads: execution.threads,
            arena_bytes: execution.arena_bytes,
            resident_bytes_max: execution.resident_bytes_max,
            buckets: execution.buckets,
            bucket_bytes_max: execution.bucket_bytes_max,
            gradient_bytes: Some(execution.gradient_bytes.into()),
        }
    }
}

impl From<v1::Execution> for Execution {
    fn from(execution: v1::Execution) -> Self {
        Self {
            // A mode of a later version is none that this one could name.
            mode: execution.mode().try_into().unwrap_or(FoldMode::Auto),
            replicas: execution.replicas,
            replicas_at_once: execution.replicas_at_once,
            threads: execution.threads,
            arena_bytes: execution.arena_bytes,
            resident_bytes_max: execution.resident_bytes_max,
            buckets: execution.buckets,
            bucket_bytes_max: execution.bucket_bytes_max,
            gradient_bytes: execution.gradient_bytes.unwrap_or_default().into(),
        }
    }
}

impl From<v1::Summary> for Summary {
    fn from(summary: v1::Summary) -> Self {
        Self {
            steps: summary.steps,
            epochs: summary.epochs,
            samples: summary.samples,
            wall_seconds: summary.wall_seconds,
            samples_per_second: summary.samples_per_second,
            parameters: summary.parameters,
            metrics: summary.metrics,
            weights_blake3: summary.weights_blake3,
            output_dir: summary.output_dir,
            execution: summary.execution.unwrap_or_default().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_and_phases_round_trip() {
        let causes = [
            Cause::Exited(3),
            Cause::Signalled(9),
            Cause::ConnectionLost,
            Cause::LeaseExpired { silent_ms: 17 },
            Cause::WorkerStopped,
            Cause::Error("e".into()),
            Cause::PeerLost("p".into()),
            Cause::WeightsDiffer("w".into()),
        ];
        for cause in causes {
            assert_eq!(Cause::try_from(v1::Cause::from(&cause)), Ok(cause));
        }
        let phases = [
            Phase::Starting,
            Phase::LoadingData,
            Phase::FormingRing,
            Phase::Training(Step(4)),
            Phase::Evaluating(Step(5)),
            Phase::Saving,
        ];
        for phase in phases {
            assert_eq!(Phase::try_from(v1::Phase::from(phase)), Ok(phase));
        }
        assert!(Cause::try_from(v1::Cause { kind: None }).is_err());
        assert!(Phase::try_from(v1::Phase { kind: 99, step: 0 }).is_err());
    }

    #[test]
    fn datasets_round_trip_and_a_short_fingerprint_is_named() {
        for target in [
            Target::Classes(vec!["a".into(), "b".into()]),
            Target::Values(1),
            Target::Tokens(Vocabulary::Bytes),
            Target::Tokens(Vocabulary::Characters(Characters::new("aé").unwrap())),
        ] {
            let info = DatasetInfo {
                train_records: 10,
                test_records: 2,
                features: 64,
                target,
                fingerprint: [7; 32],
            };
            assert_eq!(
                DatasetInfo::try_from(v1::DatasetInfo::from(&info)),
                Ok(info.clone())
            );
            let mut wire = v1::DatasetInfo::from(&info);
            wire.fingerprint.pop();
            assert_eq!(
                DatasetInfo::try_from(wire).unwrap_err().field,
                "dataset.fingerprint"
            );
        }
    }

    #[test]
    fn timestamps_keep_milliseconds() {
        let wire = timestamp(UnixMillis(1_700_000_000_123));
        assert_eq!((wire.seconds, wire.nanos), (1_700_000_000, 123_000_000));
    }
}
