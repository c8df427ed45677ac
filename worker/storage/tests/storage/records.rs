//! Splits, scalers and the gather.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ringfold_common::job::{DataSource, Scale, TestData};
use ringfold_common::order::Permutation;
use ringfold_common::random::{Domain, stream_key};
use ringfold_storage::{Dataset, LabelsOut, ReadOptions, Records, Scaler, StorageError};

use crate::support::*;

/// A dataset whose record n has the one feature n, with a seeded split.
fn numbered(records: u64, fraction: f64, seed: u64) -> Result<Dataset, StorageError> {
    let dir = Dir::new();
    let rows: String = (0..records).map(|n| format!("{n},{}\n", n % 5)).collect();
    let path = dir.file("data.csv", rows);
    let mut spec = spec(DataSource::Csv(csv_plain(&path, 1)));
    spec.test = TestData::Fraction { fraction, seed };
    Dataset::load(&spec, CLASSES, &ReadOptions::default())
}

fn numbers(records: &Records) -> Vec<u64> {
    let (features, labels) = class_rows(records, &Scaler::None);
    let numbers: Vec<u64> = features.into_iter().map(|x| x as u64).collect();
    assert!(
        numbers
            .iter()
            .zip(labels)
            .all(|(n, label)| n % 5 == label as u64)
    );
    numbers
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn splits_partition_exactly(records in 5u64..300, fraction in 0.01f64..0.99, seed: u64) {
        let expected = (fraction * records as f64).round() as u64;
        match numbered(records, fraction, seed) {
            Ok(dataset) => {
                let (train, test) = (numbers(dataset.train()), numbers(dataset.test()));
                prop_assert_eq!(test.len() as u64, expected);
                prop_assert_eq!(dataset.info().test_records, expected);
                prop_assert_eq!(dataset.info().train_records, records - expected);
                let order = Permutation::new(stream_key(seed, Domain::Split, 0, 0), records);
                let all: Vec<u64> = (0..records).map(|position| order.at(position)).collect();
                prop_assert_eq!([&test[..], &train[..]].concat(), all.clone());
                prop_assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len() as u64, records);
            }
            Err(StorageError::EmptySplit { test_records, .. }) => {
                prop_assert_eq!(test_records, expected);
                prop_assert!(expected == 0 || expected == records);
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn gather_equals_the_naive_loop(
        values in prop::collection::vec(-1e3f32..1e3, 7 * 30),
        bytes in prop::collection::vec(any::<u8>(), 7 * 30),
        indices in prop::collection::vec(0u64..30, 0..50),
        scale in prop_oneof![
            Just(Scale::None), Just(Scale::Divide(16.0)), Just(Scale::Standardize), Just(Scale::MinMax)
        ],
    ) {
        let dir = Dir::new();
        let rows: Vec<Vec<f32>> = values.chunks(7).map(<[f32]>::to_vec).collect();
        let labels: Vec<String> = rows.iter().map(|row| row[0].to_string()).collect();
        let csv = dir.file("data.csv", csv_text(&rows, &labels, 7, "\n"));
        let mut csv = spec(DataSource::Csv(csv_named(&csv, "y")));
        csv.scale = scale;
        let images = dir.file("images", idx(&[30, 7], &bytes));
        let label_bytes: Vec<u8> = bytes.chunks(7).map(|row| row[0]).collect();
        let labels = dir.file("labels", idx(&[30], &label_bytes));
        let mut idx = spec(idx_source(&images, &labels));
        idx.scale = scale;

        let count = indices.len();
        let mut features = vec![f32::NAN; count * 7];
        let dataset = load(&csv, VALUES);
        let mut labels = vec![f32::NAN; count];
        let out = LabelsOut::Values(&mut labels);
        dataset.train().gather(indices.iter().copied(), dataset.scaler(), &mut features, out);
        for (n, &index) in indices.iter().enumerate() {
            let row = &values[index as usize * 7..][..7];
            prop_assert_eq!(labels[n], row[0]);
            for feature in 0..7 {
                let expected = naive(dataset.scaler(), feature, row[feature]);
                prop_assert_eq!(features[n * 7 + feature].to_bits(), expected.to_bits());
            }
        }

        let dataset = load(&idx, CLASSES);
        let mut labels = vec![-1; count];
        let out = LabelsOut::Classes(&mut labels);
        dataset.train().gather(indices.iter().copied(), dataset.scaler(), &mut features, out);
        for (n, &index) in indices.iter().enumerate() {
            let row = &bytes[index as usize * 7..][..7];
            prop_assert_eq!(labels[n], i32::from(row[0]));
            for feature in 0..7 {
                let expected = naive(dataset.scaler(), feature, f32::from(row[feature]));
                prop_assert_eq!(features[n * 7 + feature].to_bits(), expected.to_bits());
            }
        }
    }

    #[test]
    fn scalers_survive_json_to_the_bit(bits in prop::collection::vec(any::<u32>(), 2..40)) {
        let finite = |bits: &u32| {
            let number = f32::from_bits(*bits);
            if number.is_finite() { number } else { 1.5 }
        };
        let numbers: Vec<f32> = bits.iter().map(finite).collect();
        let half = numbers.len() / 2;
        let scaler = Scaler::PerFeature {
            offset: numbers[..half].to_vec(),
            factor: numbers[half..2 * half].to_vec(),
        };
        let json = serde_json::to_string(&scaler).unwrap();
        let Scaler::PerFeature { offset, factor } = serde_json::from_str(&json).unwrap() else {
            panic!("{json}")
        };
        for (before, after) in numbers.iter().zip(offset.iter().chain(&factor)) {
            prop_assert_eq!(before.to_bits(), after.to_bits());
        }
    }
}

fn naive(scaler: &Scaler, feature: usize, x: f32) -> f32 {
    match scaler {
        Scaler::None => x,
        Scaler::Uniform { factor } => x * factor,
        Scaler::PerFeature { offset, factor } => (x - offset[feature]) * factor[feature],
    }
}

#[test]
fn a_split_that_leaves_nothing() {
    for fraction in [0.04, 0.96, 0.0, f64::NAN] {
        let error = numbered(10, fraction, 1).unwrap_err();
        assert!(matches!(error, StorageError::EmptySplit { .. }), "{error}");
    }
    let error = numbered(10, 0.04, 1).unwrap_err();
    assert_text(
        &error,
        "a test fraction of 0.04 takes 0 of 10 records: at least one must be for testing and one \
         for training",
    );
}

/// The scaled records of a two-feature dataset: x is 1, 2, 3, 6; the second feature is constant.
fn scaled(scale: Scale) -> (Scaler, Vec<f32>) {
    let dir = Dir::new();
    let path = dir.file("data.csv", "1,0.1,0\n2,0.1,0\n3,0.1,0\n6,0.1,0\n");
    let mut spec = spec(DataSource::Csv(csv_plain(&path, 2)));
    spec.scale = scale;
    let dataset = load(&spec, VALUES);
    let features = value_rows(dataset.train(), dataset.scaler()).0;
    (dataset.scaler().clone(), features)
}

#[test]
fn scaler_formulas() {
    assert_eq!(scaled(Scale::None).0, Scaler::None);
    let (scaler, features) = scaled(Scale::Divide(4.0));
    assert_eq!(scaler, Scaler::Uniform { factor: 0.25 });
    assert_eq!(features[..4], [0.25, 0.025, 0.5, 0.025]);
    let (_, features) = scaled(Scale::MinMax);
    assert_eq!(features, [0.0, 0.0, 0.2, 0.0, 0.4, 0.0, 1.0, 0.0]);
    // Mean 3, variance (4 + 1 + 0 + 9) / 4.
    let (_, features) = scaled(Scale::Standardize);
    let deviation = 3.5f32.sqrt();
    for (row, x) in features.chunks(2).zip([-2.0, -1.0, 0.0, 3.0]) {
        assert!((row[0] - x / deviation).abs() < 1e-6, "{features:?}");
        assert_eq!(row[1], 0.0);
    }
}

#[test]
fn scalers_are_fitted_on_training_records_only() {
    let dir = Dir::new();
    let train = dir.file("train.csv", "1,0\n3,0\n");
    let test = dir.file("test.csv", "5,0\n");
    let mut spec = spec(DataSource::Csv(csv_plain(&train, 1)));
    spec.scale = Scale::MinMax;
    spec.test = TestData::Files(DataSource::Csv(csv_plain(&test, 1)));
    let dataset = load(&spec, CLASSES);
    assert_eq!(class_rows(dataset.train(), dataset.scaler()).0, [0.0, 1.0]);
    assert_eq!(class_rows(dataset.test(), dataset.scaler()).0, [2.0]);
}

#[test]
fn what_cannot_be_scaled() {
    let fit = |text: &str, scale| {
        let dir = Dir::new();
        let path = dir.file("data.csv", text);
        let mut spec = spec(DataSource::Csv(csv_named(&path, "y")));
        spec.scale = scale;
        Dataset::load(&spec, CLASSES, &ReadOptions::default())
            .map(|dataset| dataset.scaler().clone())
    };
    let wide = "a,b,y\n1,3e38,0\n2,-3e38,0\n";
    for scale in [Scale::MinMax, Scale::Divide(0.5)] {
        let error = fit(wide, scale);
        let Err(StorageError::Unscalable { feature, .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!((feature.index, feature.name.as_deref()), (1, Some("b")));
    }
    for divisor in [1e-300, 1e300, 0.0, f64::NAN] {
        let error = fit(wide, Scale::Divide(divisor)).unwrap_err();
        assert!(matches!(error, StorageError::Divisor { .. }), "{error}");
    }
    // A spread whose inverse is beyond 32 bits counts as none.
    let scaler = fit("a,y\n0,0\n1e-42,0\n", Scale::MinMax).unwrap();
    assert_eq!(
        scaler,
        Scaler::PerFeature {
            offset: vec![0.0],
            factor: vec![0.0]
        }
    );
}

fn small() -> Dataset {
    numbered(10, 0.5, 1).unwrap()
}

#[test]
#[should_panic(expected = "features_out")]
fn a_gather_into_too_few_rows_panics() {
    let mut labels = [0; 3];
    small().train().gather(
        0..3,
        &Scaler::None,
        &mut [0.0; 2],
        LabelsOut::Classes(&mut labels),
    );
}

#[test]
#[should_panic(expected = "features_out")]
fn a_gather_into_too_many_rows_panics() {
    let mut labels = [0; 3];
    small().train().gather(
        0..3,
        &Scaler::None,
        &mut [0.0; 4],
        LabelsOut::Classes(&mut labels),
    );
}

#[test]
#[should_panic(expected = "labels_out has one element")]
fn a_gather_into_too_many_labels_panics() {
    let mut labels = [0; 4];
    small().train().gather(
        0..3,
        &Scaler::None,
        &mut [0.0; 3],
        LabelsOut::Classes(&mut labels),
    );
}

#[test]
#[should_panic(expected = "record 5 of 5")]
fn a_gather_beyond_the_part_panics() {
    let mut labels = [0; 1];
    small().train().gather(
        5..6,
        &Scaler::None,
        &mut [0.0; 1],
        LabelsOut::Classes(&mut labels),
    );
}

#[test]
#[should_panic(expected = "labels are classes")]
fn a_gather_of_the_wrong_kind_panics() {
    small().train().gather(
        0..1,
        &Scaler::None,
        &mut [0.0; 1],
        LabelsOut::Values(&mut [0.0]),
    );
}
