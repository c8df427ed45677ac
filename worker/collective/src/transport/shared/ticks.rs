//! Ticks: the one word a rank by which ranks that share memory keep out of each other's way.
//!
//! All ranks go through the same blocks, and post the same number of ticks in each. Two rules:
//!
//! 1. What a rank wrote before it posted a tick may be read by whoever has seen that tick.
//! 2. Blocks use the two halves of a slot in turn. A rank begins block `b` when it has seen
//!    everyone's first tick of block `b-1`: a rank posts that when it is done with block `b-2`,
//!    whose half is now free.
//!
//! A rank that has nothing to do but wait announces itself as a sleeper, looks once more, and sleeps
//! until the word changes; one that posts wakes sleepers if there are any. Leaving changes the word,
//! too, so that no sleeper misses it.
//!
//! Everything here is generic over [`Word`], so that `model` can run it in every order of events
//! that the memory model of C11 allows.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::Timespec;

/// What a rank's word grows by at each tick. Its lowest bit is [`LEFT`].
pub(super) const TICK: u32 = 2;

/// Set once the rank has left the ring. It posts no more.
const LEFT: u32 = 1;

/// How often sleepers look where nothing wakes them.
#[cfg(not(target_os = "linux"))]
const LOOK: std::time::Duration = std::time::Duration::from_micros(100);

/// A word that ranks share.
pub(super) trait Word {
    fn load(&self, order: Ordering) -> u32;
    fn store(&self, value: u32, order: Ordering);
    fn fetch_add(&self, value: u32, order: Ordering) -> u32;
    fn fetch_or(&self, value: u32, order: Ordering) -> u32;
    /// A sequentially consistent fence.
    fn fence();
    /// Sleeps if the word is still `value`, until it is woken or `timeout` has passed: then it returns
    /// true. It may wake for no reason.
    fn sleep(&self, value: u32, timeout: Option<&Timespec>) -> bool;
    /// Wakes all that sleep on the word.
    fn wake(&self);
}

/// The words of one rank, as all see them.
pub(super) struct Line<'a, W> {
    /// Its ticks.
    pub posted: &'a W,
    /// How many peers sleep until `posted` changes.
    pub sleepers: &'a W,
}

/// What a rank had posted when someone looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Posted(u32);

/// What came of trying to sleep.
pub(super) struct Nap {
    /// As seen before it.
    pub posted: Posted,
    /// Nobody woke the sleeper.
    pub timed_out: bool,
}

/// How far a rank is itself.
pub(super) struct Beat {
    /// The last tick that it posted.
    pub tick: u32,
    /// The first tick of the block under way.
    block_tick: u32,
    /// The half that the block under way uses.
    pub half: u32,
}

impl<W: Word> Line<'_, W> {
    /// Posts `tick`: only the rank whose line it is.
    pub fn post(&self, tick: u32) {
        self.posted.store(tick, Ordering::Release);
        // With the fence of a sleeper: either it sees this tick or its announcement is seen here.
        W::fence();
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            self.posted.wake();
        }
    }

    /// Leaves the ring: only the rank whose line it is.
    pub fn leave(&self) {
        self.posted.fetch_or(LEFT, Ordering::Release);
        self.posted.wake();
    }

    /// What the rank has posted by now. Whatever it wrote before may be read.
    #[inline]
    pub fn look(&self) -> Posted {
        Posted(self.posted.load(Ordering::Acquire))
    }

    /// Sleeps until the rank posts or leaves, unless it has reached `tick` or left already.
    pub fn nap(&self, tick: u32, timeout: Option<&Timespec>) -> Nap {
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        W::fence();
        let posted = self.look();
        let ready = posted.reached(tick) || posted.left();
        let timed_out = !ready && self.posted.sleep(posted.0, timeout);
        self.sleepers
            .fetch_add(1_u32.wrapping_neg(), Ordering::Relaxed);
        Nap { posted, timed_out }
    }
}

impl Posted {
    /// What nobody has seen anything of.
    pub const NOTHING: Self = Self(0);

    /// True once the rank has passed `tick`: less than half the range of ticks ago.
    #[inline]
    pub fn reached(self, tick: u32) -> bool {
        (self.0 & !LEFT).wrapping_sub(tick) < 1 << 31
    }

    /// True once the rank has left.
    pub fn left(self) -> bool {
        self.0 & LEFT != 0
    }

    /// The number of ticks, modulo 2^31.
    pub fn ticks(self) -> u32 {
        self.0 / TICK
    }
}

impl Beat {
    pub fn new() -> Self {
        Self {
            tick: 0,
            block_tick: 0,
            half: 0,
        }
    }

    /// The tick that all must have reached before this rank begins another block, or writes the words
    /// of another call.
    pub fn due(&self) -> u32 {
        self.block_tick
    }

    /// Begins a block: all have reached what was [`due`](Self::due).
    pub fn begin_block(&mut self) {
        self.block_tick = self.tick.wrapping_add(TICK);
        self.half ^= 1;
    }

    /// The next tick to post.
    pub fn post(&mut self) -> u32 {
        self.tick = self.tick.wrapping_add(TICK);
        self.tick
    }

    /// True if whoever has `posted` has posted a tick of this rank's block.
    pub fn in_block(&self, posted: Posted) -> bool {
        posted.reached(self.block_tick)
    }

    /// This rank's own, as its peers see it.
    pub fn own(&self) -> Posted {
        Posted(self.tick)
    }
}

impl Word for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        Self::load(self, order)
    }

    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        Self::store(self, value, order);
    }

    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        Self::fetch_add(self, value, order)
    }

    fn fetch_or(&self, value: u32, order: Ordering) -> u32 {
        Self::fetch_or(self, value, order)
    }

    #[inline]
    fn fence() {
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    fn sleep(&self, value: u32, timeout: Option<&Timespec>) -> bool {
        use rustix::thread::futex;
        futex::wait(self, futex::Flags::empty(), value, timeout) == Err(rustix::io::Errno::TIMEDOUT)
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    fn wake(&self) {
        use rustix::thread::futex;
        // It fails only for a bad address; a sleeper that isn't woken looks again after its nap.
        let woken = futex::wake(self, futex::Flags::empty(), i32::MAX as u32);
        debug_assert!(woken.is_ok());
    }

    /// Miri knows no system calls of `rustix`: sleepers look again and again.
    #[cfg(miri)]
    fn sleep(&self, _: u32, _: Option<&Timespec>) -> bool {
        std::thread::yield_now();
        false
    }

    /// Where there is no futex between processes, sleepers look every [`LOOK`].
    #[cfg(all(not(target_os = "linux"), not(miri)))]
    fn sleep(&self, value: u32, timeout: Option<&Timespec>) -> bool {
        let timeout = timeout.map_or(std::time::Duration::MAX, |timeout| {
            std::time::Duration::new(timeout.tv_sec as u64, timeout.tv_nsec as u32)
        });
        let mut slept = std::time::Duration::ZERO;
        while slept < timeout {
            if Self::load(self, Ordering::Relaxed) != value {
                return false;
            }
            std::thread::sleep(LOOK);
            slept += LOOK;
        }
        true
    }

    #[cfg(any(miri, not(target_os = "linux")))]
    fn wake(&self) {}
}

#[cfg(all(test, not(miri)))]
#[path = "model.rs"]
mod model;
