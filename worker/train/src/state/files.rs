//! Training states in checkpoints.
//!
//! A checkpoint's tensors are the state's parts by name, its header is the [`StateHeader`] without
//! them. Each rank writes a range of the bytes that all ranks hold; whoever loads finds tensors by name,
//! in whatever order they were written.

use std::collections::BTreeMap;
use std::ops::Range;

use ringfold_common::clock::UnixMillis;
use ringfold_common::ids::Rank;
use ringfold_storage::checkpoint::{
    CHUNK_BYTES, Checkpoint, CheckpointError, FORMAT_VERSION, Manifest, PartFile, Store,
    TensorEntry, part_range, write_part,
};

use super::{ELEMENT_BYTES, Misfit, PartHeader, StateHeader, TrainingState};
use crate::error::TrainError;

impl TrainingState {
    /// Writes the part of a checkpoint of this state that falls to `rank` of `world`; it is durable when
    /// this returns.
    ///
    /// # Errors
    /// The store's.
    pub fn write_part(
        &self,
        store: &dyn Store,
        world: u32,
        rank: Rank,
    ) -> Result<PartFile, CheckpointError> {
        let bytes = self.elements() * ELEMENT_BYTES as u64;
        let range = part_range(bytes, world, rank.0);
        write_part(store, self.step.0, rank.0, range, |range, to| {
            // Chunks are whole elements.
            let element = ELEMENT_BYTES as u64;
            self.read(range.start / element..range.end / element, to);
        })
    }

    /// The manifest of a checkpoint of this state in `parts`, those of all ranks in their order.
    #[must_use]
    pub fn manifest(&self, job: &str, now: UnixMillis, parts: Vec<PartFile>) -> Manifest {
        let mut header = self.header();
        let tensors = std::mem::take(&mut header.parts).into_iter();
        Manifest {
            format: FORMAT_VERSION,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            written_unix_ms: now.0,
            job: job.to_owned(),
            step: self.step.0,
            chunk_bytes: CHUNK_BYTES,
            // Names are strings and numbers are finite: it has a form.
            header: serde_json::to_value(header).unwrap_or_default(),
            tensors: tensors
                .map(|part| TensorEntry::f32(part.name, part.shape))
                .collect(),
            parts,
        }
    }

    /// Takes the place of this state, which is of the job that is to go on.
    ///
    /// # Errors
    /// [`TrainError::State`]: a checkpoint that doesn't fit, which changes nothing.
    /// [`TrainError::Checkpoint`]: one that was altered; then this state is of no use any more.
    pub fn load(&mut self, checkpoint: &Checkpoint<'_>) -> Result<(), TrainError> {
        let mut header: StateHeader = serde_json::from_value(checkpoint.manifest().header.clone())
            .map_err(|error| Misfit {
                field: "the header".to_owned(),
                state: format!("unreadable ({error})"),
                job: "of a training state".to_owned(),
            })?;
        let places = self.places(checkpoint, &mut header)?;
        self.fill(&header)?;
        let mut places = places.into_iter().peekable();
        checkpoint.read(|start, bytes| {
            let end = start + bytes.len() as u64;
            while let Some((range, element)) = places.peek() {
                let overlap = range.start.max(start)..range.end.min(end);
                if !overlap.is_empty() {
                    let skipped = (overlap.start - range.start) / ELEMENT_BYTES as u64;
                    let from = (overlap.start - start) as usize..(overlap.end - start) as usize;
                    self.write(element + skipped, &bytes[from]);
                }
                if range.end > end {
                    break;
                }
                places.next();
            }
        })?;
        Ok(())
    }

    /// Where the bytes of each tensor of the checkpoint begin and end, in their order, and the element
    /// that they are from. The header gets this state's parts.
    fn places(
        &self,
        checkpoint: &Checkpoint<'_>,
        header: &mut StateHeader,
    ) -> Result<Vec<(Range<u64>, u64)>, Misfit> {
        let mut own: BTreeMap<String, (&[usize], u64)> = BTreeMap::new();
        let mut element = 0;
        let parts = self.parts();
        for part in &parts {
            header.parts.push(PartHeader {
                name: part.name(),
                shape: part.shape.to_vec(),
            });
            own.insert(part.name(), (part.shape, element));
            element += part.values.len() as u64;
        }
        let mut places = Vec::new();
        for (tensor, range) in checkpoint.tensors() {
            let place = own.remove(&tensor.name);
            let fits = |shape: &[usize]| {
                let shape = shape.iter().map(|&dim| dim as u64);
                tensor.dtype == "f32" && shape.eq(tensor.shape.iter().copied())
            };
            let found = place.filter(|(shape, _)| fits(shape));
            let Some((_, element)) = found else {
                return Err(Misfit {
                    field: tensor.name.clone(),
                    state: format!("{} {:?}", tensor.dtype, tensor.shape),
                    job: place.map_or("missing".into(), |(shape, _)| format!("f32 {shape:?}")),
                });
            };
            places.push((range, element));
        }
        match own.pop_first() {
            None => Ok(places),
            Some((name, (shape, _))) => Err(Misfit {
                field: name,
                state: "missing".to_owned(),
                job: format!("f32 {shape:?}"),
            }),
        }
    }
}
