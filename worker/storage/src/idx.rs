//! IDX files: the format of MNIST (Yann LeCun, "The MNIST database", section "file formats").
//!
//! ```text
//! byte 0, 1   zero
//! byte 2      type code; 0x08: unsigned bytes
//! byte 3      number of dimensions d
//! then        d sizes, 32-bit big-endian
//! then        the data, row-major
//! ```

use std::path::Path;

use crate::error::StorageError;
use crate::layout::check_width;
use crate::stream::{FileStream, Pass};

const TYPE_UNSIGNED_BYTES: u8 = 0x08;

/// Bytes that are read, and memory that is set aside, at once: a header's word isn't taken for the
/// memory that the data needs.
const CHUNK_BYTES: u64 = 1 << 20;

/// The images or labels of an IDX file.
pub(crate) struct IdxFile<'p> {
    stream: FileStream<'p>,
    /// Images or labels.
    pub records: u64,
    /// Bytes of one of them.
    pub width: usize,
    /// The sizes of its dimensions.
    pub dims: Vec<u32>,
    /// What the header asks for, itself included.
    bytes_expected: u64,
}

impl<'p> IdxFile<'p> {
    /// Opens images: one dimension or more, of which the first is the record.
    pub fn open_images(pass: &'p Pass<'p>, path: &Path) -> Result<Self, StorageError> {
        let (stream, sizes) = open(pass, path, |count| count >= 1, "1 or more for images")?;
        Self::new(pass, stream, &sizes)
    }

    /// Opens labels: one dimension.
    pub fn open_labels(pass: &'p Pass<'p>, path: &Path) -> Result<Self, StorageError> {
        let (stream, sizes) = open(pass, path, |count| count == 1, "1 for labels")?;
        Self::new(pass, stream, &sizes)
    }

    fn new(
        pass: &'p Pass<'p>,
        stream: FileStream<'p>,
        sizes: &[u32],
    ) -> Result<Self, StorageError> {
        let path = stream.path();
        let records = u64::from(sizes[0]);
        let product = |sizes: &[u32]| {
            let sizes = sizes.iter();
            sizes
                .copied()
                .map(u64::from)
                .try_fold(1u64, u64::checked_mul)
        };
        // A zero among later sizes must not hide that the others overflow.
        let nonzero: Vec<u32> = sizes.iter().map(|&size| size.max(1)).collect();
        let bytes_expected = product(&nonzero)
            .and_then(|_| product(sizes))
            .and_then(|data| data.checked_add(stream.bytes()));
        let (Some(width), Some(bytes_expected)) = (product(&sizes[1..]), bytes_expected) else {
            return Err(StorageError::IdxOverflow {
                path: path.to_owned(),
                sizes: sizes.to_vec(),
            });
        };
        if records == 0 {
            return Err(StorageError::NoRecords {
                path: path.to_owned(),
            });
        }
        pass.limits.check_records(path, records)?;
        let width = usize::try_from(width).unwrap_or(usize::MAX);
        check_width(path, width, &pass.limits)?;
        Ok(Self {
            records,
            width,
            dims: sizes[1..].to_vec(),
            bytes_expected,
            stream,
        })
    }

    pub fn path(&self) -> &Path {
        self.stream.path()
    }

    /// Reads the data to the end, and nothing may follow it. Each chunk goes to `each`.
    pub fn read(mut self, mut each: impl FnMut(&[u8])) -> Result<(), StorageError> {
        let left = self.bytes_expected - self.stream.bytes();
        let mut chunk = vec![0; left.clamp(1, CHUNK_BYTES) as usize];
        loop {
            let left = self.bytes_expected - self.stream.bytes();
            if left == 0 {
                break;
            }
            let wanted = left.min(CHUNK_BYTES) as usize;
            let got = self.stream.read_full(&mut chunk[..wanted])?;
            if got < wanted {
                return Err(StorageError::IdxTruncated {
                    path: self.path().to_owned(),
                    expected_bytes: self.bytes_expected,
                    got_bytes: self.stream.bytes(),
                });
            }
            each(&chunk[..got]);
        }
        if self.stream.read_full(&mut chunk[..1])? > 0 {
            return Err(StorageError::IdxTrailingBytes {
                path: self.path().to_owned(),
                expected_bytes: self.bytes_expected,
            });
        }
        Ok(())
    }
}

/// Opens a file and reads its header: the sizes of its dimensions, at least one.
fn open<'p>(
    pass: &'p Pass<'p>,
    path: &Path,
    accepts: impl FnOnce(u8) -> bool,
    expected: &'static str,
) -> Result<(FileStream<'p>, Vec<u32>), StorageError> {
    let mut stream = FileStream::open(pass, path)?;
    let mut magic = [0; 4];
    read_header(&mut stream, &mut magic, 4)?;
    if magic[..2] != [0, 0] {
        return Err(StorageError::IdxMagic {
            path: path.to_owned(),
            got: magic,
        });
    }
    if magic[2] != TYPE_UNSIGNED_BYTES {
        return Err(StorageError::IdxType {
            path: path.to_owned(),
            got: magic[2],
        });
    }
    if !accepts(magic[3]) {
        return Err(StorageError::IdxDimensions {
            path: path.to_owned(),
            expected,
            got: magic[3],
        });
    }
    let mut sizes = Vec::with_capacity(magic[3].into());
    let header_bytes = 4 + 4 * u64::from(magic[3]);
    for _ in 0..magic[3] {
        let mut size = [0; 4];
        read_header(&mut stream, &mut size, header_bytes)?;
        sizes.push(u32::from_be_bytes(size));
    }
    Ok((stream, sizes))
}

fn read_header(
    stream: &mut FileStream<'_>,
    buffer: &mut [u8],
    expected_bytes: u64,
) -> Result<(), StorageError> {
    if stream.read_full(buffer)? < buffer.len() {
        return Err(StorageError::IdxTruncated {
            path: stream.path().to_owned(),
            expected_bytes,
            got_bytes: stream.bytes(),
        });
    }
    Ok(())
}
