//! The worker's shell.
//!
//! A **node** is one agent process on one host. It starts one **slot** process per share of the
//! host's cores and is their parent: when one ends, the agent tells the coordinator how (exit code
//! or signal, last log lines) and starts another. Each slot process holds one gRPC session with the
//! coordinator and runs at most one rank at a time, on a thread of its own.
//!
//! | module | what it does |
//! |---|---|
//! | [`agent`] | starts, watches, reports and restarts slot processes |
//! | [`slot`] | a slot process: sessions one after the other, until it is told to stop |
//! | `session` | one session: register, heartbeats, assignments, aborts, reports |
//! | `rank` | one rank from assignment to end, on its own thread |
//! | `data` | a job's data, loaded and compared with what the coordinator saw |
//! | `kept` | data and state of a job, from one of its worlds to the next |
//! | `prepare` | getting ready to join a job that runs |
//! | `assignment` | an assignment, checked on receive |
//! | `host` | what this host is and has |
//!
//! Contract:
//! - **No orphans.** A slot process ends when its standard input does, which is when its parent
//!   ends, however that happens. An agent that stops in order tells its slots so before it closes
//!   their inputs, and kills what has not ended after [`agent::STOP_GRACE`].
//! - **Last words arrive.** A slot that was told to stop says goodbye, and one whose agent has gone
//!   reports its own exit, before its rank stops; the process waits for the coordinator's answer.
//! - **From world to world** a slot process keeps its job's data and state: as a rank of the job's next
//!   world it reads nothing again, and goes on after the furthest step that any rank has completed.
//!   It never holds two jobs, and lets go after a minute without a rank.
//! - **A lost session** is followed by attempts to register again, with growing waits. A rank whose ring
//!   is formed goes on meanwhile, to its end if need be; the next session names it, or how it ended.
//!   One that is not so far is stopped.
//! - **The control plane is never on the path of a step**: progress and evaluations that can't be sent
//!   at once are dropped; nothing of a rank but its forming and its end waits for a session.

pub mod agent;
mod assignment;
mod data;
mod host;
mod kept;
mod prepare;
mod rank;
mod ring_start;
mod session;
pub mod slot;

pub use agent::{AgentError, AgentOptions};
pub use host::host_name;
pub use slot::{SlotError, SlotOptions};
