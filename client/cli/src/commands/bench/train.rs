//! `ringfold bench train`: training steps of a model on made-up data, by real worker processes.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use ringfold_client::{Client, api};
use ringfold_common::clock::{Clock, SystemClock};
use ringfold_common::job::JobSpec;
use ringfold_common::job_file::{self, Override};
use ringfold_common::random::Stream;
use ringfold_compute::cpu::conv::Simd;
use ringfold_compute::cpu::conv::peak::{ROUND_FLOPS, multiply_adds};
use ringfold_compute::{CompileOptions, Mode, PlanOptions};
use ringfold_net::{shutdown, telemetry};
use ringfold_train::trainer::workspace_bytes_max;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::preset::{Data, Preset};
use crate::args::BenchTrainArgs;
use crate::commands::model::network_of;
use crate::commands::train::LocalCluster;
use crate::error::{CliError, EXIT_INTERRUPTED};
use crate::job_file::set_key;

/// Rounds of multiply-adds in one sample of the peak: some ten milliseconds.
const PEAK_ROUNDS: usize = 1 << 20;
const PEAK_SAMPLES: usize = 5;
/// Reports of a run; those of its first half aren't counted.
const REPORTS: u64 = 20;

/// What a run came to.
struct Measured {
    samples_per_second: f64,
    samples_per_second_best: f64,
    communication_share: f64,
    summary: api::Summary,
}

pub async fn run(args: BenchTrainArgs) -> Result<ExitCode, CliError> {
    telemetry::init(if args.verbose { "info" } else { "error" }, None);
    let interrupted = shutdown::on_signals().map_err(|source| CliError::Signals { source })?;
    let failed = |source| CliError::BenchData { source };
    let dir = tempfile::tempdir().map_err(failed)?;
    let preset = Preset::of(args.model);
    let batch = args.batch.unwrap_or(preset.batch);
    write_data(dir.path(), &preset.data, batch).map_err(failed)?;
    let spec = spec(&args, &preset, batch, dir.path())?;
    let cores = (spec.cluster.workers * spec.cluster.threads.max(1)) as usize;

    let before = peak_flops(cores);
    let Some(measured) = measure(&spec, args.verbose, &interrupted).await? else {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let peak = before.max(peak_flops(cores));
    let plan = planned(&spec)?;
    show(&args, &spec, &measured, peak, &plan).map_err(CliError::stdout)?;
    Ok(ExitCode::SUCCESS)
}

/// The job that the flags ask for.
fn spec(
    args: &BenchTrainArgs,
    preset: &Preset,
    batch: u32,
    dir: &Path,
) -> Result<JobSpec, CliError> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let threads = args.threads.unwrap_or((cores / args.workers).max(1));
    let steps = args.steps.unwrap_or(preset.steps).max(REPORTS);
    let text = format!(
        "name = \"bench\"\n{model}\n{data}\n[train]\nsteps = {steps}\nglobal_batch = {batch}\n\
         report_steps = {report}\ncheck_steps = 0\nseed = 1\nlast_batch = \"drop\"\n{optimizer}\n\
         [cluster]\nworkers = {workers}\nthreads = {threads}\nreplicas = {replicas}\n\
         [output]\ndir = \"out\"\n",
        model = preset.model,
        data = preset.data_table(),
        optimizer = preset.optimizer,
        report = steps / REPORTS,
        workers = args.workers,
        replicas = args.replicas.unwrap_or(args.workers),
    );
    let overrides: Result<Vec<Override>, CliError> =
        args.set.iter().map(|set| set_key(set)).collect();
    let base = dir.to_string_lossy();
    Ok(job_file::parse(&text, "bench", &base, &overrides?)?)
}

/// Writes random records: twice a batch, so that gathering them is part of the work.
fn write_data(dir: &Path, data: &Data, batch: u32) -> io::Result<()> {
    let noise = Stream::new(1, 0);
    let records = u64::from(batch) * 2;
    match data {
        Data::Images { dims, classes } => {
            let file = |name: &str| fs::File::create(dir.join(name)).map(BufWriter::new);
            let mut images = file("images")?;
            let sizes = [&[records as u32], &dims[..]].concat();
            images.write_all(&[0, 0, 8, sizes.len() as u8])?;
            for size in &sizes {
                images.write_all(&size.to_be_bytes())?;
            }
            let len = dims.iter().map(|&size| u64::from(size)).product::<u64>();
            for i in 0..records * len {
                images.write_all(&[noise.word(i) as u8])?;
            }
            images.flush()?;
            let mut labels = file("labels")?;
            labels.write_all(&[0, 0, 8, 1])?;
            labels.write_all(&(records as u32).to_be_bytes())?;
            for i in 0..records {
                labels.write_all(&[(i % u64::from(*classes)) as u8])?;
            }
            labels.flush()
        }
        Data::Text { context, letters } => {
            let mut text = BufWriter::new(fs::File::create(dir.join("text"))?);
            for i in 0..records * u64::from(*context) + 1 {
                // Every letter occurs.
                let letter = if i < u64::from(*letters) {
                    i
                } else {
                    u64::from(noise.word(i)) % u64::from(*letters)
                };
                text.write_all(&[b'0' + letter as u8])?;
            }
            text.flush()
        }
    }
}

/// Trains; `None` if the user has seen enough.
async fn measure(
    spec: &JobSpec,
    verbose: bool,
    interrupted: &CancellationToken,
) -> Result<Option<Measured>, CliError> {
    let cluster = LocalCluster::start(spec, verbose).await?;
    let result = tokio::select! {
        result = watch(spec, &cluster) => result.map(Some),
        () = interrupted.cancelled() => Ok(None),
    };
    let stopped = cluster.stop().await;
    let measured = result?;
    stopped?;
    Ok(measured)
}

async fn watch(spec: &JobSpec, cluster: &LocalCluster) -> Result<Measured, CliError> {
    let mut client = Client::connect(cluster.address()).await?;
    let submitted = client.submit(spec, &Client::new_token()).await?;
    let mut watch = client.watch(&submitted.job.job_id, 0);
    let mut reports: Vec<api::Progress> = Vec::new();
    let mut last: Option<api::StateChange> = None;
    while let Some(event) = watch.next().await? {
        match event.kind {
            Some(api::job_event::Kind::Progress(progress)) => reports.push(progress),
            Some(api::job_event::Kind::State(change)) => last = Some(change),
            _ => {}
        }
    }
    let reason = last
        .as_ref()
        .map_or(String::new(), |change| change.reason.clone());
    let Some(summary) = last.and_then(|change| change.summary) else {
        return Err(CliError::BenchJob { reason });
    };
    let counted = &reports[reports.len() / 2..];
    let mut rates: Vec<f64> = counted
        .iter()
        .map(|report| report.samples_per_second)
        .collect();
    rates.sort_by(f64::total_cmp);
    let shares: f64 = counted
        .iter()
        .map(|report| report.communication_share)
        .sum();
    Ok(Measured {
        samples_per_second: rates.get(rates.len() / 2).copied().unwrap_or(0.0),
        samples_per_second_best: rates.last().copied().unwrap_or(0.0),
        communication_share: shares / counted.len().max(1) as f64,
        summary,
    })
}

/// What the plan of a replica's training step says.
struct Planned {
    /// Operations for each sample of its share.
    flops_per_sample: f64,
    /// Bytes of values and scratch, the gradient arena's loan aside.
    workspace_bytes: usize,
    /// Bytes of the parameters, and of the gradients as many.
    parameters_bytes: usize,
}

fn planned(spec: &JobSpec) -> Result<Planned, CliError> {
    let (network, _) = network_of(spec)?;
    let batch = (spec.train.global_batch / spec.cluster.replicas).max(1) as usize;
    let mode = Mode::Training;
    let options = PlanOptions { mode, batch };
    let how = CompileOptions {
        workspace_bytes_max: workspace_bytes_max(&spec.train),
        ..CompileOptions::default()
    };
    let inspection = network.inspect(options, &how)?;
    let flops = inspection.flops_forward + inspection.flops_backward;
    Ok(Planned {
        flops_per_sample: flops as f64 / batch as f64,
        workspace_bytes: inspection.workspace_bytes,
        parameters_bytes: inspection.parameters_bytes,
    })
}

/// Operations a second that `cores` threads do at once in registers, all together.
fn peak_flops(cores: usize) -> f64 {
    let clock = SystemClock::new();
    let simd = Simd::widest();
    let sample = || {
        let began = clock.monotonic();
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| std::hint::black_box(multiply_adds(simd, PEAK_ROUNDS)));
            }
        });
        let seconds = clock.monotonic().saturating_sub(began).as_secs_f64();
        (cores * PEAK_ROUNDS * ROUND_FLOPS) as f64 / seconds.max(1e-9)
    };
    (0..PEAK_SAMPLES).map(|_| sample()).fold(0.0, f64::max)
}

fn show(
    args: &BenchTrainArgs,
    spec: &JobSpec,
    measured: &Measured,
    peak: f64,
    plan: &Planned,
) -> io::Result<()> {
    let rate = measured.samples_per_second;
    let share = rate * plan.flops_per_sample / peak;
    let ran = measured.summary.execution.unwrap_or_default();
    let mut out = io::stdout().lock();
    if args.json {
        let line = json!({
            "model": args.model.name(),
            "batch": spec.train.global_batch,
            "workers": spec.cluster.workers,
            "threads": spec.cluster.threads,
            "replicas": spec.cluster.replicas,
            "samples_per_second": rate,
            "samples_per_second_best": measured.samples_per_second_best,
            "flops_per_sample": plan.flops_per_sample,
            "peak_gflops": peak / 1e9,
            "peak_share": share,
            "communication_share": measured.communication_share,
            "replicas_at_once": ran.replicas_at_once,
            "threads_each": ran.threads,
            "workspace_bytes": plan.workspace_bytes,
            "parameters_bytes": plan.parameters_bytes,
            "arena_bytes": ran.arena_bytes,
            "resident_bytes_max": ran.resident_bytes_max,
            "buckets": ran.buckets,
            "bucket_bytes_max": ran.bucket_bytes_max,
        });
        return writeln!(out, "{line}");
    }
    writeln!(
        out,
        "{}: {rate:.1} samples/s, {:.0} % of {:.0} GFLOP/s, {:.0} % of the time in the all-reduce; \
         {} replicas at once on {} threads each; {:.1} MB in arenas, {:.1} MB resident",
        args.model.name(),
        share * 100.0,
        peak / 1e9,
        measured.communication_share * 100.0,
        ran.replicas_at_once,
        ran.threads,
        ran.arena_bytes as f64 / 1e6,
        ran.resident_bytes_max as f64 / 1e6,
    )
}
