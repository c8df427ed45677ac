//! Text for people.

use std::collections::BTreeMap;
use std::io::{self, Write};

use ringfold_client::api;
use ringfold_common::dataset::Target;
use ringfold_compute::Inspection;
use ringfold_coordinator::submission::Checked;
use ringfold_graph::pass::Record;
use ringfold_train::evaluate::ConfusionMatrix;

use super::json::state_name;

/// Lines for a change of state: few while it goes well, all of it at the end.
pub fn state(job_id: &str, change: &api::StateChange) -> Vec<String> {
    match change.state() {
        api::JobState::Succeeded => {
            let mut lines = vec![format!("{job_id} succeeded")];
            lines.extend(change.summary.as_ref().map(summary).unwrap_or_default());
            lines
        }
        api::JobState::Failed => {
            let mut lines = vec![format!("{job_id} failed: {}", change.reason)];
            let tail = change
                .failure
                .as_ref()
                .map(|failure| failure.log_tail.as_slice());
            let tail = tail.unwrap_or_default();
            if !tail.is_empty() {
                lines.push("last log lines of that rank:".to_owned());
                lines.extend(tail.iter().map(|line| format!("  {line}")));
            }
            lines
        }
        api::JobState::Cancelled => vec![format!("{job_id} {}", change.reason)],
        _ => vec![format!("{job_id} {}", change.reason)],
    }
}

fn summary(summary: &api::Summary) -> Vec<String> {
    let mut lines: Vec<String> = summary
        .metrics
        .iter()
        .map(|(name, value)| format!("  {name:<16} {value:.4}"))
        .collect();
    lines.push(format!(
        "  {} epochs, {} steps, {} samples in {:.1} s, {} samples/s",
        grouped(summary.epochs),
        grouped(summary.steps),
        grouped(summary.samples),
        summary.wall_seconds,
        grouped(summary.samples_per_second as u64),
    ));
    lines.push(format!(
        "  {:<16} {}",
        "parameters",
        grouped(summary.parameters)
    ));
    let bytes = summary.execution.and_then(|ran| ran.gradient_bytes);
    if let Some(bytes) = bytes.filter(|bytes| bytes.saved != 0) {
        lines.push(format!(
            "  {:<16} {:.1} MB sent by a rank, {:.1} MB without compression",
            "gradients",
            bytes.sent as f64 / 1e6,
            (bytes.sent as f64 + bytes.saved as f64) / 1e6,
        ));
    }
    lines.push(format!(
        "  {:<16} {}",
        "weights_blake3", summary.weights_blake3
    ));
    lines.push(format!("  {:<16} {}", "model", summary.output_dir));
    lines
}

pub fn evaluated(evaluation: &api::Evaluation) -> String {
    let metrics: Vec<String> = evaluation
        .metrics
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    format!(
        "epoch {:>3}, step {:>6}: {}",
        evaluation.epoch + 1,
        evaluation.step,
        metrics.join(", ")
    )
}

pub fn progressed(progress: &api::Progress) -> String {
    format!(
        "epoch {:>3}, step {:>6} of {}: loss {:.4}, {} samples/s",
        progress.epoch + 1,
        progress.step,
        progress.steps_total,
        progress.loss,
        grouped(progress.samples_per_second as u64),
    )
}

pub fn jobs(out: &mut impl Write, jobs: &[api::Job]) -> io::Result<()> {
    let mut rows = vec![["JOB", "NAME", "STATE", "WORKERS", "STEP", "REASON"].map(str::to_owned)];
    for job in jobs {
        let spec = job.spec.as_ref();
        let step = job.progress.as_ref();
        rows.push([
            job.job_id.clone(),
            spec.map(|spec| spec.name.clone()).unwrap_or_default(),
            state_name(job.state()).to_owned(),
            spec.and_then(|spec| spec.cluster)
                .map(|cluster| cluster.workers.to_string())
                .unwrap_or_default(),
            step.map(|p| format!("{}/{}", p.step, p.steps_total))
                .unwrap_or_default(),
            job.reason.clone(),
        ]);
    }
    table(out, &rows)
}

pub fn job(out: &mut impl Write, job: &api::Job) -> io::Result<()> {
    let name = job
        .spec
        .as_ref()
        .map(|spec| spec.name.as_str())
        .unwrap_or_default();
    writeln!(out, "{} ({name})", job.job_id)?;
    writeln!(out, "  {:<16} {}", "state", state_name(job.state()))?;
    writeln!(out, "  {:<16} {}", "reason", job.reason)?;
    if let Some(dataset) = &job.dataset {
        writeln!(
            out,
            "  {:<16} {} training and {} test records, {} features",
            "data",
            grouped(dataset.train_records),
            grouped(dataset.test_records),
            dataset.features
        )?;
    }
    if let Some(progress) = &job.progress {
        writeln!(
            out,
            "  {:<16} {}",
            "progress",
            progressed(progress).trim_start()
        )?;
    }
    if let Some(evaluation) = &job.evaluation {
        writeln!(
            out,
            "  {:<16} {}",
            "evaluation",
            evaluated(evaluation).trim_start()
        )?;
    }
    if let Some(last) = job.restarts.last() {
        let (used, epoch) = (job.restarts_used, last.membership_epoch);
        writeln!(
            out,
            "  {:<16} {used}; world {epoch} ended: {}",
            "faults survived", last.cause
        )?;
    }
    if let Some(done) = &job.summary {
        for line in summary(done) {
            writeln!(out, "{line}")?;
        }
    }
    if let Some(failure) = job
        .failure
        .as_ref()
        .filter(|failure| !failure.log_tail.is_empty())
    {
        writeln!(out, "  last log lines of that rank:")?;
        for line in &failure.log_tail {
            writeln!(out, "    {line}")?;
        }
    }
    if !job.ranks.is_empty() {
        writeln!(out)?;
        let mut rows = vec![["RANK", "NODE", "HOST", "PID", "RING ADDRESS"].map(str::to_owned)];
        rows.extend(job.ranks.iter().map(|rank| {
            [
                rank.rank.to_string(),
                rank.node.clone(),
                rank.host.clone(),
                rank.pid.to_string(),
                rank.ring_address.clone(),
            ]
        }));
        table(out, &rows)?;
    }
    Ok(())
}

/// What `ringfold check` found of a job.
pub fn checked(out: &mut impl Write, checked: &Checked) -> io::Result<()> {
    let Checked {
        spec,
        dataset,
        parameters,
        steps,
    } = checked;
    let outputs = match &dataset.target {
        Target::Classes(names) => format!("{} classes", names.len()),
        Target::Values(count) => format!("{count} values"),
        Target::Tokens(vocabulary) => format!("{} tokens", vocabulary.len()),
    };
    writeln!(
        out,
        "job {}: {} of {parameters} parameters, {steps} steps of {}",
        spec.name,
        spec.model.architecture.kind(),
        spec.train.global_batch,
    )?;
    writeln!(
        out,
        "data: {} training and {} test records of {} features, {outputs}",
        dataset.train_records, dataset.test_records, dataset.features,
    )
}

pub fn nodes(out: &mut impl Write, reply: &api::ListNodesResponse) -> io::Result<()> {
    if reply.nodes.is_empty() {
        return writeln!(out, "no nodes: start one with `ringfold worker`");
    }
    let header = [
        "NODE", "HOST", "SLOT", "PID", "CORES", "MEMORY", "STATE", "VERSION",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for node in &reply.nodes {
        for slot in &node.slots {
            let state = match slot.state() {
                api::SlotState::Free => "free".to_owned(),
                api::SlotState::Joining => format!("joining {}", slot.job_id),
                api::SlotState::Assigned => format!("{} rank {}", slot.job_id, slot.rank),
                api::SlotState::Stopping => format!("stopping {}", slot.job_id),
                api::SlotState::Unspecified => "unknown".to_owned(),
            };
            rows.push([
                node.name.clone(),
                node.host.clone(),
                slot.slot_id.clone(),
                slot.pid.to_string(),
                slot.cores.to_string(),
                format!("{:.1} GiB", slot.memory_bytes as f64 / f64::from(1 << 30)),
                state,
                slot.version.clone(),
            ]);
        }
    }
    table(out, &rows)
}

pub fn evaluation(
    out: &mut impl Write,
    records: u64,
    metrics: &BTreeMap<String, f64>,
    classes: &[String],
    matrix: Option<&ConfusionMatrix>,
) -> io::Result<()> {
    writeln!(out, "{} records", grouped(records))?;
    for (name, value) in metrics {
        writeln!(out, "  {name:<16} {value:.4}")?;
    }
    let Some(matrix) = matrix else { return Ok(()) };
    writeln!(
        out,
        "\nconfusion matrix (rows: true class, columns: predicted)"
    )?;
    let counts: Vec<&[u64]> = matrix.rows().collect();
    let digits = counts
        .iter()
        .copied()
        .flatten()
        .max()
        .map_or(1, |max| max.to_string().len());
    let name_width = classes
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(1);
    let width = digits.max(name_width) + 1;
    write!(out, "{:name_width$}", "")?;
    for name in classes {
        write!(out, "{name:>width$}")?;
    }
    writeln!(out)?;
    for (name, row) in classes.iter().zip(counts) {
        write!(out, "{name:>name_width$}")?;
        for count in row {
            write!(out, "{count:>width$}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Columns as wide as their widest cell; the last one as it is.
fn table<const N: usize>(out: &mut impl Write, rows: &[[String; N]]) -> io::Result<()> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

pub fn inspection(
    out: &mut impl Write,
    inspection: &Inspection,
    simplified: &[Record],
    optimizer_bytes: Option<usize>,
) -> io::Result<()> {
    writeln!(
        out,
        "{} in {} mode, {} samples a run\n",
        inspection.name,
        inspection.mode,
        grouped(inspection.batch as u64)
    )?;
    let mut rows = vec![["PARAMETER", "SHAPE", "COUNT"].map(str::to_owned)];
    let mut count = 0;
    for row in &inspection.parameters {
        count += row.count as u64;
        rows.push([
            row.name.clone(),
            dims(&row.shape),
            grouped(row.count as u64),
        ]);
    }
    rows.push(["total".to_owned(), String::new(), grouped(count)]);
    table(out, &rows)?;
    writeln!(out)?;
    let header = ["SHAPE", "OPERATIONS", "PASS", "PLACE", "NODE"];
    let mut rows = vec![header.map(str::to_owned)];
    for node in &inspection.nodes {
        let place = match (node.is_view, node.is_in_place) {
            (true, _) => "view",
            (false, true) => "in place",
            (false, false) => "",
        };
        rows.push([
            dims(&node.shape),
            grouped(node.flops),
            if node.is_backward {
                "backward"
            } else {
                "forward"
            }
            .to_owned(),
            place.to_owned(),
            node.op.clone(),
        ]);
    }
    table(out, &rows)?;
    writeln!(out)?;
    costs(out, inspection, optimizer_bytes)?;
    writeln!(
        out,
        "\npasses: {} nodes before, {} after",
        inspection.nodes_before,
        inspection.nodes.len()
    )?;
    patches(out, &inspection.passes)?;
    if !simplified.is_empty() {
        writeln!(out, "\nbefore it was differentiated:")?;
        patches(out, simplified)?;
    }
    Ok(())
}

/// A line for each patch of a pass.
fn patches(out: &mut impl Write, records: &[Record]) -> io::Result<()> {
    for record in records {
        let (pass, label) = (record.pass, record.label);
        let (sites, from, to) = (record.sites, record.nodes_before, record.nodes_after);
        writeln!(
            out,
            "  {pass:<12} {label}: {sites} times, {from} -> {to} nodes"
        )?;
    }
    Ok(())
}

/// The most buffers that are listed.
const PEAK_ROWS: usize = 24;

fn costs(
    out: &mut impl Write,
    inspection: &Inspection,
    optimizer_bytes: Option<usize>,
) -> io::Result<()> {
    let (forward, backward) = (inspection.flops_forward, inspection.flops_backward);
    let all = forward.saturating_add(backward);
    let a_sample = |flops: u64| grouped(flops / inspection.batch.max(1) as u64);
    for (name, flops) in [("forward", forward), ("backward", backward), ("all", all)] {
        writeln!(
            out,
            "  {:<24} {} a sample, {} a run",
            format!("operations, {name}"),
            a_sample(flops),
            grouped(flops)
        )?;
    }
    let mut bytes = vec![
        ("workspace", inspection.workspace_bytes),
        ("workspace, alive at once", inspection.workspace_bytes_min),
        ("parameters", inspection.parameters_bytes),
        ("gradients", inspection.gradients_bytes),
        ("states", inspection.state_bytes),
        ("constants", inspection.constants_bytes),
    ];
    bytes.extend(optimizer_bytes.map(|bytes| ("optimizer", bytes)));
    for (name, bytes) in bytes {
        writeln!(out, "  {name:<24} {} bytes", grouped(bytes as u64))?;
    }
    peak(out, inspection)
}

/// The largest buffers that are alive when the most memory is needed.
fn peak(out: &mut impl Write, inspection: &Inspection) -> io::Result<()> {
    let alive: usize = inspection.peak.iter().map(|row| row.bytes).sum();
    writeln!(
        out,
        "\nmost memory at node {}: {} bytes in {} buffers of workspace and gradients; the largest:\n",
        inspection.peak_node,
        grouped(alive as u64),
        inspection.peak.len(),
    )?;
    let mut rows = vec![["BYTES", "FROM NODE", "TO NODE", "WHAT"].map(str::to_owned)];
    for row in inspection.peak.iter().take(PEAK_ROWS) {
        rows.push([
            grouped(row.bytes as u64),
            row.first.to_string(),
            row.last.to_string(),
            row.what.clone(),
        ]);
    }
    table(out, &rows)
}

fn dims(shape: &[usize]) -> String {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// A number with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn columns_align_and_trailing_space_goes() {
        let mut out = Vec::new();
        let rows = [["A".into(), "B".into()], ["long".into(), String::new()]];
        table(&mut out, &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A     B\nlong\n");
    }

    #[test]
    fn a_confusion_matrix_is_readable() {
        let mut matrix = ConfusionMatrix::new(2);
        matrix.add(0, 0);
        matrix.add(1, 0);
        let mut out = Vec::new();
        let names = ["cat".to_owned(), "dog".to_owned()];
        evaluation(&mut out, 2, &BTreeMap::new(), &names, Some(&matrix)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.ends_with("    cat dog\ncat   1   0\ndog   1   0\n"),
            "{text}"
        );
    }
}
