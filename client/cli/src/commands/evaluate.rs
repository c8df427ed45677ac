//! `ringfold evaluate`.

use std::io::Write;
use std::process::ExitCode;

use ringfold_common::dataset::Target;
use ringfold_storage::{
    Dataset, LabelledFiles, ModelDescription, ModelFiles, ReadOptions, Records, StorageError,
    read_labelled,
};
use ringfold_train::Predictor;

use crate::args::EvaluateArgs;
use crate::error::CliError;
use crate::job_file;
use crate::output::{json, people};

pub fn run(args: &EvaluateArgs) -> Result<ExitCode, CliError> {
    let predictor = Predictor::new(ModelFiles::read(&args.model)?)?;
    let records = records(args, predictor.description())?;
    let (sums, matrix) = predictor.evaluate(&records)?;
    let metrics = sums.metrics("test");
    let names = match &predictor.description().target {
        Target::Classes(names) => names.as_slice(),
        Target::Values(_) | Target::Tokens(_) => &[],
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let object = json::evaluation(records.len(), &metrics, names, matrix.as_ref());
        writeln!(out, "{object}").map_err(CliError::stdout)?;
    } else {
        people::evaluation(&mut out, records.len(), &metrics, names, matrix.as_ref())
            .map_err(CliError::stdout)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn records(args: &EvaluateArgs, model: &ModelDescription) -> Result<Records, CliError> {
    let options = ReadOptions::default();
    let read = |files: &LabelledFiles<'_>| -> Result<Records, StorageError> {
        read_labelled(files, model, &options)
    };
    if let Some(job) = &args.job {
        return test_records_of(job, model, &options);
    }
    let records = match (&args.input, &args.images, &args.labels) {
        (Some(input), _, _) => read(&LabelledFiles::File(input))?,
        (None, Some(images), Some(labels)) => read(&LabelledFiles::Idx { images, labels })?,
        _ => {
            return Err(CliError::Mismatch(
                "nothing to evaluate: see --help".to_owned(),
            ));
        }
    };
    Ok(records)
}

/// The test records of a job, which must be of the model's kind.
fn test_records_of(
    job: &std::path::Path,
    model: &ModelDescription,
    options: &ReadOptions<'_>,
) -> Result<Records, CliError> {
    let spec = job_file::read_with(job, &[])?;
    let dataset = Dataset::load(&spec.data, spec.model.loss, options)?;
    let info = dataset.info();
    if info.features != model.features || info.target != model.target {
        return Err(CliError::Mismatch(format!(
            "the data of {} has {} features and {} outputs, the model {} and {}, or other classes",
            job.display(),
            info.features,
            info.target.outputs(),
            model.features,
            model.target.outputs(),
        )));
    }
    if dataset.test().is_empty() {
        return Err(CliError::Mismatch(format!(
            "{} names no test data: expected a [data.test] table",
            job.display()
        )));
    }
    Ok(dataset.test().clone())
}
