//! What a checkpoint says of itself.

use serde::{Deserialize, Serialize};

use super::error::CheckpointFault;

/// The version of the format.
pub const FORMAT_VERSION: u32 = 1;
/// The bytes of a chunk, as they are written: what one hash is of.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// The most bytes of a chunk that are read.
pub const CHUNK_BYTES_MAX: u64 = 1 << 26;
/// The most bytes of a manifest.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 28;
/// The most tensors.
pub const TENSORS_MAX: usize = 1 << 20;
/// The most parts.
pub const PARTS_MAX: usize = 1 << 16;
/// The most bytes of a state: 16 TiB.
pub const STATE_BYTES_MAX: u64 = 1 << 44;

/// The file's name.
pub(super) const FILE_NAME: &str = "manifest.json";
/// Between the hashed bytes and their hash.
const HASH_FIELD: &[u8] = b",\"blake3\":\"";
/// After it.
const END: &[u8] = b"\"}\n";

/// All of a checkpoint but the bytes of its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format: u32,
    /// The version of ringfold that wrote it.
    pub written_by: String,
    /// When it was finished, in milliseconds since 1970.
    pub written_unix_ms: u64,
    /// The name of the job.
    pub job: String,
    /// The last step that the state has.
    pub step: u64,
    /// The bytes of a chunk; the last one of a part may be shorter.
    pub chunk_bytes: u64,
    /// What the state holds besides its tensors.
    pub header: serde_json::Value,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<TensorEntry>,
    /// The parts, in the order of their bytes.
    pub parts: Vec<PartFile>,
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// The logical name.
    pub name: String,
    /// The type of its elements: `f32`.
    pub dtype: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFile {
    /// Its name.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// The BLAKE3 of each chunk, in hexadecimal.
    pub chunks: Vec<String>,
}

impl TensorEntry {
    /// A tensor of 32-bit floats.
    #[must_use]
    pub fn f32(name: impl Into<String>, shape: impl IntoIterator<Item = usize>) -> Self {
        Self {
            name: name.into(),
            dtype: "f32".to_owned(),
            shape: shape.into_iter().map(|dim| dim as u64).collect(),
        }
    }

    /// Its length in bytes; `None` of an unknown type, or of what can't be counted.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let element = (self.dtype == "f32").then_some(4u64)?;
        let mut shape = self.shape.iter();
        shape.try_fold(element, |bytes, &dim| bytes.checked_mul(dim))
    }
}

impl Manifest {
    /// The bytes of the state.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The file's bytes.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, CheckpointFault> {
        self.check()?;
        let mut bytes = serde_json::to_vec(self)
            .map_err(|error| CheckpointFault::Manifest(error.to_string()))?;
        // The brace that closes the object: the hash is its last field.
        bytes.pop();
        let hash = blake3::hash(&bytes).to_hex();
        bytes.extend_from_slice(HASH_FIELD);
        bytes.extend_from_slice(hash.as_bytes());
        bytes.extend_from_slice(END);
        Ok(bytes)
    }

    /// The manifest in a file's bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointFault> {
        let altered = CheckpointFault::ManifestAltered;
        let rest = bytes.strip_suffix(END).ok_or(altered("it has no end"))?;
        let hex = rest.len().checked_sub(2 * blake3::OUT_LEN);
        let (rest, hash) = hex
            .and_then(|at| rest.split_at_checked(at))
            .ok_or(altered("it is too short"))?;
        let hashed = (rest.strip_suffix(HASH_FIELD)).ok_or(altered("it has no hash at its end"))?;
        if blake3::hash(hashed).to_hex().as_bytes() != hash {
            return Err(altered("its bytes don't have their hash"));
        }
        let json = [hashed, b"}"].concat();
        let manifest: Self = serde_json::from_slice(&json)
            .map_err(|error| CheckpointFault::Manifest(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks that all numbers are within their limits and fit each other.
    fn check(&self) -> Result<(), CheckpointFault> {
        let number = |what: &str, got: u64, expected: String| CheckpointFault::Number {
            what: what.to_owned(),
            got,
            expected,
        };
        let limited = |what: &str, got: u64, max: u64| match got <= max {
            true => Ok(()),
            false => Err(number(what, got, format!("at most {max} is allowed"))),
        };
        if self.format != FORMAT_VERSION {
            let expected = format!("this version of ringfold reads {FORMAT_VERSION}");
            return Err(number("the format", self.format.into(), expected));
        }
        limited(
            "the number of tensors",
            self.tensors.len() as u64,
            TENSORS_MAX as u64,
        )?;
        limited(
            "the number of parts",
            self.parts.len() as u64,
            PARTS_MAX as u64,
        )?;
        limited("chunk_bytes", self.chunk_bytes, CHUNK_BYTES_MAX)?;
        if self.chunk_bytes == 0 || !self.chunk_bytes.is_multiple_of(8) {
            let expected = "a multiple of 8 is expected".to_owned();
            return Err(number("chunk_bytes", self.chunk_bytes, expected));
        }
        let mut expected = 0u64;
        for tensor in &self.tensors {
            let bytes = tensor.bytes().filter(|&bytes| bytes <= STATE_BYTES_MAX);
            let Some(bytes) = bytes else {
                let TensorEntry { name, dtype, shape } = tensor;
                let what = format!("{name} of {dtype} {shape:?} can't be read");
                return Err(CheckpointFault::Manifest(what));
            };
            expected += bytes;
            limited("the bytes of all tensors", expected, STATE_BYTES_MAX)?;
        }
        let mut got = 0u64;
        for (at, part) in self.parts.iter().enumerate() {
            if part.file != part_name(at) {
                let what = format!("part {at} is called {:?}", part.file);
                return Err(CheckpointFault::Manifest(what));
            }
            limited(
                &format!("the length of {}", part.file),
                part.bytes,
                STATE_BYTES_MAX,
            )?;
            if at + 1 < self.parts.len() && !part.bytes.is_multiple_of(self.chunk_bytes) {
                let what = format!("the length of {}", part.file);
                let expected = "only the last part may end within a chunk".to_owned();
                return Err(number(&what, part.bytes, expected));
            }
            got += part.bytes;
            let (chunks, needed) = (
                part.chunks.len() as u64,
                part.bytes.div_ceil(self.chunk_bytes),
            );
            if chunks != needed {
                let what = format!("the number of hashes of {}", part.file);
                return Err(number(&what, chunks, format!("{needed} are expected")));
            }
        }
        if got != expected {
            let expected = format!("the tensors have {expected}");
            return Err(number("the bytes of all parts", got, expected));
        }
        Ok(())
    }
}

/// The name of a part.
pub(super) fn part_name(number: usize) -> String {
    format!("part-{number:05}.bin")
}

/// The directory of a step's checkpoint.
pub(super) fn directory_name(step: u64) -> String {
    format!("step-{step:010}")
}

/// The step whose checkpoint a directory is.
pub(super) fn step_of(directory: &str) -> Option<u64> {
    let step = directory.strip_prefix("step-")?.parse().ok()?;
    (directory_name(step) == directory).then_some(step)
}
