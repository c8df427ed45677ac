//! Frames from a peer that doesn't keep to the rules: the operand is touched by no wrong one.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};

use proptest::prelude::*;
use ringfold_common::ids::{JobId, MembershipEpoch, Rank};

use super::super::frame::Call;
use super::*;
use crate::SEGMENT_BYTES_MAX;
use crate::algorithm::Kind;

const SEGMENT: usize = 64;
const UNTOUCHED: u8 = 0xee;

fn due() -> Header {
    Header {
        job: JobId(7),
        membership_epoch: MembershipEpoch(3),
        call: Call {
            operation: 1,
            kind: Kind::AllGather,
            bytes: 160,
        },
        step: 0,
        segment: 0,
        payload_bytes: 0,
    }
}

/// The frame that is due first, with another header.
fn frame(change: impl FnOnce(&mut Header), payload: &[u8]) -> Vec<u8> {
    let mut header = due();
    header.payload_bytes = payload.len() as u32;
    change(&mut header);
    [&header.encode()[..], payload].concat()
}

/// Lets a receiver that waits for 100 bytes, at 10 of its operand, read `wire` to its end.
fn receive(wire: &[u8], add: Option<Fold>) -> (Result<(), SideError>, Vec<u8>, Receiver) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, addr) = listener.accept().unwrap();
    let peer_of = Peer {
        rank: Rank(0),
        addr: crate::Address::Tcp(addr),
    };
    let mut receiver = Receiver::new(Stream::new(socket, None), peer_of, SEGMENT, due());
    receiver.begin(due());
    receiver.expect(10..110, add);
    let mut operand = vec![UNTOUCHED; 160];
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            // The receiver may hang up first.
            let _ = peer.write_all(wire);
            let _ = peer.shutdown(Shutdown::Write);
        });
        let result = loop {
            if receiver.done() {
                break Ok(());
            }
            if let Err(error) = receiver.advance(&mut operand) {
                break Err(error);
            }
        };
        receiver.socket.shut_down();
        result
    });
    (result, operand, receiver)
}

fn fault(wire: &[u8]) -> FrameFault {
    for add in [None, Some(add_bytes as Fold)] {
        let (result, operand, _) = receive(wire, add);
        assert!(operand.iter().all(|&byte| byte == UNTOUCHED));
        if add.is_none() {
            continue;
        }
        match result {
            Err(SideError::Fault(fault)) => return fault,
            other => panic!("{other:?}"),
        }
    }
    unreachable!("the second turn returns")
}

fn add_bytes(sums: &mut [u8], terms: &[u8]) {
    for (sum, term) in sums.iter_mut().zip(terms) {
        *sum = sum.wrapping_add(*term);
    }
}

fn whole_message() -> Vec<u8> {
    let rest = |header: &mut Header| header.segment = 1;
    [frame(|_| {}, &[1; 64]), frame(rest, &[2; 36])].concat()
}

#[test]
fn a_message_is_copied_or_added_to_its_place_and_nowhere_else() {
    for (add, base) in [(None, 0), (Some(add_bytes as Fold), UNTOUCHED)] {
        let (result, operand, receiver) = receive(&whole_message(), add);
        assert!(result.is_ok(), "{result:?}");
        assert!(operand[..10].iter().all(|&byte| byte == UNTOUCHED));
        assert!(operand[10..74].iter().all(|&byte| byte == base + 1));
        assert!(operand[74..110].iter().all(|&byte| byte == base + 2));
        assert!(operand[110..].iter().all(|&byte| byte == UNTOUCHED));
        let bytes = 2 * HEADER_BYTES + 100;
        assert_eq!(receiver.bytes_received, bytes as u64);
    }
}

#[test]
fn wrong_frames_touch_nothing() {
    let payload = [1; 64];
    assert!(matches!(fault(&[0; 200]), FrameFault::Magic { .. }));
    let mut damaged = frame(|_| {}, &payload);
    damaged[20] ^= 1;
    assert!(matches!(fault(&damaged), FrameFault::Checksum { .. }));
    let wire = frame(|header| header.job = JobId(8), &payload);
    assert!(matches!(fault(&wire), FrameFault::Job { .. }));
    let wire = frame(
        |header| header.membership_epoch = MembershipEpoch(4),
        &payload,
    );
    assert!(matches!(fault(&wire), FrameFault::NewerEpoch { .. }));
    let wire = frame(|header| header.call.operation = 2, &payload);
    assert!(matches!(fault(&wire), FrameFault::OtherCall { .. }));
    let wire = frame(|header| header.call.kind = Kind::Barrier, &payload);
    assert!(matches!(fault(&wire), FrameFault::OtherCall { .. }));
    let wire = frame(|header| header.call.bytes = 161, &payload);
    assert!(matches!(fault(&wire), FrameFault::OtherCall { .. }));
    let wire = frame(|header| header.step = 1, &payload);
    assert!(matches!(fault(&wire), FrameFault::Step { .. }));
    let wire = frame(|header| header.segment = 1, &payload);
    assert!(matches!(fault(&wire), FrameFault::Segment { .. }));
    let wire = frame(|_| {}, &[1; 65]);
    assert!(matches!(fault(&wire), FrameFault::PayloadLength { .. }));
    let wire = frame(|_| {}, &[]);
    assert!(matches!(fault(&wire), FrameFault::PayloadLength { .. }));
    let too_long = SEGMENT_BYTES_MAX as u32 + 1;
    let wire = frame(|header| header.payload_bytes = too_long, &payload);
    assert!(matches!(fault(&wire), FrameFault::PayloadTooLong { .. }));
}

#[test]
fn an_end_within_a_frame_says_how_far_it_came() {
    let wire = whole_message();
    for (cut, expected) in [(0, 0), (30, 0), (HEADER_BYTES + 5, 5), (200, 64 + 16)] {
        let (result, _, receiver) = receive(&wire[..cut], None);
        assert!(matches!(result, Err(SideError::Closed(None))), "{result:?}");
        assert_eq!(receiver.progress(), (0, expected, 100));
    }
}

fn stale(payload: usize) -> Vec<u8> {
    let older = |header: &mut Header| header.membership_epoch = MembershipEpoch(2);
    frame(older, &vec![9; payload])
}

#[test]
fn stale_frames_are_dropped_and_counted() {
    let wire = [stale(1000), stale(0), stale(64), whole_message()].concat();
    let (result, operand, receiver) = receive(&wire, None);
    assert!(result.is_ok(), "{result:?}");
    assert!(operand[10..74].iter().all(|&byte| byte == 1));
    assert_eq!(receiver.stale_frames, 3);
    assert_eq!(receiver.bytes_received, wire.len() as u64);
}

#[test]
fn stale_frames_are_capped() {
    let cap = STALE_FRAMES_MAX as usize;
    let wire = [stale(0).repeat(cap), whole_message()].concat();
    let (result, _, receiver) = receive(&wire, None);
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(receiver.stale_frames, STALE_FRAMES_MAX);
    let wire = [stale(0).repeat(cap + 1), whole_message()].concat();
    assert!(matches!(fault(&wire), FrameFault::TooManyStale { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_bytes_touch_nothing(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        flip in 0..HEADER_BYTES * 8,
    ) {
        let (result, operand, _) = receive(&bytes, None);
        prop_assert!(result.is_err());
        prop_assert!(operand.iter().all(|&byte| byte == UNTOUCHED));
        // A true frame with one bit flipped in its header.
        let mut wire = whole_message();
        wire[flip / 8] ^= 1 << (flip % 8);
        let (result, operand, _) = receive(&wire, Some(add_bytes));
        prop_assert!(matches!(result, Err(SideError::Fault(_))));
        prop_assert!(operand.iter().all(|&byte| byte == UNTOUCHED));
    }
}
