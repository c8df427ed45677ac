//! CSV files: what is read, and one test a way to be malformed.

use proptest::prelude::*;
use ringfold_common::dataset::Target;
use ringfold_common::job::{ColumnRef, DataSource, Loss, TestData};
use ringfold_storage::{Scaler, SourceFormat, StorageError};

use crate::support::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_records_come_back(
        records in 1usize..40,
        width in 1usize..8,
        bits in prop::collection::vec(any::<u32>(), 320),
        names in prop::collection::vec("[a-z,\"é]{1,4}", 40),
        label_column in 0usize..8,
        crlf: bool,
        bom: bool,
        zipped: bool,
        last_break: bool,
    ) {
        let number = |bits: u32| {
            let number = f32::from_bits(bits);
            if number.is_finite() { number } else { 0.5 }
        };
        let rows: Vec<Vec<f32>> = (0..records)
            .map(|row| (0..width).map(|n| number(bits[row * 8 + n])).collect())
            .collect();
        let labels = &names[..records];
        let text = csv_text(&rows, labels, label_column.min(width), if crlf { "\r\n" } else { "\n" });
        let text = if last_break { &text[..] } else { text.trim_end() };
        let text = if bom { format!("\u{feff}{text}") } else { text.to_owned() };
        let dir = Dir::new();
        let path = dir.file("data", if zipped { gzip(&text) } else { text.clone().into_bytes() });

        let dataset = load(&spec(DataSource::Csv(csv_named(&path, "y"))), CLASSES);
        let (features, classes) = class_rows(dataset.train(), dataset.scaler());
        let features: Vec<u32> = features.into_iter().map(f32::to_bits).collect();
        let expected: Vec<u32> = rows.concat().into_iter().map(f32::to_bits).collect();
        prop_assert_eq!(features, expected);
        let Target::Classes(target) = &dataset.info().target else { panic!() };
        prop_assert!(target.is_sorted());
        let found: Vec<&String> = classes.iter().map(|&class| &target[class as usize]).collect();
        prop_assert_eq!(found, labels.iter().collect::<Vec<_>>());
        prop_assert_eq!(dataset.info().fingerprint, *blake3::hash(text.as_bytes()).as_bytes());
    }
}

#[test]
fn names_and_format_are_known() {
    let dir = Dir::new();
    let path = dir.file(
        "data.csv",
        " a ;\"b;c\" ; y\n 1.5 ;\t2; yes \n\n   \n-3e2;+4;no\n",
    );
    let mut source = csv_named(&path, "y");
    source.delimiter = b';';
    let dataset = load(&spec(DataSource::Csv(source)), CLASSES);
    let columns = dataset.columns();
    assert_eq!(
        columns.feature_names,
        Some(vec!["a".to_owned(), "b;c".to_owned()])
    );
    assert_eq!(columns.label_name.as_deref(), Some("y"));
    assert_eq!(
        columns.format,
        SourceFormat::Csv {
            header: true,
            delimiter: b';',
            label_column: 2
        }
    );
    let target = Target::Classes(vec!["no".to_owned(), "yes".to_owned()]);
    assert_eq!(dataset.info().target, target);
    let (features, labels) = class_rows(dataset.train(), &Scaler::None);
    assert_eq!(features, [1.5, 2.0, -300.0, 4.0]);
    assert_eq!(labels, [1, 0]);
}

#[test]
fn values_and_a_label_by_number() {
    let dir = Dir::new();
    let path = dir.file("data.csv", "1,-0.5,2\n3,7,4\n");
    let dataset = load(&spec(DataSource::Csv(csv_plain(&path, 1))), VALUES);
    assert_eq!(dataset.info().target, Target::Values(1));
    assert_eq!(dataset.columns().feature_names, None);
    let (features, labels) = value_rows(dataset.train(), &Scaler::None);
    assert_eq!(
        (features, labels),
        (vec![1.0, 2.0, 3.0, 4.0], vec![-0.5, 7.0])
    );
}

#[test]
fn integer_classes_sort_as_numbers_over_both_files() {
    let dir = Dir::new();
    let train = dir.file("train.csv", "x,y\n0,10\n0,9\n");
    let test = dir.file("test.csv", "x,y\n0,100\n0,9\n");
    let mut spec = spec(DataSource::Csv(csv_named(&train, "y")));
    spec.test = TestData::Files(DataSource::Csv(csv_named(&test, "y")));
    let dataset = load(&spec, CLASSES);
    let target = ["9", "10", "100"].map(str::to_owned).to_vec();
    assert_eq!(dataset.info().target, Target::Classes(target));
    assert_eq!(
        (dataset.info().train_records, dataset.info().test_records),
        (2, 2)
    );
    assert_eq!(class_rows(dataset.train(), &Scaler::None).1, [1, 0]);
    assert_eq!(class_rows(dataset.test(), &Scaler::None).1, [2, 0]);
    let both = blake3::hash(b"x,y\n0,10\n0,9\nx,y\n0,100\n0,9\n");
    assert_eq!(dataset.info().fingerprint, *both.as_bytes());
}

#[test]
fn a_ragged_record_names_its_line() {
    for end in ["\n", "\r\n"] {
        // A quoted line break and blank lines before it.
        let rows = ["a,\"b\nb\",y", "", "1,2,u", "", "3,4,\"v\"", "5,6"];
        let error = csv_refusal(rows.join(end), CLASSES);
        assert!(
            matches!(
                error,
                StorageError::RaggedRecord {
                    line: 7,
                    record: 3,
                    ..
                }
            ),
            "{error}"
        );
        assert_text(&error, "data.csv: line 7 (record 3): 2 fields, expected 3");
        let error = csv_refusal(rows.join(end) + ",w,z,z" + end, CLASSES);
        assert_text(&error, "data.csv: line 7 (record 3): 5 fields, expected 3");
    }
}

#[test]
fn a_wrong_delimiter_is_a_missing_label_or_a_ragged_record() {
    let error = csv_refusal("a;y\n1;2\n", CLASSES);
    assert_text(
        &error,
        "data.csv: no label column \"y\": the file has 1 columns, named \"a;y\"",
    );
    let error = csv_refusal("a,y\n1;2\n", CLASSES);
    assert_eq!(
        error.hint().as_deref(),
        Some("is data.delimiter the byte between fields?")
    );
}

#[test]
fn a_field_that_is_no_number() {
    let error = csv_refusal("a,b,y\n1,2,u\n1, two ,u\n", CLASSES);
    assert!(matches!(&error, StorageError::NotANumber { text, .. } if text == "two"));
    assert_text(
        &error,
        "data.csv: line 3 (record 2), column 1 (\"b\"): \"two\" is not a number",
    );
}

#[test]
fn a_header_taken_for_a_record_is_hinted_at() {
    let dir = Dir::new();
    let path = dir.file("data.csv", "age,y\n1,2\n");
    let error = refusal(&spec(DataSource::Csv(csv_plain(&path, 1))), CLASSES);
    assert_text(
        &error,
        "data.csv: line 1 (record 1), column 0: \"age\" is not a number",
    );
    assert!(
        error.hint().unwrap().contains("data.header = true"),
        "{error}"
    );
}

#[test]
fn a_record_taken_for_a_header_is_hinted_at() {
    let error = csv_refusal("5.1,3.5,0\n4.9,3.0,1\n", CLASSES);
    assert!(
        error.hint().unwrap().contains("data.header = false"),
        "{error}"
    );
}

#[test]
fn an_empty_field() {
    let error = csv_refusal("a,b,y\n1,,u\n", CLASSES);
    assert_text(
        &error,
        "data.csv: line 2 (record 1), column 1 (\"b\"): the field is empty, expected a number",
    );
    let error = csv_refusal("a,b,y\n1,2,\"\"\n", CLASSES);
    assert!(
        matches!(&error, StorageError::EmptyField { place } if place.column.as_ref().unwrap().index == 2)
    );
    let error = csv_refusal("a,b,y\n1,2, \r\n", VALUES);
    assert!(matches!(error, StorageError::EmptyField { .. }), "{error}");
}

#[test]
fn numbers_that_are_not_finite() {
    for text in ["NaN", "inf", "-infinity", "1e39", "-1e400"] {
        let error = csv_refusal(format!("a,y\n{text},1\n"), CLASSES);
        assert!(matches!(error, StorageError::NotFinite { .. }), "{error}");
        let error = csv_refusal(format!("a,y\n1,{text}\n"), VALUES);
        assert!(matches!(error, StorageError::NotFinite { .. }), "{error}");
    }
}

#[test]
fn a_value_label_that_is_no_number() {
    let error = csv_refusal("a,y\n1,cat\n", VALUES);
    assert!(matches!(error, StorageError::NotANumber { .. }), "{error}");
    assert!(error.hint().unwrap().contains("cross_entropy"), "{error}");
}

#[test]
fn text_that_is_not_utf8() {
    let error = csv_refusal(b"a,y\n1,\xff\n", CLASSES);
    assert_text(
        &error,
        "data.csv: line 2 (record 1), column 1 (\"y\"): the field is not UTF-8 text",
    );
    let error = csv_refusal(b"\xff,y\n1,2\n", CLASSES);
    assert_text(
        &error,
        "data.csv: line 1 (header), column 0: the field is not UTF-8 text",
    );
}

#[test]
fn a_quote_that_is_never_closed() {
    // In the label: the rest of the file would be the label.
    let error = csv_refusal("a,y\n1,\"cat\n2,dog\n", CLASSES);
    assert!(
        matches!(error, StorageError::LabelHasLineBreak { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("line 2 "), "{error}");
    // Even in the last record, without a last line break.
    let error = csv_refusal("a,y\n1,u\n2,\"cat", CLASSES);
    assert!(
        matches!(error, StorageError::LabelHasLineBreak { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("line 3 "), "{error}");
    // In a feature.
    let error = csv_refusal("y,a\n1,2\n1,\"2", CLASSES);
    assert!(matches!(error, StorageError::NotANumber { .. }), "{error}");
    let error = csv_refusal("a,y\n\"1,u\n2,v\n", CLASSES);
    assert!(
        matches!(
            error,
            StorageError::RaggedRecord {
                line: 2,
                got: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_missing_label_column_suggests_a_near_name() {
    let error = csv_refusal("a,Y,c,d,e,f,g,h,i,j\n", CLASSES);
    assert!(matches!(error, StorageError::NoRecords { .. }), "{error}");
    let error = csv_refusal("a,Y,c,d,e,f,g,h,i,j\n1,2,3,4,5,6,7,8,9,0\n", CLASSES);
    assert_text(
        &error,
        "data.csv: no label column \"y\": the file has 10 columns, named \"a\", \"Y\", \"c\", \
         \"d\", \"e\", \"f\", \"g\", \"h\", …",
    );
    assert_eq!(error.hint().as_deref(), Some("did you mean \"Y\"?"));

    let dir = Dir::new();
    let path = dir.file("data.csv", "1,2\n");
    let mut source = csv_plain(&path, 2);
    let error = refusal(&spec(DataSource::Csv(source.clone())), CLASSES);
    assert_text(
        &error,
        "data.csv: no label column 2 (counted from 0): the file has 2 columns",
    );
    source.label = ColumnRef::Name("y".to_owned());
    let error = refusal(&spec(DataSource::Csv(source)), CLASSES);
    assert!(error.hint().unwrap().contains("by its number"), "{error}");
}

#[test]
fn two_columns_of_the_labels_name() {
    let error = csv_refusal("y,a,y\n1,2,3\n", CLASSES);
    assert_text(&error, "data.csv: columns 0 and 2 are both named \"y\"");
}

#[test]
fn a_file_of_labels_alone() {
    let error = csv_refusal("y\n1\n", CLASSES);
    assert!(matches!(error, StorageError::NoFeatures { .. }), "{error}");
}

#[test]
fn files_without_records() {
    for text in ["a,y\n", "a,y", "\n\r\n \n", "\u{feff}"] {
        let error = csv_refusal(text, CLASSES);
        assert!(
            matches!(error, StorageError::NoRecords { .. }),
            "{text:?}: {error}"
        );
    }
}

fn test_file_refusal(
    train: &str,
    test: &str,
    change: impl FnOnce(&mut DataSource),
) -> StorageError {
    let dir = Dir::new();
    let (train, test) = (dir.file("train.csv", train), dir.file("test.csv", test));
    let mut test = DataSource::Csv(csv_named(&test, "y"));
    change(&mut test);
    let mut spec = spec(DataSource::Csv(csv_named(&train, "y")));
    spec.test = TestData::Files(test);
    refusal(&spec, CLASSES)
}

#[test]
fn a_test_file_of_another_layout() {
    let error = test_file_refusal("a,b,y\n1,2,3\n", "a,c,y\n1,2,3\n", |_| {});
    assert_text(
        &error,
        "test.csv: column 1 is named \"c\", in train.csv \"b\"",
    );
    let error = test_file_refusal("a,b,y\n1,2,3\n", "a,b,y,z\n1,2,3,4\n", |_| {});
    assert_text(&error, "test.csv: 4 columns, train.csv has 3");
    let error = test_file_refusal("a,b,y\n1,2,3\n", "a,b,y\n1,2,3\n", |source| {
        let DataSource::Csv(source) = source else {
            panic!()
        };
        source.label = ColumnRef::Index(0);
    });
    assert_text(
        &error,
        "test.csv: the label is column 0, in train.csv column 2",
    );
    let error = test_file_refusal("a,b,y\n1,2,3\n", "1,2\n", |source| {
        let DataSource::Csv(source) = source else {
            panic!()
        };
        (source.label, source.header) = (ColumnRef::Index(1), false);
    });
    assert_text(&error, "test.csv: 2 columns, train.csv has 3");
    let error = test_file_refusal("a,y\n1,2\n", "a,y\n1,2\n", |source| {
        *source = idx_source("i".as_ref(), "l".as_ref());
    });
    assert!(matches!(error, StorageError::MissingFile { .. }), "{error}");
}

#[test]
fn a_label_that_the_loss_can_not_take_is_located() {
    for (loss, good, bad, expected) in [
        (
            Loss::BinaryCrossEntropy,
            "1",
            "1.5",
            "the label 1.5 is not a number from 0 to 1, as model.loss \"binary_cross_entropy\" needs \
             it",
        ),
        (
            Loss::Poisson,
            "0",
            "-1",
            "the label -1 is not a number of 0 or more, as model.loss \"poisson\" needs it",
        ),
        (
            Loss::Gamma,
            "0.5",
            "0",
            "the label 0 is not a number above 0, as model.loss \"gamma\" needs it",
        ),
    ] {
        let error = csv_refusal(format!("x,y\n1,{good}\n2,{bad}\n"), loss).to_string();
        assert!(error.ends_with(expected), "{error}");
        assert!(error.contains("data.csv: line 3 (record 2)"), "{error}");
        csv_refusal(format!("x,y\n1,{good}\nz,{good}\n"), loss);
    }
}
