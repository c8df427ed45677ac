//! The header before every segment. Little-endian, [`HEADER_BYTES`] long:
//!
//! ```text
//!  0 magic            u32      32 operation bytes  u64
//!  4 kind             u8       40 root or replicas u32  (0 unless there is one)
//!  5 element type     u8  (0 unless there is one)
//!  6 reduction        u8  (0 unless there is one)
//!  7 reserved, 0      1 byte   44 step             u32
//!  8 job              u64      48 segment          u32
//! 16 membership epoch u64      52 payload bytes    u32
//! 24 operation        u64      56 checksum         u32  (FNV-1a of the bytes before)
//! ```
//!
//! `operation` counts a ring's operations, `step` the messages of one, `segment` the frames of a
//! message. Together with `operation bytes` they let a receiver know before it touches memory that
//! both ranks made the same call with operands of the same length and are at the same place in it.

use std::fmt;

use ringfold_common::ids::{JobId, MembershipEpoch, Rank};

use crate::algorithm::Kind;
use crate::{ElementType, Reduce, SEGMENT_BYTES_MAX};

/// The length of a frame's header.
pub const HEADER_BYTES: usize = 60;

const MAGIC: u32 = u32::from_le_bytes(*b"RFfr");

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameFault {
    /// It doesn't begin as a frame does.
    #[error("it begins with {got:#010x}, not with the magic of a frame")]
    Magic {
        /// The first four bytes.
        got: u32,
    },
    /// The header was damaged on its way.
    #[error("its header's checksum is {got:#010x}, and {computed:#010x} by its bytes")]
    Checksum {
        /// By the bytes.
        computed: u32,
        /// In the header.
        got: u32,
    },
    /// An operation that this version doesn't know.
    #[error("unknown kind of operation {got}")]
    UnknownKind {
        /// Its number.
        got: u8,
    },
    /// A type of elements that this version doesn't know, or one where there is none.
    #[error("element type {got} in a kind of operation {kind}")]
    ElementType {
        /// The kind's number.
        kind: u8,
        /// The type's.
        got: u8,
    },
    /// A reduction that this version doesn't know, or one where there is none.
    #[error("reduction {got} in a kind of operation {kind}")]
    Reduction {
        /// The kind's number.
        kind: u8,
        /// The reduction's.
        got: u8,
    },
    /// Bytes that are to be zero are not.
    #[error("reserved byte {offset} of its header is not zero")]
    Reserved {
        /// Which one.
        offset: usize,
    },
    /// A payload over [`SEGMENT_BYTES_MAX`].
    #[error("a payload of {got} bytes: at most {SEGMENT_BYTES_MAX} are allowed")]
    PayloadTooLong {
        /// Its length.
        got: u32,
    },
    /// A frame of another job.
    #[error("it belongs to {got}, this ring to {expected}")]
    Job {
        /// This ring's.
        expected: JobId,
        /// The frame's.
        got: JobId,
    },
    /// A frame of a membership epoch that this rank doesn't know of yet.
    #[error("it belongs to membership epoch {got}, this ring to the older {expected}")]
    NewerEpoch {
        /// This ring's.
        expected: MembershipEpoch,
        /// The frame's.
        got: MembershipEpoch,
    },
    /// The ranks made different calls.
    #[error("it belongs to {got}, this rank is in {expected}: all ranks must make the same calls")]
    OtherCall {
        /// This rank's.
        expected: Call,
        /// The peer's.
        got: Call,
    },
    /// A message out of order.
    #[error("message {got} where message {expected} was due")]
    Step {
        /// The one that was due.
        expected: u32,
        /// The frame's.
        got: u32,
    },
    /// A segment out of order.
    #[error("segment {got} where segment {expected} was due")]
    Segment {
        /// The one that was due.
        expected: u32,
        /// The frame's.
        got: u32,
    },
    /// A segment of the wrong length.
    #[error("a payload of {got} bytes where {expected} were due")]
    PayloadLength {
        /// What was due.
        expected: u32,
        /// The frame's.
        got: u32,
    },
    /// More than [`STALE_FRAMES_MAX`](crate::STALE_FRAMES_MAX) frames of older membership epochs.
    #[error("too many frames of older membership epochs, the last of {got}")]
    TooManyStale {
        /// The last one's.
        got: MembershipEpoch,
    },
    /// Bytes from the next rank, which only receives.
    #[error("it sends to a rank that it only receives from")]
    WrongWay,
}

/// One call of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number on this ring, from 1.
    pub operation: u64,
    /// Which operation.
    pub kind: Kind,
    /// The length of the operand.
    pub bytes: u64,
}

impl Call {
    /// What a link is in before its first operation.
    pub(crate) fn none() -> Self {
        Self {
            operation: 0,
            kind: Kind::Barrier,
            bytes: 0,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operation,
            kind,
            bytes,
        } = self;
        write!(f, "operation {operation} ({kind} of {bytes} bytes)")
    }
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub job: JobId,
    pub membership_epoch: MembershipEpoch,
    pub call: Call,
    pub step: u32,
    pub segment: u32,
    pub payload_bytes: u32,
}

/// How a well-formed header relates to the ring that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It is the frame that was due.
    Due,
    /// It belongs to an older membership epoch of the same job.
    Stale,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let (kind, root) = code(self.call.kind);
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..7].copy_from_slice(&kind);
        bytes[8..16].copy_from_slice(&self.job.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.membership_epoch.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.call.operation.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.call.bytes.to_le_bytes());
        bytes[40..44].copy_from_slice(&root.0.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.step.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.segment.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.payload_bytes.to_le_bytes());
        let checksum = fnv1a(&bytes[..56]);
        bytes[56..60].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header and checks all that can be checked without knowing what is due.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameFault> {
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(FrameFault::Magic { got: magic });
        }
        let (computed, got) = (fnv1a(&bytes[..56]), u32_at(bytes, 56));
        if computed != got {
            return Err(FrameFault::Checksum { computed, got });
        }
        if bytes[7] != 0 {
            return Err(FrameFault::Reserved { offset: 7 });
        }
        let kind = kind_of([bytes[4], bytes[5], bytes[6]], u32_at(bytes, 40))?;
        let payload_bytes = u32_at(bytes, 52);
        if payload_bytes as usize > SEGMENT_BYTES_MAX {
            return Err(FrameFault::PayloadTooLong { got: payload_bytes });
        }
        Ok(Self {
            job: JobId(u64_at(bytes, 8)),
            membership_epoch: MembershipEpoch(u64_at(bytes, 16)),
            call: Call {
                operation: u64_at(bytes, 24),
                kind,
                bytes: u64_at(bytes, 32),
            },
            step: u32_at(bytes, 44),
            segment: u32_at(bytes, 48),
            payload_bytes,
        })
    }

    /// Compares with the header that is due. Only its job matters in a stale frame.
    pub(super) fn check(&self, due: &Self) -> Result<Freshness, FrameFault> {
        macro_rules! same {
            ($fault:ident, $field:ident) => {
                if self.$field != due.$field {
                    return Err(FrameFault::$fault {
                        expected: due.$field,
                        got: self.$field,
                    });
                }
            };
        }
        same!(Job, job);
        if self.membership_epoch < due.membership_epoch {
            return Ok(Freshness::Stale);
        }
        same!(NewerEpoch, membership_epoch);
        same!(OtherCall, call);
        same!(Step, step);
        same!(Segment, segment);
        same!(PayloadLength, payload_bytes);
        Ok(Freshness::Due)
    }
}

/// True if `bytes` are a header. What is decoded holds all of it.
pub(crate) fn round_trips(bytes: &[u8; HEADER_BYTES]) -> bool {
    match Header::decode(bytes) {
        Ok(header) => {
            assert_eq!(header.encode(), *bytes, "nothing is lost by decoding");
            true
        }
        Err(_) => false,
    }
}

/// The bytes with the checksum that they ought to have: so that random ones reach what is behind it.
#[cfg(test)]
fn with_checksum(mut bytes: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
    let checksum = fnv1a(&bytes[..56]);
    bytes[56..60].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The numbers of a kind, its element type and its reduction, and its root.
pub(crate) fn code(kind: Kind) -> ([u8; 3], Rank) {
    let number = |number: ElementType| match number {
        ElementType::F32 => 1,
        ElementType::F64 => 2,
        ElementType::Bf16 => 3,
        ElementType::F16 => 4,
        ElementType::I32 => 5,
        ElementType::I64 => 6,
        ElementType::U8 => 7,
    };
    let reduction = |reduce: Reduce| match reduce {
        Reduce::Sum => 1,
        Reduce::Mean => 2,
        Reduce::Min => 3,
        Reduce::Max => 4,
    };
    match kind {
        Kind::AllReduce(t, r) => ([1, number(t), reduction(r)], Rank(0)),
        Kind::ReduceScatter(t, r) => ([2, number(t), reduction(r)], Rank(0)),
        Kind::Broadcast(root) => ([3, 0, 0], root),
        Kind::AllGather => ([4, 0, 0], Rank(0)),
        Kind::Barrier => ([5, 0, 0], Rank(0)),
        Kind::Gather(root) => ([6, 0, 0], root),
        Kind::AllToAll => ([7, 0, 0], Rank(0)),
        Kind::Reproducible(t, replicas) => ([8, number(t), 0], Rank(replicas)),
    }
}

pub(crate) fn kind_of([kind, number, reduction]: [u8; 3], root: u32) -> Result<Kind, FrameFault> {
    let element_type = || match number {
        1 => Ok(ElementType::F32),
        2 => Ok(ElementType::F64),
        3 => Ok(ElementType::Bf16),
        4 => Ok(ElementType::F16),
        5 => Ok(ElementType::I32),
        6 => Ok(ElementType::I64),
        7 => Ok(ElementType::U8),
        got => Err(FrameFault::ElementType { kind, got }),
    };
    let reduce = || match reduction {
        1 => Ok(Reduce::Sum),
        2 => Ok(Reduce::Mean),
        3 => Ok(Reduce::Min),
        4 => Ok(Reduce::Max),
        got => Err(FrameFault::Reduction { kind, got }),
    };
    let decoded = match kind {
        1 => Kind::AllReduce(element_type()?, reduce()?),
        2 => Kind::ReduceScatter(element_type()?, reduce()?),
        3 => Kind::Broadcast(Rank(root)),
        4 => Kind::AllGather,
        5 => Kind::Barrier,
        6 => Kind::Gather(Rank(root)),
        7 => Kind::AllToAll,
        8 => Kind::Reproducible(element_type()?, root),
        got => return Err(FrameFault::UnknownKind { got }),
    };
    // What the kind doesn't have is zero.
    let ([_, expected_number, expected_reduction], expected_root) = code(decoded);
    if number != expected_number {
        return Err(FrameFault::ElementType { kind, got: number });
    }
    if reduction != expected_reduction {
        return Err(FrameFault::Reduction {
            kind,
            got: reduction,
        });
    }
    if root != expected_root.0 {
        return Err(FrameFault::Reserved { offset: 40 });
    }
    Ok(decoded)
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// 32-bit FNV-1a (Fowler, Noll, Vo): cheap, and any change of one byte changes it.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
