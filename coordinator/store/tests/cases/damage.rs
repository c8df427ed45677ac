//! Files that are not what this version wrote: an error that names file and record, no panic.

use std::error::Error;
use std::path::Path;

use redb::{Database, ReadableTable, TableDefinition};
use ringfold_common::random::Stream;
use ringfold_coordinator_core::Snapshot;
use ringfold_coordinator_store::{FileStore, Store, StoreError};

use super::commit_next;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const JOBS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("jobs");

/// A store of three jobs, closed.
fn filled() -> (tempfile::TempDir, Snapshot) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = FileStore::open(directory.path()).unwrap();
    for at in 0..3 {
        commit_next(&mut store, at);
    }
    let content = store.load().unwrap();
    (directory, content)
}

fn edit(directory: &Path, edit: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(directory.join(FileStore::FILE_NAME)).unwrap();
    let transaction = database.begin_write().unwrap();
    edit(&transaction);
    transaction.commit().unwrap();
}

/// The error of opening, in full.
fn refusal(directory: &Path) -> (StoreError, String) {
    let error = FileStore::open(directory).unwrap_err();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let path = directory.join(FileStore::FILE_NAME).display().to_string();
    assert!(text.contains(&path), "{text}");
    (error, text)
}

#[test]
fn another_schema_is_refused() {
    for (value, found) in [("2", "2"), ("\"one\"", "\"one\"")] {
        let (directory, _) = filled();
        edit(directory.path(), |transaction| {
            let mut meta = transaction.open_table(META).unwrap();
            meta.insert("schema", value.as_bytes()).unwrap();
        });
        let (error, text) = refusal(directory.path());
        assert!(matches!(error, StoreError::Schema { .. }), "{text}");
        let expected = format!("its schema is {found}, this version reads 1");
        assert!(text.contains(&expected), "{text}");
    }
}

#[test]
fn a_file_without_a_schema_is_refused() {
    let (directory, _) = filled();
    edit(directory.path(), |transaction| {
        let mut meta = transaction.open_table(META).unwrap();
        meta.remove("schema").unwrap();
    });
    let (_, text) = refusal(directory.path());
    assert!(text.contains("its schema is missing"), "{text}");
}

#[test]
fn someone_elses_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FileStore::FILE_NAME);
    let database = Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    let table: TableDefinition<'_, u64, u64> = TableDefinition::new("meta");
    transaction.open_table(table).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let (error, text) = refusal(directory.path());
    assert!(matches!(error, StoreError::CorruptFile { .. }), "{text}");
}

#[test]
fn a_bad_record_is_named() {
    let bad: [(&[u8], &str); 3] = [
        (b"{\"id\":2}", "missing field"),
        (b"\xFF\xFE", "expected value"),
        (b"", "EOF"),
    ];
    for (value, cause) in bad {
        let (directory, _) = filled();
        edit(directory.path(), |transaction| {
            let mut jobs = transaction.open_table(JOBS).unwrap();
            jobs.insert(2, value).unwrap();
        });
        let (error, text) = refusal(directory.path());
        assert!(matches!(error, StoreError::CorruptRecord { .. }), "{text}");
        assert!(text.contains("read jobs/2 of"), "{text}");
        assert!(text.contains(cause), "{text}");
    }
}

#[test]
fn a_record_under_another_key_is_named() {
    let (directory, _) = filled();
    edit(directory.path(), |transaction| {
        let mut jobs = transaction.open_table(JOBS).unwrap();
        let value = jobs.get(1).unwrap().unwrap().value().to_vec();
        jobs.insert(8, value.as_slice()).unwrap();
    });
    let (_, text) = refusal(directory.path());
    assert!(text.contains("jobs/8") && text.contains("job-1"), "{text}");
}

#[test]
fn a_lost_revision_is_named() {
    let (directory, _) = filled();
    edit(directory.path(), |transaction| {
        let mut meta = transaction.open_table(META).unwrap();
        meta.remove("revision").unwrap();
    });
    let (_, text) = refusal(directory.path());
    assert!(
        text.contains("meta/revision") && text.contains("missing"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FileStore::FILE_NAME);
    let content = b"this is a shopping list".repeat(1000);
    std::fs::write(&path, &content).unwrap();
    let (error, text) = refusal(directory.path());
    assert!(matches!(error, StoreError::CorruptFile { .. }), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), content);
}

#[test]
fn a_directory_that_is_a_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = FileStore::open(file.path()).unwrap_err();
    assert!(matches!(error, StoreError::Directory { .. }), "{error:?}");
}

#[test]
fn a_cut_file_is_refused() {
    let (directory, content) = filled();
    let path = directory.path().join(FileStore::FILE_NAME);
    let bytes = std::fs::read(&path).unwrap();
    for kept in [1, 100, 512, 4096, 5000, bytes.len() / 2] {
        std::fs::write(&path, &bytes[..kept]).unwrap();
        refusal(directory.path());
    }
    std::fs::write(&path, &bytes).unwrap();
    let mut store = FileStore::open(directory.path()).unwrap();
    assert_eq!(store.load().unwrap(), content);
}

/// A damaged byte is either refused or was in no page that counts: what opens is what was
/// written, now or one commit ago.
#[test]
fn a_damaged_byte_never_shows_as_other_content() {
    let (directory, content) = filled();
    let path = directory.path().join(FileStore::FILE_NAME);
    let bytes = std::fs::read(&path).unwrap();
    let draws = Stream::new(7, 0);
    let mut refused = 0;
    let damages = 300;
    for draw in 0..damages {
        // Every other one in the header and the first pages, which are never empty.
        let span = if draw % 2 == 0 { 64 << 10 } else { bytes.len() };
        let position = (draws.uniform(2 * draw) * span.min(bytes.len()) as f64) as usize;
        let mut damaged = bytes.clone();
        damaged[position] ^= 1 << (draws.word(2 * draw + 1) % 8);
        std::fs::write(&path, &damaged).unwrap();
        match FileStore::open(directory.path()) {
            Err(_) => refused += 1,
            Ok(mut store) => {
                let found = store.load().unwrap();
                let older = found.revision.next() == content.revision;
                assert!(found == content || older, "byte {position} of {draw}");
            }
        }
    }
    assert!(refused > 0);
}
