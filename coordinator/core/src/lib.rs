//! The coordinator's state machine: events in, effects out.
//!
//! [`Core::apply`] takes the time and one [`Event`] and returns the [`Effect`]s that the shell is
//! to perform. The core reads no clock, opens nothing, draws no random number and iterates over
//! ordered maps only: the same events give the same effects, byte for byte.
//!
//! # Contract with the shell
//!
//! - **Order.** Effects are performed in the order in which they stand. If durable state changed,
//!   the first effect is [`Effect::Commit`], and there is no other commit in the batch. The rest
//!   of the batch is performed only once the commit has succeeded. If it fails, the shell drops
//!   the core, loads the store and restores a new core from it.
//! - **Durable and soft.** The store holds what [`JobRecord`] holds, of every job, and the next
//!   job id. Submission, start, the forming of the ring, evaluations and the end of a job are
//!   committed. Slots, leases, queue reasons, how many ranks are ready, and progress are soft;
//!   the last progress becomes durable with the job's end.
//! - **Restart.** [`Core::restore`] starts from a [`Snapshot`] with no slots: workers register
//!   again. A job that ran, and may survive faults, stays running: its ranks go on, and their places
//!   are kept as slots that are away, for one lease. Any other that was starting or running is queued
//!   again at its old place, with [`Reason::CoordinatorRestarted`], and goes on in a higher membership
//!   epoch with the state that its workers keep.
//! - **Slots.** The shell hands out slot ids, never the same twice in the life of a core. It
//!   turns everything that a worker says into an event that names the slot; each renews the
//!   slot's lease. Leases are checked on [`Event::Tick`]: drain what has been received before
//!   ticking, so that a paused coordinator does not take silence for death.
//! - **Fences.** What a rank says carries a [`Fence`]. What does not fit the slot's post is
//!   dropped and counted in [`Core::stale_messages`].
//! - **Robustness.** Nothing that arrives from the network makes the core panic.
//!
//! # Scheduling
//!
//! Strict first in, first out, in the order of job ids. The head of the queue starts when as many
//! slots are free as it has ranks, all at once; the others wait behind it. Ranks are packed on few
//! hosts, and on few nodes of a host, in an order that depends on names and numbers only.
//!
//! # Going on after a fault
//!
//! A job may survive `cluster.restarts_max` faults. A fault is survivable if a process, a host or a
//! connection is gone; what a rank says of its own work would happen again. The job is queued again
//! at its old place with [`Reason::Recovering`], before all that have not started yet. Its other ranks
//! stop, and their slots are for nobody else; once all have stopped, or after
//! [`CoreConfig::stop_wait`], it starts in the next membership epoch with as many slots as are free,
//! from `cluster.min_workers` to `cluster.workers`. Slots of its last world come first, and its rank 0
//! stays rank 0. While a first cause is sought that a job may survive, no job starts. Once rank 0 has
//! finished, the model is saved, and a rank that is lost counts as finished.
//!
//! While nobody is queued, a running job that has fewer ranks than `cluster.workers` asks free slots to
//! load its data ([`Command::Prepare`]) beside its ranks. When all that were asked are ready, it stops
//! its ranks and goes on with them and the joiners; that is no fault. A node on which it has lost a
//! rank is asked again after [`CoreConfig::hold_off`], which doubles with each loss.
//!
//! After a restart of the coordinator a job that ran before and is queued waits for as many slots as it
//! has workers, but for [`CoreConfig::rejoin_wait`] only.
//!
//! [`Reason::Recovering`]: ringfold_common::job::Reason::Recovering
//!
//! # A failure's first cause
//!
//! The first sign of a fault aborts the other ranks at once. If the sign may be the consequence of
//! something else (a lost peer, a lost connection, a clean exit), the job waits
//! [`CoreConfig::blame_grace`] for a better one. The best cause wins, and of equals the first:
//! see [`Core::apply`] with [`Event::ProcessExited`] and [`Event::RankFailed`].
//!
//! [`Reason::CoordinatorRestarted`]: ringfold_common::job::Reason::CoordinatorRestarted

mod blame;
mod config;
mod effect;
mod event;
mod log;
mod machine;
mod placement;
mod record;
mod view;

pub use config::CoreConfig;
pub use effect::{Assignment, CloseReason, Command, Effect, Preparation, Refusal, Reply};
pub use event::{Event, ExitCause, Fence, Held, Now, RequestId, SlotInfo, StreamEnd};
pub use machine::Core;
pub use record::{Change, JobRecord, Snapshot};
pub use view::{JobEvents, JobView, SlotState, SlotView};
