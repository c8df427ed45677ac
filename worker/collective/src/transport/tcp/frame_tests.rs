//! One test a way to be malformed; random bytes.

use proptest::prelude::*;

use super::*;

pub(crate) fn header() -> Header {
    Header {
        job: JobId(7),
        membership_epoch: MembershipEpoch(3),
        call: Call {
            operation: 17,
            kind: Kind::AllReduce(ElementType::F32, Reduce::Sum),
            bytes: 4096,
        },
        step: 2,
        segment: 1,
        payload_bytes: 512,
    }
}

/// The header's bytes after `change`, with a checksum that is right again.
fn changed(change: impl FnOnce(&mut [u8; HEADER_BYTES])) -> [u8; HEADER_BYTES] {
    let mut bytes = header().encode();
    change(&mut bytes);
    let checksum = fnv1a(&bytes[..56]);
    bytes[56..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn headers_round_trip() {
    let mut kinds = vec![
        Kind::Broadcast(Rank(4000)),
        Kind::Gather(Rank(4000)),
        Kind::AllGather,
        Kind::AllToAll,
        Kind::Barrier,
    ];
    for number in ElementType::ALL {
        kinds.push(Kind::Reproducible(number, 12));
        for reduce in Reduce::ALL {
            kinds.push(Kind::AllReduce(number, reduce));
            kinds.push(Kind::ReduceScatter(number, reduce));
        }
    }
    for kind in kinds {
        let mut header = header();
        header.call.kind = kind;
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        assert_eq!(header.check(&header), Ok(Freshness::Due));
    }
}

#[test]
fn the_wire_format_stays() {
    let mut expected = Vec::from(*b"RFfr\x01\x01\x01\0");
    expected.extend([7_u64, 3, 17, 4096].iter().flat_map(|v| v.to_le_bytes()));
    expected.extend([0_u32, 2, 1, 512].iter().flat_map(|v| v.to_le_bytes()));
    assert_eq!(header().encode()[..56], expected[..]);
}

#[test]
fn wrong_magic() {
    let bytes = changed(|bytes| bytes[0] = b'X');
    let fault = Header::decode(&bytes).unwrap_err();
    assert!(matches!(fault, FrameFault::Magic { .. }), "{fault}");
}

#[test]
fn wrong_checksum_for_every_flipped_bit() {
    for bit in 32..HEADER_BYTES * 8 {
        let mut bytes = header().encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let fault = Header::decode(&bytes).unwrap_err();
        assert!(
            matches!(fault, FrameFault::Checksum { .. }),
            "{bit}: {fault}"
        );
    }
}

#[test]
fn unknown_kind() {
    for got in [0, 9, 255] {
        let bytes = changed(|bytes| bytes[4] = got);
        assert_eq!(Header::decode(&bytes), Err(FrameFault::UnknownKind { got }));
    }
}

#[test]
fn reserved_bytes_set() {
    for offset in [7, 40] {
        let bytes = changed(|bytes| bytes[offset] = 1);
        assert_eq!(Header::decode(&bytes), Err(FrameFault::Reserved { offset }));
    }
}

#[test]
fn unknown_and_unexpected_types_and_reductions() {
    for got in [0, 8, 255] {
        let bytes = changed(|bytes| bytes[5] = got);
        let fault = FrameFault::ElementType { kind: 1, got };
        assert_eq!(Header::decode(&bytes), Err(fault));
    }
    for got in [0, 5, 255] {
        let bytes = changed(|bytes| bytes[6] = got);
        let fault = FrameFault::Reduction { kind: 1, got };
        assert_eq!(Header::decode(&bytes), Err(fault));
    }
    let barrier = |offset: usize| {
        Header::decode(&changed(|bytes| {
            bytes[4..7].copy_from_slice(&[5, 0, 0]);
            bytes[offset] = 1;
        }))
    };
    let fault = FrameFault::ElementType { kind: 5, got: 1 };
    assert_eq!(barrier(5), Err(fault));
    let fault = FrameFault::Reduction { kind: 5, got: 1 };
    assert_eq!(barrier(6), Err(fault));
}

#[test]
fn payload_over_the_cap() {
    let got = SEGMENT_BYTES_MAX as u32 + 1;
    let bytes = changed(|bytes| bytes[52..56].copy_from_slice(&got.to_le_bytes()));
    assert_eq!(
        Header::decode(&bytes),
        Err(FrameFault::PayloadTooLong { got })
    );
}

fn fault_of(change: impl FnOnce(&mut Header)) -> FrameFault {
    let mut got = header();
    change(&mut got);
    got.check(&header()).unwrap_err()
}

#[test]
fn other_job() {
    let fault = fault_of(|header| header.job = JobId(8));
    assert!(matches!(fault, FrameFault::Job { got: JobId(8), .. }));
}

#[test]
fn newer_epoch() {
    let fault = fault_of(|header| header.membership_epoch = MembershipEpoch(4));
    assert!(matches!(fault, FrameFault::NewerEpoch { .. }));
}

#[test]
fn older_epoch_is_stale_whatever_else_it_says() {
    let mut got = header();
    got.membership_epoch = MembershipEpoch(2);
    got.call.operation = 99;
    got.payload_bytes = 1;
    assert_eq!(got.check(&header()), Ok(Freshness::Stale));
    got.job = JobId(8);
    assert!(matches!(got.check(&header()), Err(FrameFault::Job { .. })));
}

#[test]
fn other_operation_kind_or_length() {
    let changes: [fn(&mut Call); 3] = [
        |call| call.operation += 1,
        |call| call.kind = Kind::Barrier,
        |call| call.bytes = 8,
    ];
    for change in changes {
        let fault = fault_of(|header| change(&mut header.call));
        assert!(matches!(fault, FrameFault::OtherCall { .. }));
        assert!(
            fault
                .to_string()
                .contains("all-reduce sum f32 of 4096 bytes")
        );
    }
}

#[test]
fn out_of_order() {
    let fault = fault_of(|header| header.step = 3);
    assert!(matches!(
        fault,
        FrameFault::Step {
            expected: 2,
            got: 3
        }
    ));
    let fault = fault_of(|header| header.segment = 0);
    assert!(matches!(
        fault,
        FrameFault::Segment {
            expected: 1,
            got: 0
        }
    ));
}

#[test]
fn wrong_payload_length() {
    for got in [0, 511, 513] {
        let fault = fault_of(|header| header.payload_bytes = got);
        let expected = 512;
        assert_eq!(fault, FrameFault::PayloadLength { expected, got });
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: [u8; HEADER_BYTES], fix_checksum: bool) {
        let mut bytes = bytes;
        if fix_checksum {
            bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            bytes[4] %= 8;
            bytes[5..8].fill(0);
            let checksum = fnv1a(&bytes[..56]);
            bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        }
        if let Ok(got) = Header::decode(&bytes) {
            prop_assert_eq!(got.encode(), bytes);
            prop_assert_ne!(got.check(&header()), Ok(Freshness::Due));
        }
    }
}

proptest! {
    #[test]
    fn what_is_decoded_encodes_to_the_same_bytes(
        random in proptest::collection::vec(any::<u8>(), HEADER_BYTES),
        kind in 0..10_u8,
        number in 0..9_u8,
        reduction in 0..6_u8,
        rooted in any::<bool>(),
    ) {
        // All that random bytes would hardly get past is right: magic and checksum.
        let mut bytes: [u8; HEADER_BYTES] = random.try_into().unwrap();
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&[kind, number, reduction, 0]);
        if !rooted {
            bytes[40..44].fill(0);
        }
        bytes[54..56].fill(0);
        round_trips(&with_checksum(bytes));
    }
}
