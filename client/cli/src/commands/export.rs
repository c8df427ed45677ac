//! `ringfold export`.

use std::process::ExitCode;

use ringfold_storage::ModelFiles;
use ringfold_train::Predictor;

use crate::args::ExportArgs;
use crate::error::CliError;

pub fn run(args: &ExportArgs) -> Result<ExitCode, CliError> {
    let predictor = Predictor::new(ModelFiles::read(&args.model)?)?;
    let bytes = predictor.to_onnx()?;
    std::fs::write(&args.onnx, bytes).map_err(|source| CliError::Write {
        what: args.onnx.display().to_string(),
        source,
    })?;
    Ok(ExitCode::SUCCESS)
}
