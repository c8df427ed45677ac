//! Model directories: round trips, and one test a rejection.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use ringfold_common::dataset::Target;
use ringfold_common::error::ErrorCode;
use ringfold_common::job::{Execution, FoldMode, GradientBytes, Summary};
use ringfold_storage::{
    Columns, MetricsWriter, ModelDescription, ModelFiles, NamedTensor, Scaler, SourceFormat,
    StorageError, check_output_dir, weights_blake3,
};
use serde_json::{Value, json};

use crate::support::*;

fn description() -> ModelDescription {
    ModelDescription {
        job_name: "a job".to_owned(),
        model: model_spec(),
        features: 2,
        target: Target::Classes(vec!["no".to_owned(), "yes".to_owned()]),
        scaler: Scaler::PerFeature {
            offset: vec![0.1, -3.0],
            factor: vec![1.0 / 3.0, 1e-30],
        },
        columns: Columns {
            feature_names: Some(vec!["a".to_owned(), "b".to_owned()]),
            label_name: Some("y".to_owned()),
            format: SourceFormat::Csv {
                header: true,
                delimiter: b',',
                label_column: 1,
            },
            dims: Vec::new(),
        },
    }
}

fn summary() -> Summary {
    Summary {
        steps: 10,
        epochs: 1,
        samples: 100,
        wall_seconds: 0.5,
        samples_per_second: 200.0,
        parameters: 9,
        metrics: BTreeMap::from([("train_loss".to_owned(), 0.25)]),
        weights_blake3: String::new(),
        output_dir: "/out".to_owned(),
        execution: Execution {
            mode: FoldMode::Fast,
            replicas: 2,
            replicas_at_once: 1,
            threads: 1,
            arena_bytes: 4096,
            resident_bytes_max: 1 << 20,
            gradient_bytes: GradientBytes::default(),
            buckets: 3,
            bucket_bytes_max: 4096,
        },
    }
}

const BIAS: NamedTensor<'static> = NamedTensor {
    name: "a.bias",
    shape: &[3],
    values: &[1.0, -2.5, f32::MIN_POSITIVE],
};
const WEIGHT: NamedTensor<'static> = NamedTensor {
    name: "a.weight",
    shape: &[2, 3],
    values: &[0.0, -0.0, 3.0, 4.0, f32::MAX, 6.0],
};
const WEIGHTS: [NamedTensor<'static>; 2] = [WEIGHT, BIAS];

/// A directory with a good model.
fn written() -> Dir {
    let dir = Dir::new();
    ModelFiles::write(dir.path(), &description(), &WEIGHTS, &summary()).unwrap();
    dir
}

fn rejection(dir: &Dir) -> StorageError {
    ModelFiles::read(dir.path()).unwrap_err()
}

/// The rejection of a model whose `model.json` was changed.
fn json_rejection(change: impl FnOnce(&mut Value)) -> StorageError {
    let dir = written();
    let path = dir.path().join(ModelFiles::MODEL);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
    rejection(&dir)
}

#[test]
fn a_model_comes_back() {
    let dir = written();
    let model = ModelFiles::read(dir.path()).unwrap();
    assert_eq!(model.description, description());
    let views: Vec<NamedTensor<'_>> = model.tensors.iter().map(|tensor| tensor.view()).collect();
    assert_eq!(views, [BIAS, WEIGHT]);
    let negative_zero = model.tensors[1].values[1];
    assert_eq!(negative_zero.to_bits(), (-0.0f32).to_bits());
    let json = fs::read(dir.path().join(ModelFiles::SUMMARY)).unwrap();
    assert_eq!(serde_json::from_slice::<Summary>(&json).unwrap(), summary());
    // No temporary file stays behind.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn random_weights_come_back(tensors in prop::collection::btree_map(
        "[a-z0-9.é\"]{1,8}",
        (prop::collection::vec(0usize..5, 0..4), any::<u32>()),
        0..6,
    )) {
        let values: Vec<Vec<f32>> = tensors.values().map(|(shape, seed)| {
            (0..shape.iter().product::<usize>() as u32)
                .map(|n| f32::from_bits(seed.wrapping_mul(n.wrapping_mul(2_654_435_761) | 1)))
                .collect()
        }).collect();
        let weights: Vec<NamedTensor<'_>> = tensors.iter().zip(&values)
            .map(|((name, (shape, _)), values)| NamedTensor { name, shape, values })
            .collect();
        let dir = Dir::new();
        ModelFiles::write(dir.path(), &description(), &weights, &summary()).unwrap();
        let model = ModelFiles::read(dir.path()).unwrap();
        prop_assert_eq!(model.tensors.len(), weights.len());
        for (read, written) in model.tensors.iter().zip(&weights) {
            prop_assert_eq!(&read.name, written.name);
            prop_assert_eq!(&read.shape, written.shape);
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&read.values), bits(written.values));
        }
    }
}

#[test]
fn equal_models_are_equal_files() {
    let (one, other) = (written(), Dir::new());
    let reversed = [BIAS, WEIGHT];
    ModelFiles::write(other.path(), &description(), &reversed, &summary()).unwrap();
    for name in [ModelFiles::MODEL, ModelFiles::WEIGHTS, ModelFiles::SUMMARY] {
        let read = |dir: &Dir| fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read(&one), read(&other), "{name}");
    }
}

#[test]
fn the_hash_is_over_values_in_the_order_of_names() {
    let bytes = |tensor: NamedTensor<'_>| -> Vec<u8> {
        tensor
            .values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    let expected = blake3::hash(&[bytes(BIAS), bytes(WEIGHT)].concat());
    assert_eq!(weights_blake3(&WEIGHTS), expected.to_hex().to_string());
    assert_eq!(
        weights_blake3(&[BIAS, WEIGHT]),
        expected.to_hex().to_string()
    );
    let long = vec![1.5; 100_000];
    let tensor = NamedTensor {
        name: "x",
        shape: &[100_000],
        values: &long,
    };
    assert_eq!(
        weights_blake3(&[tensor]),
        blake3::hash(&bytes(tensor)).to_hex().to_string()
    );
}

#[test]
fn the_metadata_names_job_and_version() {
    let dir = written();
    let bytes = fs::read(dir.path().join(ModelFiles::WEIGHTS)).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let ringfold = &metadata.metadata().as_ref().unwrap()["ringfold"];
    let ringfold: Value = serde_json::from_str(ringfold).unwrap();
    assert_eq!(
        ringfold,
        json!({ "format_version": 1, "job_name": "a job" })
    );
}

#[test]
fn leftovers_of_a_writer_that_died_are_overwritten() {
    let dir = written();
    for name in [ModelFiles::MODEL, ModelFiles::WEIGHTS, ModelFiles::SUMMARY] {
        dir.file(&format!(".{name}.tmp"), "half a f");
    }
    ModelFiles::write(dir.path(), &description(), &WEIGHTS, &summary()).unwrap();
    ModelFiles::read(dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn files_of_two_runs_are_told_apart() {
    let (dir, other) = (written(), Dir::new());
    let changed = [
        BIAS,
        NamedTensor {
            values: &[0.0; 6],
            ..WEIGHT
        },
    ];
    ModelFiles::write(other.path(), &description(), &changed, &summary()).unwrap();
    fs::copy(
        other.path().join(ModelFiles::WEIGHTS),
        dir.path().join(ModelFiles::WEIGHTS),
    )
    .unwrap();
    let error = rejection(&dir);
    assert!(
        matches!(error, StorageError::WeightsDiffer { .. }),
        "{error}"
    );
}

#[test]
fn missing_files() {
    for name in [ModelFiles::MODEL, ModelFiles::WEIGHTS] {
        let dir = written();
        fs::remove_file(dir.path().join(name)).unwrap();
        let error = rejection(&dir);
        assert_text(&error, &format!("{name}: no such file"));
        assert!(
            error.hint().unwrap().contains("output directory of a job"),
            "{error}"
        );
    }
}

/// Reads a directory in which `name` is cut off at every length in turn.
fn assert_cuts_are_errors(name: &str, is_right: impl Fn(&StorageError) -> bool) {
    let dir = written();
    let path = dir.path().join(name);
    let whole = fs::read(&path).unwrap();
    // Without its last line break `model.json` is whole.
    let end = whole.trim_ascii_end().len();
    for len in 0..end {
        fs::write(&path, &whole[..len]).unwrap();
        let error = rejection(&dir);
        assert!(is_right(&error), "cut at {len}: {error:?}");
    }
}

#[test]
fn model_json_cut_off_anywhere() {
    assert_cuts_are_errors(ModelFiles::MODEL, |error| {
        matches!(error, StorageError::ModelJson { .. })
    });
}

#[test]
fn weights_cut_off_anywhere() {
    assert_cuts_are_errors(ModelFiles::WEIGHTS, |error| {
        matches!(error, StorageError::Weights { .. })
    });
}

#[test]
fn any_flipped_byte_of_the_weights_is_an_error_or_the_same_model() {
    let dir = written();
    let path = dir.path().join(ModelFiles::WEIGHTS);
    let whole = fs::read(&path).unwrap();
    let model = ModelFiles::read(dir.path()).unwrap();
    for index in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[index] ^= 0x55;
        fs::write(&path, bytes).unwrap();
        // In the metadata, or in the blanks that pad the header, it may not matter.
        if let Ok(read) = ModelFiles::read(dir.path()) {
            assert_eq!(read, model, "byte {index}");
        }
    }
}

#[test]
fn a_wrong_json_field_is_named() {
    let error = json_rejection(|json| json["description"]["features"] = json!("two"));
    assert!(matches!(error, StorageError::ModelJson { .. }), "{error}");
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("\"two\", expected u32"),
        "{error:?}"
    );
    let error = json_rejection(|json| {
        json["description"]
            .as_object_mut()
            .unwrap()
            .remove("target");
    });
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("missing field `target`"),
        "{error:?}"
    );
}

#[test]
fn a_later_version() {
    let error = json_rejection(|json| *json = json!({ "format_version": 2, "other": 1 }));
    assert_text(
        &error,
        "model.json: format_version is 2, this program reads up to 1",
    );
    let error = json_rejection(|json| json["format_version"] = json!(0));
    assert!(
        matches!(
            error,
            StorageError::ModelField {
                field: "format_version",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn values_that_contradict_each_other() {
    let cases: [(&str, Value, &str); 9] = [
        ("/description/features", json!(0), "description.features"),
        ("/description/features", json!(3), "description.scaler"),
        (
            "/description/target",
            json!({ "classes": [] }),
            "description.target",
        ),
        (
            "/description/target",
            json!({ "classes": ["x", "x"] }),
            "description.target",
        ),
        (
            "/description/target",
            json!({ "values": 0 }),
            "description.target",
        ),
        (
            "/description/scaler/per_feature/offset",
            json!([1.0]),
            "description.scaler",
        ),
        (
            "/description/scaler/per_feature/offset",
            json!([1.0, 1e200]),
            "description.scaler",
        ),
        (
            "/description/columns/feature_names",
            json!(["a"]),
            "description.columns.feature_names",
        ),
        (
            "/description/columns/format/csv/label_column",
            json!(3),
            "description.columns.format.label_column",
        ),
    ];
    for (pointer, value, expected) in cases {
        let error = json_rejection(|json| *json.pointer_mut(pointer).unwrap() = value);
        let StorageError::ModelField { field, .. } = &error else {
            panic!("{pointer}: {error:?}")
        };
        assert_eq!(*field, expected, "{error}");
    }
}

#[test]
fn tensors_other_than_the_listed() {
    let error = json_rejection(|json| json["tensors"][0]["name"] = json!("b.bias"));
    assert_text(&error, "weights.safetensors: no tensor \"b.bias\"");
    let error = json_rejection(|json| {
        json["tensors"].as_array_mut().unwrap().remove(0);
    });
    assert_text(
        &error,
        "weights.safetensors: a tensor \"a.bias\" that the model description doesn't list",
    );
    let error = json_rejection(|json| json["tensors"][1]["shape"] = json!([3, 2]));
    assert_text(
        &error,
        "weights.safetensors: tensor \"a.weight\" has shape [2, 3], expected [3, 2]",
    );
    let error = json_rejection(|json| {
        let first = json["tensors"][0].clone();
        json["tensors"].as_array_mut().unwrap().push(first);
    });
    assert!(
        matches!(error, StorageError::TensorMissing { .. }),
        "{error}"
    );
}

#[test]
fn a_tensor_of_another_type() {
    let dir = written();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![3], &[0; 6]).unwrap();
    let bytes = safetensors::serialize([("a.bias", view)], None).unwrap();
    dir.file(ModelFiles::WEIGHTS, bytes);
    assert_text(
        &rejection(&dir),
        "weights.safetensors: tensor \"a.bias\" holds F16, expected F32",
    );
}

#[test]
fn tensors_that_cannot_be_written_touch_nothing() {
    let dir = Dir::new();
    let write = |weights: &[NamedTensor<'_>]| {
        let error = ModelFiles::write(dir.path(), &description(), weights, &summary()).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        error
    };
    let error = write(&[NamedTensor {
        shape: &[2],
        ..BIAS
    }]);
    assert_text(&error, "tensor \"a.bias\" has shape [2] and 3 values");
    let error = write(&[NamedTensor {
        shape: &[usize::MAX, 2],
        ..BIAS
    }]);
    assert!(
        matches!(error, StorageError::TensorLength { .. }),
        "{error}"
    );
    let error = write(&[BIAS, WEIGHT, BIAS]);
    assert_text(&error, "two tensors are named \"a.bias\"");
}

#[test]
fn an_output_directory_is_made_and_probed() {
    let dir = Dir::new();
    let deep = dir.path().join("a/b");
    check_output_dir(&deep).unwrap();
    check_output_dir(&deep).unwrap();
    assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
    let file = dir.file("file", "");
    let error = check_output_dir(&file).unwrap_err();
    assert!(
        matches!(error, StorageError::OutputIsAFile { .. }),
        "{error}"
    );
    let error = check_output_dir(&file.join("below")).unwrap_err();
    assert!(
        matches!(error, StorageError::CreateDirectory { .. }),
        "{error}"
    );
    // No one may make files in /proc, not even root.
    let error = check_output_dir(Path::new("/proc")).unwrap_err();
    assert!(matches!(error, StorageError::NotWritable { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::PermissionDenied);
}

#[test]
fn a_write_that_fails_is_named() {
    let gone = Dir::new().path().join("gone");
    let error = ModelFiles::write(&gone, &description(), &WEIGHTS, &summary()).unwrap_err();
    assert_text(&error, "weights.safetensors: writing failed");
    let error = MetricsWriter::create(&gone).unwrap_err();
    assert_text(&error, "metrics.jsonl: writing failed");
}

#[test]
fn metrics_are_there_line_by_line() {
    let dir = Dir::new();
    let path = dir.file(MetricsWriter::FILE_NAME, "{\"of\":\"an earlier run\"}\n");
    let mut metrics = MetricsWriter::create(dir.path()).unwrap();
    metrics
        .write(&json!({ "step": 1, "loss": f64::NAN }))
        .unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "{\"loss\":null,\"step\":1}\n"
    );
    metrics
        .write(&BTreeMap::from([("text", "two\nlines")]))
        .unwrap();
    let error = metrics.write(&[1, 2]).unwrap_err();
    assert!(matches!(error, StorageError::NotAnObject { .. }), "{error}");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().nth(1), Some("{\"text\":\"two\\nlines\"}"));
    assert_eq!(text.lines().count(), 2);
}
