//! The dataset of `examples/digits`.

use std::path::Path;

use ringfold_common::dataset::Target;
use ringfold_common::job::{DataSource, Scale, TestData};

use crate::support::*;

#[test]
fn the_digits_example_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits/digits.csv.gz");
    let mut spec = spec(DataSource::Csv(csv_plain(&path, 64)));
    spec.scale = Scale::Divide(16.0);
    spec.test = TestData::Fraction {
        fraction: 0.2,
        seed: 1,
    };
    let dataset = load(&spec, CLASSES);
    let info = dataset.info();
    assert_eq!(
        (info.train_records, info.test_records, info.features),
        (1438, 359, 64)
    );
    assert_eq!(
        info.target,
        Target::Classes((0..10).map(|digit| digit.to_string()).collect())
    );
    for records in [dataset.train(), dataset.test()] {
        let (features, labels) = class_rows(records, dataset.scaler());
        assert!(features.iter().all(|x| (0.0..=1.0).contains(x)));
        // Every digit is there about equally often.
        for digit in 0..10 {
            let share =
                labels.iter().filter(|&&label| label == digit).count() as f64 / labels.len() as f64;
            assert!((0.05..0.15).contains(&share), "{digit}: {share}");
        }
    }
}
