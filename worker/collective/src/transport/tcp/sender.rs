//! The way to another rank.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use super::frame::{Call, HEADER_BYTES, Header};
use super::stream::Stream;
use super::{Advance, FrameFault, SideError};
use crate::{LastSign, Peer};

/// Cuts queued messages into frames and writes them as far as the socket takes them.
pub(super) struct Sender {
    pub socket: Arc<Stream>,
    pub peer: Peer,
    segment_bytes: usize,
    /// The frame under way, and the call for those after it.
    header: Header,
    encoded: [u8; HEADER_BYTES],
    /// Bytes of the frame under way, header included, that the socket took.
    frame_done: usize,
    /// Messages of the current operation, oldest first. Keeps its memory between operations.
    outbox: VecDeque<Message>,
    queued: u32,
    /// Bytes that the socket took since the ring was joined.
    pub bytes_sent: u64,
    /// The call of the last of them.
    last: Option<Call>,
}

/// A range of the operand, in bytes.
struct Message {
    step: u32,
    range: Range<usize>,
    /// Segments that may go: all for a range that this rank fills, those that have arrived for one
    /// that it passes on. Counted, since an empty range still has one segment to wait for.
    segments_ready: u32,
    segments_done: u32,
}

impl Sender {
    pub fn new(
        socket: impl Into<Arc<Stream>>,
        peer: Peer,
        segment_bytes: usize,
        header: Header,
    ) -> Self {
        Self {
            socket: socket.into(),
            peer,
            segment_bytes,
            header,
            encoded: [0; HEADER_BYTES],
            frame_done: 0,
            outbox: VecDeque::new(),
            queued: 0,
            bytes_sent: 0,
            last: None,
        }
    }

    /// Starts an operation. The one before has been flushed.
    pub fn begin(&mut self, header: Header) {
        debug_assert!(self.outbox.is_empty() && self.frame_done == 0);
        self.header = header;
        self.queued = 0;
    }

    /// Queues a message whose bytes are all there.
    pub fn queue(&mut self, range: Range<usize>) {
        self.push(range, u32::MAX);
    }

    /// Queues a message of which no segment has arrived yet.
    pub fn queue_unready(&mut self, range: Range<usize>) {
        self.push(range, 0);
    }

    /// One more segment of the message queued last has arrived.
    pub fn release_segment(&mut self) {
        if let Some(message) = self.outbox.back_mut() {
            message.segments_ready += 1;
        }
    }

    /// True while a queued message has not been written out.
    pub fn owes(&self) -> bool {
        !self.outbox.is_empty() || self.socket.owes()
    }

    /// True if there are bytes that may be written now.
    pub fn ready(&self) -> bool {
        self.has_segment() || self.socket.owes()
    }

    fn has_segment(&self) -> bool {
        self.outbox
            .front()
            .is_some_and(|message| message.segments_done < message.segments_ready)
    }

    /// Step, bytes done and bytes in all of the oldest message that is not written out.
    pub fn progress(&self) -> (u32, usize, usize) {
        self.outbox
            .front()
            .map_or((self.queued.saturating_sub(1), 0, 0), |message| {
                let done = message.segments_done as usize * self.segment_bytes
                    + self.frame_done.saturating_sub(HEADER_BYTES);
                (message.step, done, message.range.len())
            })
    }

    /// The last that the peer's connection took.
    pub fn last_sign(&self) -> Option<LastSign> {
        self.last.map(|call| LastSign::Took {
            call,
            bytes: self.bytes_sent,
        })
    }

    /// Writes once.
    pub fn advance(&mut self, operand: &[u8]) -> Result<Advance, SideError> {
        if !self.has_segment() {
            return match self.socket.owes() {
                false => Ok(Advance::Idle),
                true => self.flush(),
            };
        }
        let message = &mut self.outbox[0];
        let start = message.range.start + message.segments_done as usize * self.segment_bytes;
        let payload = &operand[start..message.range.end.min(start + self.segment_bytes)];
        if self.frame_done == 0 {
            self.header.step = message.step;
            self.header.segment = message.segments_done;
            self.header.payload_bytes = payload.len() as u32; // at most SEGMENT_BYTES_MAX
            self.encoded = self.header.encode();
        }
        let header_done = self.frame_done.min(HEADER_BYTES);
        let parts = [
            IoSlice::new(&self.encoded[header_done..]),
            IoSlice::new(&payload[self.frame_done - header_done..]),
        ];
        let moved = match self.socket.write(&parts) {
            Ok(moved) => moved,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(Advance::Blocked),
                io::ErrorKind::Interrupted => return Ok(Advance::Moved),
                _ => return Err(SideError::Closed(Some(error))),
            },
        };
        self.bytes_sent += moved as u64;
        self.last = Some(self.header.call);
        self.frame_done += moved;
        if self.frame_done == HEADER_BYTES + payload.len() {
            self.frame_done = 0;
            message.segments_done += 1;
            if start + payload.len() == message.range.end {
                self.outbox.pop_front();
            }
            return Ok(Advance::Segment);
        }
        Ok(Advance::Moved)
    }

    /// Gives the socket what it took, and owes.
    fn flush(&self) -> Result<Advance, SideError> {
        match self.socket.flush() {
            Ok(true) => Ok(Advance::Moved),
            Ok(false) => Ok(Advance::Blocked),
            Err(error) => Err(SideError::Closed(Some(error))),
        }
    }

    /// Looks whether the next rank, which never sends, is still there.
    pub fn check_alive(&self) -> Result<(), SideError> {
        match self.socket.peek(&mut [0]) {
            Ok(0) => Err(SideError::Closed(None)),
            Ok(_) => Err(SideError::Fault(FrameFault::WrongWay)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
                _ => Err(SideError::Closed(Some(error))),
            },
        }
    }

    fn push(&mut self, range: Range<usize>, segments_ready: u32) {
        self.outbox.push_back(Message {
            step: self.queued,
            range,
            segments_ready,
            segments_done: 0,
        });
        self.queued += 1;
    }
}
