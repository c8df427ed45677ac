//! IDX files: what is read, and one test a way to be malformed.

use proptest::prelude::*;
use ringfold_common::dataset::Target;
use ringfold_common::job::TestData;
use ringfold_storage::{Scaler, SourceFormat, StorageError};

use crate::support::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_images_come_back(
        records in 1u32..20,
        rest in prop::collection::vec(1u32..5, 0..4),
        bytes in prop::collection::vec(any::<u8>(), 20 * 4 * 4 * 4 * 4),
        zipped: bool,
    ) {
        let width: u32 = rest.iter().product();
        let data = &bytes[..(records * width) as usize];
        let labels = &bytes[bytes.len() - records as usize..];
        let sizes = [&[records], &rest[..]].concat();
        let (images, label_file) = (idx(&sizes, data), idx(&[records], labels));
        let dir = Dir::new();
        let pack = |bytes: &Vec<u8>| if zipped { gzip(bytes) } else { bytes.clone() };
        let (images_path, labels_path) =
            (dir.file("images", pack(&images)), dir.file("labels", pack(&label_file)));

        let dataset = load(&spec(idx_source(&images_path, &labels_path)), CLASSES);
        prop_assert_eq!(dataset.info().features, width);
        let greatest = *labels.iter().max().unwrap();
        let target = (0..=greatest).map(|class| class.to_string()).collect();
        prop_assert_eq!(&dataset.info().target, &Target::Classes(target));
        let (features, classes) = class_rows(dataset.train(), &Scaler::None);
        prop_assert_eq!(features, data.iter().map(|&x| f32::from(x)).collect::<Vec<_>>());
        prop_assert_eq!(classes, labels.iter().map(|&x| i32::from(x)).collect::<Vec<_>>());
        let fingerprint = blake3::hash(&[images, label_file].concat());
        prop_assert_eq!(dataset.info().fingerprint, *fingerprint.as_bytes());
        prop_assert_eq!(&dataset.columns().format, &SourceFormat::Idx);
        prop_assert_eq!(&dataset.columns().dims, &rest);
    }
}

/// The error of a pair of files, and of none other.
fn pair_refusal(images: &[u8], labels: &[u8]) -> StorageError {
    let dir = Dir::new();
    let (images, labels) = (dir.file("images", images), dir.file("labels", labels));
    refusal(&spec(idx_source(&images, &labels)), CLASSES)
}

fn images_refusal(images: &[u8]) -> StorageError {
    pair_refusal(images, &idx(&[2], &[0, 1]))
}

#[test]
fn classes_are_those_of_both_files() {
    let dir = Dir::new();
    let images = dir.file("images", idx(&[2, 1], &[5, 6]));
    let (labels, more) = (
        dir.file("labels", idx(&[2], &[2, 0])),
        dir.file("more", idx(&[2], &[0, 4])),
    );
    let mut spec = spec(idx_source(&images, &labels));
    spec.test = TestData::Files(idx_source(&images, &more));
    let dataset = load(&spec, CLASSES);
    assert_eq!(dataset.info().target.outputs(), 5);
    assert_eq!(class_rows(dataset.train(), &Scaler::None).1, [2, 0]);
    assert_eq!(class_rows(dataset.test(), &Scaler::None).1, [0, 4]);
}

#[test]
fn every_cut_is_an_error() {
    let (images, labels) = (idx(&[2, 3, 2], &[9; 12]), idx(&[2], &[0, 1]));
    for len in 1..images.len() {
        let error = pair_refusal(&images[..len], &labels);
        assert!(
            matches!(error, StorageError::IdxTruncated { .. }),
            "{len}: {error}"
        );
    }
    for len in 1..labels.len() {
        let error = pair_refusal(&images, &labels[..len]);
        assert!(
            matches!(error, StorageError::IdxTruncated { .. }),
            "{len}: {error}"
        );
    }
    let error = images_refusal(&images[..images.len() - 1]);
    assert_text(&error, "images: cut off: 27 bytes, its header asks for 28");
}

#[test]
fn bytes_after_the_data() {
    let error = images_refusal(&[idx(&[2, 2], &[0; 4]), vec![7]].concat());
    assert_text(
        &error,
        "images: data goes on after byte 16, where it should end",
    );
}

#[test]
fn a_wrong_magic_number() {
    let error = images_refusal(b"PNG image");
    assert_text(
        &error,
        "images: not an IDX file: it begins with the bytes [50, 4e, 47, 20], expected two zero bytes",
    );
}

#[test]
fn elements_that_are_not_bytes() {
    let mut images = idx(&[2, 2], &[0; 4]);
    images[2] = 0x0d;
    let error = images_refusal(&images);
    assert!(
        matches!(error, StorageError::IdxType { got: 0x0d, .. }),
        "{error}"
    );
}

#[test]
fn a_wrong_number_of_dimensions() {
    let error = images_refusal(&[0, 0, 8, 0, 1]);
    assert_text(
        &error,
        "images: byte 3: 0 dimensions, expected 1 or more for images",
    );
    let error = pair_refusal(&idx(&[2, 1], &[0; 2]), &idx(&[2, 1], &[0; 2]));
    assert_text(
        &error,
        "labels: byte 3: 2 dimensions, expected 1 for labels",
    );
}

#[test]
fn dimensions_that_overflow() {
    for last in [u32::MAX, 0] {
        let error = images_refusal(&idx(&[u32::MAX, u32::MAX, u32::MAX, last], &[]));
        assert!(matches!(error, StorageError::IdxOverflow { .. }), "{error}");
    }
}

#[test]
fn no_records_and_no_features() {
    let error = images_refusal(&idx(&[0, 2], &[]));
    assert!(matches!(error, StorageError::NoRecords { .. }), "{error}");
    let error = images_refusal(&idx(&[2, 0, 3], &[]));
    assert!(matches!(error, StorageError::NoFeatures { .. }), "{error}");
}

#[test]
fn a_header_that_claims_more_than_there_is_costs_no_memory() {
    // 2^32 - 1 records of 2^20 bytes.
    let error = images_refusal(&idx(&[u32::MAX, 1024, 1024], &[1; 100]));
    assert!(
        matches!(error, StorageError::IdxTruncated { got_bytes: 116, .. }),
        "{error}"
    );
}

#[test]
fn counts_that_differ() {
    let error = pair_refusal(&idx(&[3, 1], &[0; 3]), &idx(&[2], &[0, 1]));
    assert_text(&error, "images holds 3 images, labels holds 2 labels");
}

#[test]
fn test_images_of_another_size() {
    let dir = Dir::new();
    let (small, large) = (
        dir.file("small", idx(&[2, 1], &[0; 2])),
        dir.file("large", idx(&[2, 3], &[0; 6])),
    );
    let labels = dir.file("labels", idx(&[2], &[0, 1]));
    let mut spec = spec(idx_source(&small, &labels));
    spec.test = TestData::Files(idx_source(&large, &labels));
    let error = refusal(&spec, CLASSES);
    assert_text(&error, "large: 3 features a record, small has 1");
}

#[test]
fn formats_that_differ() {
    let dir = Dir::new();
    let images = dir.file("images", idx(&[2, 1], &[0; 2]));
    let labels = dir.file("labels", idx(&[2], &[0, 1]));
    let csv = dir.file("data.csv", "a,y\n1,2\n");
    let csv = ringfold_common::job::DataSource::Csv(csv_named(&csv, "y"));
    let mut mixed = spec(idx_source(&images, &labels));
    mixed.test = TestData::Files(csv.clone());
    assert_text(&refusal(&mixed, CLASSES), "the data is csv, expected idx");
    let mut mixed = spec(csv);
    mixed.test = TestData::Files(idx_source(&images, &labels));
    assert_text(&refusal(&mixed, CLASSES), "the data is idx, expected csv");
}

#[test]
fn labels_are_classes() {
    let dir = Dir::new();
    let images = dir.file("images", idx(&[2, 1], &[0; 2]));
    let labels = dir.file("labels", idx(&[2], &[0, 1]));
    let error = refusal(&spec(idx_source(&images, &labels)), VALUES);
    assert!(
        matches!(error, StorageError::LabelsAreClasses { .. }),
        "{error}"
    );
}
