//! Several operations of a ring in flight: they run on a thread of their own while their callers go
//! on.
//!
//! # Contract
//! - **Order.** [`Ring::in_flight`] starts one communication thread, which has the ring until the
//!   closure has returned and every operation has ended. Operations get their numbers when they are
//!   started, and run one after the other in the order of these numbers: so all ranks must start the
//!   same ones in the same order, as they must make the same calls without it. Threads that share an
//!   [`InFlight`] must agree on the order among themselves.
//! - **Waiting.** A short operation behind a long one waits for all of it: what runs first must be the
//!   same on all ranks, and nothing tells a rank what its peers have started. Whoever wants short waits
//!   cuts operands, as a trainer does with the buckets of a gradient. Up to [`IN_FLIGHT_MAX`] operations
//!   wait; starting one more waits for room.
//! - **Buffers.** An operation owns its buffer, an owned or a borrowed one, until
//!   [`Pending::wait`] hands it back. What is borrowed must outlive the call of [`Ring::in_flight`],
//!   which returns only when no operation holds anything any more. Nothing here is unsafe.
//! - **Failing.** The first operation that fails returns its error, with its number, and closes the
//!   ring, as without this. Those that had not begun do nothing and return
//!   [`NotBegun`](CollectiveError::NotBegun): each its own number, all the same first cause. Peers fail
//!   in the operation that they are in. The ring is poisoned, whether anyone waited or not.
//! - **Deadline, abort, fencing.** Each operation has the ring's progress deadline for itself, counted
//!   from when it begins to run; the abort signal ends the one that runs, and with it all; frames carry
//!   job, membership epoch and operation as ever.
//! - **Panics.** If the closure panics, operations that have not begun are dropped, and the panic goes
//!   on once the one that runs has ended. If what [`InFlight::start`] runs panics, later ones are
//!   dropped, and [`Ring::in_flight`] panics.

use std::collections::VecDeque;
use std::ops::DerefMut;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use ringfold_common::ids::Rank;

use crate::identity::check_elements;
use crate::{CollectiveError, Element, Reduce, ReplicaBuffers, Ring};

/// The most operations that wait for their turn.
pub const IN_FLIGHT_MAX: usize = 1024;

/// A ring whose operations are started by one thread, or several, and run by another. From
/// [`Ring::in_flight`].
pub struct InFlight<'env> {
    queue: Queue<'env>,
    rank: Rank,
    world: u32,
}

/// An operation that was started.
#[must_use = "an operation's error is in its result"]
pub struct Pending<R> {
    operation: u64,
    outcome: mpsc::Receiver<Result<R, CollectiveError>>,
}

type Job<'env> = Box<dyn FnOnce(&mut Ring) + Send + 'env>;

struct Queue<'env> {
    state: Mutex<State<'env>>,
    /// A job has come, or no more will.
    filled: Condvar,
    /// There is room.
    drained: Condvar,
}

struct State<'env> {
    jobs: VecDeque<Job<'env>>,
    /// The number of the next operation.
    next: u64,
    /// No job comes any more.
    closed: bool,
}

impl Ring {
    /// Runs `body`, which starts operations that go on while it does something else. Returns when
    /// `body` and all operations have ended. It starts one thread, which takes some 20 µs.
    ///
    /// ```
    /// # use ringfold_collective::{Reduce, testing::run_ring};
    /// # run_ring(2, |mut ring| {
    /// let (mut weights, mut biases) = ([1.0_f32; 1000], [2.0_f32; 10]);
    /// let numbers = ring.in_flight(|ring| {
    ///     let first = ring.all_reduce(&mut weights[..], Reduce::Sum)?;
    ///     let second = ring.all_reduce(&mut biases[..], Reduce::Mean)?;
    ///     // … something else, meanwhile …
    ///     let numbers = (first.operation(), second.operation());
    ///     first.wait()?;
    ///     second.wait()?;
    ///     Ok::<_, ringfold_collective::CollectiveError>(numbers)
    /// })?;
    /// assert_eq!(numbers?, (1, 2));
    /// assert_eq!((weights[999], biases[9]), (2.0, 2.0));
    /// # Ok::<_, ringfold_collective::CollectiveError>(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`System`](CollectiveError::System) if no thread can be started; nothing was done. Errors of
    /// operations are in their [`Pending`].
    ///
    /// # Panics
    /// If `body` does, or what it starts.
    pub fn in_flight<'env, R>(
        &mut self,
        body: impl FnOnce(&InFlight<'env>) -> R,
    ) -> Result<R, CollectiveError> {
        let in_flight = InFlight {
            queue: Queue {
                state: Mutex::new(State {
                    jobs: VecDeque::new(),
                    next: self.operations() + 1,
                    closed: false,
                }),
                filled: Condvar::new(),
                drained: Condvar::new(),
            },
            rank: self.rank(),
            world: self.world(),
        };
        thread::scope(|scope| {
            let queue = &in_flight.queue;
            let run = move || {
                // What is left if a job panics is dropped, so that nobody waits for it.
                let _close = Close(queue);
                // Whoever starts operations computes meanwhile, on a core that spinning might take.
                self.may_spin(false);
                while let Some(job) = queue.take() {
                    job(self);
                }
                self.may_spin(true);
            };
            let thread = thread::Builder::new().name("communication".to_owned());
            let started = thread.spawn_scoped(scope, run);
            started.map_err(|error| CollectiveError::system("start a thread", error))?;
            let close = Close(queue);
            let result = body(&in_flight);
            std::mem::forget(close);
            queue.close(false);
            Ok(result)
        })
    }
}

impl<'env> InFlight<'env> {
    /// Starts [`Ring::all_reduce`] of a buffer, which the result hands back.
    ///
    /// # Errors
    /// [`TooManyElements`](CollectiveError::TooManyElements), having started nothing.
    pub fn all_reduce<T: Element, V>(
        &self,
        buffer: V,
        reduce: Reduce,
    ) -> Result<Pending<V>, CollectiveError>
    where
        V: DerefMut<Target = [T]> + Send + 'env,
    {
        check_elements(buffer.len())?;
        Ok(self.start(1, move |ring| {
            let mut buffer = buffer;
            ring.all_reduce(&mut buffer, reduce)?;
            Ok(buffer)
        }))
    }

    /// Starts [`Ring::reproducible_all_reduce`] of buffers that have all replicas of this rank, and
    /// which the result hands back.
    ///
    /// # Errors
    /// Those of [`Ring::reproducible_all_reduce`] for its arguments, having started nothing.
    pub fn reproducible_all_reduce<T, V>(
        &self,
        buffers: ReplicaBuffers<T, V>,
    ) -> Result<Pending<ReplicaBuffers<T, V>>, CollectiveError>
    where
        T: Element,
        V: DerefMut<Target = [T]> + Send + 'env,
    {
        buffers.check(self.rank, self.world)?;
        Ok(self.start(1, move |ring| {
            let mut buffers = buffers;
            ring.reproducible_all_reduce(&mut buffers)?;
            Ok(buffers)
        }))
    }

    /// Starts whatever `run` does with the ring in exactly `calls` operations, all of which must be
    /// of arguments that are allowed. The number of the [`Pending`] is that of the first.
    ///
    /// If `run` fails, so does the ring, with its error; if it succeeds with another number of calls,
    /// with [`CallCount`](CollectiveError::CallCount).
    pub fn start<R: Send + 'env>(
        &self,
        calls: u32,
        run: impl FnOnce(&mut Ring) -> Result<R, CollectiveError> + Send + 'env,
    ) -> Pending<R> {
        let (sender, outcome) = mpsc::sync_channel(1);
        let operation = self.queue.push(calls, |operation| {
            Box::new(move |ring: &mut Ring| {
                // Nobody may wait for it.
                let _ = sender.send(ring.take_turn(operation, calls, run));
            })
        });
        Pending { operation, outcome }
    }
}

impl<R> Pending<R> {
    /// The operation's number on its ring, from 1.
    #[must_use]
    pub fn operation(&self) -> u64 {
        self.operation
    }

    /// Waits until the operation has ended.
    ///
    /// # Errors
    /// The operation's own, or [`NotBegun`](CollectiveError::NotBegun).
    pub fn wait(self) -> Result<R, CollectiveError> {
        let ended = self.outcome.recv();
        // It was dropped: a panic, which goes on where the thread is joined.
        ended.unwrap_or_else(|_| {
            let panicked = CollectiveError::Aborted {
                reason: "an operation in flight panicked".to_owned(),
            };
            Err(CollectiveError::NotBegun {
                operation: self.operation,
                first: Arc::new(panicked),
            })
        })
    }
}

impl Ring {
    /// Runs what was started, unless the ring has failed.
    fn take_turn<R>(
        &mut self,
        operation: u64,
        calls: u32,
        run: impl FnOnce(&mut Self) -> Result<R, CollectiveError>,
    ) -> Result<R, CollectiveError> {
        if let Some(first) = self.failure() {
            let first = Arc::clone(first);
            return Err(CollectiveError::NotBegun { operation, first });
        }
        let result = run(self).and_then(|result| {
            let made = self.operations() + 1 - operation;
            match made == u64::from(calls) {
                true => Ok(result),
                false => Err(CollectiveError::CallCount {
                    operation,
                    expected: calls,
                    made,
                }),
            }
        });
        if let Err(error) = &result {
            self.fail(error);
        }
        result
    }
}

impl<'env> Queue<'env> {
    /// Adds the job that `make` makes of the number of its first operation, once there is room.
    fn push(&self, calls: u32, make: impl FnOnce(u64) -> Job<'env>) -> u64 {
        let mut state = self.lock();
        while state.jobs.len() >= IN_FLIGHT_MAX && !state.closed {
            let waited = self.drained.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let operation = state.next;
        state.next += u64::from(calls);
        // A closed queue is one whose thread has panicked: the job is dropped.
        if !state.closed {
            state.jobs.push_back(make(operation));
            self.filled.notify_one();
        }
        operation
    }

    /// The next job, or `None` once there is none and the queue is closed.
    fn take(&self) -> Option<Job<'env>> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                self.drained.notify_one();
                return Some(job);
            }
            if state.closed {
                return None;
            }
            let waited = self.filled.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self, drops_jobs: bool) {
        let mut state = self.lock();
        state.closed = true;
        // Dropped without the lock: what they own is their caller's.
        let dropped = match drops_jobs {
            true => std::mem::take(&mut state.jobs),
            false => VecDeque::new(),
        };
        drop(state);
        drop(dropped);
        self.filled.notify_all();
        self.drained.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<'env>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the queue, and drops the jobs that have not begun, when a panic passes or all have run.
struct Close<'q, 'env>(&'q Queue<'env>);

impl Drop for Close<'_, '_> {
    fn drop(&mut self) {
        self.0.close(true);
    }
}
