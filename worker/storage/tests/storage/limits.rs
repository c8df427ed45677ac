//! Every cap, at the cap and one beyond it.

use ringfold_common::error::ErrorCode;
use ringfold_common::job::{DataSource, DataSpec};
use ringfold_storage::{Dataset, Limits, ReadOptions, StorageError};

use crate::support::*;

fn with(change: impl FnOnce(&mut Limits)) -> ReadOptions<'static> {
    let mut options = ReadOptions::default();
    change(&mut options.limits);
    options
}

/// Reads `text` as a CSV file with a label `y` and as many IDX images.
fn csv_spec(dir: &Dir, text: impl AsRef<[u8]>) -> DataSpec {
    spec(DataSource::Csv(csv_named(&dir.file("data.csv", text), "y")))
}

fn idx_spec(dir: &Dir) -> DataSpec {
    let images = dir.file("images", idx(&[3, 2], &[0; 6]));
    let labels = dir.file("labels", idx(&[3], &[0, 1, 2]));
    spec(idx_source(&images, &labels))
}

#[test]
fn file_bytes() {
    let dir = Dir::new();
    let text = "a,y\n1,2\n";
    for bytes in [text.as_bytes().to_vec(), gzip(text)] {
        let spec = csv_spec(&dir, bytes);
        Dataset::load(&spec, CLASSES, &with(|limits| limits.file_bytes_max = 8)).unwrap();
        let error = refusal_with(&spec, CLASSES, &with(|limits| limits.file_bytes_max = 7));
        assert!(
            matches!(error, StorageError::FileTooLong { bytes_max: 7, .. }),
            "{error}"
        );
        assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    }
}

#[test]
fn a_gzip_bomb_is_stopped_at_the_cap() {
    let dir = Dir::new();
    let bomb = gzip("a,y\n".to_owned() + &"1,2\n".repeat(1 << 20));
    assert!(bomb.len() < 1 << 16);
    let options = with(|limits| limits.file_bytes_max = 1 << 20);
    let error = refusal_with(&csv_spec(&dir, bomb), CLASSES, &options);
    assert!(matches!(error, StorageError::FileTooLong { .. }), "{error}");
}

#[test]
fn records() {
    let dir = Dir::new();
    for spec in [csv_spec(&dir, "a,y\n1,2\n1,2\n1,2\n"), idx_spec(&dir)] {
        Dataset::load(&spec, CLASSES, &with(|limits| limits.records_max = 3)).unwrap();
        let error = refusal_with(&spec, CLASSES, &with(|limits| limits.records_max = 2));
        assert!(
            matches!(error, StorageError::TooManyRecords { records_max: 2, .. }),
            "{error}"
        );
    }
}

#[test]
fn features() {
    let dir = Dir::new();
    for spec in [csv_spec(&dir, "a,y,b\n1,2,3\n"), idx_spec(&dir)] {
        Dataset::load(&spec, CLASSES, &with(|limits| limits.features_max = 2)).unwrap();
        let error = refusal_with(&spec, CLASSES, &with(|limits| limits.features_max = 1));
        assert!(
            matches!(error, StorageError::TooManyFeatures { features: 2, .. }),
            "{error}"
        );
    }
}

#[test]
fn record_bytes() {
    let dir = Dir::new();
    let field = "1".repeat(2 * Limits::BUFFER_BYTES);
    let spec = csv_spec(&dir, format!("a,y\n1,2\n0.{field},1\n"));
    load(&spec, CLASSES);
    let error = refusal_with(
        &spec,
        CLASSES,
        &with(|limits| limits.record_bytes_max = 1000),
    );
    assert!(
        matches!(
            error,
            StorageError::RecordTooLong {
                line: 3,
                bytes_max: 1000,
                ..
            }
        ),
        "{error}"
    );
    // A quote left open does not take the memory of the rest of the file.
    let error = refusal_with(
        &csv_spec(
            &dir,
            "a,y\n1,\"2\n".to_owned() + &"1,2\n".repeat(Limits::BUFFER_BYTES),
        ),
        CLASSES,
        &with(|limits| limits.record_bytes_max = 1000),
    );
    assert!(
        matches!(error, StorageError::RecordTooLong { line: 2, .. }),
        "{error}"
    );
}

#[test]
fn label_bytes() {
    let dir = Dir::new();
    let spec = csv_spec(&dir, "a,y\n1,four\n");
    Dataset::load(&spec, CLASSES, &with(|limits| limits.label_bytes_max = 4)).unwrap();
    let error = refusal_with(&spec, CLASSES, &with(|limits| limits.label_bytes_max = 3));
    assert!(
        matches!(error, StorageError::LabelTooLong { .. }),
        "{error}"
    );
}

#[test]
fn classes() {
    let dir = Dir::new();
    for spec in [csv_spec(&dir, "a,y\n1,u\n1,v\n1,w\n"), idx_spec(&dir)] {
        Dataset::load(&spec, CLASSES, &with(|limits| limits.classes_max = 3)).unwrap();
        let error = refusal_with(&spec, CLASSES, &with(|limits| limits.classes_max = 2));
        assert!(
            matches!(&error, StorageError::TooManyClasses { classes_max: 2, place } if place.record == 3),
            "{error}"
        );
        assert!(
            error.hint().unwrap().contains("mean_squared_error"),
            "{error}"
        );
    }
}

#[test]
fn the_default_cap_on_classes() {
    let dir = Dir::new();
    let rows = |count: usize| -> String { (0..count).map(|n| format!("1,{n}.5\n")).collect() };
    let full = csv_spec(&dir, "a,y\n".to_owned() + &rows(Limits::CLASSES_MAX));
    assert_eq!(load(&full, CLASSES).info().target.outputs(), 65_536);
    let over = csv_spec(&dir, "a,y\n".to_owned() + &rows(Limits::CLASSES_MAX + 1));
    let error = refusal(&over, CLASSES);
    assert!(
        matches!(error, StorageError::TooManyClasses { .. }),
        "{error}"
    );
}
