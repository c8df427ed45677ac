//! One rank's view of the segment: it posts ticks and waits for those of others, up to a deadline, an
//! abort or a peer's death.
//!
//! Invariant, on which the two `unsafe` blocks here stand: by the rules of [`ticks`](super::ticks) a rank writes to its slot
//! only when no peer reads there, and reads from a peer's only when that peer doesn't write there.
//! `write` and `read` are the only ways to the slots. All ranks make the same calls, which the
//! first tick seen of every peer in every operation is checked for before anything is read.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ringfold_common::ids::Rank;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::segment::{CALL_WORDS, Counter, Segment};
use super::ticks::{Beat, Line, Posted, TICK};
use crate::transport::tcp::Call;
use crate::transport::tcp::{FrameFault, code, kind_of};
use crate::{
    AbortSignal, Address, CollectiveError, Identity, LastSign, Neighbour, Peer, Position,
    RingOptions,
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
    /// This rank's own ticks.
    beat: Beat,
    /// By rank, the last that was seen of its ticks.
    seen: Vec<Posted>,
    /// By rank, the last operation whose call was found to be the same.
    compared: Vec<u64>,
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
            beat: Beat::new(),
            seen: vec![Posted::NOTHING; world as usize],
            compared: vec![0; world as usize],
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
        self.call_tick = self.beat.tick;
        self.bytes_done = 0;
        // Rule 2, for the words of the call before the last one.
        self.wait_all(self.beat.due())?;
        #[cfg(all(test, target_os = "linux", not(miri)))]
        super::faults::strike(call.operation, None);
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
        self.wait_all(self.beat.due())?;
        self.beat.begin_block();
        Ok(())
    }

    /// Writes to this rank's slot. Between a block's first and second tick, only bytes that no peer
    /// reads before the second.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes_sent += bytes.len() as u64;
        // SAFETY: this rank's own slot, in a block that has begun: by rule 2 its half is free, and
        // peers read the bytes only after a tick that has yet to be posted.
        unsafe {
            self.segment.write(self.rank, self.beat.half, offset, bytes);
        }
    }

    /// Reads from the slot of `rank`, which has posted the tick that covers `range`.
    pub(super) fn read(&self, rank: u32, range: Range<usize>) -> &[u8] {
        let seen = match rank == self.rank {
            true => self.beat.own(),
            false => self.seen[rank as usize],
        };
        assert!(self.beat.in_block(seen), "a rank that was waited for");
        // SAFETY: the rank has posted a tick of this block, and by rule 2 doesn't write to this
        // half again before this rank has posted the first tick of the next block, for which it
        // needs `&mut self`.
        unsafe { self.segment.read(rank, self.beat.half, range) }
    }

    /// Posts a tick and returns it.
    pub(super) fn post(&mut self) -> u32 {
        #[cfg(all(test, target_os = "linux", not(miri)))]
        super::faults::strike(
            self.call.operation,
            Some(self.beat.tick.wrapping_sub(self.call_tick) / TICK),
        );
        let tick = self.beat.post();
        self.line(self.rank).post(tick);
        tick
    }

    fn line(&self, rank: u32) -> Line<'_, AtomicU32> {
        Line {
            posted: self.segment.counter(rank, Counter::Posted),
            sleepers: self.segment.counter(rank, Counter::Sleepers),
        }
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
        if self.seen[rank as usize].reached(tick) {
            return self.compare(rank);
        }
        let line = self.line(rank);
        for turn in 0..self.spins + YIELDS {
            let seen = line.look();
            if seen.reached(tick) {
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

    /// What `rank` has posted, once it has reached `tick`.
    fn sleep_until(&self, rank: u32, tick: u32) -> Result<Posted, CollectiveError> {
        let line = self.line(rank);
        let nap = NAP.min(self.progress_deadline);
        let timeout = Timespec::try_from(nap).ok();
        let mut last = line.look();
        let mut without_progress = Duration::ZERO;
        loop {
            // What was posted before the rank died counts: so first who is dead, then what it posted.
            let dead = self.has_died(rank)?;
            let (seen, timed_out) = match dead {
                true => (line.look(), false),
                false => {
                    let nap = line.nap(tick, timeout.as_ref());
                    (nap.posted, nap.timed_out)
                }
            };
            if seen.reached(tick) {
                return Ok(seen);
            }
            if dead || seen.left() {
                return Err(CollectiveError::PeerClosed {
                    peer: peer(rank),
                    neighbour: Neighbour::SameHost,
                    at: Box::new(self.position(rank)),
                    source: None,
                });
            }
            self.abort.check()?;
            if seen != last {
                last = seen;
                without_progress = Duration::ZERO;
            } else if timed_out {
                without_progress += nap;
            }
            if without_progress >= self.progress_deadline {
                return Err(CollectiveError::Stalled {
                    deadline: self.progress_deadline,
                    at: Box::new(self.position(rank)),
                    receive_from: Some(peer(rank)),
                    send_to: None,
                });
            }
        }
    }

    /// True if the process of `rank` has died, or dropped its ring.
    fn has_died(&self, rank: u32) -> Result<bool, CollectiveError> {
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
        let begun = self.seen[rank as usize].reached(self.call_tick.wrapping_add(TICK));
        if !begun || self.compared[rank as usize] == self.call.operation {
            return Ok(());
        }
        self.compared[rank as usize] = self.call.operation;
        let fault = match self.call_of(rank, self.call.operation % 2) {
            Err(fault) => fault,
            Ok(got) if got == self.call => return Ok(()),
            Ok(got) => FrameFault::OtherCall {
                expected: self.call,
                got,
            },
        };
        Err(CollectiveError::BadFrame {
            peer: peer(rank),
            at: Box::new(self.position(rank)),
            fault,
        })
    }

    /// The call that `rank` has written down among those of this parity.
    fn call_of(&self, rank: u32, parity: u64) -> Result<Call, FrameFault> {
        let words: [u64; CALL_WORDS] = std::array::from_fn(|word| {
            let place = self.segment.call_word(rank, parity, word);
            place.load(Ordering::Relaxed)
        });
        let [operation, packed, bytes] = words;
        let [kind, number, reduction, ..] = packed.to_le_bytes();
        let kind = kind_of([kind, number, reduction], (packed >> 32) as u32)?;
        Ok(Call {
            operation,
            kind,
            bytes,
        })
    }

    /// The last thing that `rank` was known to do. Its words may be about to change; they are for
    /// errors only.
    fn last_sign(&self, rank: u32) -> LastSign {
        let ticks = self.line(rank).look().ticks();
        let calls = [0, 1].map(|parity| self.call_of(rank, parity).ok());
        let latest = calls
            .into_iter()
            .flatten()
            .max_by_key(|call| call.operation);
        match latest {
            Some(call) if call.operation > 0 => LastSign::Entered { call, ticks },
            _ => LastSign::Joined,
        }
    }

    /// Leaves the ring: whoever waits for this rank fails.
    pub(crate) fn shut_down(&self) {
        self.line(self.rank).leave();
    }

    /// How far this rank is with `rank`.
    fn position(&self, rank: u32) -> Position {
        let step = self.beat.tick.wrapping_sub(self.call_tick) / TICK;
        let kind = self.call.kind;
        // Of a block's two ticks, the second says that results are there.
        let lap = match step > 0 && step.is_multiple_of(2) {
            true => self.world.saturating_sub(1),
            false => 0,
        };
        Position {
            operation: self.call.operation,
            kind,
            phase: kind.phase(lap, self.world),
            step,
            steps: step + 1,
            bytes_done: self.bytes_done as u64,
            bytes_expected: self.call.bytes,
            last_sign: self.last_sign(rank),
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
