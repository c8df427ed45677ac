//! Where checkpoints lie: the seam between them and a file system, or a store of objects.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files in directories of one level, each of which appears whole and durable or not at all.
///
/// Names are `DIRECTORY/FILE`. A directory is there as soon as a file of it is.
pub trait Store: Debug + Send + Sync {
    /// Begins a file. It appears, in place of one of the same name, when it is
    /// [finished](StoreWriter::finish).
    ///
    /// # Errors
    /// The store's.
    fn create(&self, name: &str) -> io::Result<Box<dyn StoreWriter + '_>>;

    /// Fills `bytes` from the file's byte `start` on.
    ///
    /// # Errors
    /// The store's; [`io::ErrorKind::NotFound`], [`io::ErrorKind::UnexpectedEof`].
    fn read(&self, name: &str, start: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// The length of a file.
    ///
    /// # Errors
    /// The store's; [`io::ErrorKind::NotFound`].
    fn len(&self, name: &str) -> io::Result<u64>;

    /// The directories, in any order.
    ///
    /// # Errors
    /// The store's. A store that isn't there yet has none.
    fn directories(&self) -> io::Result<Vec<Entry>>;

    /// Removes a directory with all in it, that named `first` first.
    ///
    /// # Errors
    /// The store's.
    fn remove(&self, directory: &str, first: &str) -> io::Result<()>;
}

/// A directory of a [`Store`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// When something in it last changed, if the store knows.
    pub modified: Option<SystemTime>,
}

/// A file on its way. One that is dropped before it is finished never appears.
pub trait StoreWriter {
    /// Appends bytes.
    ///
    /// # Errors
    /// The store's.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file durable, and then visible.
    ///
    /// # Errors
    /// The store's.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A directory of a file system, local or shared.
///
/// A file is written beside its place, synced, renamed, and its directory synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The directory `root`, which is made with the first file.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Store for Directory {
    fn create(&self, name: &str) -> io::Result<Box<dyn StoreWriter + '_>> {
        let path = self.root.join(name);
        let (Some(dir), Some(file)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        if !dir.is_dir() {
            fs::create_dir_all(dir)?;
            // The entries of both directories are to last, too.
            let parents = [self.root.parent(), Some(&*self.root)];
            for parent in parents.into_iter().flatten() {
                let named = !parent.as_os_str().is_empty();
                File::open(if named { parent } else { Path::new(".") })?.sync_all()?;
            }
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(file);
        hidden.push(".tmp");
        let temporary = dir.join(hidden);
        Ok(Box::new(FileWriter {
            file: File::create(&temporary)?,
            temporary: Some(temporary),
            path,
        }))
    }

    fn read(&self, name: &str, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut file = File::open(self.root.join(name))?;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(bytes)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.root.join(name))?.len())
    }

    fn directories(&self) -> io::Result<Vec<Entry>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let metadata = match entry.metadata() {
                // Somebody removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            if metadata.is_dir() {
                found.push(Entry {
                    name,
                    modified: metadata.modified().ok(),
                });
            }
        }
        Ok(found)
    }

    fn remove(&self, directory: &str, first: &str) -> io::Result<()> {
        let dir = self.root.join(directory);
        match fs::remove_file(dir.join(first)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => File::open(&dir)?.sync_all()?,
        }
        fs::remove_dir_all(&dir)
    }
}

struct FileWriter {
    file: File,
    path: PathBuf,
    /// Unset once it was renamed.
    temporary: Option<PathBuf>,
}

impl StoreWriter for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path)?;
            self.temporary = None;
        }
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What is left over harms nobody: it is overwritten, or goes with its directory.
            let _ = fs::remove_file(temporary);
        }
    }
}
