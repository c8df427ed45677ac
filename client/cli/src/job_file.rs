//! Reads a job file and lays flags over it.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use ringfold_client::ClientError;
use ringfold_common::job::JobSpec;
use ringfold_common::job_file::{JOB_FILE_BYTES_MAX, JobFile, Override};

use crate::args::JobFileArgs;
use crate::error::CliError;

/// The job that a file and flags ask for, with absolute paths.
pub fn read(args: &JobFileArgs) -> Result<JobFile, CliError> {
    read_file(&args.job, &overrides(args)?)
}

/// The job that a file asks for, with absolute paths.
pub fn read_with(path: &Path, overrides: &[Override]) -> Result<JobSpec, CliError> {
    read_file(path, overrides).map(|file| file.spec)
}

/// A coordinator's refusal of the job of a file: at its line, if a key of it is to blame.
pub fn refused(file: &JobFile, error: ClientError) -> CliError {
    let ClientError::Refused {
        message, fields, ..
    } = &error
    else {
        return error.into();
    };
    let key = fields
        .iter()
        .find_map(|one| one.field.strip_prefix("spec."));
    match key {
        Some(key) => at_key(file, key, message.clone()),
        None => error.into(),
    }
}

/// The error of a key of a job file. What is wrong with data is named by its file and line, and not by
/// those of the job.
pub fn at_key(file: &JobFile, key: &str, message: String) -> CliError {
    match key {
        "data" => CliError::Data(message),
        _ => file.refused(key, message).into(),
    }
}

fn read_file(path: &Path, overrides: &[Override]) -> Result<JobFile, CliError> {
    let failed = |source: io::Error| CliError::ReadJobFile {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    // One byte more, so that the parser sees that it is too large.
    file.take(JOB_FILE_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let absolute = fs::canonicalize(path).map_err(failed)?;
    let base_dir = absolute
        .parent()
        .unwrap_or(Path::new("/"))
        .to_string_lossy()
        .into_owned();
    Ok(JobFile::parse(
        &text,
        &path.to_string_lossy(),
        &base_dir,
        overrides,
    )?)
}

fn overrides(args: &JobFileArgs) -> Result<Vec<Override>, CliError> {
    let number = |flag: &str, key: &str, value: Option<u64>| {
        value.map(|value| Override {
            flag: format!("{flag} {value}"),
            key: key.to_owned(),
            value: value.to_string(),
        })
    };
    let mut all: Vec<Override> = [
        number("--workers", "cluster.workers", args.workers.map(u64::from)),
        number("--threads", "cluster.threads", args.threads.map(u64::from)),
        number("--steps", "train.steps", args.steps),
        number("--epochs", "train.epochs", args.epochs),
        number("--seed", "train.seed", args.seed),
    ]
    .into_iter()
    .flatten()
    .collect();
    let paths = [
        ("--output", "output.dir", &args.output),
        ("--timeline", "output.timeline", &args.timeline),
    ];
    for (flag, key, path) in paths {
        if let Some(path) = path {
            all.push(Override {
                flag: format!("{flag} {path}"),
                key: key.to_owned(),
                // Quoted, so that it is a string whatever it looks like.
                value: format!("{path:?}"),
            });
        }
    }
    for set in &args.set {
        all.push(set_key(set)?);
    }
    Ok(all)
}

/// The meaning of `--set KEY=VALUE`.
pub fn set_key(set: &str) -> Result<Override, CliError> {
    let (key, value) = set.split_once('=').ok_or_else(|| CliError::Flag {
        flag: "--set",
        expected: "KEY=VALUE, such as train.global_batch=256",
        got: set.to_owned(),
    })?;
    Ok(Override {
        flag: format!("--set {set}"),
        key: key.trim().to_owned(),
        value: value.trim().to_owned(),
    })
}
