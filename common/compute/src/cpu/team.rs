//! A team: the threads that one computation owns, and nobody else.
//!
//! # Contract
//! - [`Team::new`] of C starts C − 1 helper threads. [`Team::install`] makes the team that of the
//!   calling thread, its leader, for as long as a closure runs. Who isn't in a team computes alone:
//!   regions then run on the calling thread.
//! - [`run`] is one region: parts 0..n are shared out, each member of the team taking the same run of
//!   them every time, so that what a part touches stays in its member's cache. It returns when all
//!   are done. Nothing is allocated.
//! - A region within a part runs on the part's thread, but for [`each_on`], whose items each get
//!   members of their own: a smaller team.
//! - Which thread computes a part is left open: a part that its helper hasn't begun when the leader
//!   is done with its own is computed by the leader. So a helper that sleeps, or that the system
//!   doesn't run, holds nobody up. What a part computes must not depend on it.
//! - A part that panics lets the others finish; then the panic goes on in the leader.
//!
//! A helper without work spins for some 100 µs before it parks, as waking a core takes about 40 µs and
//! a training step has many short regions. It spins for less when that often was in vain, and hardly
//! when the team is larger than the machine.
//!
//! # Invariants of the unsafe code
//! - [`Slot::job`] is null, a job that its helper may begin, or the same with bit 0 set: one that it
//!   computes. Only the leader of the slot's team posts, into a slot that is null; and it returns from
//!   [`Crew::fork`], where the job lives, only after each slot it posted to was taken back or is null
//!   again. A helper reads a job only between marking it and clearing the slot.
//! - A [`View`]'s crew lives: a thread has the view only within [`Team::install`], which borrows the
//!   team, or within a region of it.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use super::parallel::Shared;

/// Looks at a slot before its helper parks, some 100 µs; what it comes down to if that is in vain.
const SPINS: std::ops::RangeInclusive<u32> = 1 << 10..=1 << 12;
/// The same of a team larger than the machine.
const SPINS_CROWDED: std::ops::RangeInclusive<u32> = 1 << 4..=1 << 6;
/// Looks at a slot before a leader parks that waits for a part.
const WAIT_SPINS: u32 = 1 << 14;
/// Set in the address of a job that is computed.
const BEGUN: usize = 1;

/// The threads of one computation.
#[derive(Debug)]
pub struct Team {
    crew: Arc<Crew>,
    helpers: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of the calling thread, whichever that is, and `threads` − 1 helpers.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let slots = (0..threads).map(|_| Slot::default()).collect();
        let crew = Crew {
            slots,
            stop: AtomicBool::new(false),
            crowded: threads > cores,
        };
        let mut team = Self {
            crew: Arc::new(crew),
            helpers: Vec::new(),
        };
        for member in 1..threads {
            let crew = Arc::clone(&team.crew);
            let helper = thread::Builder::new()
                .name(format!("compute-{member}"))
                .spawn(move || crew.help(member))?;
            // Read only by posts, which come later.
            let _ = team.crew.slots[member].helper.set(helper.thread().clone());
            team.helpers.push(helper);
        }
        Ok(team)
    }

    /// Calls `f` with this as the team of the calling thread.
    pub fn install<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let view = View {
            crew: &raw const *self.crew,
            first: 0,
            len: self.crew.slots.len(),
        };
        view.within(f)
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.crew.stop.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // Panics of parts were caught.
            let _ = helper.join();
        }
    }
}

/// Calls `f` for each of `parts` parts, on the members of the calling thread's team.
pub fn run(parts: usize, f: impl Fn(usize) + Sync) {
    let view = CURRENT.get();
    let members = view.map_or(1, |view| view.len).min(parts);
    let (Some(view), true) = (view, members > 1) else {
        return (0..parts).for_each(f);
    };
    view.fork(members, 1, &|member| {
        (parts * member / members..parts * (member + 1) / members).for_each(&f);
    });
}

/// Calls `f` for each item, at once as far as the team goes, each on a team of up to `threads` members
/// of its own.
pub fn each_on<T: Send>(threads: usize, items: &mut [T], f: impl Fn(usize, &mut T) + Sync) {
    let view = CURRENT.get();
    let len = view.map_or(1, |view| view.len);
    let count = items.len();
    let own = threads.clamp(1, len);
    let members = (len / own).min(count);
    let (Some(view), true) = (view, members > 1) else {
        let alone = view.map(|view| View { len: own, ..view });
        let all = || (0..).zip(items).for_each(|(i, item)| f(i, item));
        return match alone {
            Some(view) => view.within(all),
            None => all(),
        };
    };
    let items = Shared::new(items);
    view.fork(members, own, &|member| {
        for i in count * member / members..count * (member + 1) / members {
            // SAFETY: the members' items are disjoint, and each is reached once.
            f(i, &mut unsafe { items.range(i..i + 1) }[0]);
        }
    });
}

thread_local! {
    /// The team of this thread, if it has one.
    static CURRENT: Cell<Option<View>> = const { Cell::new(None) };
}

/// Adjacent members of a crew, of which the thread that has this view is the first.
#[derive(Clone, Copy)]
struct View {
    crew: *const Crew,
    first: usize,
    len: usize,
}

impl View {
    /// Calls `f` with this as the thread's team.
    fn within<R>(self, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<View>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self)));
        f()
    }

    /// Calls `body` for each of `members` members that are `own` apart, each with so many members of
    /// its own.
    fn fork(self, members: usize, own: usize, body: &(dyn Fn(usize) + Sync)) {
        // SAFETY: the crew of a view lives.
        let crew: &Crew = unsafe { &*self.crew };
        crew.fork(self.first, members, own, &|member| {
            let view = View {
                crew: &raw const *crew,
                first: self.first + member * own,
                len: own,
            };
            view.within(|| body(member));
        });
    }
}

/// What the threads of a team share.
#[derive(Debug)]
struct Crew {
    /// One a member; the first is the leader's, into which nobody posts.
    slots: Box<[Slot]>,
    /// Set once the team is dropped.
    stop: AtomicBool,
    /// There are more members than cores.
    crowded: bool,
}

/// Where a helper gets its work, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Slot {
    job: AtomicPtr<Job<'static>>,
    /// The helper parks and wants to be woken.
    parked: AtomicBool,
    /// Who leads from this slot parks and wants to be woken.
    waiting: AtomicBool,
    helper: OnceLock<Thread>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            job: AtomicPtr::new(ptr::null_mut()),
            parked: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            helper: OnceLock::new(),
        }
    }
}

/// A region, in the frame of the leader.
struct Job<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    leader: Thread,
    /// The leader's slot, and how far apart those of the members are.
    first: usize,
    apart: usize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job<'_> {
    /// Computes the parts of a member. Never unwinds.
    fn call(&self, member: usize) {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.body)(member)));
        if let Err(payload) = outcome {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(payload);
        }
    }
}

impl Crew {
    /// Calls `body(0)` here and `body(1)`, … from slots that are `apart` from each other.
    fn fork(&self, first: usize, members: usize, apart: usize, body: &(dyn Fn(usize) + Sync)) {
        let slots = &self.slots[first..];
        assert!((members - 1) * apart < slots.len(), "members of the team");
        let job = Job {
            body,
            leader: thread::current(),
            first,
            apart,
            panic: Mutex::new(None),
        };
        // From here to the end of the last wait nothing unwinds.
        let posted = (&raw const job).cast::<Job<'static>>().cast_mut();
        for member in 1..members {
            slots[member * apart].post(posted);
        }
        job.call(0);
        for member in 1..members {
            if slots[member * apart].take_back(posted) {
                job.call(member);
            }
        }
        for member in 1..members {
            slots[member * apart].wait(&slots[0].waiting);
        }
        let panic = job.panic.into_inner();
        if let Some(payload) = panic.unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    /// What a helper does until the team is dropped.
    fn help(&self, index: usize) {
        let slot = &self.slots[index];
        let limits = if self.crowded { SPINS_CROWDED } else { SPINS };
        let mut spins = *limits.end();
        while let Some(job) = slot.next(&self.stop, &mut spins, &limits) {
            let begun = job.map_addr(|address| address | BEGUN);
            let (taken, kept) = (Ordering::Acquire, Ordering::Relaxed);
            if (slot.job.compare_exchange(job, begun, taken, kept)).is_err() {
                continue;
            }
            let (leader, first) = {
                // SAFETY: the slot is marked, so the job lives until it is cleared.
                let job = unsafe { &*job };
                job.call((index - job.first) / job.apart);
                (job.leader.clone(), job.first)
            };
            slot.job.store(ptr::null_mut(), Ordering::SeqCst);
            if self.slots[first].waiting.load(Ordering::SeqCst) {
                leader.unpark();
            }
        }
    }
}

impl Slot {
    /// Hands over a job.
    fn post(&self, job: *mut Job<'static>) {
        self.job.store(job, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst)
            && self.parked.swap(false, Ordering::SeqCst)
            && let Some(helper) = self.helper.get()
        {
            helper.unpark();
        }
    }

    /// True if the helper hadn't begun the job, and now won't.
    fn take_back(&self, job: *mut Job<'static>) -> bool {
        let (taken, kept) = (Ordering::AcqRel, Ordering::Relaxed);
        let taken = (self.job).compare_exchange(job, ptr::null_mut(), taken, kept);
        taken.is_ok()
    }

    /// Waits until the helper is done.
    fn wait(&self, waiting: &AtomicBool) {
        for _ in 0..WAIT_SPINS {
            if self.job.load(Ordering::Acquire).is_null() {
                return;
            }
            std::hint::spin_loop();
        }
        waiting.store(true, Ordering::SeqCst);
        while !self.job.load(Ordering::SeqCst).is_null() {
            thread::park();
        }
        waiting.store(false, Ordering::SeqCst);
    }

    /// The next job; `None` once the team is dropped.
    fn next(
        &self,
        stop: &AtomicBool,
        spins: &mut u32,
        limits: &std::ops::RangeInclusive<u32>,
    ) -> Option<*mut Job<'static>> {
        for _ in 0..*spins {
            let job = self.job.load(Ordering::Acquire);
            if !job.is_null() {
                *spins = (*spins * 2).min(*limits.end());
                return Some(job);
            }
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            std::hint::spin_loop();
        }
        *spins = (*spins / 2).max(*limits.start());
        loop {
            self.parked.store(true, Ordering::SeqCst);
            let job = self.job.load(Ordering::SeqCst);
            if !job.is_null() {
                self.parked.store(false, Ordering::SeqCst);
                return Some(job);
            }
            if stop.load(Ordering::SeqCst) {
                return None;
            }
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Regions of a stress test; fewer under Miri.
    const REGIONS: usize = if cfg!(miri) { 30 } else { 3000 };

    #[test]
    fn every_part_runs_once_in_many_small_regions() {
        for threads in 1..=8 {
            let mut team = Team::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..11).map(|_| AtomicUsize::new(0)).collect();
            team.install(|| {
                for region in 0..REGIONS {
                    run(region % 12, |part| {
                        counts[part].fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            for (part, count) in counts.iter().enumerate() {
                let expected = (0..REGIONS).filter(|region| region % 12 > part).count();
                assert_eq!(count.load(Ordering::Relaxed), expected, "{threads} threads");
            }
        }
    }

    /// What a region wrote is seen by the next one, whoever computes it.
    #[test]
    fn regions_follow_one_another() {
        for threads in 1..=8 {
            let mut team = Team::new(threads).unwrap();
            let mut numbers = vec![0usize; 24];
            team.install(|| {
                for _ in 0..REGIONS {
                    each_on(1, &mut numbers, |_, number| *number += 1);
                    numbers.rotate_left(1);
                }
            });
            assert_eq!(numbers, [REGIONS; 24]);
        }
    }

    #[test]
    fn who_has_no_team_computes_alone() {
        let here = thread::current().id();
        run(5, |_| assert_eq!(thread::current().id(), here));
    }

    #[test]
    fn regions_within_parts_stay_on_the_thread() {
        let mut team = Team::new(4).unwrap();
        let counted = AtomicUsize::new(0);
        team.install(|| {
            run(4, |_| {
                let here = thread::current().id();
                run(7, |_| {
                    assert_eq!(thread::current().id(), here);
                    counted.fetch_add(1, Ordering::Relaxed);
                });
            });
        });
        assert_eq!(counted.into_inner(), 28);
    }

    #[test]
    fn items_have_teams_of_their_own() {
        for (threads, items, own, expected) in [
            (6, 2, 3, 3),
            (6, 3, 2, 2),
            (6, 1, 4, 4),
            (6, 9, 1, 1),
            (2, 3, 5, 2),
        ] {
            let mut team = Team::new(threads).unwrap();
            let mut seen = vec![(0, 0); items];
            team.install(|| {
                for _ in 0..REGIONS / 10 {
                    each_on(own, &mut seen, |_, (members, parts)| {
                        *members = CURRENT.get().map_or(0, |view| view.len);
                        let count = AtomicUsize::new(0);
                        run(10, |part| {
                            count.fetch_add(part, Ordering::Relaxed);
                        });
                        *parts += count.into_inner();
                    });
                }
            });
            assert_eq!(seen, vec![(expected, REGIONS / 10 * 45); items]);
        }
    }

    #[test]
    fn panics_of_parts_reach_the_leader_and_the_team_goes_on() {
        let mut team = Team::new(3).unwrap();
        for bad in 0..3 {
            let done = AtomicUsize::new(0);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                team.install(|| {
                    run(3, |part| {
                        assert!(part != bad, "part {part}");
                        done.fetch_add(1, Ordering::Relaxed);
                    });
                });
            }));
            let payload = outcome.unwrap_err();
            let message = payload.downcast_ref::<String>().map(String::as_str);
            assert_eq!(message, Some(&*format!("part {bad}")));
            assert_eq!(done.into_inner(), 2);
            assert!(CURRENT.get().is_none());
        }
        team.install(|| run(3, |_| {}));
    }

    /// Helpers that have parked are woken: the leader's part ends only after theirs.
    #[test]
    fn sleepers_are_woken() {
        let mut team = Team::new(2).unwrap();
        for _ in 0..REGIONS / 30 {
            while !team.crew.slots[1].parked.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            let begun = AtomicBool::new(false);
            team.install(|| {
                run(2, |part| match part {
                    0 => {
                        while !begun.load(Ordering::Acquire) {
                            thread::yield_now();
                        }
                    }
                    _ => begun.store(true, Ordering::Release),
                });
            });
        }
    }
}
