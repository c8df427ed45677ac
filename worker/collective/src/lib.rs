//! All-reduce and its kin between ranks: algorithms over verbs, transports below them.
//!
//! Three questions in three places:
//!
//! | module | question |
//! |---|---|
//! | [`topology`] | who are my neighbours, and which part of the operand is whose? |
//! | [`algorithm`] | in which order do parts travel, and what will it take? Does no IO |
//! | `transport` | how do bytes move? TCP, or memory that threads or processes of a host share |
//!
//! Above them, `locality` finds the nearest medium, `probe` measures links, and `hierarchy` has the
//! levels of hosts. On top stands [`compression`]: sums that send fewer bytes.
//!
//! # Contract
//!
//! **Joining.** [`Listener::bind`] opens a port; its [`addr`](Listener::addr) goes to the
//! coordinator, which hands the addresses of all ranks, in rank order, to all ranks.
//! [`Listener::connect_ring`] dials the next rank, accepts the one before, then does the same with
//! [other ranks](algorithm::direct::direct_peers) ([`RingOptions::direct`]), and returns a [`Ring`]
//! once all of them have proven to belong to the same [`Identity`]: protocol version, job,
//! membership epoch, world, rank, spec hash and segment size. A neighbour that doesn't match is
//! told so, and both sides return [`CollectiveError::Handshake`] with the field and both values.
//! Whatever else connects (a port scanner, a silent socket, a rank of an older membership epoch)
//! is dropped, and the listener goes on waiting for the true neighbour until the deadline.
//!
//! Ranks of one host join in shared memory instead: threads by [`memory_rings`], processes by
//! [`SharedHost`] at rank 0, whose [`address`](SharedHost::address) the others give to
//! [`join_shared`]. They show the same [`Identity`], make the same calls and get the same errors;
//! every rank sees every other, so that an error can name any of them.
//!
//! [`Listener::connect_nearest`] joins by the nearest medium: shared memory if the ranks find that all
//! are on one host; else TCP, with what links cost [measured](Ring::measure_link), and with levels for
//! long sums if some ranks share a host: shared memory inside hosts, a ring between their leaders.
//!
//! **Calling.** All ranks make the same calls in the same order. A call blocks its thread and
//! starts no other: one operation of a ring is under way at a time. It returns `Ok` when this rank's part is done and its result is complete.
//! After [`Ring::all_reduce`] all ranks hold *identical bytes*: every element is folded in one
//! order, which depends on the way that is [chosen](algorithm::cost), and copied or folded alike
//! everywhere.
//! That order depends on the world's size; that of [`Ring::reproducible_all_reduce`] does not, nor do its bits.
//!
//! **What the same bits cost.** A rank of a reproducible sum contributes one node of the tree over
//! replicas, or several where its [share](ringfold_common::replicas) is no node. Each one more is
//! sent, or read in shared memory, by all ranks but its own, beyond the bytes of a fast sum: `(w-1)/w`
//! of the vector's bytes, of all ranks together, where connections are direct. How many there are
//! ([`extra_nodes`](algorithm::Replicas::extra_nodes)), by replicas (rows) and ranks (columns):
//!
//! | replicas | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15 | 16 |
//! |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
//! | 2 | 0 | 0 |  |  |  |  |  |  |  |  |  |  |  |  |  |  |
//! | 3 | 0 | 0 | 0 |  |  |  |  |  |  |  |  |  |  |  |  |  |
//! | 4 | 0 | 0 | 0 | 0 |  |  |  |  |  |  |  |  |  |  |  |  |
//! | 5 | 0 | 1 | 0 | 0 | 0 |  |  |  |  |  |  |  |  |  |  |  |
//! | 6 | 0 | 2 | 0 | 0 | 0 | 0 |  |  |  |  |  |  |  |  |  |  |
//! | 7 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |  |  |  |  |  |  |  |  |  |
//! | 8 | 0 | 0 | 2 | 0 | 0 | 0 | 0 | 0 |  |  |  |  |  |  |  |  |
//! | 9 | 0 | 1 | 3 | 1 | 0 | 0 | 0 | 0 | 0 |  |  |  |  |  |  |  |
//! | 10 | 0 | 3 | 0 | 2 | 0 | 0 | 0 | 0 | 0 | 0 |  |  |  |  |  |  |
//! | 11 | 0 | 2 | 0 | 2 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |  |  |  |  |  |
//! | 12 | 0 | 2 | 0 | 4 | 2 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |  |  |  |  |
//! | 13 | 0 | 2 | 0 | 0 | 3 | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |  |  |  |
//! | 14 | 0 | 3 | 3 | 0 | 4 | 2 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |  |  |
//! | 15 | 0 | 0 | 4 | 0 | 4 | 2 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |  |
//! | 16 | 0 | 0 | 2 | 0 | 0 | 4 | 2 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |
//!
//! Or a thread of the ring's own runs them, while their callers go on: [`Ring::in_flight`], with up to
//! [`IN_FLIGHT_MAX`] operations in flight, in the order in which they were started.
//!
//! **Failing.** No call hangs. A neighbour that closes, resets or sends a wrong frame is an error
//! at once; one that is silent is [`CollectiveError::Stalled`] when no byte has moved in either
//! direction for [`RingOptions::progress_deadline`]; [`AbortSignal::abort`], from any thread, ends
//! every blocking call within milliseconds. The first error closes both sockets, or says in shared
//! memory that this rank has left, so that the neighbours fail too, and every later call returns [`CollectiveError::Poisoned`] with it. After
//! an error the operand holds unspecified values, unless the ring [keeps](Ring::keep_operands) them.
//! Dropping a [`Ring`] closes both sockets.
//! A refused argument ([`CollectiveError::is_argument`]) changes nothing and doesn't poison.
//!
//! **Limits.** [`WORLD_MAX`] ranks, [`OPERATION_ELEMENTS_MAX`] elements an operation,
//! [`SHARED_WORLD_MAX`] of them in shared memory, which is [`shared_bytes`] long,
//! [`SEGMENT_BYTES_MAX`] bytes of payload a frame, [`STALE_FRAMES_MAX`] stale frames and
//! [`PENDING_CONNECTIONS_MAX`] unproven connections at a time.
//!
//! **Trust.** Shared memory is for processes of one user, which can harm each other as threads can.
//! Over TCP, connections are under TLS 1.3 if the listener [has keys](Listener::with_keys): each rank
//! makes [its own](RankKey::generate) and announces the public half with its address, and nobody else
//! is let in. Without keys nothing is encrypted or authenticated; payloads carry no checksum of their
//! own beyond TCP's, headers do.

//!
//! # Example
//! Two ranks in threads; `examples/allreduce.rs` has one a process, by addresses alone.
//!
//! ```
//! use ringfold_collective::{AbortSignal, Identity, Listener, Reduce, RingOptions};
//! use ringfold_common::ids::{JobId, MembershipEpoch, Rank, SpecHash};
//!
//! let listeners = [0, 1].map(|_| Listener::bind([127, 0, 0, 1].into()).unwrap());
//! let peers = [listeners[0].addr(), listeners[1].addr()];
//! std::thread::scope(|scope| {
//!     for (rank, listener) in (0..).map(Rank).zip(listeners) {
//!         let peers = &peers;
//!         scope.spawn(move || {
//!             let identity = Identity {
//!                 job: JobId(1),
//!                 membership_epoch: MembershipEpoch(1),
//!                 rank,
//!                 world: 2,
//!                 spec_hash: SpecHash([0; 32]),
//!             };
//!             let abort = AbortSignal::new().unwrap();
//!             let mut ring = listener
//!                 .connect_ring(identity, peers, RingOptions::default(), abort)
//!                 .unwrap();
//!             let mut values = [1.0_f32, 10.0, 100.0];
//!             ring.all_reduce(&mut values, Reduce::Sum).unwrap();
//!             assert_eq!(values, [2.0, 20.0, 200.0]);
//!         });
//!     }
//! });
//! ```

#[cfg(not(unix))]
compile_error!(
    "ringfold-collective waits for sockets, aborts and timers with one poll over file descriptors: \
     it needs Unix, and processes share memory on Linux only"
);

#[cfg(target_endian = "big")]
compile_error!(
    "ringfold-collective sends values as they lie in memory, and its wire format is little-endian"
);

pub mod algorithm;
pub mod bench;
pub mod compression;
pub mod topology;

mod abort;
mod element;
mod error;
mod hierarchy;
mod identity;
mod in_flight;
mod locality;
mod mismatch;
mod over_tcp;
mod probe;
mod reproducible;
mod ring;
mod sign;
#[doc(hidden)]
pub mod testing;
mod transport;

pub use abort::AbortSignal;
pub use element::{Element, ElementType, Reduce};
pub use error::{Address, CollectiveError, Neighbour, Peer, Position, RingGap, Unreached};
pub use hierarchy::PIECE_BYTES;
pub use identity::{Identity, OPERATION_ELEMENTS_MAX, RingOptions, SEGMENT_BYTES_MAX, WORLD_MAX};
pub use in_flight::{IN_FLIGHT_MAX, InFlight, Pending};
pub use locality::{Links, Surroundings};
pub use mismatch::Mismatch;
pub use reproducible::ReplicaBuffers;
pub use ring::{Metrics, Ring};
pub use sign::LastSign;
pub use transport::shared::{
    SHARED_WORLD_MAX, SharedHost, join_shared, memory_rings, shared_bytes,
};
pub use transport::tcp::{
    Call, FrameFault, HANDSHAKE_BYTES, HEADER_BYTES, KeyText, Listener, PENDING_CONNECTIONS_MAX,
    PublicKey, RankKey, RingKeys, STALE_FRAMES_MAX,
};
