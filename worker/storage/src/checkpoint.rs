//! Checkpoints: durable training state, by logical name and range.
//!
//! # Format
//! A checkpoint is a directory `step-NNNNNNNNNN` of a store:
//!
//! - `part-NNNNN.bin`: a contiguous range of the state's bytes, which are its tensors one after the
//!   other, raw and little-endian. Parts don't know where tensors begin: any number of writers share
//!   the bytes ([`part_range`]), and any number of readers read any range.
//! - `manifest.json`, written last: the tensors by name, type and shape, in order; the parts, each with
//!   the BLAKE3 of every chunk of it; the header of whoever wrote it, which means nothing here. Its last
//!   field is the BLAKE3 of all bytes before it.
//!
//! # Contract
//! - **Whole or not there.** Every file appears whole and durable or not at all ([`Store`]), and a
//!   directory without a manifest is no checkpoint. A writer that dies at any byte leaves the checkpoints
//!   that were there as they were.
//! - **Verified.** What a reader returns has the hash that the manifest has for it, and the manifest its
//!   own. A file that is missing, longer, shorter or altered by a bit is an error that names it, and the
//!   chunk.
//! - **The newest good one** ([`newest`]): those that aren't good are skipped, and told with the reason.
//! - **Kept** by count, by steps and by age ([`prune`]): the newest is never removed.
//! - **Limits.** All sizes that a file gives are checked against constants of this module before
//!   anything of that size is allocated.

mod error;
mod keep;
mod manifest;
mod read;
mod store;
mod write;

pub use error::{CheckpointError, CheckpointFault};
pub use keep::{Keep, prune};
pub use manifest::{
    CHUNK_BYTES, CHUNK_BYTES_MAX, FORMAT_VERSION, MANIFEST_BYTES_MAX, Manifest, PARTS_MAX,
    PartFile, STATE_BYTES_MAX, TENSORS_MAX, TensorEntry,
};
pub use read::{Checkpoint, Listed, Skipped, list, newest};
pub use store::{Directory, Entry, Store, StoreWriter};
pub use write::{part_range, write_manifest, write_part};
