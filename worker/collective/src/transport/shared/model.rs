//! The ticks in every order of events that the memory model allows (loom).
//!
//! Sleeping is modelled without a timeout, so that a wake-up that is lost is a deadlock, which loom
//! reports; slots are cells of loom's, which reports a read beside a write. Each model has a twin with
//! one thing left out, which must be found: so a model is known to look where it should.
//!
//! Invariant of the unsafe code: the cells are loom's, which checks every access and fails the model
//! where two meet; that none do is what the models are there to show.

use std::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use rustix::event::Timespec;

use super::*;

/// What a futex is to two ranks: the word, and a queue whose lock the kernel takes to compare and to
/// wake.
struct Cell {
    word: loom::sync::atomic::AtomicU32,
    queue: Mutex<()>,
    bell: Condvar,
}

impl Cell {
    fn new() -> Self {
        Self {
            word: loom::sync::atomic::AtomicU32::new(0),
            queue: Mutex::new(()),
            bell: Condvar::new(),
        }
    }
}

impl Word for Cell {
    fn load(&self, order: Ordering) -> u32 {
        self.word.load(order)
    }
    fn store(&self, value: u32, order: Ordering) {
        self.word.store(value, order);
    }
    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        self.word.fetch_add(value, order)
    }
    fn fetch_or(&self, value: u32, order: Ordering) -> u32 {
        self.word.fetch_or(value, order)
    }
    fn fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
    fn sleep(&self, value: u32, _: Option<&Timespec>) -> bool {
        let queue = self.queue.lock().unwrap();
        if self.word.load(Ordering::Relaxed) == value {
            drop(self.bell.wait(queue).unwrap());
        }
        false
    }
    fn wake(&self) {
        let queue = self.queue.lock().unwrap();
        self.bell.notify_all();
        drop(queue);
    }
}

/// One rank: its words, and the two halves of its slot.
struct Place {
    posted: Cell,
    sleepers: Cell,
    halves: [UnsafeCell<u32>; 2],
}

impl Place {
    fn new() -> Self {
        Self {
            posted: Cell::new(),
            sleepers: Cell::new(),
            halves: [UnsafeCell::new(0), UnsafeCell::new(0)],
        }
    }

    fn line(&self) -> Line<'_, Cell> {
        Line {
            posted: &self.posted,
            sleepers: &self.sleepers,
        }
    }

    /// As the board waits, without spinning first.
    fn wait_for(&self, tick: u32) -> Posted {
        let mut posted = self.line().look();
        while !posted.reached(tick) && !posted.left() {
            posted = self.line().nap(tick, None).posted;
        }
        posted
    }
}

/// Explores orders in which threads are interrupted at most three times against their will, which is
/// where errors of two threads are found (Musuvathi and Qadeer, 2007).
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// True if `model` has an order of events that fails.
fn finds(model: impl Fn() + Sync + Send + 'static) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| explore(model))).is_err()
}

/// Two ranks go through blocks of one tick, as a gather does: each writes to its slot, posts, waits and
/// reads from the other's. `obeys` says whether they keep rule 2.
fn blocks(obeys: bool) -> impl Fn() + Sync + Send + 'static {
    fn rank(mine: &Place, theirs: &Place, obeys: bool) {
        let mut beat = Beat::new();
        for block in 1..=3 {
            if obeys {
                theirs.wait_for(beat.due());
            }
            beat.begin_block();
            let half = beat.half as usize;
            // SAFETY: loom fails the model if anyone else accesses the cell now.
            mine.halves[half].with_mut(|value| unsafe { *value = block });
            let tick = beat.post();
            mine.line().post(tick);
            if obeys || block < 3 {
                let posted = theirs.wait_for(tick);
                assert!(beat.in_block(posted) && !posted.left());
            }
            // SAFETY: as above.
            let got = theirs.halves[half].with(|value| unsafe { *value });
            assert!(!obeys || got == block);
        }
    }
    move || {
        let places = Arc::new([Place::new(), Place::new()]);
        let other = Arc::clone(&places);
        let thread = loom::thread::spawn(move || rank(&other[1], &other[0], obeys));
        rank(&places[0], &places[1], obeys);
        thread.join().unwrap();
    }
}

/// One rank sleeps until the other has posted a tick, which is done by `post`.
fn one_tick(post: fn(&Place)) -> impl Fn() + Sync + Send + 'static {
    move || {
        let place = Arc::new(Place::new());
        let other = Arc::clone(&place);
        let thread = loom::thread::spawn(move || {
            // SAFETY: loom fails the model if anyone else accesses the cell now.
            other.halves[0].with_mut(|value| unsafe { *value = 7 });
            post(&other);
        });
        assert!(place.wait_for(TICK).reached(TICK));
        // SAFETY: as above.
        assert_eq!(place.halves[0].with(|value| unsafe { *value }), 7);
        thread.join().unwrap();
    }
}

#[test]
fn no_slot_is_written_while_it_is_read() {
    explore(blocks(true));
}

#[test]
fn a_rank_that_reads_too_early_is_found() {
    assert!(finds(blocks(false)));
}

#[test]
fn no_sleeper_misses_a_tick_and_what_was_written_before_it_is_seen() {
    explore(one_tick(|place| place.line().post(TICK)));
}

#[test]
fn a_post_without_a_fence_is_found() {
    assert!(finds(one_tick(|place| {
        place.posted.store(TICK, Ordering::Release);
        if place.sleepers.load(Ordering::Relaxed) != 0 {
            place.posted.wake();
        }
    })));
}

#[test]
fn a_tick_that_publishes_nothing_is_found() {
    assert!(finds(one_tick(|place| {
        place.posted.store(TICK, Ordering::Relaxed);
        place.posted.wake();
    })));
}

#[test]
fn no_sleeper_misses_that_a_rank_leaves_and_ticks_before_it_count() {
    for ticks in 0..=1 {
        explore(move || {
            let place = Arc::new(Place::new());
            let other = Arc::clone(&place);
            let thread = loom::thread::spawn(move || {
                for tick in 1..=ticks {
                    other.line().post(tick * TICK);
                }
                other.line().leave();
            });
            let posted = place.wait_for(2 * TICK);
            assert!(posted.left() && posted.ticks() == ticks);
            thread.join().unwrap();
        });
    }
}

#[test]
fn a_rank_that_leaves_without_a_wake_up_is_found() {
    assert!(finds(|| {
        let place = Arc::new(Place::new());
        let other = Arc::clone(&place);
        let thread = loom::thread::spawn(move || {
            other.posted.fetch_or(LEFT, Ordering::Release);
        });
        assert!(place.wait_for(TICK).left());
        thread.join().unwrap();
    }));
}

#[test]
fn ticks_go_on_past_the_end_of_their_word() {
    let last = u32::MAX - 1;
    assert!(Posted(last).reached(last) && Posted(0).reached(last));
    assert!(Posted(LEFT).reached(0) && !Posted(last).reached(0));
}
