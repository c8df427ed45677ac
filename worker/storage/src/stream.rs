//! The bytes of a dataset's files: opened, decompressed, hashed, capped, and watched.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::{Compression, StorageError};
use crate::limits::{BytesRead, Limits, ProgressHook, ReadOptions};

/// Bytes read from disk between two calls of the progress hook.
const PROGRESS_BYTES: u64 = 1 << 20;

/// The first bytes of a gzip file (RFC 1952, section 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The first bytes of a Zstandard frame (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The largest window that a Zstandard frame may ask memory for: 128 MiB, as the `zstd` command.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What the files of one pass share.
pub(crate) struct Pass<'a> {
    pub limits: Limits,
    progress: Option<ProgressHook<'a>>,
    disk_bytes_total: u64,
    disk_bytes_read: Cell<u64>,
    disk_bytes_reported: Cell<u64>,
    hasher: RefCell<blake3::Hasher>,
}

impl<'a> Pass<'a> {
    /// A pass over `paths`, each of which must be a file.
    pub fn new(paths: &[&Path], options: &ReadOptions<'a>) -> Result<Self, StorageError> {
        let mut disk_bytes_total = 0u64;
        for path in paths {
            disk_bytes_total = disk_bytes_total.saturating_add(file_len(path)?);
        }
        let pass = Self {
            limits: options.limits,
            progress: options.progress,
            disk_bytes_total,
            disk_bytes_read: Cell::new(0),
            disk_bytes_reported: Cell::new(0),
            hasher: RefCell::new(blake3::Hasher::new()),
        };
        pass.report()?;
        Ok(pass)
    }

    /// BLAKE3 over all decompressed bytes that were read, in the order of reading.
    pub fn fingerprint(&self) -> [u8; 32] {
        *self.hasher.borrow().finalize().as_bytes()
    }

    /// Tells the hook where the pass stands.
    pub fn report(&self) -> Result<(), StorageError> {
        let read = self.disk_bytes_read.get();
        self.disk_bytes_reported.set(read);
        let progress = BytesRead {
            read,
            // A file may have grown since it was measured.
            total: self.disk_bytes_total.max(read),
        };
        match self.progress.map(|hook| hook(progress)) {
            Some(ControlFlow::Break(())) => Err(StorageError::Cancelled),
            _ => Ok(()),
        }
    }
}

/// The length of the regular file at `path`.
fn file_len(path: &Path) -> Result<u64, StorageError> {
    let metadata = fs::metadata(path).map_err(|error| StorageError::from_open(path, error))?;
    if metadata.is_dir() {
        return Err(StorageError::IsDirectory {
            path: path.to_owned(),
        });
    }
    if !metadata.is_file() {
        return Err(StorageError::NotAFile {
            path: path.to_owned(),
        });
    }
    Ok(metadata.len())
}

/// Hashes all bytes of a file that isn't compressed as a whole, and hands it over at its start, for
/// decoders that go back and forth in it. `format` is what it should be.
pub(crate) fn hash_plain(
    pass: &Pass<'_>,
    path: &Path,
    format: &'static str,
) -> Result<File, StorageError> {
    let mut stream = FileStream::open(pass, path)?;
    if let Some(compression) = stream.compression() {
        return Err(StorageError::CompressedWhole {
            path: path.to_owned(),
            compression,
            format,
        });
    }
    let mut chunk = vec![0; Limits::BUFFER_BYTES];
    while stream.read_full(&mut chunk)? > 0 {}
    let Decoder::Plain(disk) = stream.decoder else {
        unreachable!("it isn't compressed");
    };
    let mut file = disk.into_inner().file;
    file.rewind()
        .map_err(|error| StorageError::from_read(path, error))?;
    Ok(file)
}

/// A file's bytes on disk.
struct DiskFile<'p> {
    file: File,
    pass: &'p Pass<'p>,
}

impl Read for DiskFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let read = self.pass.disk_bytes_read.get() + count as u64;
        self.pass.disk_bytes_read.set(read);
        if read - self.pass.disk_bytes_reported.get() >= PROGRESS_BYTES {
            self.pass.report().map_err(io::Error::other)?;
        }
        Ok(count)
    }
}

/// A file's decompressed bytes. Errors of [`Read`] hold a [`StorageError`]:
/// see [`StorageError::from_read`].
pub(crate) struct FileStream<'p> {
    path: PathBuf,
    pass: &'p Pass<'p>,
    decoder: Decoder<'p>,
    bytes: u64,
}

enum Decoder<'p> {
    Plain(BufReader<DiskFile<'p>>),
    Gzip(Box<MultiGzDecoder<BufReader<DiskFile<'p>>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<DiskFile<'p>>>>),
}

impl<'p> FileStream<'p> {
    /// Opens a plain or compressed file that holds at least one byte.
    pub fn open(pass: &'p Pass<'p>, path: &Path) -> Result<Self, StorageError> {
        file_len(path)?;
        let file = File::open(path).map_err(|error| StorageError::from_open(path, error))?;
        let mut disk = BufReader::with_capacity(Limits::BUFFER_BYTES, DiskFile { file, pass });
        let head = disk
            .fill_buf()
            .map_err(|error| StorageError::from_read(path, error))?;
        if head.is_empty() {
            return Err(StorageError::EmptyFile {
                path: path.to_owned(),
            });
        }
        let decoder = if head.starts_with(&GZIP_MAGIC) {
            Decoder::Gzip(Box::new(MultiGzDecoder::new(disk)))
        } else if head.starts_with(&ZSTD_MAGIC) {
            let failed = |error| StorageError::from_read(path, error);
            let mut decoder = zstd::Decoder::with_buffer(disk).map_err(failed)?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(failed)?;
            Decoder::Zstd(Box::new(decoder))
        } else {
            Decoder::Plain(disk)
        };
        Ok(Self {
            path: path.to_owned(),
            pass,
            decoder,
            bytes: 0,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the file is compressed, if it is.
    pub fn compression(&self) -> Option<Compression> {
        match self.decoder {
            Decoder::Plain(_) => None,
            Decoder::Gzip(_) => Some(Compression::Gzip),
            Decoder::Zstd(_) => Some(Compression::Zstd),
        }
    }

    /// Decompressed bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads until `buffer` is full or the file ends; the number of bytes read.
    pub fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, StorageError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) => return Err(StorageError::from_read(&self.path, error)),
            }
        }
        Ok(filled)
    }

    fn decode_error(&self, source: io::Error) -> StorageError {
        let Some(format) = self.compression() else {
            return StorageError::from_read(&self.path, source);
        };
        let (path, decompressed_bytes) = (self.path.clone(), self.bytes);
        let is_ours = source
            .get_ref()
            .is_some_and(|inner| inner.is::<StorageError>());
        match source.kind() {
            _ if is_ours => StorageError::from_read(&self.path, source),
            io::ErrorKind::UnexpectedEof => StorageError::TruncatedCompression {
                path,
                format,
                decompressed_bytes,
            },
            // Zstandard's own errors are of the last kind.
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::Other => {
                StorageError::CorruptCompression {
                    path,
                    format,
                    decompressed_bytes,
                    source,
                }
            }
            _ => StorageError::from_read(&self.path, source),
        }
    }
}

impl Read for FileStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.decoder {
            Decoder::Plain(reader) => reader.read(buffer),
            Decoder::Gzip(reader) => reader.read(buffer),
            Decoder::Zstd(reader) => reader.read(buffer),
        };
        let count = result.map_err(|error| io::Error::other(self.decode_error(error)))?;
        self.bytes += count as u64;
        if self.bytes > self.pass.limits.file_bytes_max {
            return Err(io::Error::other(StorageError::FileTooLong {
                path: self.path.clone(),
                bytes_max: self.pass.limits.file_bytes_max,
            }));
        }
        self.pass.hasher.borrow_mut().update(&buffer[..count]);
        Ok(count)
    }
}
