//! Rings whose ranks have keys: sums are the same, and nobody else is let in.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use ringfold_collective::algorithm::cost::LinkCost;
use ringfold_collective::testing::{identity, listener, on_threads};
use ringfold_collective::{
    AbortSignal, CollectiveError, Links, Listener, PublicKey, RankKey, Reduce, Ring, RingKeys,
    RingOptions, Surroundings,
};
use ringfold_common::ids::Rank;

/// Listeners of ranks that know each other's keys.
fn listeners(world: u32) -> Vec<Listener> {
    let keys: Vec<RankKey> = (0..world).map(|_| RankKey::generate().unwrap()).collect();
    let public: Vec<PublicKey> = keys.iter().map(RankKey::public).collect();
    let with_keys = |own| listener().with_keys(RingKeys::new(own, public.clone()));
    keys.into_iter().map(with_keys).collect()
}

fn short() -> RingOptions {
    RingOptions {
        connect_deadline: Duration::from_millis(300),
        ..RingOptions::default()
    }
}

/// What each rank gets that joins.
fn join(listeners: Vec<Listener>, options: RingOptions) -> Vec<Result<Ring, CollectiveError>> {
    let world = listeners.len() as u32;
    let peers: Vec<SocketAddr> = listeners.iter().map(Listener::addr).collect();
    on_threads((0..world).zip(listeners).collect(), |(rank, listener)| {
        let abort = AbortSignal::new().unwrap();
        listener.connect_ring(identity(rank, world), &peers, options, abort)
    })
}

#[test]
fn sums_of_all_lengths_are_the_same_under_tls() {
    for (world, direct) in [(2, true), (3, false), (4, true), (5, true)] {
        let options = RingOptions {
            direct,
            ..RingOptions::default()
        };
        let rings = join(listeners(world), options)
            .into_iter()
            .map(Result::unwrap);
        on_threads(rings.collect(), |mut ring| {
            for elements in [0, 1, 1000, 100_000, 3_000_001] {
                let mut values: Vec<f32> = (0..elements).map(|i| (i % 5) as f32).collect();
                ring.all_reduce(&mut values, Reduce::Sum).unwrap();
                let right = |(i, &v): (usize, &f32)| v == (i % 5) as f32 * world as f32;
                assert!(values.iter().enumerate().all(right), "{world} {elements}");
                let mut bytes = vec![ring.rank().0 as u8; elements];
                ring.broadcast(Rank(world - 1), &mut bytes).unwrap();
                assert!(bytes.iter().all(|&byte| u32::from(byte) == world - 1));
            }
            let me = ring.rank().0 as i32;
            let mut blocks: Vec<i32> = (0..world as i32).map(|to| me * 100 + to).collect();
            ring.all_to_all(&mut blocks).unwrap();
            assert!(
                blocks
                    .iter()
                    .zip(0..)
                    .all(|(&got, from)| got == from * 100 + me)
            );
            ring.barrier().unwrap();
        });
    }
}

#[test]
fn levels_are_under_tls_too() {
    let hosts = ["a", "a", "b", "b"];
    let listeners = listeners(4);
    let peers: Vec<SocketAddr> = listeners.iter().map(Listener::addr).collect();
    let slow = LinkCost {
        beta_seconds_per_byte: 8e-9,
        ..LinkCost::LOOPBACK
    };
    let ranks = (0..4).zip(listeners).collect();
    on_threads(ranks, |(rank, listener)| {
        let around = Surroundings {
            host: hosts[rank as usize],
            links: Links::Known(slow),
        };
        let (options, abort) = (RingOptions::default(), AbortSignal::new().unwrap());
        let mut ring = listener
            .connect_nearest(identity(rank, 4), &peers, options, abort, around)
            .unwrap();
        assert!(ring.is_on_levels());
        let mut values = vec![rank as f32; 1 << 20];
        ring.all_reduce(&mut values, Reduce::Sum).unwrap();
        assert!(values.iter().all(|&value| value == 6.0));
    });
}

#[test]
fn a_rank_with_another_key_than_announced_is_refused_and_named() {
    let mut listeners = listeners(3);
    let public = RankKey::generate().unwrap().public();
    let impostor = RankKey::generate().unwrap();
    listeners[1] = listener().with_keys(RingKeys::new(impostor, vec![public; 3]));
    let peers: Vec<SocketAddr> = listeners.iter().map(Listener::addr).collect();
    // Rank 2 is silent, so that rank 1 waits until rank 0 has called it and found another key.
    let _silent = listeners.pop();
    let abort = AbortSignal::new().unwrap();
    let results = on_threads((0..).zip(listeners).collect(), |(rank, listener)| {
        let (options, signal) = (RingOptions::default(), abort.clone());
        let result = listener.connect_ring(identity(rank, 3), &peers, options, signal);
        if rank == 0 {
            abort.abort("rank 0 has seen enough");
        }
        result
    });
    let error = results[0].as_ref().err().unwrap();
    assert!(
        matches!(error, CollectiveError::Untrusted { .. }),
        "{error}"
    );
    assert_eq!(error.accused(), [Rank(1)]);
    let words = error.to_string();
    assert!(words.starts_with("rank 1 at 127.0.0.1:"), "{words}");
    assert!(
        words.contains("do not trust each other's keys: "),
        "{words}"
    );
    assert!(results[1].is_err());
}

#[test]
fn a_rank_that_uses_the_place_of_another_is_refused() {
    // Rank 2 has the key of rank 1, and says that it is rank 2.
    let keys: Vec<RankKey> = (0..3).map(|_| RankKey::generate().unwrap()).collect();
    let public: Vec<PublicKey> = keys.iter().map(RankKey::public).collect();
    let of = |own: usize| listener().with_keys(RingKeys::new(keys[own].clone(), public.clone()));
    let listeners = [of(0), of(1), of(1)];
    let peers: Vec<SocketAddr> = listeners.iter().map(Listener::addr).collect();
    let [first, _silent, last] = listeners;
    let results = on_threads(vec![(0, first), (2, last)], |(rank, listener)| {
        let abort = AbortSignal::new().unwrap();
        listener.connect_ring(identity(rank, 3), &peers, short(), abort)
    });
    let words = results[0].as_ref().err().unwrap().to_string();
    assert!(
        words.contains("rank 2 at")
            && words.contains("it has the key of another rank than it says it is"),
        "{words}"
    );
    assert!(results[1].is_err());
}

#[test]
fn a_rank_without_keys_is_refused_by_those_that_have_them_and_the_other_way_round() {
    let mut listeners = listeners(2);
    listeners[1] = listener();
    let results = join(listeners, short());
    let words: Vec<String> = results
        .iter()
        .map(|r| r.as_ref().err().unwrap().to_string())
        .collect();
    assert!(words[0].contains("it calls without TLS"), "{words:?}");
    assert!(
        words[0].contains("it hung up under TLS: do both ranks have keys?"),
        "{words:?}"
    );
    assert!(
        words[1].contains("it calls with TLS, and this rank has no keys"),
        "{words:?}"
    );
}

#[test]
fn a_key_for_each_rank_or_none() {
    let own = RankKey::generate().unwrap();
    let keys = RingKeys::new(own.clone(), vec![own.public()]);
    let (options, abort) = (RingOptions::default(), AbortSignal::new().unwrap());
    let listener = listener().with_keys(keys);
    let peers = [listener.addr(); 2];
    let error = listener
        .connect_ring(identity(0, 2), &peers, options, abort)
        .err()
        .unwrap();
    assert!(error.is_argument());
    assert_eq!(error.to_string(), "got 1 keys for a world of 2 ranks");
}

/// Passes bytes on; `on` sees them first, and may change them.
fn pass_on(from: TcpStream, to: TcpStream, mut on: impl FnMut(&mut [u8])) {
    let (mut from, mut to) = (from, to);
    let mut buffer = [0; 4096];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(read) if read > 0 => read,
            _ => break,
        };
        on(&mut buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// Two ranks join, rank 0 by a relay that shows `on` what it sends; then each does `then`.
fn by_relay<T: Send>(
    listeners: Vec<Listener>,
    on: impl FnMut(&mut [u8]) + Send,
    then: impl Fn(Ring) -> T + Sync,
) -> Vec<T> {
    let mut peers: Vec<SocketAddr> = listeners.iter().map(Listener::addr).collect();
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = std::mem::replace(&mut peers[1], relay.local_addr().unwrap());
    let options = RingOptions {
        direct: false,
        ..RingOptions::default()
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let (caller, _) = relay.accept().unwrap();
            let callee = TcpStream::connect(target).unwrap();
            let back = (callee.try_clone().unwrap(), caller.try_clone().unwrap());
            scope.spawn(move || pass_on(back.0, back.1, |_| {}));
            pass_on(caller, callee, on);
        });
        on_threads((0..2).zip(listeners).collect(), |(rank, listener)| {
            let abort = AbortSignal::new().unwrap();
            let ring = listener.connect_ring(identity(rank, 2), &peers, options, abort);
            then(ring.unwrap())
        })
    })
}

#[test]
fn a_byte_that_was_changed_on_the_way_is_found() {
    // Of the first message.
    let (at, mut passed) = (100_000, 0);
    let change_one = |bytes: &mut [u8]| {
        if (passed..passed + bytes.len()).contains(&at) {
            bytes[at - passed] ^= 1;
        }
        passed += bytes.len();
    };
    let errors = by_relay(listeners(2), change_one, |mut ring| {
        ring.keep_operands(true);
        let mut values = vec![1.0_f32; 1 << 20];
        let error = ring.all_reduce_sum_f32(&mut values).unwrap_err();
        assert!(values.iter().all(|&value| value == 1.0));
        error
    });
    let source = std::error::Error::source(&errors[1]).map(ToString::to_string);
    let words = format!("{} {source:?}", errors[1]);
    assert!(
        words.contains("rank 0 at") && words.contains("decrypt"),
        "{words}"
    );
}

/// What goes from rank 0 to rank 1 while both sum a vector.
fn overheard(listeners: Vec<Listener>, values: &[f32]) -> Vec<u8> {
    let mut heard = Vec::new();
    let keep = |bytes: &mut [u8]| heard.extend_from_slice(bytes);
    by_relay(listeners, keep, |mut ring| {
        let mut sums = values.to_vec();
        ring.all_reduce(&mut sums, Reduce::Sum).unwrap();
        assert!(
            sums.iter()
                .zip(values)
                .all(|(sum, value)| *sum == 2.0 * value)
        );
    });
    heard
}

#[test]
fn with_keys_no_number_is_seen_on_the_wire_and_without_them_all_are() {
    let values: Vec<f32> = (0..10_000).map(|i| i as f32 + 0.123).collect();
    let plain: Vec<Listener> = (0..2).map(|_| listener()).collect();
    for (listeners, under_tls) in [(plain, false), (listeners(2), true)] {
        let heard = overheard(listeners, &values);
        assert!(heard.len() > 4 * values.len(), "{}", heard.len());
        let windows: HashSet<&[u8]> = heard.windows(16).collect();
        // Of every number that rank 0 sends as it is: four of them, so that no chance finds them.
        let seen = values[..values.len() / 2].chunks_exact(4).filter(|four| {
            let bytes: Vec<u8> = four.iter().flat_map(|value| value.to_le_bytes()).collect();
            windows.contains(&bytes[..])
        });
        assert_eq!(seen.count(), if under_tls { 0 } else { values.len() / 8 });
    }
}
