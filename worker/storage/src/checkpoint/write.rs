//! Writing a checkpoint: its parts, by whoever holds the state, and then its manifest, by one of them.

use std::ops::Range;

use super::error::{CheckpointError, CheckpointFault};
use super::manifest::{CHUNK_BYTES, FILE_NAME, Manifest, PartFile, directory_name, part_name};
use super::store::Store;

/// The bytes that writer `number` of `writers` writes of a state of `bytes`: whole chunks, but for the
/// last.
///
/// # Panics
/// If `number` isn't below `writers`.
#[must_use]
pub fn part_range(bytes: u64, writers: u32, number: u32) -> Range<u64> {
    assert!(number < writers, "writer {number} of {writers}");
    let chunks = u128::from(bytes.div_ceil(CHUNK_BYTES));
    let bound = |at: u32| {
        let chunk = (chunks * u128::from(at) / u128::from(writers)) as u64;
        (chunk * CHUNK_BYTES).min(bytes)
    };
    bound(number)..bound(number + 1)
}

/// Writes part `number` of the checkpoint of `step`, which is durable when this returns. `read` appends
/// the state's bytes of a range to a buffer.
///
/// # Errors
/// The store's.
pub fn write_part(
    store: &dyn Store,
    step: u64,
    number: u32,
    range: Range<u64>,
    mut read: impl FnMut(Range<u64>, &mut Vec<u8>),
) -> Result<PartFile, CheckpointError> {
    let (directory, file) = (directory_name(step), part_name(number as usize));
    let failed = |action| {
        let (directory, file) = (directory.clone(), file.clone());
        move |source| {
            let fault = CheckpointFault::Store {
                action,
                file,
                source,
            };
            fault.of(directory)
        }
    };
    let name = format!("{directory}/{file}");
    let mut writer = store.create(&name).map_err(failed("create"))?;
    let (mut chunks, mut bytes) = (Vec::new(), Vec::new());
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min(start + CHUNK_BYTES);
        bytes.clear();
        read(start..end, &mut bytes);
        chunks.push(blake3::hash(&bytes).to_hex().to_string());
        writer.write(&bytes).map_err(failed("write"))?;
        start = end;
    }
    writer.finish().map_err(failed("finish"))?;
    Ok(PartFile {
        file,
        bytes: range.end - range.start,
        chunks,
    })
}

/// Writes the manifest of a checkpoint all of whose parts are durable, which makes it one.
///
/// # Errors
/// The store's, and numbers over the limits of the format.
pub fn write_manifest(store: &dyn Store, manifest: &Manifest) -> Result<(), CheckpointError> {
    let directory = directory_name(manifest.step);
    let bytes = manifest.to_bytes().map_err(|fault| fault.of(&*directory))?;
    let write = || {
        let mut writer = store.create(&format!("{directory}/{FILE_NAME}"))?;
        writer.write(&bytes)?;
        writer.finish()
    };
    write().map_err(|source| {
        let fault = CheckpointFault::Store {
            action: "write",
            file: FILE_NAME.to_owned(),
            source,
        };
        fault.of(&*directory)
    })
}
