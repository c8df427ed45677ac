//! The core's commands and views to messages.

use ringfold_common::job::Restart;
use ringfold_coordinator_core::{Assignment, Command, JobView, SlotState, SlotView};
use ringfold_proto::v1::session_response::Message;
use ringfold_proto::{failure_to_wire, timestamp, v1};

/// A command as a session's message.
pub(crate) fn command(command: &Command) -> v1::SessionResponse {
    let message = match command {
        Command::Assign(assignment) => Message::Assign(assign(assignment)),
        Command::Prepare(preparation) => Message::Prepare(v1::Prepare {
            job: preparation.job.0,
            submitted_unix_ms: preparation.submitted.0,
            spec: Some(preparation.spec.as_ref().into()),
            dataset: Some(preparation.dataset.as_ref().into()),
            spec_hash: preparation.spec_hash.0.to_vec(),
        }),
        Command::StartRing { fence, peers, keys } => Message::StartRing(v1::StartRing {
            fence: Some((*fence).into()),
            peers: peers.clone(),
            keys: keys.iter().map(|key| key.0.to_vec()).collect(),
        }),
        Command::Abort { fence, reason } => Message::Abort(v1::Abort {
            fence: Some((*fence).into()),
            reason: reason.clone(),
        }),
    };
    v1::SessionResponse {
        message: Some(message),
    }
}

fn assign(assignment: &Assignment) -> v1::Assign {
    v1::Assign {
        fence: Some(assignment.fence.into()),
        world: assignment.world,
        spec: Some(assignment.spec.as_ref().into()),
        dataset: Some(assignment.dataset.as_ref().into()),
        replica_from: assignment.part.replicas.start,
        replica_to: assignment.part.replicas.end,
        test_from: assignment.part.test_records.start,
        test_to: assignment.part.test_records.end,
        spec_hash: assignment.spec_hash.0.to_vec(),
        submitted_unix_ms: assignment.submitted.0,
    }
}

/// A job as clients see it.
pub(crate) fn job(view: &JobView<'_>) -> v1::Job {
    let record = view.record;
    v1::Job {
        job_id: record.id.to_string(),
        spec: Some((&record.spec).into()),
        state: v1::JobState::from(record.state).into(),
        reason: record.reason.to_string(),
        failure: failure_to_wire(&record.reason),
        membership_epoch: record.membership_epoch.0,
        submitted_at: Some(timestamp(record.submitted)),
        started_at: record.started.map(timestamp),
        finished_at: record.finished.map(timestamp),
        ranks: view.ranks.iter().map(Into::into).collect(),
        progress: view.progress.map(Into::into),
        evaluation: view.evaluation.map(Into::into),
        summary: record.summary.as_ref().map(Into::into),
        dataset: Some((&record.dataset).into()),
        restarts_used: record.restarts_used,
        restarts: record.restarts.iter().map(restart).collect(),
    }
}

fn restart(restart: &Restart) -> v1::Restart {
    v1::Restart {
        membership_epoch: restart.membership_epoch.0,
        at: Some(timestamp(restart.at)),
        cause: restart.cause.clone(),
    }
}

/// A slot as clients see it.
pub(crate) fn slot(view: &SlotView<'_>) -> v1::Slot {
    let mut joining = None;
    let (state, fence) = match view.state {
        SlotState::Free => (v1::SlotState::Free, None),
        SlotState::Joining(job) => {
            joining = Some(job);
            (v1::SlotState::Joining, None)
        }
        SlotState::Assigned(fence) => (v1::SlotState::Assigned, Some(fence)),
        SlotState::Stopping(fence) => (v1::SlotState::Stopping, Some(fence)),
    };
    v1::Slot {
        slot_id: view.slot.to_string(),
        pid: view.info.pid,
        cores: view.info.cores,
        memory_bytes: view.info.memory_bytes,
        version: view.info.version.clone(),
        state: state.into(),
        job_id: fence
            .map(|fence| fence.job)
            .or(joining)
            .map(|job| job.to_string())
            .unwrap_or_default(),
        rank: fence.map_or(0, |fence| fence.rank.0),
    }
}
