//! Ticks: how ranks that share a segment keep out of each other's way.
//!
//! All ranks go through the same blocks, and post the same number of ticks in each. Two rules:
//!
//! 1. What a rank wrote before it posted a tick may be read by whoever has seen that tick.
//! 2. Blocks use the two halves of a slot in turn. A rank begins block `b` when it has seen
//!    everyone's first tick of block `b-1`: a rank posts that when it is done with block `b-2`,
//!    whose half is now free.
//!
//! Invariant, on which the two `unsafe` blocks here stand: by these rules a rank writes to its slot
//! only when no peer reads there, and reads from a peer's only when that peer doesn't write there.
//! `write` and `read` are the only ways to the slots. All ranks make the same calls, which the
//! first tick seen of every peer in every operation is checked for before anything is read.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ringfold_common::ids::Rank;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::thread::futex;

use super::segment::{CALL_WORDS, Counter, Segment};
use crate::transport::tcp::Call;
use crate::transport::tcp::{FrameFault, code, kind_of};
use crate::{
    AbortSignal, Address, CollectiveError, Identity, Neighbour, Peer, Position, RingOptions,
};

/// How long a sleeper sleeps before it looks around.
const NAP: Duration = Duration::from_millis(5);
/// Looks at a counter before yielding, if every rank can have a core: some tens of microseconds,
/// about what it takes to wake a sleeper.
const SPINS: u32 = 2000;
/// The same if ranks share cores.
const SPINS_CROWDED: u32 = 20;
/// Looks with a yield between them before sleeping.
const YIELDS: u32 = 40;

/// One rank's part of a ring in shared memory.
pub(crate) struct Board {
    pub(super) segment: Arc<Segment>,
    pub(super) rank: u32,
    pub(super) world: u32,
    abort: AbortSignal,
    progress_deadline: Duration,
    spins: u32,
    /// By rank: hangs up when the process dies. Empty between threads.
    lifelines: Vec<Option<OwnedFd>>,
    /// This rank's own end, which hangs up for the others.
    _lifeline: Option<OwnedFd>,
    call: Call,
    /// Ticks that this rank has posted.
    tick: u32,
    /// By rank, the last tick seen.
    seen: Vec<u32>,
    /// By rank, the last operation whose call was found to be the same.
    compared: Vec<u64>,
    /// The half that the block under way uses.
    half: u32,
    /// The first tick of the block under way.
    block_tick: u32,
    /// The tick before the operation's first.
    call_tick: u32,
    /// Bytes done of the operation, for errors.
    pub(super) bytes_done: usize,
    /// Bytes written to the slot, and read from slots, since the ring was joined.
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

/// What hangs up when processes die.
pub(super) struct Lifelines {
    /// This rank's own, to hold.
    pub own: OwnedFd,
    /// By rank, to watch.
    pub others: Vec<Option<OwnedFd>>,
}

impl Board {
    pub(super) fn new(
        segment: Arc<Segment>,
        identity: &Identity,
        options: &RingOptions,
        abort: AbortSignal,
        lifelines: Option<Lifelines>,
    ) -> Self {
        let (rank, world) = (identity.rank.0, identity.world);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let (own, others) = match lifelines {
            Some(lines) => (Some(lines.own), lines.others),
            None => (None, (0..world).map(|_| None).collect()),
        };
        Self {
            segment,
            rank,
            world,
            abort,
            progress_deadline: options.progress_deadline,
            spins: match world as usize <= cores {
                true => SPINS,
                false => SPINS_CROWDED,
            },
            lifelines: others,
            _lifeline: own,
            call: Call::none(),
            tick: 0,
            seen: vec![0; world as usize],
            compared: vec![0; world as usize],
            half: 0,
            block_tick: 0,
            call_tick: 0,
            bytes_done: 0,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    /// The length of one half of a slot.
    pub(crate) fn half_bytes(&self) -> usize {
        self.segment.half_bytes()
    }

    /// Starts an operation, which is to have at least one block.
    pub(crate) fn begin(&mut self, call: Call) -> Result<(), CollectiveError> {
        self.call = call;
        self.call_tick = self.tick;
        self.bytes_done = 0;
        // Rule 2, for the words of the call before the last one.
        self.wait_all(self.block_tick)?;
        let ([kind, number, reduction], root) = code(call.kind);
        let packed = u32::from_le_bytes([kind, number, reduction, 0]);
        let words = [
            call.operation,
            u64::from(packed) | u64::from(root.0) << 32,
            call.bytes,
        ];
        for (at, word) in words.into_iter().enumerate() {
            let place = self.segment.call_word(self.rank, call.operation % 2, at);
            place.store(word, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Begins a block: this rank may write to its slot, up to the first `post`.
    pub(super) fn begin_block(&mut self) -> Result<(), CollectiveError> {
        self.wait_all(self.block_tick)?;
        self.block_tick = self.tick.wrapping_add(1);
        self.half ^= 1;
        Ok(())
    }

    /// Writes to this rank's slot. Between a block's first and second tick, only bytes that no peer
    /// reads before the second.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes_sent += bytes.len() as u64;
        // SAFETY: this rank's own slot, in a block that has begun: by rule 2 its half is free, and
        // peers read the bytes only after a tick that has yet to be posted.
        unsafe { self.segment.write(self.rank, self.half, offset, bytes) }
    }

    /// Reads from the slot of `rank`, which has posted the tick that covers `range`.
    pub(super) fn read(&self, rank: u32, range: Range<usize>) -> &[u8] {
        let seen = match rank == self.rank {
            true => self.tick,
            false => self.seen[rank as usize],
        };
        assert!(reached(seen, self.block_tick), "a rank that was waited for");
        // SAFETY: the rank has posted a tick of this block, and by rule 2 doesn't write to this
        // half again before this rank has posted the first tick of the next block, for which it
        // needs `&mut self`.
        unsafe { self.segment.read(rank, self.half, range) }
    }

    /// Posts a tick and returns it.
    pub(super) fn post(&mut self) -> u32 {
        self.tick = self.tick.wrapping_add(1);
        let posted = self.segment.counter(self.rank, Counter::Posted);
        // Sequentially consistent with a sleeper's announcement and its last look: either it sees
        // this tick or its announcement is seen here.
        posted.store(self.tick, Ordering::SeqCst);
        let sleepers = self.segment.counter(self.rank, Counter::Sleepers);
        if sleepers.load(Ordering::SeqCst) != 0 {
            wake(posted);
        }
        self.tick
    }

    /// Returns when every rank has posted `tick`.
    pub(super) fn wait_all(&mut self, tick: u32) -> Result<(), CollectiveError> {
        for rank in 0..self.world {
            self.wait_for(rank, tick)?;
        }
        Ok(())
    }

    /// Returns when `rank` has posted `tick`.
    #[inline]
    pub(super) fn wait_for(&mut self, rank: u32, tick: u32) -> Result<(), CollectiveError> {
        if rank == self.rank {
            return Ok(());
        }
        if reached(self.seen[rank as usize], tick) {
            return self.compare(rank);
        }
        let posted = self.segment.counter(rank, Counter::Posted);
        for turn in 0..self.spins + YIELDS {
            let seen = posted.load(Ordering::Acquire);
            if reached(seen, tick) {
                self.seen[rank as usize] = seen;
                return self.compare(rank);
            }
            match turn < self.spins {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        }
        self.seen[rank as usize] = self.sleep_until(rank, tick)?;
        self.compare(rank)
    }

    /// The counter of `rank`, once it has reached `tick`.
    fn sleep_until(&self, rank: u32, tick: u32) -> Result<u32, CollectiveError> {
        let posted = self.segment.counter(rank, Counter::Posted);
        let sleepers = self.segment.counter(rank, Counter::Sleepers);
        let nap = NAP.min(self.progress_deadline);
        let timeout = Timespec::try_from(nap).ok();
        let mut last = posted.load(Ordering::SeqCst);
        let mut without_progress = Duration::ZERO;
        loop {
            // What was posted before the rank left counts: so first who left, then what it posted.
            let gone = self.has_left(rank)?;
            sleepers.fetch_add(1, Ordering::SeqCst);
            let seen = posted.load(Ordering::SeqCst);
            let outcome = if reached(seen, tick) || gone {
                Ok(())
            } else {
                futex::wait(posted, futex::Flags::empty(), seen, timeout.as_ref())
            };
            sleepers.fetch_sub(1, Ordering::SeqCst);
            if reached(seen, tick) {
                return Ok(seen);
            }
            if gone {
                return Err(CollectiveError::PeerClosed {
                    peer: peer(rank),
                    neighbour: Neighbour::SameHost,
                    at: Box::new(self.position()),
                    source: None,
                });
            }
            self.abort.check()?;
            if seen != last {
                last = seen;
                without_progress = Duration::ZERO;
            } else if outcome == Err(Errno::TIMEDOUT) {
                without_progress += nap;
            }
            if without_progress >= self.progress_deadline {
                return Err(CollectiveError::Stalled {
                    deadline: self.progress_deadline,
                    at: Box::new(self.position()),
                    receive_from: Some(peer(rank)),
                    send_to: None,
                });
            }
        }
    }

    /// True if `rank` has left the ring, or its process has died.
    fn has_left(&self, rank: u32) -> Result<bool, CollectiveError> {
        let left = self.segment.counter(rank, Counter::Left);
        if left.load(Ordering::SeqCst) != 0 {
            return Ok(true);
        }
        let Some(lifeline) = &self.lifelines[rank as usize] else {
            return Ok(false);
        };
        let mut fds = [PollFd::new(lifeline, PollFlags::IN)];
        let now = Timespec::default();
        match rustix::event::poll(&mut fds, Some(&now)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(CollectiveError::system("poll a lifeline", errno)),
        }
    }

    /// Compares the calls, once an operation, as soon as a tick of it was seen of `rank`.
    #[inline]
    fn compare(&mut self, rank: u32) -> Result<(), CollectiveError> {
        let begun = reached(self.seen[rank as usize], self.call_tick.wrapping_add(1));
        if !begun || self.compared[rank as usize] == self.call.operation {
            return Ok(());
        }
        self.compared[rank as usize] = self.call.operation;
        let theirs: [u64; CALL_WORDS] = std::array::from_fn(|word| {
            let parity = self.call.operation % 2;
            let place = self.segment.call_word(rank, parity, word);
            place.load(Ordering::Relaxed)
        });
        let [operation, packed, bytes] = theirs;
        let [kind, number, reduction, ..] = packed.to_le_bytes();
        let fault = match kind_of([kind, number, reduction], (packed >> 32) as u32) {
            Err(fault) => fault,
            Ok(kind) => {
                let got = Call {
                    operation,
                    kind,
                    bytes,
                };
                if got == self.call {
                    return Ok(());
                }
                FrameFault::OtherCall {
                    expected: self.call,
                    got,
                }
            }
        };
        Err(CollectiveError::BadFrame {
            peer: peer(rank),
            at: Box::new(self.position()),
            fault,
        })
    }

    /// Leaves the ring: whoever waits for this rank fails.
    pub(crate) fn shut_down(&self) {
        let left = self.segment.counter(self.rank, Counter::Left);
        left.store(1, Ordering::SeqCst);
        wake(self.segment.counter(self.rank, Counter::Posted));
    }

    fn position(&self) -> Position {
        let step = self.tick.wrapping_sub(self.call_tick);
        let kind = self.call.kind;
        Position {
            operation: self.call.operation,
            kind,
            phase: kind.phase(step, self.world),
            step,
            steps: step + 1,
            bytes_done: self.bytes_done as u64,
            bytes_expected: self.call.bytes,
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn peer(rank: u32) -> Peer {
    Peer {
        rank: Rank(rank),
        addr: Address::SameHost,
    }
}

/// True if a counter that stands at `now` has passed `tick`: less than half its range ago.
fn reached(now: u32, tick: u32) -> bool {
    now.wrapping_sub(tick) < 1 << 31
}

fn wake(posted: &std::sync::atomic::AtomicU32) {
    // It fails only for a bad address; a sleeper that isn't woken looks again after its nap.
    let woken = futex::wake(posted, futex::Flags::empty(), i32::MAX as u32);
    debug_assert!(woken.is_ok());
}
