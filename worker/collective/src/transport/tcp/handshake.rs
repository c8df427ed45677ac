//! What ranks tell each other first. The rank that dialled says hello, as the rank before in the
//! ring or as a peer beside it; the other answers.
//! Both say the same [`HANDSHAKE_BYTES`], little-endian, of which every version keeps the first 12:
//!
//! ```text
//!  0 magic            8 bytes      20 segment bytes    u32
//!  8 protocol version u16          24 job              u64
//! 10 verdict          u8           32 membership epoch u64
//! 11 reserved, 0      u8           40 spec hash        32 bytes
//! 12 rank             u32
//! 16 world            u32
//! ```

use std::io::{self, Read, Write};

use ringfold_common::ids::{JobId, MembershipEpoch, Rank, SpecHash};

use crate::{Identity, Mismatch};

/// The length of a hello and of its answer.
pub const HANDSHAKE_BYTES: usize = 72;

const MAGIC: [u8; 8] = *b"RINGFOLD";
const PREFIX_BYTES: usize = 12;
/// The first byte of a connection under TLS (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// The version of everything that travels between ranks, frames included, and of which ranks hold
/// which replicas.
pub(crate) const PROTOCOL: u16 = 4;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// From the rank before.
    Hello,
    Accepted,
    Refused,
    /// From a lower rank, for a connection beside the ring.
    HelloDirect,
}

/// What one rank tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub identity: Identity,
    pub segment_bytes: u32,
}

/// What a reader has so far.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Not enough to tell.
    Partial,
    /// A whole message.
    Message(Verdict, Introduction),
    /// The beginning of a message in another version.
    OtherProtocol(u16),
    /// Not a peer, or no longer one, and why.
    Stranger(io::Error),
}

/// Collects one message from a non-blocking socket.
pub(crate) struct Reader {
    bytes: [u8; HANDSHAKE_BYTES],
    filled: usize,
}

impl Introduction {
    pub fn encode(&self, verdict: Verdict) -> [u8; HANDSHAKE_BYTES] {
        let identity = &self.identity;
        let mut bytes = [0; HANDSHAKE_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&PROTOCOL.to_le_bytes());
        bytes[10] = match verdict {
            Verdict::Hello => 1,
            Verdict::Accepted => 2,
            Verdict::Refused => 3,
            Verdict::HelloDirect => 4,
        };
        bytes[12..16].copy_from_slice(&identity.rank.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&identity.world.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.segment_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&identity.job.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&identity.membership_epoch.0.to_le_bytes());
        bytes[40..72].copy_from_slice(&identity.spec_hash.0);
        bytes
    }

    /// Writes the message to a socket that has just connected, whose buffer is therefore empty.
    pub fn write(&self, verdict: Verdict, mut socket: impl Write) -> io::Result<()> {
        socket.write_all(&self.encode(verdict))
    }

    /// Compares what the neighbour, which is to be rank `neighbour`, says with this rank's own.
    pub fn check(&self, neighbour: Rank, theirs: &Self) -> Result<(), Mismatch> {
        let (ours, them) = (&self.identity, &theirs.identity);
        macro_rules! same {
            ($field:ident, $expected:expr, $got:expr) => {
                if $expected != $got {
                    return Err(Mismatch::$field {
                        expected: $expected,
                        got: $got,
                    });
                }
            };
        }
        same!(Job, ours.job, them.job);
        same!(
            MembershipEpoch,
            ours.membership_epoch,
            them.membership_epoch
        );
        same!(World, ours.world, them.world);
        same!(Rank, neighbour, them.rank);
        same!(SpecHash, ours.spec_hash, them.spec_hash);
        same!(SegmentBytes, self.segment_bytes, theirs.segment_bytes);
        Ok(())
    }

    fn decode(bytes: &[u8; HANDSHAKE_BYTES]) -> Option<(Verdict, Self)> {
        let verdict = match bytes[10..12] {
            [1, 0] => Verdict::Hello,
            [2, 0] => Verdict::Accepted,
            [3, 0] => Verdict::Refused,
            [4, 0] => Verdict::HelloDirect,
            _ => return None,
        };
        let u32_at = |at| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let introduction = Self {
            identity: Identity {
                job: JobId(u64_at(24)),
                membership_epoch: MembershipEpoch(u64_at(32)),
                rank: Rank(u32_at(12)),
                world: u32_at(16),
                spec_hash: SpecHash(std::array::from_fn(|i| bytes[40 + i])),
            },
            segment_bytes: u32_at(20),
        };
        Some((verdict, introduction))
    }
}

impl Reader {
    pub fn new() -> Self {
        Self {
            bytes: [0; HANDSHAKE_BYTES],
            filled: 0,
        }
    }

    /// Reads what there is. To be called again only after [`Heard::Partial`].
    pub fn read(&mut self, mut socket: impl Read) -> Heard {
        while self.filled < HANDSHAKE_BYTES {
            match socket.read(&mut self.bytes[self.filled..]) {
                Ok(0) => return Heard::Stranger(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => self.filled += moved,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Heard::Stranger(error),
            }
        }
        self.heard()
    }

    fn heard(&self) -> Heard {
        let not_a_peer = || {
            let what = match self.bytes[0] {
                TLS_HANDSHAKE => "it calls with TLS, and this rank has no keys",
                _ => "it does not speak the ring protocol",
            };
            Heard::Stranger(io::Error::new(io::ErrorKind::InvalidData, what))
        };
        let magic = self.filled.min(MAGIC.len());
        if self.bytes[..magic] != MAGIC[..magic] {
            return not_a_peer();
        }
        if self.filled < PREFIX_BYTES {
            return Heard::Partial;
        }
        match u16::from_le_bytes([self.bytes[8], self.bytes[9]]) {
            PROTOCOL if self.filled < HANDSHAKE_BYTES => Heard::Partial,
            PROTOCOL => match Introduction::decode(&self.bytes) {
                Some((verdict, introduction)) => Heard::Message(verdict, introduction),
                None => not_a_peer(),
            },
            other => Heard::OtherProtocol(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn introduction() -> Introduction {
        Introduction {
            identity: Identity {
                job: JobId(7),
                membership_epoch: MembershipEpoch(3),
                rank: Rank(1),
                world: 4,
                spec_hash: SpecHash(std::array::from_fn(|i| i as u8)),
            },
            segment_bytes: 1 << 18,
        }
    }

    fn heard(bytes: &[u8]) -> Heard {
        let mut reader = Reader::new();
        reader.bytes[..bytes.len()].copy_from_slice(bytes);
        reader.filled = bytes.len();
        reader.heard()
    }

    #[test]
    fn messages_round_trip() {
        for verdict in [
            Verdict::Hello,
            Verdict::Accepted,
            Verdict::Refused,
            Verdict::HelloDirect,
        ] {
            let bytes = introduction().encode(verdict);
            for cut in 0..HANDSHAKE_BYTES {
                assert!(matches!(heard(&bytes[..cut]), Heard::Partial), "{cut}");
            }
            let Heard::Message(got, theirs) = heard(&bytes) else {
                panic!("a whole message")
            };
            assert_eq!((got, theirs), (verdict, introduction()));
        }
    }

    #[test]
    fn a_stranger_is_known_by_its_first_byte() {
        assert!(matches!(heard(b"G"), Heard::Stranger(_)));
        assert!(matches!(heard(b"RINGFOLT"), Heard::Stranger(_)));
    }

    #[test]
    fn another_version_is_known_by_its_prefix() {
        let mut bytes = introduction().encode(Verdict::Hello);
        bytes[8] = 9;
        assert!(matches!(heard(&bytes[..11]), Heard::Partial));
        assert!(matches!(heard(&bytes[..12]), Heard::OtherProtocol(9)));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..HANDSHAKE_BYTES),
            real_prefix in 0..HANDSHAKE_BYTES,
        ) {
            let mut mixed = bytes;
            let real = introduction().encode(Verdict::Hello);
            let prefix = real_prefix.min(mixed.len());
            mixed[..prefix].copy_from_slice(&real[..prefix]);
            let _ = heard(&mixed);
        }
    }
}
