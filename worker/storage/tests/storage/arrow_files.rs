//! Parquet and Arrow files: what is read, and each way to be malformed.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, FixedSizeListArray, Float32Array, Float64Array,
    Int64Array, LargeStringArray, RecordBatch, StringArray, UInt8Array,
};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use ringfold_common::dataset::Target;
use ringfold_common::job::DataSource;
use ringfold_storage::{Dataset, ReadOptions, Scaler, StorageError};

use crate::support::*;

/// How a table is written.
const WAYS: [&str; 3] = ["parquet", "arrow", "stream"];

fn write(batches: &[RecordBatch], way: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let schema = batches[0].schema();
    match way {
        "parquet" => {
            let options = WriterProperties::builder()
                .set_compression(Compression::ZSTD(ZstdLevel::default()))
                .set_max_row_group_row_count(Some(5));
            let mut writer =
                ArrowWriter::try_new(&mut bytes, schema, Some(options.build())).unwrap();
            batches
                .iter()
                .for_each(|batch| writer.write(batch).unwrap());
            writer.close().unwrap();
        }
        "arrow" => {
            let mut writer = FileWriter::try_new(&mut bytes, &schema).unwrap();
            batches
                .iter()
                .for_each(|batch| writer.write(batch).unwrap());
            writer.finish().unwrap();
        }
        _ => {
            let mut writer = StreamWriter::try_new(&mut bytes, &schema).unwrap();
            batches
                .iter()
                .for_each(|batch| writer.write(batch).unwrap());
            writer.finish().unwrap();
        }
    }
    bytes
}

fn file(dir: &Dir, bytes: &[u8], way: &str) -> (PathBuf, DataSource) {
    let format = if way == "parquet" { "parquet" } else { "arrow" };
    let path = dir.file(&format!("data.{format}"), bytes);
    let source = table_named(&path, format, "y");
    (path, source)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The same numbers and labels give the same bits as from CSV, in any number of batches.
    #[test]
    fn every_way_gives_the_bits_of_csv(
        rows in prop::collection::vec((any::<f32>().prop_filter("finite", |x| x.is_finite()), any::<i32>(), 0usize..3), 1..40),
        cut in 0usize..40,
    ) {
        let dir = Dir::new();
        let names = ["u", "v", "w"];
        let mut csv = "a,b,y\n".to_owned();
        for (a, b, y) in &rows {
            csv += &format!("{a:?},{b},{}\n", names[*y]);
        }
        let whole = batch(vec![
            ("a", Arc::new(Float32Array::from_iter_values(rows.iter().map(|row| row.0)))),
            ("b", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| i64::from(row.1))))),
            ("y", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| names[row.2])))),
        ]);
        let cut = cut.min(rows.len());
        let parts = [whole.slice(0, cut), whole.slice(cut, rows.len() - cut)];
        let csv = load(&spec(DataSource::Csv(csv_named(&dir.file("d.csv", csv), "y"))), CLASSES);
        let expected = class_rows(csv.train(), &Scaler::None);
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for way in WAYS {
            let got = load(&spec(file(&dir, &write(&parts, way), way).1), CLASSES);
            prop_assert_eq!(&got.info().target, &csv.info().target);
            prop_assert_eq!(got.columns().feature_names.as_ref(), csv.columns().feature_names.as_ref());
            let rows = class_rows(got.train(), &Scaler::None);
            prop_assert_eq!(bits(&rows.0), bits(&expected.0));
            prop_assert_eq!(&rows.1, &expected.1);
        }
    }

    /// A damaged file is an error or a table, never a panic.
    #[test]
    fn damage_is_an_error_or_a_table(at in any::<prop::sample::Index>(), bit in 0u8..8, way in prop::sample::select(&WAYS[..])) {
        let mut bytes = write(&[sample()], way);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let dir = Dir::new();
        let _ = Dataset::load(&spec(file(&dir, &bytes, way).1), CLASSES, &ReadOptions::default());
    }
}

/// Every type that is read.
fn sample() -> RecordBatch {
    let pixels: ArrayRef = Arc::new(UInt8Array::from_iter_values(0..12));
    let inner = Arc::new(Field::new_list_field(DataType::UInt8, false));
    let rows: ArrayRef = Arc::new(FixedSizeListArray::new(inner, 2, pixels, None));
    let outer = Arc::new(Field::new_list_field(rows.data_type().clone(), false));
    let words: DictionaryArray<Int32Type> = ["no", "yes"].into_iter().collect();
    batch(vec![
        ("is", Arc::new(BooleanArray::from(vec![true, false]))),
        ("d", Arc::new(Float64Array::from(vec![0.1, -2.0]))),
        ("t", Arc::new(LargeStringArray::from(vec![" 7 ", "8"]))),
        ("p", Arc::new(FixedSizeListArray::new(outer, 3, rows, None))),
        ("y", Arc::new(words)),
    ])
}

#[test]
fn what_is_read() {
    let dir = Dir::new();
    for way in WAYS {
        let (path, source) = file(&dir, &write(&[sample()], way), way);
        let dataset = load(&spec(source), CLASSES);
        let target = ["no", "yes"].map(str::to_owned).to_vec();
        assert_eq!(dataset.info().target, Target::Classes(target));
        let names = [
            "is", "d", "t", "p[0]", "p[1]", "p[2]", "p[3]", "p[4]", "p[5]",
        ];
        assert_eq!(
            dataset.columns().feature_names,
            Some(names.map(str::to_owned).to_vec())
        );
        let expected = [
            [1.0, 0.1, 7.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            [0.0, -2.0, 8.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0],
        ];
        assert_eq!(
            class_rows(dataset.train(), &Scaler::None),
            (expected.concat(), vec![0, 1])
        );
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(dataset.info().fingerprint, *blake3::hash(&bytes).as_bytes());
    }
}

#[test]
fn lists_that_are_all_features_are_images() {
    let dir = Dir::new();
    let sample = sample();
    let image = sample.project(&[3, 4]).unwrap();
    for way in WAYS {
        let dataset = load(
            &spec(file(&dir, &write(std::slice::from_ref(&image), way), way).1),
            CLASSES,
        );
        assert_eq!(dataset.columns().dims, [3, 2], "{way}");
    }
}

#[test]
fn what_is_refused_names_the_place() {
    let dir = Dir::new();
    let y: ArrayRef = Arc::new(StringArray::from(vec!["u", "v", "w"]));
    let a = |values: Vec<Option<f64>>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
    for way in WAYS {
        let format = if way == "parquet" { "parquet" } else { "arrow" };
        let refusal = |batches: &[RecordBatch]| {
            refusal(&spec(file(&dir, &write(batches, way), way).1), CLASSES)
        };
        for (value, expected) in [
            (None, "the field is empty, expected a number"),
            (Some(f64::NAN), "\"NaN\" is not a finite 32-bit number"),
            (Some(f64::MAX), "is not a finite 32-bit number"),
        ] {
            let columns = vec![
                ("a", a(vec![Some(1.0), value, Some(2.0)])),
                ("y", y.clone()),
            ];
            let error = refusal(&[batch(columns)]).to_string();
            let place = format!("data.{format}: record 2, column 0 (\"a\"): ");
            assert!(
                error.contains(&place) && error.ends_with(expected),
                "{error}"
            );
        }
        let empty = batch(vec![("a", a(vec![])), ("y", y.slice(0, 0))]);
        assert_text(&refusal(&[empty]), &format!("data.{format}: no records"));
        let dates: ArrayRef = Arc::new(arrow_array::Date32Array::from(vec![1, 2, 3]));
        let error = refusal(&[batch(vec![("when", dates), ("y", y.clone())])]);
        assert!(
            error
                .to_string()
                .contains("column 0 (\"when\") is of type Date32"),
            "{error}"
        );
        let wide = Arc::new(Field::new_list_field(DataType::UInt8, false));
        let bytes: ArrayRef = Arc::new(UInt8Array::from(vec![0; 3 << 21]));
        let wide: ArrayRef = Arc::new(FixedSizeListArray::new(wide, 1 << 21, bytes, None));
        let error = refusal(&[batch(vec![("x", wide), ("y", y.clone())])]);
        assert!(
            matches!(
                error,
                StorageError::TooManyFeatures {
                    features_max: 1048576,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn files_cut_off_anywhere_are_errors() {
    let dir = Dir::new();
    for way in WAYS {
        let whole = write(&[sample()], way);
        // A stream that ends between two messages is whole, so it isn't cut there.
        let end = if way == "stream" {
            whole.len() / 2
        } else {
            whole.len()
        };
        for len in (1..end).step_by(7) {
            let error = refusal(&spec(file(&dir, &whole[..len], way).1), CLASSES);
            assert!(
                matches!(
                    error,
                    StorageError::Undecodable { .. } | StorageError::NoRecords { .. }
                ),
                "{way} {len}: {error}"
            );
        }
    }
}

#[test]
fn what_is_compressed_as_a_whole_or_of_another_format_is_refused() {
    let dir = Dir::new();
    for way in WAYS {
        let format = if way == "parquet" { "parquet" } else { "arrow" };
        let error = refusal(
            &spec(file(&dir, &gzip(write(&[sample()], way)), way).1),
            CLASSES,
        );
        assert_text(
            &error,
            &format!("data.{format}: is compressed with gzip, a file of {format} is read as it is"),
        );
        let error = refusal(&spec(file(&dir, b"a,y\n1,2\n", way).1), CLASSES);
        assert_text(
            &error,
            &format!("data.{format}: not a valid file of {format}, after record 0"),
        );
        let error = refusal(&spec(file(&dir, b"", way).1), CLASSES);
        assert_text(&error, &format!("data.{format}: the file is empty"));
    }
}
