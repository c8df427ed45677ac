//! How a ring is joined, and by whom it is not.
//!
//! Most tests look at one link: rank 0 of three dials rank 1. Rank 2 is a bare socket that never
//! answers, so that nothing else can happen to either.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use ringfold_collective::testing::{identity, listener, on_threads};
use ringfold_collective::{
    AbortSignal, CollectiveError, HANDSHAKE_BYTES, Identity, Mismatch, PENDING_CONNECTIONS_MAX,
    RingOptions,
};
use ringfold_common::ids::{JobId, MembershipEpoch, Rank, SpecHash};

/// Both ranks of one link whose dialling rank is `dialler`, which finds rank 1 as its next.
/// Returns the dialler's error, and that of rank 1, which is aborted if it went on listening.
fn meet(
    dialler: Identity,
    dialler_options: RingOptions,
    rank_1_goes_on: bool,
) -> (CollectiveError, CollectiveError) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_addr = silent.local_addr().unwrap();
    let (left, right) = (listener(), listener());
    let right_addr = right.addr();
    let mut left_peers = vec![silent_addr; dialler.world as usize];
    left_peers[(dialler.rank.0 as usize + 1) % dialler.world as usize] = right_addr;
    let right_peers = [silent_addr; 3];
    let right_abort = AbortSignal::new().unwrap();
    thread::scope(|scope| {
        let signal = right_abort.clone();
        let right = scope.spawn(move || {
            let options = RingOptions::default();
            right.connect_ring(identity(1, 3), &right_peers, options, signal)
        });
        let signal = AbortSignal::new().unwrap();
        let left = left.connect_ring(dialler, &left_peers, dialler_options, signal);
        if rank_1_goes_on {
            right_abort.abort("went on listening");
        }
        let left = left.err().expect("the dialler is refused");
        (left, right.join().unwrap().err().expect("no ring"))
    })
}

fn mismatch(error: &CollectiveError) -> Mismatch {
    match error {
        CollectiveError::Handshake { mismatch, .. } => *mismatch,
        other => panic!("{other}"),
    }
}

#[test]
fn another_job_is_refused_and_rank_1_goes_on() {
    let job = JobId(8);
    let dialler = Identity {
        job,
        ..identity(0, 3)
    };
    let (left, right) = meet(dialler, RingOptions::default(), true);
    let (expected, got) = (job, JobId(7));
    assert_eq!(mismatch(&left), Mismatch::Job { expected, got });
    assert!(
        left.to_string().starts_with("rank 1 at 127.0.0.1:"),
        "{left}"
    );
    assert_eq!(right.to_string(), "aborted: went on listening");
}

#[test]
fn an_older_membership_epoch_is_refused_and_rank_1_goes_on() {
    let membership_epoch = MembershipEpoch(2);
    let dialler = Identity {
        membership_epoch,
        ..identity(0, 3)
    };
    let (left, right) = meet(dialler, RingOptions::default(), true);
    let (expected, got) = (membership_epoch, MembershipEpoch(3));
    assert_eq!(mismatch(&left), Mismatch::MembershipEpoch { expected, got });
    assert_eq!(right.to_string(), "aborted: went on listening");
}

#[test]
fn a_newer_membership_epoch_ends_rank_1_too() {
    let membership_epoch = MembershipEpoch(4);
    let dialler = Identity {
        membership_epoch,
        ..identity(0, 3)
    };
    let (left, right) = meet(dialler, RingOptions::default(), false);
    assert!(matches!(mismatch(&left), Mismatch::MembershipEpoch { .. }));
    let (expected, got) = (MembershipEpoch(3), membership_epoch);
    assert_eq!(
        mismatch(&right),
        Mismatch::MembershipEpoch { expected, got }
    );
}

#[test]
fn another_world_ends_both() {
    let (left, right) = meet(identity(0, 4), RingOptions::default(), false);
    assert_eq!(
        mismatch(&left),
        Mismatch::World {
            expected: 4,
            got: 3
        }
    );
    assert_eq!(
        mismatch(&right),
        Mismatch::World {
            expected: 3,
            got: 4
        }
    );
}

#[test]
fn another_rank_than_the_neighbour_ends_both() {
    let (left, right) = meet(identity(2, 3), RingOptions::default(), false);
    let (expected, got) = (Rank(0), Rank(1));
    assert_eq!(mismatch(&left), Mismatch::Rank { expected, got });
    let (expected, got) = (Rank(0), Rank(2));
    assert_eq!(mismatch(&right), Mismatch::Rank { expected, got });
    assert_eq!(right.accused(), [Rank(2)]);
}

#[test]
fn another_spec_ends_both_with_both_hashes() {
    let spec_hash = SpecHash([0xcd; 32]);
    let dialler = Identity {
        spec_hash,
        ..identity(0, 3)
    };
    let (left, right) = meet(dialler, RingOptions::default(), false);
    let words = right.to_string();
    assert!(words.starts_with("rank 0 at 127.0.0.1:"), "{words}");
    let rest = "has spec hash cdcdcdcdcdcdcdcd, this rank has abababababababab: \
                both must run the same job file";
    assert!(words.ends_with(rest), "{words}");
    assert!(matches!(
        mismatch(&left),
        Mismatch::SpecHash {
            got: SpecHash([0xab, ..]),
            ..
        }
    ));
}

#[test]
fn other_segments_end_both() {
    let options = RingOptions {
        segment_bytes: 64,
        ..RingOptions::default()
    };
    let (left, right) = meet(identity(0, 3), options, false);
    let (expected, got) = (64, 256 << 10);
    assert_eq!(mismatch(&left), Mismatch::SegmentBytes { expected, got });
    let (expected, got) = (256 << 10, 64);
    assert_eq!(mismatch(&right), Mismatch::SegmentBytes { expected, got });
}

#[test]
fn another_protocol_is_refused_by_both_sides() {
    let mut theirs = [0; HANDSHAKE_BYTES];
    theirs[..8].copy_from_slice(b"RINGFOLD");
    theirs[8..10].copy_from_slice(&9_u16.to_le_bytes());
    let expected = Mismatch::Protocol {
        expected: 4,
        got: 9,
    };

    // As a caller: it is told which version is spoken here.
    let rank_1 = listener();
    let mut caller = TcpStream::connect(rank_1.addr()).unwrap();
    caller.write_all(&theirs).unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let peers = [silent.local_addr().unwrap(); 3];
    let (options, abort) = (RingOptions::default(), AbortSignal::new().unwrap());
    let joined = rank_1.connect_ring(identity(1, 3), &peers, options, abort);
    assert_eq!(mismatch(&joined.err().unwrap()), expected);
    let mut answer = [0; HANDSHAKE_BYTES];
    caller.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..12], *b"RINGFOLD\x04\0\x03\0");

    // As the one that is called.
    let next = TcpListener::bind("127.0.0.1:0").unwrap();
    let peers = [next.local_addr().unwrap(); 3];
    let abort = AbortSignal::new().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut socket, _) = next.accept().unwrap();
            socket.read_exact(&mut [0; HANDSHAKE_BYTES]).unwrap();
            socket.write_all(&theirs).unwrap();
        });
        let joined = listener().connect_ring(identity(1, 3), &peers, options, abort);
        assert_eq!(mismatch(&joined.err().unwrap()), expected);
    });
}

/// Strangers call first, and stay on the line.
#[test]
fn strangers_keep_nobody_from_joining() {
    let listeners = [listener(), listener(), listener()];
    let peers: Vec<SocketAddr> = listeners.iter().map(|l| l.addr()).collect();
    let mut strangers = Vec::new();
    for &addr in &peers {
        let mut call = |bytes: &[u8]| {
            let mut socket = TcpStream::connect(addr).unwrap();
            socket.write_all(bytes).unwrap();
            strangers.push(socket);
        };
        call(b"GET / HTTP/1.1\r\nHost: ringfold\r\n\r\n");
        call(&[0xff; 4096]);
        call(b"RINGF");
        call(b"RINGFOLD\x04\0\x02\0 an answer nobody asked for .........................................");
        for _ in 0..2 * PENDING_CONNECTIONS_MAX {
            call(b"");
        }
    }
    let sums = on_threads(
        listeners.into_iter().enumerate().collect(),
        |(rank, listener)| {
            let identity = identity(rank as u32, 3);
            let (options, abort) = (RingOptions::default(), AbortSignal::new().unwrap());
            let mut ring = listener
                .connect_ring(identity, &peers, options, abort)
                .unwrap();
            let mut values = [rank as f64];
            ring.all_reduce_sum_f64(&mut values).unwrap();
            values[0]
        },
    );
    assert_eq!(sums, [3.0; 3]);
}

#[test]
fn the_deadline_says_who_was_missing_and_why() {
    let options = RingOptions {
        connect_deadline: Duration::from_millis(120),
        ..RingOptions::default()
    };
    // Nobody listens on port 1; a stranger calls, and the rank before never does.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let rank_1 = listener();
    let mut stranger = TcpStream::connect(rank_1.addr()).unwrap();
    stranger.write_all(b"hello?").unwrap();
    let abort = AbortSignal::new().unwrap();
    let joined = rank_1.connect_ring(identity(1, 3), &[nobody; 3], options, abort);
    let error = joined.err().unwrap();
    assert_eq!(error.accused(), [Rank(2), Rank(0)]);
    let words = error.to_string();
    for part in [
        "within 120ms",
        "rank 2 at 127.0.0.1:1 did not answer",
        "refused",
        "rank 0 at 127.0.0.1:1 did not call",
        &stranger.local_addr().unwrap().to_string(),
        "does not speak the ring protocol",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
}

#[test]
fn a_neighbour_that_leaves_before_it_answers_is_not_waited_for() {
    let next = TcpListener::bind("127.0.0.1:0").unwrap();
    let peers = [next.local_addr().unwrap(); 3];
    let abort = AbortSignal::new().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut socket, _) = next.accept().unwrap();
            socket.read_exact(&mut [0; HANDSHAKE_BYTES]).unwrap();
            drop(next); // before the caller learns that its call has ended
        });
        let options = RingOptions::default();
        let joined = listener().connect_ring(identity(0, 3), &peers, options, abort);
        let error = joined.err().unwrap();
        assert!(
            matches!(error, CollectiveError::NeighbourGone { .. }),
            "{error}"
        );
        assert_eq!(error.accused(), [Rank(1)]);
    });
}

#[test]
fn an_abort_ends_joining() {
    let next = TcpListener::bind("127.0.0.1:0").unwrap();
    let peers = [next.local_addr().unwrap(); 3];
    let abort = AbortSignal::new().unwrap();
    thread::scope(|scope| {
        let signal = abort.clone();
        let joining = scope.spawn(move || {
            let options = RingOptions::default();
            listener().connect_ring(identity(0, 3), &peers, options, signal)
        });
        // It is under way once it has said hello.
        let (mut socket, _) = next.accept().unwrap();
        socket.read_exact(&mut [0; HANDSHAKE_BYTES]).unwrap();
        abort.abort("job cancelled");
        let error = joining.join().unwrap().err().unwrap();
        assert_eq!(error.to_string(), "aborted: job cancelled");
    });
}
