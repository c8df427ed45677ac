//! Files that can't be read, of either format; cancellation.

use std::cell::Cell;
use std::ops::ControlFlow;

use ringfold_common::error::ErrorCode;
use ringfold_common::job::{DataSource, TestData};
use ringfold_storage::{BytesRead, Compression, ReadOptions, StorageError, inspect};

use crate::support::*;

#[test]
fn a_missing_file_is_named_before_the_others_are_read() {
    let dir = Dir::new();
    let train = dir.file("train.csv", "not,a\nlong,record,at,all\n");
    let mut spec = spec(DataSource::Csv(csv_named(&train, "y")));
    let missing = dir.path().join("gone.csv");
    spec.test = TestData::Files(DataSource::Csv(csv_named(&missing, "y")));
    let error = refusal(&spec, CLASSES);
    assert_text(&error, "gone.csv: no such file");
    assert_eq!(error.code(), ErrorCode::NotFound);
    assert!(error.hint().unwrap().contains("relative to the job file"));
}

#[test]
fn a_directory_or_a_path_through_a_file() {
    let dir = Dir::new();
    let error = refusal(&spec(DataSource::Csv(csv_named(dir.path(), "y"))), CLASSES);
    assert!(matches!(error, StorageError::IsDirectory { .. }), "{error}");
    let file = dir.file("file", "x");
    let error = refusal(
        &spec(DataSource::Csv(csv_named(&file.join("data.csv"), "y"))),
        CLASSES,
    );
    assert!(matches!(error, StorageError::MissingFile { .. }), "{error}");
    let error = refusal(
        &spec(DataSource::Csv(csv_named("/dev/null".as_ref(), "y"))),
        CLASSES,
    );
    assert!(matches!(error, StorageError::NotAFile { .. }), "{error}");
}

#[test]
fn an_empty_file() {
    let error = csv_refusal("", CLASSES);
    assert_text(&error, "data.csv: the file is empty");
    let error = csv_refusal(gzip(""), CLASSES);
    assert!(matches!(error, StorageError::NoRecords { .. }), "{error}");
}

#[test]
fn gzip_cut_off_anywhere_is_an_error() {
    let text: String = (0..200)
        .map(|n| format!("{},{}\n", n * 7919 % 1000, n % 3))
        .collect();
    let whole = gzip(format!("a,y\n{text}"));
    for len in 2..whole.len() {
        let error = csv_refusal(&whole[..len], CLASSES);
        assert!(
            matches!(error, StorageError::TruncatedCompression { .. }),
            "{len}: {error}"
        );
    }
}

#[test]
fn zstd_cut_off_or_damaged_anywhere_is_an_error_or_the_same() {
    let text: String = (0..200)
        .map(|n| format!("{},{}\n", n * 7919 % 1000, n % 3))
        .collect();
    let text = format!("a,y\n{text}");
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
    let whole = encoder.finish().unwrap();
    for len in 4..whole.len() {
        let error = csv_refusal(&whole[..len], CLASSES);
        assert!(
            matches!(
                error,
                StorageError::TruncatedCompression {
                    format: Compression::Zstd,
                    ..
                }
            ),
            "{len}: {error}"
        );
    }
    let dir = Dir::new();
    for at in 4..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        let spec = spec(DataSource::Csv(csv_named(&dir.file("d.csv", bytes), "y")));
        match inspect(&spec, CLASSES, &ReadOptions::default()) {
            // A bit that says nothing of the content.
            Ok(info) => assert_eq!(info.fingerprint, *blake3::hash(text.as_bytes()).as_bytes()),
            Err(
                StorageError::TruncatedCompression { .. } | StorageError::CorruptCompression { .. },
            ) => {}
            Err(other) => panic!("{at}: {other}"),
        }
    }
}

#[test]
fn damaged_gzip_is_an_error() {
    let mut bytes = gzip("a,y\n1,2\n3,4\n");
    // The checksum, in the trailer's first four bytes.
    let at = bytes.len() - 8;
    bytes[at] ^= 1;
    let error = csv_refusal(&bytes, CLASSES);
    assert!(
        matches!(error, StorageError::CorruptCompression { .. }),
        "{error}"
    );
    let mut bytes = gzip("a,y\n1,2\n3,4\n");
    bytes.extend(b"more than a header");
    let error = csv_refusal(&bytes, CLASSES);
    assert!(
        matches!(error, StorageError::CorruptCompression { .. }),
        "{error}"
    );
}

#[test]
fn gzip_of_several_members_is_read_to_the_end() {
    let dir = Dir::new();
    let path = dir.file("data.csv.gz", [gzip("a,y\n1,2\n"), gzip("3,4\n")].concat());
    let dataset = load(&spec(DataSource::Csv(csv_named(&path, "y"))), CLASSES);
    assert_eq!(dataset.info().train_records, 2);
}

#[test]
fn the_hook_sees_all_bytes_and_can_stop() {
    let dir = Dir::new();
    let text = "a,y\n".to_owned() + &"1,2\n".repeat(1 << 20);
    let path = dir.file("data.csv", &text);
    let spec = spec(DataSource::Csv(csv_named(&path, "y")));
    let (calls, last) = (Cell::new(0), Cell::new(None));
    let watch = |progress: BytesRead| {
        assert!(progress.read <= progress.total);
        calls.set(calls.get() + 1);
        last.set(Some(progress));
        ControlFlow::Continue(())
    };
    let options = ReadOptions {
        progress: Some(&watch),
        ..ReadOptions::default()
    };
    ringfold_storage::inspect(&spec, CLASSES, &options).unwrap();
    let total = text.len() as u64;
    assert_eq!(last.get(), Some(BytesRead { read: total, total }));
    assert!(
        (5..=7).contains(&calls.get()),
        "{} calls for 4 MiB",
        calls.get()
    );

    let stop = |progress: BytesRead| {
        if progress.read > 2 << 20 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let options = ReadOptions {
        progress: Some(&stop),
        ..ReadOptions::default()
    };
    let error = refusal_with(&spec, CLASSES, &options);
    assert!(matches!(error, StorageError::Cancelled), "{error}");
    assert_eq!(error.code(), ErrorCode::Aborted);
}
