//! The output directory, and files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::error::StorageError;

/// Makes the output directory, with its parents, if it isn't there, and proves that a file can be
/// written to it. A job calls this before it trains.
///
/// # Errors
/// [`StorageError::OutputIsAFile`], [`StorageError::CreateDirectory`],
/// [`StorageError::NotWritable`].
pub fn check_output_dir(dir: &Path) -> Result<(), StorageError> {
    if fs::metadata(dir).is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(StorageError::OutputIsAFile {
            dir: dir.to_owned(),
        });
    }
    fs::create_dir_all(dir).map_err(|source| StorageError::CreateDirectory {
        dir: dir.to_owned(),
        source,
    })?;
    let probe = dir.join(".ringfold-probe");
    File::create(&probe)
        .and_then(|mut file| file.write_all(b"probe"))
        .and_then(|()| fs::remove_file(&probe))
        .map_err(|source| StorageError::NotWritable {
            dir: dir.to_owned(),
            source,
        })
}

/// Writes `bytes` as the file `path`, whole or not at all; its directory must be there.
///
/// # Errors
/// [`StorageError::Write`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) => write_atomically(dir, name, bytes),
        None => Err(StorageError::Write {
            path: path.to_owned(),
            source: io::ErrorKind::InvalidFilename.into(),
        }),
    }
}

/// Writes `bytes` as the file `name` of `dir`: to a temporary file beside it, synced, renamed over
/// it, and the directory synced. A reader sees the old file or the new one. What a writer that
/// died left behind is overwritten by the next.
pub(super) fn write_atomically(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.tmp"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| {
        // The write has failed already; that the remains can't be removed adds nothing.
        let _ = fs::remove_file(&temporary);
        StorageError::Write { path, source }
    })
}
