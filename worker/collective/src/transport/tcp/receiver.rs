//! The way from another rank.
//!
//! A header is checked before its payload may touch the operand. Of an accepted frame, terms of a
//! fold go through one segment of scratch memory; values to copy go straight to their place.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::frame::{Call, FrameFault, Freshness, HEADER_BYTES, Header};
use super::stream::Stream;
use super::{Advance, SideError};
use crate::element::Fold;
use crate::{LastSign, Peer};

/// The most frames of older membership epochs that a ring drops; one more is an error.
pub const STALE_FRAMES_MAX: u64 = 1024;

/// Reads frames, one message at a time.
pub(super) struct Receiver {
    pub socket: Arc<Stream>,
    pub peer: Peer,
    /// One segment.
    scratch: Vec<u8>,
    /// The frame that is due.
    due: Header,
    encoded: [u8; HEADER_BYTES],
    state: State,
    /// The message under way.
    range: Range<usize>,
    /// Payload bytes of that message that are in the operand.
    range_done: usize,
    /// How to fold; none to copy.
    fold: Option<Fold>,
    /// Of the last frame that was due and came: its call and step, and the payload bytes of its
    /// message up to the frame under way.
    last: Option<(Call, u32, u64)>,
    /// Bytes that the socket gave since the ring was joined.
    pub bytes_received: u64,
    /// Frames of older membership epochs that were dropped.
    pub stale_frames: u64,
}

#[derive(Clone, Copy)]
enum State {
    /// No message is due.
    Done,
    /// So many bytes of a header are there.
    Header(usize),
    /// So many bytes of the due payload are there.
    Payload(usize),
    /// So many bytes of a stale payload are still to be dropped.
    Stale(usize),
}

impl Receiver {
    pub fn new(
        socket: impl Into<Arc<Stream>>,
        peer: Peer,
        segment_bytes: usize,
        header: Header,
    ) -> Self {
        Self {
            socket: socket.into(),
            peer,
            scratch: vec![0; segment_bytes],
            due: header,
            encoded: [0; HEADER_BYTES],
            state: State::Done,
            range: 0..0,
            range_done: 0,
            fold: None,
            last: None,
            bytes_received: 0,
            stale_frames: 0,
        }
    }

    /// Starts an operation.
    pub fn begin(&mut self, header: Header) {
        self.due = header;
        self.due.step = 0;
    }

    /// The next message is due: it goes to `range` of the operand, in bytes.
    pub fn expect(&mut self, range: Range<usize>, fold: Option<Fold>) {
        self.range = range;
        self.range_done = 0;
        self.fold = fold;
        self.due.segment = 0;
        self.due.payload_bytes = self.payload_due();
        self.state = State::Header(0);
    }

    /// Looks whether a frame is there whose call has the number of that in `under_way` and is yet
    /// another one. What comes later, and what is no frame, is left to whoever reads it.
    pub fn check_ahead(&self, under_way: Header) -> Result<(), FrameFault> {
        let mut bytes = [0; HEADER_BYTES];
        if !matches!(self.state, State::Done | State::Header(0))
            || !matches!(self.socket.peek(&mut bytes), Ok(HEADER_BYTES))
        {
            return Ok(());
        }
        match Header::decode(&bytes) {
            Ok(header)
                if header.membership_epoch == under_way.membership_epoch
                    && header.call.operation == under_way.call.operation
                    && header.call != under_way.call =>
            {
                Err(FrameFault::OtherCall {
                    expected: under_way.call,
                    got: header.call,
                })
            }
            _ => Ok(()),
        }
    }

    /// True when the message that was due is complete.
    pub fn done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Step, bytes done and bytes in all of the message under way, or of the last one.
    pub fn progress(&self) -> (u32, usize, usize) {
        let (step, partial) = match self.state {
            State::Done => (self.due.step.saturating_sub(1), 0),
            State::Payload(filled) => (self.due.step, filled),
            State::Header(_) | State::Stale(_) => (self.due.step, 0),
        };
        (step, self.range_done + partial, self.range.len())
    }

    /// The last that came of the peer.
    pub fn last_sign(&self) -> Option<LastSign> {
        let partial = match self.state {
            State::Payload(filled) => filled as u64,
            _ => 0,
        };
        self.last.map(|(call, step, bytes)| LastSign::Sent {
            call,
            step,
            bytes: bytes + partial,
        })
    }

    /// Reads once.
    pub fn advance(&mut self, operand: &mut [u8]) -> Result<Advance, SideError> {
        match self.state {
            State::Done => Ok(Advance::Idle),
            State::Header(filled) => {
                let moved = match read(&self.socket, &mut self.encoded[filled..])? {
                    Some(moved) => moved,
                    None => return Ok(Advance::Blocked),
                };
                self.bytes_received += moved as u64;
                if filled + moved < HEADER_BYTES {
                    self.state = State::Header(filled + moved);
                    return Ok(Advance::Moved);
                }
                self.accept_header().map_err(SideError::Fault)
            }
            State::Payload(filled) => {
                let due = self.due.payload_bytes as usize;
                let start = self.range.start + self.range_done;
                let place = &mut operand[start..start + due];
                let target = match self.fold {
                    Some(_) => &mut self.scratch[filled..due],
                    None => &mut place[filled..],
                };
                let moved = match read(&self.socket, target)? {
                    Some(moved) => moved,
                    None => return Ok(Advance::Blocked),
                };
                self.bytes_received += moved as u64;
                if filled + moved < due {
                    self.state = State::Payload(filled + moved);
                    return Ok(Advance::Moved);
                }
                if let Some(fold) = self.fold {
                    fold(place, &self.scratch[..due]);
                }
                Ok(self.segment_complete())
            }
            State::Stale(left) => {
                let part = left.min(self.scratch.len());
                let moved = match read(&self.socket, &mut self.scratch[..part])? {
                    Some(moved) => moved,
                    None => return Ok(Advance::Blocked),
                };
                self.bytes_received += moved as u64;
                self.state = match left - moved {
                    0 => State::Header(0),
                    left => State::Stale(left),
                };
                Ok(Advance::Moved)
            }
        }
    }

    fn accept_header(&mut self) -> Result<Advance, FrameFault> {
        let header = Header::decode(&self.encoded)?;
        let freshness = header.check(&self.due)?;
        if freshness == Freshness::Due {
            self.last = Some((header.call, header.step, self.range_done as u64));
        }
        match freshness {
            Freshness::Stale => {
                if self.stale_frames == STALE_FRAMES_MAX {
                    return Err(FrameFault::TooManyStale {
                        got: header.membership_epoch,
                    });
                }
                self.stale_frames += 1;
                self.state = match header.payload_bytes {
                    0 => State::Header(0),
                    bytes => State::Stale(bytes as usize),
                };
                Ok(Advance::Moved)
            }
            Freshness::Due if header.payload_bytes == 0 => Ok(self.segment_complete()),
            Freshness::Due => {
                self.state = State::Payload(0);
                Ok(Advance::Moved)
            }
        }
    }

    fn segment_complete(&mut self) -> Advance {
        self.range_done += self.due.payload_bytes as usize;
        self.last = Some((self.due.call, self.due.step, self.range_done as u64));
        if self.range_done == self.range.len() {
            self.due.step += 1;
            self.state = State::Done;
        } else {
            self.due.segment += 1;
            self.due.payload_bytes = self.payload_due();
            self.state = State::Header(0);
        }
        Advance::Segment
    }

    /// At most a segment, so at most `SEGMENT_BYTES_MAX`.
    fn payload_due(&self) -> u32 {
        (self.range.len() - self.range_done).min(self.scratch.len()) as u32
    }
}

/// The bytes that were read, never 0 of a target that isn't empty; none if there are none now.
fn read(socket: &Stream, target: &mut [u8]) -> Result<Option<usize>, SideError> {
    loop {
        match socket.read(target) {
            Ok(0) => return Err(SideError::Closed(None)),
            Ok(moved) => return Ok(Some(moved)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted => {}
                _ => return Err(SideError::Closed(Some(error))),
            },
        }
    }
}

#[cfg(test)]
#[path = "receiver_tests.rs"]
mod tests;
