//! Operations that are known to be under way when something happens: the other rank's socket has
//! bytes of it.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::super::socket::poll;
use crate::testing::join;
use crate::{AbortSignal, CollectiveError, Neighbour, Ring, RingOptions};

/// Two ranks, of which the first will wait long.
fn pair() -> [(Ring, AbortSignal); 2] {
    let options = RingOptions {
        progress_deadline: Duration::from_secs(600),
        ..RingOptions::default()
    };
    join(2, options).try_into().ok().expect("two ranks")
}

/// Returns once the rank before `ring` has begun an operation.
fn wait_for_bytes(ring: &Ring) {
    let socket = ring.net().expect("a ring of sockets").link().prev_socket();
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut fds, None).unwrap();
}

#[test]
fn an_abort_from_another_thread_ends_an_operation_under_way() {
    let [(mut ring, abort), (other, _)] = pair();
    std::thread::scope(|scope| {
        let call = scope.spawn(move || {
            let error = ring
                .all_reduce_sum_f32(&mut vec![1.0; 1 << 20])
                .unwrap_err();
            (error, ring.barrier().unwrap_err())
        });
        wait_for_bytes(&other);
        assert!(abort.abort("slot 3 lost its lease"));
        let (error, later) = call.join().unwrap();
        let CollectiveError::Aborted { reason } = error else {
            panic!("{error}")
        };
        assert_eq!(reason, "slot 3 lost its lease");
        let words = later.to_string();
        assert!(words.contains("failed earlier") && words.contains("slot 3"));
    });
}

#[test]
fn a_rank_that_leaves_during_an_operation_is_named_with_the_position() {
    let [(mut ring, _), (other, _)] = pair();
    std::thread::scope(|scope| {
        let call = scope.spawn(move || ring.all_reduce_sum_f32(&mut vec![1.0; 1 << 20]));
        wait_for_bytes(&other);
        drop(other);
        let error = call.join().unwrap().unwrap_err();
        assert_eq!(error.accused(), [ringfold_common::ids::Rank(1)]);
        let CollectiveError::PeerClosed { at, neighbour, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((at.operation, at.steps), (1, 2));
        // Nothing was received. As for sending, the kernel may have taken all of message 0.
        assert!(
            at.step == 0 || (at.step, *neighbour) == (1, Neighbour::Next),
            "{error}"
        );
        assert_eq!(at.bytes_expected, 2 << 20);
        assert!(at.bytes_done < at.bytes_expected);
    });
}
