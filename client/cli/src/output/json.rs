//! JSON for machines. One object a line; keys are only ever added.

use std::collections::BTreeMap;

use ringfold_client::{Submitted, api};
use ringfold_common::job::JobState;
use ringfold_compute::Inspection;
use ringfold_coordinator::submission::Checked;
use ringfold_graph::pass::{Record, Touched};
use ringfold_train::evaluate::ConfusionMatrix;
use serde_json::{Value, json};

/// A state's name.
pub fn state_name(state: api::JobState) -> &'static str {
    JobState::try_from(state).map_or("unknown", JobState::name)
}

pub fn submitted(submitted: &Submitted) -> Value {
    json!({
        "event": "submitted",
        "job_id": submitted.job.job_id,
        "existing": submitted.existing,
    })
}

/// An event's object. The last one of a job has `"event":"finished"`.
pub fn event(event: &api::JobEvent, last_progress: Option<&api::Progress>) -> Option<Value> {
    use api::job_event::Kind;
    let mut object = match event.kind.as_ref()? {
        Kind::State(change) => state(change, last_progress),
        Kind::Progress(progress) => with_event("progress", self::progress(progress)),
        Kind::Evaluation(evaluation) => with_event("evaluation", evaluated(evaluation)),
    };
    object["job_id"] = json!(event.job_id);
    object["sequence"] = json!(event.sequence);
    object["at_unix_ms"] = json!(event.at.as_ref().map(millis));
    object["membership_epoch"] = json!(event.membership_epoch);
    Some(object)
}

fn with_event(name: &str, mut object: Value) -> Value {
    object["event"] = json!(name);
    object
}

fn state(change: &api::StateChange, last_progress: Option<&api::Progress>) -> Value {
    let state = change.state();
    let ended = JobState::try_from(state).is_ok_and(JobState::is_terminal);
    let mut object = json!({
        "event": if ended { "finished" } else { "state" },
        "state": state_name(state),
        "reason": change.reason,
    });
    if !ended {
        return object;
    }
    // A job that failed has got somewhere too.
    let partial = last_progress.map(|progress| {
        json!({
            "steps": progress.step,
            "epochs": progress.epoch + 1,
            "samples": progress.samples,
            "samples_per_second": progress.samples_per_second,
            "wall_seconds": null,
            "parameters": null,
            "metrics": { "train_loss": progress.loss },
            "weights_blake3": null,
            "output_dir": null,
        })
    });
    let summary = change
        .summary
        .as_ref()
        .map(summary)
        .or(partial)
        .unwrap_or_else(|| {
            json!({
                "steps": 0,
                "epochs": 0,
                "samples": 0,
                "samples_per_second": null,
                "wall_seconds": null,
                "parameters": null,
                "metrics": {},
                "weights_blake3": null,
                "output_dir": null,
            })
        });
    merge(&mut object, summary);
    if let Some(cause) = &change.failure {
        object["failure"] = failure(cause);
    }
    object
}

fn execution(execution: &api::Execution) -> Value {
    let mode = match execution.mode() {
        api::FoldMode::Fast => "fast",
        api::FoldMode::Reproducible => "reproducible",
        api::FoldMode::Auto | api::FoldMode::Unspecified => "auto",
    };
    json!({
        "mode": mode,
        "replicas": execution.replicas,
        "replicas_at_once": execution.replicas_at_once,
        "threads": execution.threads,
        "arena_bytes": execution.arena_bytes,
        "resident_bytes_max": execution.resident_bytes_max,
        "buckets": execution.buckets,
        "bucket_bytes_max": execution.bucket_bytes_max,
        "gradient_bytes": execution.gradient_bytes.as_ref().map(gradient_bytes),
    })
}

fn gradient_bytes(bytes: &api::GradientBytes) -> Value {
    json!({ "sent": bytes.sent, "saved": bytes.saved })
}

fn summary(summary: &api::Summary) -> Value {
    json!({
        "steps": summary.steps,
        "epochs": summary.epochs,
        "samples": summary.samples,
        "samples_per_second": summary.samples_per_second,
        "wall_seconds": summary.wall_seconds,
        "parameters": summary.parameters,
        "metrics": summary.metrics,
        "weights_blake3": summary.weights_blake3,
        "output_dir": summary.output_dir,
        "execution": summary.execution.as_ref().map(execution),
    })
}

fn failure(failure: &api::Failure) -> Value {
    use api::cause::Kind;
    let kind = failure.cause.as_ref().and_then(|cause| cause.kind.as_ref());
    let (cause, detail) = match kind {
        None => ("unknown", Value::Null),
        Some(Kind::Exited(code)) => ("exited", json!(code)),
        Some(Kind::Signalled(signal)) => ("signalled", json!(signal)),
        Some(Kind::ConnectionLost(_)) => ("connection_lost", Value::Null),
        Some(Kind::LeaseExpiredMs(ms)) => ("lease_expired_ms", json!(ms)),
        Some(Kind::WorkerStopped(_)) => ("worker_stopped", Value::Null),
        Some(Kind::Error(message)) => ("error", json!(message)),
        Some(Kind::PeerLost(message)) => ("peer_lost", json!(message)),
        Some(Kind::WeightsDiffer(message)) => ("weights_differ", json!(message)),
    };
    let phase = failure.phase.as_ref();
    json!({
        "rank": failure.rank,
        "node": failure.node,
        "host": failure.host,
        "cause": cause,
        "detail": detail,
        "phase": phase.map(|phase| phase_name(phase.kind())),
        "step": phase.map(|phase| phase.step).filter(|&step| step > 0),
        "log_tail": failure.log_tail,
    })
}

fn phase_name(kind: api::PhaseKind) -> &'static str {
    match kind {
        api::PhaseKind::Unspecified => "unknown",
        api::PhaseKind::Starting => "starting",
        api::PhaseKind::LoadingData => "loading_data",
        api::PhaseKind::FormingRing => "forming_ring",
        api::PhaseKind::Training => "training",
        api::PhaseKind::Evaluating => "evaluating",
        api::PhaseKind::Saving => "saving",
    }
}

fn progress(progress: &api::Progress) -> Value {
    json!({
        "step": progress.step,
        "steps_total": progress.steps_total,
        "epoch": progress.epoch,
        "epochs_total": progress.epochs_total,
        "samples": progress.samples,
        "loss": progress.loss,
        "learning_rate": progress.learning_rate,
        "gradient_norm": progress.gradient_norm,
        "samples_per_second": progress.samples_per_second,
        "communication_share": progress.communication_share,
        "gradient_bytes": progress.gradient_bytes.as_ref().map(gradient_bytes),
    })
}

fn evaluated(evaluation: &api::Evaluation) -> Value {
    json!({
        "step": evaluation.step,
        "epoch": evaluation.epoch,
        "records": evaluation.records,
        "metrics": evaluation.metrics,
    })
}

/// One job, whole.
pub fn job(job: &api::Job) -> Value {
    let name = job.spec.as_ref().map(|spec| spec.name.as_str());
    let workers = job
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster)
        .map(|cluster| cluster.workers);
    json!({
        "job_id": job.job_id,
        "name": name,
        "workers": workers,
        "state": state_name(job.state()),
        "reason": job.reason,
        "failure": job.failure.as_ref().map(failure),
        "membership_epoch": job.membership_epoch,
        "restarts_used": job.restarts_used,
        "restarts": job.restarts.iter().map(restart).collect::<Vec<_>>(),
        "submitted_unix_ms": job.submitted_at.as_ref().map(millis),
        "started_unix_ms": job.started_at.as_ref().map(millis),
        "finished_unix_ms": job.finished_at.as_ref().map(millis),
        "ranks": job.ranks.iter().map(rank).collect::<Vec<_>>(),
        "progress": job.progress.as_ref().map(progress),
        "evaluation": job.evaluation.as_ref().map(evaluated),
        "summary": job.summary.as_ref().map(summary),
        "dataset": job.dataset.as_ref().map(|dataset| json!({
            "train_records": dataset.train_records,
            "test_records": dataset.test_records,
            "features": dataset.features,
        })),
    })
}

fn rank(rank: &api::RankInfo) -> Value {
    json!({
        "rank": rank.rank,
        "node": rank.node,
        "host": rank.host,
        "pid": rank.pid,
        "ring_address": rank.ring_address,
    })
}

fn restart(restart: &api::Restart) -> Value {
    json!({
        "membership_epoch": restart.membership_epoch,
        "at_unix_ms": restart.at.as_ref().map(millis),
        "cause": restart.cause,
    })
}

/// What `ringfold check` found of a job.
pub fn checked(checked: &Checked) -> Value {
    let Checked {
        spec,
        dataset,
        parameters,
        steps,
    } = checked;
    json!({
        "name": spec.name,
        "model": spec.model.architecture.kind(),
        "parameters": parameters,
        "steps": steps,
        "train_records": dataset.train_records,
        "test_records": dataset.test_records,
        "features": dataset.features,
        "outputs": dataset.target.outputs(),
    })
}

pub fn nodes(reply: &api::ListNodesResponse) -> Value {
    let slot = |slot: &api::Slot| {
        let state = match slot.state() {
            api::SlotState::Unspecified => "unknown",
            api::SlotState::Free => "free",
            api::SlotState::Joining => "joining",
            api::SlotState::Assigned => "assigned",
            api::SlotState::Stopping => "stopping",
        };
        let assigned = !slot.job_id.is_empty();
        json!({
            "slot_id": slot.slot_id,
            "pid": slot.pid,
            "cores": slot.cores,
            "memory_bytes": slot.memory_bytes,
            "version": slot.version,
            "state": state,
            "job_id": assigned.then_some(&slot.job_id),
            "rank": assigned.then_some(slot.rank),
        })
    };
    let node = |node: &api::Node| {
        json!({
            "name": node.name,
            "host": node.host,
            "slots": node.slots.iter().map(slot).collect::<Vec<_>>(),
        })
    };
    json!({
        "coordinator_version": reply.coordinator_version,
        "nodes": reply.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

pub fn evaluation(
    records: u64,
    metrics: &BTreeMap<String, f64>,
    classes: &[String],
    matrix: Option<&ConfusionMatrix>,
) -> Value {
    json!({
        "records": records,
        "metrics": metrics,
        "classes": matrix.map(|_| classes),
        "confusion_matrix": matrix.map(|matrix| matrix.rows().collect::<Vec<_>>()),
    })
}

/// A patch of a pass, with the nodes that went and came.
fn patch(record: &Record) -> Value {
    let nodes = |touched: &[Touched]| -> Vec<Value> {
        let touched = touched.iter();
        touched
            .map(|touched| json!({ "node": touched.node.0, "op": touched.op }))
            .collect()
    };
    json!({
        "pass": record.pass,
        "label": record.label,
        "sites": record.sites,
        "nodes_before": record.nodes_before,
        "nodes_after": record.nodes_after,
        "removed": nodes(&record.removed),
        "added": nodes(&record.added),
    })
}

/// What `ringfold model inspect` found; `simplified` are the patches before the graph was
/// differentiated.
pub fn inspection(
    inspection: &Inspection,
    simplified: &[Record],
    optimizer_bytes: Option<usize>,
) -> Value {
    let parameters = inspection
        .parameters
        .iter()
        .map(|row| json!({ "name": row.name, "shape": row.shape, "count": row.count }));
    let nodes = inspection.nodes.iter().map(|node| {
        json!({
            "op": node.op,
            "shape": node.shape,
            "flops": node.flops,
            "backward": node.is_backward,
            "view": node.is_view,
            "in_place": node.is_in_place,
        })
    });
    let peak = inspection.peak.iter().map(|row| {
        json!({
            "what": row.what,
            "bytes": row.bytes,
            "first_node": row.first,
            "last_node": row.last,
        })
    });
    let batch = inspection.batch.max(1) as u64;
    let count: usize = inspection.parameters.iter().map(|row| row.count).sum();
    json!({
        "name": inspection.name,
        "mode": inspection.mode.to_string(),
        "batch": inspection.batch,
        "parameter_count": count,
        "parameters": parameters.collect::<Vec<_>>(),
        "nodes_before_passes": inspection.nodes_before,
        "nodes": nodes.collect::<Vec<_>>(),
        "simplified": simplified.iter().map(patch).collect::<Vec<_>>(),
        "passes": inspection.passes.iter().map(patch).collect::<Vec<_>>(),
        "flops_forward": inspection.flops_forward,
        "flops_backward": inspection.flops_backward,
        "flops_forward_per_sample": inspection.flops_forward / batch,
        "flops_backward_per_sample": inspection.flops_backward / batch,
        "workspace_bytes": inspection.workspace_bytes,
        "workspace_bytes_min": inspection.workspace_bytes_min,
        "peak_node": inspection.peak_node,
        "peak": peak.collect::<Vec<_>>(),
        "parameters_bytes": inspection.parameters_bytes,
        "gradients_bytes": inspection.gradients_bytes,
        "state_bytes": inspection.state_bytes,
        "constants_bytes": inspection.constants_bytes,
        "optimizer_bytes": optimizer_bytes,
    })
}

/// One token of a text, with the characters that it completes.
pub fn token(token: u32, text: &str) -> Value {
    json!({ "event": "token", "token": token, "text": text })
}

/// A text that was asked for, without its prompt.
pub fn generated(prompt: &str, text: &str, tokens: u64, seconds: f64) -> Value {
    json!({
        "event": "finished",
        "prompt": prompt,
        "text": text,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens as f64 / seconds.max(1e-9),
    })
}

fn millis(at: &prost_types::Timestamp) -> i64 {
    at.seconds * 1000 + i64::from(at.nanos) / 1_000_000
}

fn merge(object: &mut Value, other: Value) {
    if let (Value::Object(object), Value::Object(other)) = (object, other) {
        object.extend(other);
    }
}
