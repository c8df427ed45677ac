//! JSON lines: what is read, and each way to be malformed.

use proptest::prelude::*;
use ringfold_common::dataset::Target;
use ringfold_common::job::{DataSource, TestData};
use ringfold_storage::{Dataset, Limits, ReadOptions, Scaler, StorageError};

use crate::support::*;

fn jsonl(dir: &Dir, text: impl AsRef<[u8]>) -> DataSource {
    table_named(&dir.file("data.jsonl", text), "jsonl", "y")
}

fn jsonl_refusal(text: impl AsRef<[u8]>) -> StorageError {
    let dir = Dir::new();
    refusal(&spec(jsonl(&dir, text)), CLASSES)
}

proptest! {
    /// The same numbers and labels give the same bits as from CSV.
    #[test]
    fn jsonl_gives_the_bits_of_csv(
        rows in prop::collection::vec(prop::collection::vec(any::<f64>().prop_filter("finite in 32 bits", |x| (*x as f32).is_finite()), 3), 1..20),
        shuffled: bool,
    ) {
        let dir = Dir::new();
        let (mut csv, mut json) = ("a,b,c,y\n".to_owned(), String::new());
        for (n, row) in rows.iter().enumerate() {
            let label = ["u", "v\"w", "é"][n % 3];
            let quoted = label.replace('"', "\"\"");
            csv += &format!("{:?},{:?},{:?},\"{quoted}\"\n", row[0], row[1], row[2]);
            let label = serde_json::Value::from(label);
            json += &if shuffled && n > 0 {
                format!("{{\"y\": {label}, \"c\": {:?}, \"a\": {:?}, \"b\": {:?}}}\n", row[2], row[0], row[1])
            } else {
                format!("{{\"a\": {:?}, \"b\": {:?}, \"c\": {:?}, \"y\": {label}}}\n", row[0], row[1], row[2])
            };
        }
        let csv = load(&spec(DataSource::Csv(csv_named(&dir.file("d.csv", csv), "y"))), CLASSES);
        let json = load(&spec(jsonl(&dir, json)), CLASSES);
        prop_assert_eq!(&csv.info().target, &json.info().target);
        prop_assert_eq!(csv.columns().feature_names.as_ref(), json.columns().feature_names.as_ref());
        let (expected, labels) = class_rows(csv.train(), &Scaler::None);
        let (got, got_labels) = class_rows(json.train(), &Scaler::None);
        prop_assert_eq!(labels, got_labels);
        for (a, b) in expected.iter().zip(&got) {
            prop_assert_eq!(a.to_bits(), b.to_bits());
        }
    }

    /// No text is a panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = Dir::new();
        let _ = Dataset::load(&spec(jsonl(&dir, bytes)), CLASSES, &ReadOptions::default());
    }
}

#[test]
fn what_is_read() {
    let dir = Dir::new();
    let text = "\u{feff}{\"a\": 1.5, \"is\": true, \"y\": \"k\\u00e9\"}\r\n\r\n  \n\
                {\"is\": false, \"y\": 7, \"a\": \" -2e1 \"}";
    for bytes in [text.as_bytes().to_vec(), gzip(text), zstd(text)] {
        let dataset = load(&spec(jsonl(&dir, bytes)), CLASSES);
        let target = ["7", "ké"].map(str::to_owned).to_vec();
        assert_eq!(dataset.info().target, Target::Classes(target));
        let names = ["a", "is"].map(str::to_owned).to_vec();
        assert_eq!(dataset.columns().feature_names, Some(names));
        assert_eq!(
            class_rows(dataset.train(), &Scaler::None),
            (vec![1.5, 1.0, -20.0, 0.0], vec![1, 0])
        );
        assert_eq!(
            dataset.info().fingerprint,
            *blake3::hash(text.as_bytes()).as_bytes()
        );
    }
}

#[test]
fn what_is_refused_names_its_line() {
    let first = "{\"a\": 1, \"y\": 2}\n\n";
    for (second, expected) in [
        (
            "{\"a\": 1, \"y\": 2",
            "data.jsonl: line 3: not a JSON object",
        ),
        ("[1, 2]", "data.jsonl: line 3: not a JSON object"),
        ("1", "data.jsonl: line 3: not a JSON object"),
        (
            "{\"a\": 1, \"y\": 2} {}",
            "data.jsonl: line 3: not a JSON object",
        ),
        (
            "{\"a\": 01, \"y\": 2}",
            "data.jsonl: line 3: not a JSON object",
        ),
        (
            "{\"a\": NaN, \"y\": 2}",
            "data.jsonl: line 3: not a JSON object",
        ),
        (
            "{\"a\": 1, \"a\": 1, \"y\": 2}",
            "data.jsonl: line 3: the key \"a\" is there twice",
        ),
        (
            "{\"a\": 1, \"y\": 2, \"z\": 3}",
            "data.jsonl: line 3: the key \"z\" is not in the first record",
        ),
        (
            "{\"y\": 2}",
            "data.jsonl: line 3 (record 2), column 0 (\"a\"): the field is empty, expected a number",
        ),
        (
            "{\"a\": null, \"y\": 2}",
            "data.jsonl: line 3 (record 2), column 0 (\"a\"): the field is empty, expected a number",
        ),
        (
            "{\"a\": 1, \"y\": \"\"}",
            "data.jsonl: line 3 (record 2), column 1 (\"y\"): the field is empty, expected a class label",
        ),
        (
            "{\"a\": \"x\", \"y\": 2}",
            "data.jsonl: line 3 (record 2), column 0 (\"a\"): \"x\" is not a number",
        ),
        (
            "{\"a\": 1e39, \"y\": 2}",
            "data.jsonl: line 3 (record 2), column 0 (\"a\"): \"1e39\" is not a finite 32-bit number",
        ),
        (
            "{\"a\": [1], \"y\": 2}",
            "data.jsonl: line 3 (record 2), column 0 (\"a\"): a list or an object, expected a number",
        ),
    ] {
        assert_text(&jsonl_refusal(format!("{first}{second}")), expected);
    }
    let mut broken = first.as_bytes().to_vec();
    broken.extend(b"{\"a\": 1, \"y\": \"\xff\"}");
    assert_text(
        &jsonl_refusal(broken),
        "data.jsonl: line 3: not a JSON object",
    );
    assert_text(&jsonl_refusal(""), "data.jsonl: the file is empty");
    assert_text(&jsonl_refusal("\n \n"), "data.jsonl: no records");
    assert_text(
        &jsonl_refusal("{\"a\": 1}"),
        "data.jsonl: no label column \"y\": the file has 1 columns, named \"a\"",
    );
    assert_text(
        &jsonl_refusal("{\"y\": 1}"),
        "data.jsonl: records hold no feature",
    );
}

#[test]
fn caps() {
    let dir = Dir::new();
    let with = |change: fn(&mut Limits)| {
        let mut options = ReadOptions::default();
        change(&mut options.limits);
        options
    };
    let line = "{\"a\": 1, \"y\": 2}\n";
    let source = spec(jsonl(&dir, line.repeat(3)));
    // The line is of 17 bytes, its end included.
    Dataset::load(
        &source,
        CLASSES,
        &with(|limits| limits.record_bytes_max = 17),
    )
    .unwrap();
    let error = refusal_with(
        &source,
        CLASSES,
        &with(|limits| limits.record_bytes_max = 16),
    );
    assert!(
        matches!(error, StorageError::RecordTooLong { line: 1, .. }),
        "{error}"
    );
    let error = refusal_with(&source, CLASSES, &with(|limits| limits.records_max = 2));
    assert!(
        matches!(error, StorageError::TooManyRecords { .. }),
        "{error}"
    );
    // A million columns and more.
    let keys: String = (0..(1 << 20) + 1).map(|n| format!("\"{n}\":0,")).collect();
    let wide = spec(jsonl(&dir, format!("{{{keys}\"y\":1}}")));
    let error = refusal(&wide, CLASSES);
    assert!(
        matches!(error, StorageError::TooManyFeatures { .. }),
        "{error}"
    );
}

#[test]
fn test_files_must_be_of_the_format() {
    let dir = Dir::new();
    let mut spec = spec(jsonl(&dir, "{\"a\": 1, \"y\": 2}\n"));
    let csv = dir.file("test.csv", "a,y\n1,2\n");
    spec.test = TestData::Files(DataSource::Csv(csv_named(&csv, "y")));
    assert_text(&refusal(&spec, CLASSES), "the data is csv, expected jsonl");
    let other = dir.file("other.jsonl", "{\"b\": 1, \"y\": 2}\n");
    spec.test = TestData::Files(table_named(&other, "jsonl", "y"));
    assert_text(
        &refusal(&spec, CLASSES),
        "other.jsonl: column 0 is named \"b\", in data.jsonl \"a\"",
    );
}

#[test]
fn a_model_reads_more_of_them() {
    let dir = Dir::new();
    let spec = spec(jsonl(
        &dir,
        "{\"a\": 1, \"y\": 2, \"b\": 3}\n{\"a\": 1, \"y\": 3, \"b\": 3}\n",
    ));
    let model = describe(&spec, CLASSES);
    let more = dir.file("more.jsonl", "{\"a\": 5, \"b\": 6}\n");
    let unlabelled =
        ringfold_storage::read_unlabelled(&more, &model, &ReadOptions::default()).unwrap();
    assert_eq!(unlabelled.ignored_label, None);
    let mut out = [0.0; 2];
    unlabelled.features.gather([0], &Scaler::None, &mut out);
    assert_eq!(out, [5.0, 6.0]);
    let labelled = dir.file("labelled.jsonl", "{\"a\": 5, \"y\": 3, \"b\": 6}\n");
    let files = ringfold_storage::LabelledFiles::File(&labelled);
    let records = ringfold_storage::read_labelled(&files, &model, &ReadOptions::default()).unwrap();
    assert_eq!(
        class_rows(&records, &Scaler::None),
        (vec![5.0, 6.0], vec![1])
    );
}
