//! Further data for a saved model.

use std::path::Path;

use ringfold_common::job::DataSource;
use ringfold_storage::{
    Column, LabelledFiles, ModelDescription, ReadOptions, Records, Scaler, StorageError,
    Unlabelled, read_labelled, read_unlabelled,
};

use crate::support::*;

/// A model of columns `a`, `y`, `b` with classes `no` and `yes`.
fn csv_model(dir: &Dir) -> ModelDescription {
    let path = dir.file("train.csv", "a,y,b\n1,yes,2\n3,no,4\n");
    describe(&spec(DataSource::Csv(csv_named(&path, "y"))), CLASSES)
}

fn plain_model(dir: &Dir) -> ModelDescription {
    let path = dir.file("train.csv", "1,0.5,2\n3,1.5,4\n");
    describe(&spec(DataSource::Csv(csv_plain(&path, 1))), VALUES)
}

fn idx_model(dir: &Dir) -> ModelDescription {
    let images = dir.file("images", idx(&[2, 2], &[1, 2, 3, 4]));
    let labels = dir.file("labels", idx(&[2], &[0, 1]));
    describe(&spec(idx_source(&images, &labels)), CLASSES)
}

fn unlabelled(path: &Path, model: &ModelDescription) -> Result<Unlabelled, StorageError> {
    read_unlabelled(path, model, &ReadOptions::default())
}

fn labelled(files: &LabelledFiles<'_>, model: &ModelDescription) -> Result<Records, StorageError> {
    read_labelled(files, model, &ReadOptions::default())
}

fn values(unlabelled: &Unlabelled) -> Vec<f32> {
    let features = &unlabelled.features;
    let mut out = vec![0.0; features.len() as usize * features.width()];
    features.gather(0..features.len(), &Scaler::None, &mut out);
    out
}

#[test]
fn features_alone_or_with_the_label_by_name() {
    let dir = Dir::new();
    let model = csv_model(&dir);
    let alone = unlabelled(&dir.file("alone.csv", "a,b\n5,6\n7,8\n"), &model).unwrap();
    assert_eq!(
        (values(&alone), alone.ignored_label),
        (vec![5.0, 6.0, 7.0, 8.0], None)
    );
    // Where the label is doesn't matter, nor what it holds.
    let with = unlabelled(
        &dir.file("with.csv.gz", gzip("y,a,b\n,5,6\n\"?\",7,8\n")),
        &model,
    )
    .unwrap();
    assert_eq!(values(&with), [5.0, 6.0, 7.0, 8.0]);
    assert_eq!(
        with.ignored_label,
        Some(Column {
            index: 0,
            name: Some("y".to_owned())
        })
    );
}

#[test]
fn features_alone_or_with_the_label_by_count() {
    let dir = Dir::new();
    let model = plain_model(&dir);
    let alone = unlabelled(&dir.file("alone.csv", "5,6\n"), &model).unwrap();
    assert_eq!(
        (values(&alone), alone.ignored_label),
        (vec![5.0, 6.0], None)
    );
    let with = unlabelled(&dir.file("with.csv", "5,?,6\n"), &model).unwrap();
    assert_eq!(values(&with), [5.0, 6.0]);
    assert_eq!(
        with.ignored_label,
        Some(Column {
            index: 1,
            name: None
        })
    );
}

#[test]
fn columns_that_are_not_the_models() {
    let dir = Dir::new();
    let model = csv_model(&dir);
    let refused = |text: &str| unlabelled(&dir.file("new.csv", text), &model).unwrap_err();
    assert_text(
        &refused("a,c\n1,2\n"),
        "new.csv: column 1 is named \"c\", in the model \"b\"",
    );
    assert_text(
        &refused("a,y,c\n1,2,3\n"),
        "new.csv: column 2 is named \"c\", in the model \"b\"",
    );
    assert_text(&refused("a\n1\n"), "new.csv: 1 columns, the model has 2");
    assert_text(
        &refused("a,b,c,y\n1,2,3,4\n"),
        "new.csv: 4 columns, the model has 3",
    );
    let model = plain_model(&dir);
    let error = unlabelled(&dir.file("new.csv", "1\n"), &model).unwrap_err();
    assert_text(&error, "new.csv: 1 columns, the model has 2");
    let error = unlabelled(&dir.file("new.csv", "1,2,3,4\n"), &model).unwrap_err();
    assert_text(&error, "new.csv: 4 columns, the model has 2");
}

#[test]
fn labels_become_the_models_classes() {
    let dir = Dir::new();
    let model = csv_model(&dir);
    let path = dir.file("new.csv", "y,a,b\nyes,5,6\nno,7,8\nyes,9,10\n");
    let records = labelled(&LabelledFiles::File(&path), &model).unwrap();
    let (features, labels) = class_rows(&records, &Scaler::None);
    assert_eq!(
        (features, labels),
        (vec![5.0, 6.0, 7.0, 8.0, 9.0, 10.0], vec![1, 0, 1])
    );

    let path = dir.file("new.csv", "a,y,b\n5,yes,6\n7,maybe,8\n");
    let error = labelled(&LabelledFiles::File(&path), &model).unwrap_err();
    assert_text(
        &error,
        "new.csv: line 3 (record 2), column 1 (\"y\"): the model has no class \"maybe\": it has 2: \
         \"no\", \"yes\"",
    );
}

#[test]
fn value_labels_are_read() {
    let dir = Dir::new();
    let path = dir.file("new.csv", "5,-1,6\n");
    let records = labelled(&LabelledFiles::File(&path), &plain_model(&dir)).unwrap();
    assert_eq!(
        value_rows(&records, &Scaler::None),
        (vec![5.0, 6.0], vec![-1.0])
    );
}

#[test]
fn labelled_columns_that_are_not_the_models() {
    let dir = Dir::new();
    let model = csv_model(&dir);
    let refused = |text: &str| {
        let path = dir.file("new.csv", text);
        labelled(&LabelledFiles::File(&path), &model).unwrap_err()
    };
    assert_text(
        &refused("a,b\n1,2\n"),
        "new.csv: 2 columns, the model has 3",
    );
    assert_text(
        &refused("a,y,c\n1,2,3\n"),
        "new.csv: column 2 is named \"c\", in the model \"b\"",
    );
    let error = refused("a,z,b\n1,2,3\n");
    assert!(
        matches!(error, StorageError::MissingLabelColumn { .. }),
        "{error}"
    );
}

#[test]
fn images_are_read_for_a_model_of_images() {
    let dir = Dir::new();
    let model = idx_model(&dir);
    let images = dir.file("new", gzip(idx(&[1, 2], &[8, 9])));
    let read = unlabelled(&images, &model).unwrap();
    assert_eq!((values(&read), read.ignored_label), (vec![8.0, 9.0], None));
    let labels = dir.file("new-labels", idx(&[1], &[1]));
    let files = LabelledFiles::Idx {
        images: &images,
        labels: &labels,
    };
    assert_eq!(
        class_rows(&labelled(&files, &model).unwrap(), &Scaler::None).1,
        [1]
    );

    let unknown = dir.file("unknown", idx(&[1], &[7]));
    let files = LabelledFiles::Idx {
        images: &images,
        labels: &unknown,
    };
    let error = labelled(&files, &model).unwrap_err();
    assert_text(
        &error,
        "unknown: record 1: the model has no class \"7\": it has 2: \"0\", \"1\"",
    );
    let large = dir.file("large", idx(&[1, 3], &[0; 3]));
    assert_text(
        &unlabelled(&large, &model).unwrap_err(),
        "large: 3 features a record, the model has 2",
    );
}

#[test]
fn files_of_the_other_format() {
    let dir = Dir::new();
    let (csv, images) = (csv_model(&dir), idx_model(&dir));
    let path = dir.file("new", "x");
    let error = labelled(&LabelledFiles::File(&path), &images).unwrap_err();
    assert_text(&error, "the data is csv, expected idx");
    let error = labelled(
        &LabelledFiles::Idx {
            images: &path,
            labels: &path,
        },
        &csv,
    )
    .unwrap_err();
    assert_text(&error, "the data is idx, expected csv");
}
