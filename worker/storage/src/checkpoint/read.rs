//! Finding and reading checkpoints.

use std::io;
use std::ops::Range;

use super::error::{CheckpointError, CheckpointFault};
use super::manifest::{
    FILE_NAME, MANIFEST_BYTES_MAX, Manifest, TensorEntry, directory_name, step_of,
};
use super::store::Store;

/// A checkpoint with a good manifest, and parts that are there and as long as they should be.
#[derive(Debug)]
pub struct Checkpoint<'s> {
    store: &'s dyn Store,
    directory: String,
    manifest: Manifest,
}

/// What was found in a store.
#[derive(Debug)]
pub struct Listed<'s> {
    /// The directory's name.
    pub directory: String,
    /// The step.
    pub step: u64,
    /// The checkpoint, or why it isn't one.
    pub checkpoint: Result<Checkpoint<'s>, CheckpointError>,
}

/// A checkpoint that was passed over, and why.
pub type Skipped = CheckpointError;

/// All checkpoints of a store, the newest first, those that can't be read too. The bytes of parts
/// aren't read: see [`Checkpoint::verify`].
///
/// # Errors
/// The store's.
pub fn list(store: &dyn Store) -> Result<Vec<Listed<'_>>, CheckpointError> {
    let entries = store.directories().map_err(|source| {
        let fault = CheckpointFault::Store {
            action: "list",
            file: "its directories".to_owned(),
            source,
        };
        fault.of(format!("{store:?}"))
    })?;
    let mut steps: Vec<u64> = entries.iter().filter_map(|e| step_of(&e.name)).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    let listed = steps.into_iter().map(|step| Listed {
        directory: directory_name(step),
        step,
        checkpoint: Checkpoint::open(store, step),
    });
    Ok(listed.collect())
}

/// The newest checkpoint all of whose bytes have their hashes, and those newer ones that were passed
/// over.
///
/// # Errors
/// The store's, if it can't be listed.
pub fn newest(
    store: &dyn Store,
) -> Result<(Option<Checkpoint<'_>>, Vec<Skipped>), CheckpointError> {
    let mut skipped = Vec::new();
    for listed in list(store)? {
        let verified = listed.checkpoint.and_then(|checkpoint| {
            checkpoint.verify()?;
            Ok(checkpoint)
        });
        match verified {
            Ok(checkpoint) => return Ok((Some(checkpoint), skipped)),
            Err(error) => skipped.push(error),
        }
    }
    Ok((None, skipped))
}

impl<'s> Checkpoint<'s> {
    /// The checkpoint of `step`.
    ///
    /// # Errors
    /// A manifest that is missing, altered or of another version; a part that is missing or of another
    /// length.
    pub fn open(store: &'s dyn Store, step: u64) -> Result<Self, CheckpointError> {
        let directory = directory_name(step);
        let manifest = read_manifest(store, &directory).map_err(|fault| fault.of(&*directory))?;
        if manifest.step != step {
            let fault = CheckpointFault::Number {
                what: "step".to_owned(),
                got: manifest.step,
                expected: format!("its directory is that of step {step}"),
            };
            return Err(fault.of(directory));
        }
        for part in &manifest.parts {
            let file = part.file.clone();
            let fault = match store.len(&format!("{directory}/{file}")) {
                Ok(got) if got == part.bytes => continue,
                Ok(got) => CheckpointFault::PartLength {
                    file,
                    got,
                    expected: part.bytes,
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    CheckpointFault::MissingPart { file }
                }
                Err(source) => CheckpointFault::Store {
                    action: "find",
                    file,
                    source,
                },
            };
            return Err(fault.of(directory));
        }
        Ok(Self {
            store,
            directory,
            manifest,
        })
    }

    /// The directory's name.
    #[must_use]
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Hands all bytes of the state, in order, to `taken`, in verified chunks with the byte that each
    /// begins at.
    ///
    /// # Errors
    /// A chunk without its hash; the store's. Nothing of such a chunk is handed over.
    pub fn read(&self, taken: impl FnMut(u64, &[u8])) -> Result<(), CheckpointError> {
        self.read_range(0..u64::MAX, taken)
    }

    /// [`read`](Self::read) of the chunks that have a byte of `range`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_range(
        &self,
        range: Range<u64>,
        mut taken: impl FnMut(u64, &[u8]),
    ) -> Result<(), CheckpointError> {
        let mut bytes = Vec::new();
        let mut part_start = 0;
        for part in &self.manifest.parts {
            for (chunk, hash) in (0..).zip(&part.chunks) {
                let start = chunk * self.manifest.chunk_bytes;
                let end = part.bytes.min(start + self.manifest.chunk_bytes);
                let (first, last) = (part_start + start, part_start + end);
                if last <= range.start || range.end <= first {
                    continue;
                }
                bytes.resize((end - start) as usize, 0);
                let file = part.file.clone();
                let name = format!("{}/{file}", self.directory);
                let read = self.store.read(&name, start, &mut bytes);
                let fault = match read {
                    Ok(()) if blake3::hash(&bytes).to_hex().as_str() == hash => {
                        taken(first, &bytes);
                        continue;
                    }
                    Ok(()) => CheckpointFault::PartAltered { file, start, end },
                    Err(source) => CheckpointFault::Store {
                        action: "read",
                        file,
                        source,
                    },
                };
                return Err(fault.of(&*self.directory));
            }
            part_start += part.bytes;
        }
        Ok(())
    }

    /// Reads all bytes and compares them with their hashes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn verify(&self) -> Result<(), CheckpointError> {
        self.read(|_, _| {})
    }

    /// A tensor and where its bytes are; `None` if there is no such name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<(&TensorEntry, Range<u64>)> {
        self.tensors().find(|(tensor, _)| tensor.name == name)
    }

    /// The tensors and where their bytes are.
    pub fn tensors(&self) -> impl Iterator<Item = (&TensorEntry, Range<u64>)> {
        let mut start = 0;
        self.manifest.tensors.iter().map(move |tensor| {
            // A manifest with such tensors was refused.
            let end = start + tensor.bytes().unwrap_or(0);
            (tensor, std::mem::replace(&mut start, end)..end)
        })
    }
}

fn read_manifest(store: &dyn Store, directory: &str) -> Result<Manifest, CheckpointFault> {
    let name = format!("{directory}/{FILE_NAME}");
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => CheckpointFault::Unfinished,
        io::ErrorKind::UnexpectedEof => CheckpointFault::ManifestAltered("it was cut short"),
        _ => CheckpointFault::Store {
            action: "read",
            file: FILE_NAME.to_owned(),
            source,
        },
    };
    let len = store.len(&name).map_err(failed)?;
    if len > MANIFEST_BYTES_MAX {
        return Err(CheckpointFault::Number {
            what: "its length".to_owned(),
            got: len,
            expected: format!("at most {MANIFEST_BYTES_MAX} bytes are allowed"),
        });
    }
    let mut bytes = vec![0; len as usize];
    store.read(&name, 0, &mut bytes).map_err(failed)?;
    Manifest::from_bytes(&bytes)
}
