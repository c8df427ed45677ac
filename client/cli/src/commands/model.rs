//! `ringfold model`.

use std::io::Write;
use std::process::ExitCode;

use ringfold_common::dataset::DatasetInfo;
use ringfold_common::job::JobSpec;
use ringfold_compute::{
    CompileOptions, Cpu, CpuOptions, Inspection, Mode, ParameterLayout, PlanOptions,
};
use ringfold_graph::dump::dot;
use ringfold_graph::models::LOSS;
use ringfold_graph::onnx;
use ringfold_graph::pass::{Record, optimise_watched, simplify};
use ringfold_graph::{Graph, differentiate};
use ringfold_storage::{ModelFiles, ModelSources, ReadOptions, inspect_columns, read_onnx_file};
use ringfold_train::TrainError;
use ringfold_train::network::{Network, Sourced};
use ringfold_train::optimizer::state_arenas;
use ringfold_train::trainer::workspace_bytes_max;

use crate::args::{DumpArg, ModeArg, ModelInspectArgs};
use crate::error::CliError;
use crate::job_file;
use crate::output::{json, people};

/// A graph, and what a job says of how it is run.
struct Subject {
    graph: Graph,
    /// What simplified it before it was differentiated.
    simplified: Vec<Record>,
    layout: ParameterLayout,
    /// Samples of a rank in one run.
    batch: usize,
    /// The job's limit.
    workspace_bytes_max: Option<usize>,
    /// Arenas of optimizer state; `None` for a model without a job.
    optimizer_arenas: Option<usize>,
}

pub fn inspect(args: &ModelInspectArgs) -> Result<ExitCode, CliError> {
    let subject = subject(args)?;
    let options = PlanOptions {
        mode: match args.mode {
            ModeArg::Training => Mode::Training,
            ModeArg::Evaluation => Mode::Evaluation,
            ModeArg::Prediction => Mode::Prediction,
        },
        batch: args.batch.map_or(subject.batch, |batch| batch as usize),
    };
    let mut out = std::io::stdout().lock();
    if let Some(form) = args.dump {
        let text = dump(&subject, options.mode, form)?;
        out.write_all(text.as_bytes()).map_err(CliError::stdout)?;
        return Ok(ExitCode::SUCCESS);
    }
    let how = CompileOptions {
        workspace_bytes_max: args.workspace_bytes_max.or(subject.workspace_bytes_max),
        ..CompileOptions::default()
    };
    let (graph, layout) = (&subject.graph, &subject.layout);
    let inspection = Cpu::new(CpuOptions { threads: 1 })
        .and_then(|cpu| ringfold_compute::inspect::<f32>(&cpu, graph, layout, options, &how))
        .map_err(TrainError::from)?;
    let optimizer_bytes = optimizer_bytes(&subject, &inspection);
    if args.json {
        let object = json::inspection(&inspection, &subject.simplified, optimizer_bytes);
        writeln!(out, "{object}").map_err(CliError::stdout)?;
    } else {
        people::inspection(&mut out, &inspection, &subject.simplified, optimizer_bytes)
            .map_err(CliError::stdout)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn optimizer_bytes(subject: &Subject, inspection: &Inspection) -> Option<usize> {
    let arenas = subject.optimizer_arenas?;
    (inspection.mode == Mode::Training).then_some(arenas * inspection.parameters_bytes)
}

/// The graph of an ONNX file, with the mean squared error of its first output as the loss.
fn file_subject(args: &ModelInspectArgs) -> Result<Subject, CliError> {
    let bytes = read_onnx_file(&args.path)?;
    let with_loss = onnx::read(&bytes, &onnx::ReadOptions::default()).and_then(|read| {
        let mut graph = read.graph;
        let first = graph.outputs().first().map(|output| output.name.clone());
        onnx::append_loss(&mut graph, first.as_deref(), &onnx::Loss::MeanSquaredError)?;
        let simple = simplify(&graph)?;
        Ok((differentiate(&simple.graph, LOSS)?, simple.records))
    });
    let (graph, simplified) = with_loss.map_err(|source| TrainError::ReadOnnx {
        path: args.path.display().to_string(),
        source: Box::new(source),
    })?;
    Ok(Subject {
        layout: ParameterLayout::new::<f32>(&graph).map_err(TrainError::from)?,
        graph,
        simplified,
        batch: 1,
        workspace_bytes_max: None,
        optimizer_arenas: None,
    })
}

/// The network of a job file, whose data say how many numbers a record has; of a trained model; or of
/// an ONNX file.
fn subject(args: &ModelInspectArgs) -> Result<Subject, CliError> {
    if args.path.extension().is_some_and(|name| name == "onnx") {
        return file_subject(args);
    }
    if args.path.is_dir() {
        let model = ModelFiles::read(&args.path)?;
        let description = model.description;
        let sourced = Sourced {
            spec: &description.model,
            onnx: model.onnx.as_deref(),
        };
        let network = Network::new(
            sourced,
            (description.features, &description.columns.dims),
            &description.target,
            0.0,
            1,
        )?;
        return Ok(Subject {
            graph: network.graph().clone(),
            simplified: network.simplified().to_vec(),
            layout: network.layout().clone(),
            batch: 1,
            workspace_bytes_max: None,
            optimizer_arenas: None,
        });
    }
    let spec = job_file::read_with(&args.path, &[])?;
    let (network, info) = network_of(&spec)?;
    let train = &spec.train;
    let runs = u64::from(spec.cluster.replicas.max(1)) * u64::from(train.accumulate.max(1));
    let batch = u64::from(train.global_batch).div_ceil(runs).max(1);
    let steps_per_epoch = info
        .train_records
        .div_ceil(u64::from(train.global_batch.max(1)));
    Ok(Subject {
        graph: network.graph().clone(),
        simplified: network.simplified().to_vec(),
        layout: network.layout().clone(),
        batch: batch as usize,
        workspace_bytes_max: workspace_bytes_max(train),
        optimizer_arenas: Some(state_arenas(&train.optimizer, steps_per_epoch)),
    })
}

/// The network of a job, whose data say how many numbers a record has.
pub fn network_of(spec: &JobSpec) -> Result<(Network, DatasetInfo), CliError> {
    let (info, columns) = inspect_columns(&spec.data, spec.model.loss, &ReadOptions::default())?;
    let features = (info.features, &columns.dims[..]);
    let sources = ModelSources::read(&spec.model)?;
    let sourced = Sourced {
        spec: &spec.model,
        onnx: sources.onnx.as_deref(),
    };
    let network = Network::new(sourced, features, &info.target, spec.train.l2, 1)?;
    Ok((network, info))
}

/// The patches of each pass, and the graph before and after it, as text; or the graph after all of
/// them as DOT.
fn dump(subject: &Subject, mode: Mode, form: DumpArg) -> Result<String, CliError> {
    let graph = &subject.graph;
    let mut text = String::new();
    let noted = |text: &mut String, records: &[Record]| {
        for record in records {
            for line in record.to_string().lines() {
                text.push_str(&format!("// {line}\n"));
            }
        }
    };
    noted(&mut text, &subject.simplified);
    text.push_str(&format!("// {mode}, differentiated\n{graph}"));
    let mut watch = |records: &[Record], graph: &Graph| {
        noted(&mut text, records);
        let pass = records.first().map_or("", |record| record.pass);
        text.push_str(&format!("// after {pass}\n{graph}"));
    };
    let optimised = optimise_watched(graph, mode, &mut watch).map_err(TrainError::from)?;
    Ok(match form {
        DumpArg::Text => text,
        DumpArg::Dot => dot(&optimised.graph),
    })
}
