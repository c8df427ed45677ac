//! Rings within one process, for tests: real sockets on the loopback or shared memory, one thread
//! a rank.

pub mod faults;
pub mod process;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::resume_unwind;
use std::thread;

use ringfold_common::ids::{JobId, MembershipEpoch, Rank, SpecHash};

use crate::{
    AbortSignal, Identity, Listener, Ring, RingOptions, SharedHost, join_shared, memory_rings,
};

/// What the decoder of frames' headers says of `bytes`: for fuzzing. True if it takes them, and the
/// header that it made encodes to the same bytes.
#[must_use]
pub fn takes_header(bytes: &[u8; crate::HEADER_BYTES]) -> bool {
    crate::transport::tcp::round_trips(bytes)
}

/// The identity of `rank` in every test ring of `world` ranks.
#[must_use]
pub fn identity(rank: u32, world: u32) -> Identity {
    Identity {
        job: JobId(7),
        membership_epoch: MembershipEpoch(3),
        rank: Rank(rank),
        world,
        spec_hash: SpecHash([0xab; 32]),
    }
}

/// A listener on the loopback.
///
/// # Panics
/// If there is no free port.
#[must_use]
pub fn listener() -> Listener {
    Listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("a free port on the loopback")
}

/// Joins a ring of `world` ranks and returns each rank's part with its abort signal.
///
/// # Panics
/// If the ring can't be joined.
#[must_use]
pub fn join(world: u32, options: RingOptions) -> Vec<(Ring, AbortSignal)> {
    let listeners: Vec<Listener> = (0..world).map(|_| listener()).collect();
    let peers: Vec<SocketAddr> = listeners.iter().map(Listener::addr).collect();
    let join_one = |(rank, listener): (u32, Listener)| {
        let abort = AbortSignal::new().expect("a pipe");
        let ring = listener
            .connect_ring(identity(rank, world), &peers, options, abort.clone())
            .expect("a ring on the loopback");
        (ring, abort)
    };
    on_threads((0..world).zip(listeners).collect(), join_one)
}

/// [`join`] in the memory of this process.
///
/// # Panics
/// If there is no memory.
#[must_use]
pub fn join_memory(world: u32, options: RingOptions) -> Vec<(Ring, AbortSignal)> {
    let aborts: Vec<AbortSignal> = (0..world)
        .map(|_| AbortSignal::new().expect("a pipe"))
        .collect();
    let rings = memory_rings(identity(0, world), options, aborts.clone()).expect("memory");
    rings.into_iter().zip(aborts).collect()
}

/// [`join`] as ranks in processes of their own do it: each maps the segment for itself.
///
/// # Panics
/// If the ring can't be joined.
#[must_use]
pub fn join_processes(world: u32, options: RingOptions) -> Vec<(Ring, AbortSignal)> {
    let host = SharedHost::bind().expect("a name for the host");
    let address = host.address().to_owned();
    let inputs = std::iter::once((0, Some(host))).chain((1..world).map(|rank| (rank, None)));
    on_threads(inputs.collect(), |(rank, host)| {
        let abort = AbortSignal::new().expect("a pipe");
        let identity = identity(rank, world);
        let ring = match host {
            Some(host) => host.connect_ring(identity, options, abort.clone()),
            None => join_shared(&address, identity, options, abort.clone()),
        };
        (ring.expect("a ring in shared memory"), abort)
    })
}

/// Runs `body` on every rank of a new ring at once, and returns what it returned, in rank order.
///
/// # Panics
/// If the ring can't be joined, or `body` panics on any rank.
pub fn run_ring<T: Send>(world: u32, body: impl Fn(Ring) -> T + Sync) -> Vec<T> {
    run_ring_with(world, RingOptions::default(), body)
}

/// [`run_ring`] with options.
///
/// # Panics
/// As [`run_ring`].
pub fn run_ring_with<T: Send>(
    world: u32,
    options: RingOptions,
    body: impl Fn(Ring) -> T + Sync,
) -> Vec<T> {
    let rings = join(world, options).into_iter().map(|(ring, _)| ring);
    on_threads(rings.collect(), body)
}

/// Calls `body` with each input on a thread of its own.
///
/// # Panics
/// If `body` panics.
pub fn on_threads<I: Send, T: Send>(inputs: Vec<I>, body: impl Fn(I) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = inputs
            .into_iter()
            .map(|input| scope.spawn(move || body(input)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}
