//! `ringfold predict`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use ringfold_common::dataset::Target;
use ringfold_common::job::Loss;
use ringfold_storage::{ModelFiles, ReadOptions, read_unlabelled};
use ringfold_train::Predictor;
use ringfold_train::predict::Prediction;

use crate::args::PredictArgs;
use crate::error::CliError;

pub fn run(args: &PredictArgs) -> Result<ExitCode, CliError> {
    let predictor = Predictor::new(ModelFiles::read(&args.model)?)?;
    let unlabelled = read_unlabelled(
        &args.input,
        predictor.description(),
        &ReadOptions::default(),
    )?;
    if let Some(column) = &unlabelled.ignored_label {
        eprintln!("note: the label column ({column}) is ignored");
    }
    let failed = |source: io::Error| CliError::Write {
        what: args.output.as_ref().map_or_else(
            || "to standard output".to_owned(),
            |path| path.display().to_string(),
        ),
        source,
    };
    let out: Box<dyn Write> = match &args.output {
        Some(path) => Box::new(File::create(path).map_err(failed)?),
        None => Box::new(io::stdout()),
    };
    let mut out = BufWriter::new(out);
    if args.json {
        predictor.predict(&unlabelled.features, |prediction| {
            writeln!(
                out,
                "{}",
                as_json(prediction, &predictor, args.probabilities)
            )
            .map_err(failed)
        })?;
    } else {
        let mut csv = csv::Writer::from_writer(&mut out);
        let broken = |error: csv::Error| match error.into_kind() {
            csv::ErrorKind::Io(source) => failed(source),
            other => failed(io::Error::other(format!("{other:?}"))),
        };
        csv.write_record(header(&predictor, args.probabilities))
            .map_err(broken)?;
        predictor.predict(&unlabelled.features, |prediction| {
            csv.write_record(record(prediction, args.probabilities))
                .map_err(broken)
        })?;
        csv.flush().map_err(failed)?;
    }
    out.flush().map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

fn header(predictor: &Predictor, probabilities: bool) -> Vec<String> {
    let mut header = vec!["prediction".to_owned()];
    if let (true, Target::Classes(names)) = (probabilities, &predictor.description().target) {
        header.extend(names.iter().map(|name| format!("probability_{name}")));
    }
    if predictor.description().model.loss == Loss::Normal {
        header.push("variance".to_owned());
    }
    header
}

fn record(prediction: Prediction<'_>, with_probabilities: bool) -> Vec<String> {
    match prediction {
        Prediction::Class {
            name,
            probabilities,
            ..
        } => {
            let mut record = vec![name.to_owned()];
            if with_probabilities {
                record.extend(probabilities.iter().map(f32::to_string));
            }
            record
        }
        Prediction::Values(values) => values.iter().map(f32::to_string).collect(),
        Prediction::Normal { means, variances } => {
            means.iter().chain(variances).map(f32::to_string).collect()
        }
    }
}

fn as_json(
    prediction: Prediction<'_>,
    predictor: &Predictor,
    with_probabilities: bool,
) -> serde_json::Value {
    match prediction {
        Prediction::Class {
            name,
            probabilities,
            ..
        } => {
            let mut object = serde_json::json!({ "prediction": name });
            if let (true, Target::Classes(names)) =
                (with_probabilities, &predictor.description().target)
            {
                object["probabilities"] = names.iter().zip(probabilities).map(pair).collect();
            }
            object
        }
        Prediction::Values([value]) => serde_json::json!({ "prediction": value }),
        Prediction::Values(values) => serde_json::json!({ "prediction": values }),
        Prediction::Normal {
            means: [mean],
            variances: [variance],
        } => serde_json::json!({ "prediction": mean, "variance": variance }),
        Prediction::Normal { means, variances } => {
            serde_json::json!({ "prediction": means, "variance": variances })
        }
    }
}

fn pair((name, probability): (&String, &f32)) -> (String, serde_json::Value) {
    (name.clone(), serde_json::json!(probability))
}
