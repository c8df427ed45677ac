//! A store in one file.
//!
//! The file is a `redb` database: copy-on-write pages, and an fsync before a commit returns. It
//! holds two tables of JSON values:
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `schema` | [`SCHEMA_VERSION`], as a number |
//! | `meta` | `revision` | the revision of the last commit |
//! | `meta` | `next_job` | the id that the next job gets |
//! | `jobs` | job id | the job's record |

use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition,
};
use ringfold_common::ids::{JobId, Revision};
use ringfold_coordinator_core::{Change, JobRecord, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::RecordError;
use crate::{Store, StoreError};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const JOBS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("jobs");

/// The layout of the file. A file of any other is refused.
const SCHEMA_VERSION: u32 = 1;

/// Bytes of memory that the database may use for its pages.
const CACHE_BYTES_MAX: usize = 16 << 20;

/// Keeps everything in the file [`FileStore::FILE_NAME`] of a directory.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    database: Database,
}

impl FileStore {
    /// The name of the file.
    pub const FILE_NAME: &str = "coordinator.redb";

    /// Opens the store in `directory`; makes both if they are not there. No other process can
    /// open it until it is dropped. Its whole content is checked.
    ///
    /// # Errors
    /// Every variant of [`StoreError`] but [`StoreError::RevisionMismatch`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory).map_err(|source| StoreError::Directory {
            path: directory.to_owned(),
            source,
        })?;
        let path = directory.join(Self::FILE_NAME);
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES_MAX);
        // Without it, the database trusts a file that was closed cleanly, and may panic on one
        // that was damaged later.
        builder.set_check_integrity_on_open(true);
        let database = match builder.create(&path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::InUse { path }),
            Err(error) => return Err(database_error(&path, "open", error.into())),
        };
        let mut store = Self { path, database };
        store.prepare()?;
        // A record that can't be read is better found now.
        store.load()?;
        sync_directory(directory)?;
        Ok(store)
    }

    /// Where the store is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks the schema; writes it, and the tables, if the file is new.
    fn prepare(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().named("prepare", &self.path)?;
        let is_new = {
            let mut tables = transaction.list_tables().named("prepare", &self.path)?;
            tables.next().is_none()
        };
        {
            let mut meta = transaction.open_table(META).named("prepare", &self.path)?;
            if is_new {
                let empty = Snapshot::default();
                let values = [
                    ("schema", self.encode("meta/schema", &SCHEMA_VERSION)?),
                    ("revision", self.encode("meta/revision", &empty.revision)?),
                    ("next_job", self.encode("meta/next_job", &empty.next_job)?),
                ];
                for (key, value) in values {
                    meta.insert(key, value.as_slice())
                        .named("prepare", &self.path)?;
                }
            } else {
                self.check_schema(&meta)?;
            }
            transaction.open_table(JOBS).named("prepare", &self.path)?;
        }
        if is_new {
            transaction.commit().named("prepare", &self.path)
        } else {
            transaction.abort().named("prepare", &self.path)
        }
    }

    fn check_schema(
        &self,
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
    ) -> Result<(), StoreError> {
        let stored = meta.get("schema").named("read", &self.path)?;
        let found = match &stored {
            None => "missing".to_owned(),
            Some(value) => match serde_json::from_slice::<u32>(value.value()) {
                Ok(SCHEMA_VERSION) => return Ok(()),
                Ok(other) => other.to_string(),
                Err(_) => String::from_utf8_lossy(value.value()).into_owned(),
            },
        };
        Err(StoreError::Schema {
            path: self.path.clone(),
            found,
            supported: SCHEMA_VERSION,
        })
    }

    fn meta<T: DeserializeOwned>(
        &self,
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
        key: &'static str,
    ) -> Result<T, StoreError> {
        let stored = meta.get(key).named("read", &self.path)?;
        let Some(value) = stored else {
            return Err(self.corrupt(format!("meta/{key}"), RecordError::Missing));
        };
        serde_json::from_slice(value.value())
            .map_err(|error| self.corrupt(format!("meta/{key}"), error.into()))
    }

    fn decode_job(&self, id: u64, value: &[u8]) -> Result<JobRecord, StoreError> {
        let key = || format!("jobs/{id}");
        let record: JobRecord =
            serde_json::from_slice(value).map_err(|error| self.corrupt(key(), error.into()))?;
        if record.id != JobId(id) {
            return Err(self.corrupt(key(), RecordError::OtherJob(record.id)));
        }
        Ok(record)
    }

    fn encode(&self, key: &str, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(value).map_err(|error| self.corrupt(key.to_owned(), error.into()))
    }

    fn write(
        &self,
        change: &Change,
        meta: &mut Table<'_, &'static str, &'static [u8]>,
        jobs: &mut Table<'_, u64, &'static [u8]>,
    ) -> Result<(), StoreError> {
        match change {
            Change::SetNextJob(id) => {
                let value = self.encode("meta/next_job", id)?;
                meta.insert("next_job", value.as_slice())
                    .named("write", &self.path)?;
            }
            Change::PutJob(record) => {
                let id = record.id.0;
                let value = self.encode(&format!("jobs/{id}"), record)?;
                jobs.insert(id, value.as_slice())
                    .named("write", &self.path)?;
            }
            Change::DropJob(id) => {
                jobs.remove(id.0).named("write", &self.path)?;
            }
        }
        Ok(())
    }

    fn corrupt(&self, key: String, source: RecordError) -> StoreError {
        StoreError::CorruptRecord {
            path: self.path.clone(),
            key,
            source,
        }
    }
}

impl Store for FileStore {
    fn load(&mut self) -> Result<Snapshot, StoreError> {
        let transaction = self.database.begin_read().named("read", &self.path)?;
        let meta = transaction.open_table(META).named("read", &self.path)?;
        let jobs = transaction.open_table(JOBS).named("read", &self.path)?;
        let mut records = Vec::new();
        for entry in jobs.iter().named("read", &self.path)? {
            let (key, value) = entry.named("read", &self.path)?;
            records.push(self.decode_job(key.value(), value.value())?);
        }
        Ok(Snapshot {
            revision: self.meta(&meta, "revision")?,
            next_job: self.meta(&meta, "next_job")?,
            jobs: records,
        })
    }

    fn commit(&mut self, expected: Revision, changes: &[Change]) -> Result<Revision, StoreError> {
        // Dropped without a commit, on any way out of here, a transaction changes nothing.
        let mut transaction = self.database.begin_write().named("write", &self.path)?;
        transaction
            .set_durability(Durability::Immediate)
            .named("write", &self.path)?;
        let next;
        {
            let mut meta = transaction.open_table(META).named("write", &self.path)?;
            let mut jobs = transaction.open_table(JOBS).named("write", &self.path)?;
            let actual = self.meta(&meta, "revision")?;
            if actual != expected {
                return Err(StoreError::RevisionMismatch { expected, actual });
            }
            next = expected.next();
            let value = self.encode("meta/revision", &next)?;
            meta.insert("revision", value.as_slice())
                .named("write", &self.path)?;
            for change in changes {
                self.write(change, &mut meta, &mut jobs)?;
            }
        }
        transaction.commit().named("write", &self.path)?;
        Ok(next)
    }
}

/// Names the attempt and the file in an error of the database.
trait Named<T> {
    fn named(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<redb::Error>> Named<T> for Result<T, E> {
    fn named(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|error| database_error(path, action, error.into()))
    }
}

/// An error of the database, sorted into damage and other trouble.
fn database_error(path: &Path, action: &'static str, error: redb::Error) -> StoreError {
    let (path, source) = (path.to_owned(), Box::new(error));
    match source.as_ref() {
        redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted => StoreError::CorruptFile {
            action,
            path,
            source,
        },
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
            StoreError::CorruptFile {
                action,
                path,
                source,
            }
        }
        _ => StoreError::Database {
            action,
            path,
            source,
        },
    }
}

/// Makes the file's name durable, as its content is.
fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    std::fs::File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|source| StoreError::Directory {
            path: directory.to_owned(),
            source,
        })
}
