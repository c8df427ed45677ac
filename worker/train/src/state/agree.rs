//! How the ranks of a ring come to hold the furthest state that any of them holds.
//!
//! 1. Every rank tells all others whether it holds a state, after which step, and the hash of its
//!    header.
//! 2. If nobody is past step 0, all begin anew. Else those that hold the furthest state must have the
//!    same header.
//! 3. If some are behind, one holder broadcasts the header, and all holders in turn a chunk of the
//!    numbers with its BLAKE3. Who needs the chunk checks the hash; who holds it compares its own.
//!
//! What a rank held stays with it until all chunks of another state are in.

use std::ops::Range;

use ringfold_collective::Ring;
use ringfold_common::ids::{Rank, Step};

use super::{ELEMENT_BYTES, Misfit, StateHeader, TrainingState, json};
use crate::error::TrainError;

/// Elements of a chunk.
const CHUNK_ELEMENTS: u64 = 1 << 18;
/// The most bytes of a header: names and shapes of many thousand tensors.
pub const HEADER_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a hash.
const HASH: usize = 32;
/// What a rank tells the others: what it holds, the step, the header's length and hash.
const RECORD: usize = 3 * 8 + HASH;

const NOTHING: u64 = 0;
const HOLDS: u64 = 1;
/// It holds a state that doesn't fit its job.
const MISFIT: u64 = 2;

/// How states of the job are made.
pub(crate) trait Make {
    /// That before the first step.
    fn initial(&self) -> Result<TrainingState, TrainError>;
    /// One that is to be filled.
    fn blank(&self) -> Result<TrainingState, TrainError>;
    /// Why a state isn't one of this very job.
    fn misfit(&self, state: &TrainingState) -> Option<Misfit>;
}

/// Makes all ranks hold the furthest state that any of them holds, or that before the first step.
/// All ranks call it.
///
/// # Errors
/// A state of another job ([`TrainError::State`] where it is, [`TrainError::StatesOfOthers`]
/// elsewhere), [`TrainError::StatesDiffer`], [`TrainError::StateDamaged`], the ring's. What was held
/// is still held.
pub(crate) fn agree<'h>(
    ring: &mut Ring,
    held: &'h mut Option<TrainingState>,
    make: &dyn Make,
) -> Result<&'h mut TrainingState, TrainError> {
    // What a panic left behind in the middle of a step.
    held.take_if(|state| !state.whole);
    let misfit = held.as_ref().and_then(|state| make.misfit(state));
    let header = held.as_ref().map(|state| json(&state.header()));
    let record = Record::of(held.as_ref(), header.as_deref(), misfit.is_some());
    let records = ring.all_gather_bytes(&record.to_bytes())?;
    if let Some(misfit) = misfit {
        return Err(misfit.into());
    }
    let records: Vec<Record> = records.iter().map(Record::from_bytes).collect();
    let holders = holders(&records)?;
    let needed = !holders.is_empty() && holders.len() < records.len();
    if needed {
        let step = records[holders[0].0 as usize].step;
        let mut transfer = Transfer {
            ring,
            holders: &holders,
            step,
        };
        let own = header.filter(|_| record.is_at(step)).zip(held.as_ref());
        if let Some(received) = transfer.run(own, &records, make)? {
            *held = Some(received);
        }
    }
    match held {
        Some(state) => Ok(state),
        None => Ok(held.insert(make.initial()?)),
    }
}

/// What a rank holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    kind: u64,
    step: Step,
    header_bytes: u64,
    hash: [u8; HASH],
}

impl Record {
    fn of(held: Option<&TrainingState>, header: Option<&[u8]>, misfits: bool) -> Self {
        let header = header.unwrap_or_default();
        let kind = match held {
            None => NOTHING,
            Some(_) if misfits => MISFIT,
            Some(_) => HOLDS,
        };
        Self {
            kind,
            step: held.map_or(Step(0), TrainingState::step),
            header_bytes: header.len() as u64,
            hash: *blake3::hash(header).as_bytes(),
        }
    }

    fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let words = [self.kind, self.step.0, self.header_bytes];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        bytes[RECORD - HASH..].copy_from_slice(&self.hash);
        bytes
    }

    fn from_bytes(bytes: &[u8; RECORD]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes.as_chunks::<8>().0[at]);
        let mut hash = [0; HASH];
        hash.copy_from_slice(&bytes[RECORD - HASH..]);
        Self {
            kind: word(0),
            step: Step(word(1)),
            header_bytes: word(2),
            hash,
        }
    }

    fn is_at(&self, step: Step) -> bool {
        self.kind == HOLDS && self.step == step
    }
}

/// The ranks that hold the furthest state; none if nobody is past step 0.
fn holders(records: &[Record]) -> Result<Vec<Rank>, TrainError> {
    let ranks = |chosen: &dyn Fn(&Record) -> bool| -> Vec<Rank> {
        let chosen = (0..).zip(records).filter(|(_, record)| chosen(record));
        chosen.map(|(rank, _)| Rank(rank)).collect()
    };
    let others = ranks(&|record| !matches!(record.kind, NOTHING | HOLDS));
    if !others.is_empty() {
        return Err(TrainError::StatesOfOthers { ranks: others });
    }
    let held = records.iter().filter(|record| record.kind == HOLDS);
    let step = held.map(|record| record.step).max().unwrap_or(Step(0));
    if step == Step(0) {
        return Ok(Vec::new());
    }
    let holders = ranks(&|record| record.is_at(step));
    let header = |rank: &Rank| {
        let record = &records[rank.0 as usize];
        (record.header_bytes, record.hash)
    };
    let first = header(&holders[0]);
    let differ: Vec<Rank> = (holders.iter().copied())
        .filter(|rank| header(rank) != first)
        .collect();
    if !differ.is_empty() {
        return Err(TrainError::StatesDiffer {
            step,
            ranks: differ,
        });
    }
    Ok(holders)
}

/// A state on its way from those that hold it to the others.
struct Transfer<'a> {
    ring: &'a mut Ring,
    holders: &'a [Rank],
    step: Step,
}

impl Transfer<'_> {
    /// `own` is this rank's state with its header, if it is one of the holders. Returns what it has
    /// received if it isn't.
    fn run(
        &mut self,
        own: Option<(Vec<u8>, &TrainingState)>,
        records: &[Record],
        make: &dyn Make,
    ) -> Result<Option<TrainingState>, TrainError> {
        let root = self.holders[0];
        let record = &records[root.0 as usize];
        if record.header_bytes > HEADER_BYTES_MAX {
            return Err(self.damaged(root, 0..record.header_bytes));
        }
        let (own_header, own) = own.unzip();
        let mut header = own_header.unwrap_or_else(|| vec![0; record.header_bytes as usize]);
        self.ring.broadcast(root, &mut header)?;
        if blake3::hash(&header) != record.hash {
            return Err(self.damaged(root, 0..record.header_bytes));
        }
        let header: StateHeader = serde_json::from_slice(&header)
            .map_err(|_| self.damaged(root, 0..record.header_bytes))?;
        let mut received = match own {
            Some(_) => None,
            None => {
                let mut blank = make.blank()?;
                blank.fill(&header)?;
                Some(blank)
            }
        };
        // A header that fits has as many elements as the job's own states.
        let elements = header.elements().unwrap_or(0);
        let chunks = (0..elements).step_by(CHUNK_ELEMENTS as usize);
        let mut sent = Vec::new();
        for (chunk, &root) in chunks.zip(self.holders.iter().cycle()) {
            let range = chunk..elements.min(chunk + CHUNK_ELEMENTS);
            self.chunk(root, range, own, received.as_mut(), &mut sent)?;
        }
        Ok(received)
    }

    fn chunk(
        &mut self,
        root: Rank,
        range: Range<u64>,
        own: Option<&TrainingState>,
        received: Option<&mut TrainingState>,
        sent: &mut Vec<u8>,
    ) -> Result<(), TrainError> {
        let elements = (range.end - range.start) as usize;
        sent.clear();
        sent.resize(HASH, 0);
        let mut expected = None;
        if let Some(own) = own {
            own.read(range.clone(), sent);
            let hash = blake3::hash(&sent[HASH..]);
            sent[..HASH].copy_from_slice(hash.as_bytes());
            expected = Some(hash);
        }
        sent.resize(HASH + elements * ELEMENT_BYTES, 0);
        self.ring.broadcast(root, sent)?;
        let (hash, bytes) = sent.split_at(HASH);
        if let Some(expected) = expected
            && hash != expected.as_bytes()
        {
            let mut ranks = vec![root, self.ring.rank()];
            ranks.sort_unstable();
            return Err(TrainError::StatesDiffer {
                step: self.step,
                ranks,
            });
        }
        if let Some(received) = received {
            if hash != blake3::hash(bytes).as_bytes() {
                return Err(self.damaged(root, range));
            }
            received.write(range.start, bytes);
        }
        Ok(())
    }

    fn damaged(&self, root: Rank, range: Range<u64>) -> TrainError {
        TrainError::StateDamaged {
            step: self.step,
            root,
            range,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u64, step: u64, hash: u8) -> Record {
        Record {
            kind,
            step: Step(step),
            header_bytes: 9,
            hash: [hash; HASH],
        }
    }

    #[test]
    fn records_survive_their_bytes() {
        let record = record(HOLDS, 1 << 40, 7);
        assert_eq!(Record::from_bytes(&record.to_bytes()), record);
    }

    #[test]
    fn those_that_are_furthest_hold_the_state() {
        let nothing = record(NOTHING, 0, 0);
        assert_eq!(holders(&[nothing, record(HOLDS, 0, 1)]).unwrap(), []);
        let records = [record(HOLDS, 7, 1), nothing, record(HOLDS, 8, 2)];
        assert_eq!(holders(&records).unwrap(), [Rank(2)]);
        let records = [record(HOLDS, 8, 2), nothing, record(HOLDS, 8, 2)];
        assert_eq!(holders(&records).unwrap(), [Rank(0), Rank(2)]);
    }

    #[test]
    fn garbage_is_an_error_that_names_ranks() {
        let differ = holders(&[record(HOLDS, 8, 2), record(HOLDS, 8, 3)]).unwrap_err();
        assert_eq!(
            differ.to_string(),
            "after step 8 the training states of rank 1 differ from those of the other ranks"
        );
        // An older state that nobody needs may be anything.
        holders(&[record(HOLDS, 8, 2), record(HOLDS, 7, 3)]).unwrap();
        for kind in [MISFIT, 99] {
            let others = holders(&[record(HOLDS, 8, 2), record(kind, 9, 2)]).unwrap_err();
            assert_eq!(
                others.to_string(),
                "rank 1 holds the training state of another job"
            );
        }
    }
}
