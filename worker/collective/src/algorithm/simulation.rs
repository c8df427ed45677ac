//! The algorithms on a ring in memory: every rank's verbs are written down first and then carried
//! out in any order that the message queues allow, so that a schedule that could deadlock, or
//! whose messages don't pair up, is seen for every world and length without one socket.

use std::collections::VecDeque;
use std::ops::Range;

use ringfold_common::ids::Rank;

use super::{
    Kind, Phase, Route, Verbs, all_gather, all_reduce, barrier, broadcast, reduce_scatter, route,
};
use crate::topology::{RingTopology, chunk};
use crate::{CollectiveError, ElementType, Reduce};

#[derive(Clone, Debug)]
enum Verb {
    Send(Range<usize>),
    RecvReduceSend(Range<usize>),
    RecvReduce(Range<usize>),
    RecvCopySend(Range<usize>),
    Recv(Range<usize>),
    Flush,
}

#[derive(Default)]
struct Script(VecDeque<Verb>);

impl Script {
    fn note(&mut self, verb: Verb) -> Result<(), CollectiveError> {
        self.0.push_back(verb);
        Ok(())
    }
}

impl Verbs for Script {
    fn send(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::Send(range))
    }
    fn recv_reduce_send(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::RecvReduceSend(range))
    }
    fn recv_reduce(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::RecvReduce(range))
    }
    fn recv_copy_send(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::RecvCopySend(range))
    }
    fn recv(&mut self, range: Range<usize>) -> Result<(), CollectiveError> {
        self.note(Verb::Recv(range))
    }
    fn flush(&mut self) -> Result<(), CollectiveError> {
        self.note(Verb::Flush)
    }
}

/// What is left when no verb can go on.
struct Outcome {
    scripts: Vec<VecDeque<Verb>>,
    unread: usize,
    /// Messages sent, a rank.
    sent: Vec<u32>,
}

/// Runs one operation on `operands` (one a rank) as far as it goes.
fn run(
    operands: &mut [Vec<u64>],
    algorithm: impl Fn(RingTopology, &mut Script) -> Result<(), CollectiveError>,
) -> Outcome {
    let world = operands.len();
    let mut scripts: Vec<_> = (0..world)
        .map(|rank| {
            let ring = RingTopology::new(Rank(rank as u32), world as u32).unwrap();
            let mut script = Script::default();
            algorithm(ring, &mut script).unwrap();
            script.0
        })
        .collect();
    let mut inboxes = vec![VecDeque::<(Range<usize>, Vec<u64>)>::new(); world];
    let mut sent = vec![0; world];
    loop {
        let mut moved = false;
        for rank in 0..world {
            let Some(verb) = scripts[rank].front().cloned() else {
                continue;
            };
            let operand = &mut operands[rank];
            let out = match verb {
                Verb::Flush => None,
                Verb::Send(range) => Some(range),
                Verb::Recv(ref range)
                | Verb::RecvCopySend(ref range)
                | Verb::RecvReduce(ref range)
                | Verb::RecvReduceSend(ref range) => {
                    let Some((there, values)) = inboxes[rank].pop_front() else {
                        continue;
                    };
                    assert_eq!(there.len(), range.len(), "messages of a link pair up");
                    for (mine, got) in operand[range.clone()].iter_mut().zip(values) {
                        *mine = match verb {
                            Verb::RecvReduceSend(_) | Verb::RecvReduce(_) => *mine + got,
                            _ => got,
                        };
                    }
                    (!matches!(verb, Verb::Recv(_) | Verb::RecvReduce(_))).then(|| range.clone())
                }
            };
            if let Some(range) = out {
                let values = operand[range.clone()].to_vec();
                inboxes[(rank + 1) % world].push_back((range, values));
                sent[rank] += 1;
            }
            scripts[rank].pop_front();
            moved = true;
        }
        if !moved {
            break;
        }
    }
    Outcome {
        scripts,
        unread: inboxes.iter().map(VecDeque::len).sum(),
        sent,
    }
}

/// Runs one operation to its end and returns the number of messages sent, a rank.
fn simulate(
    operands: &mut [Vec<u64>],
    algorithm: impl Fn(RingTopology, &mut Script) -> Result<(), CollectiveError>,
) -> Vec<u32> {
    let outcome = run(operands, algorithm);
    assert!(outcome.scripts.iter().all(VecDeque::is_empty), "deadlock");
    assert_eq!(outcome.unread, 0, "unread messages");
    outcome.sent
}

#[test]
fn all_reduce_sums_on_every_rank() {
    for world in 1..=9_u64 {
        for elements in 0..=40_usize {
            let mut operands: Vec<Vec<u64>> = (0..world)
                .map(|rank| {
                    (0..elements as u64)
                        .map(|i| (rank + 1) * 1000 + i)
                        .collect()
                })
                .collect();
            let expected: Vec<u64> = (0..elements)
                .map(|i| operands.iter().map(|operand| operand[i]).sum())
                .collect();
            let sent = simulate(&mut operands, |ring, verbs| {
                all_reduce(ring, elements, verbs)
            });
            assert!(operands.iter().all(|operand| *operand == expected));
            let steps = Kind::AllReduce(ElementType::F32, Reduce::Sum).steps(world as u32);
            assert!(sent.iter().all(|&messages| messages == steps));
        }
    }
}

#[test]
fn reduce_scatter_leaves_every_chunk_with_its_owner() {
    for world in 1..=9_u32 {
        for elements in 0..=20_usize {
            let mut operands: Vec<Vec<u64>> = (0..u64::from(world))
                .map(|rank| (0..elements as u64).map(|i| rank * 100 + i).collect())
                .collect();
            let expected: Vec<u64> = (0..elements)
                .map(|i| operands.iter().map(|operand| operand[i]).sum())
                .collect();
            simulate(&mut operands, |ring, verbs| {
                reduce_scatter(ring, elements, verbs)
            });
            for (rank, operand) in operands.iter().enumerate() {
                let mine = chunk(elements, world, rank as u32);
                assert_eq!(operand[mine.clone()], expected[mine]);
            }
        }
    }
}

#[test]
fn every_routed_block_arrives_whatever_the_lengths() {
    for world in 1..=7_u32 {
        let size = |from: Rank, to: Rank| ((from.0 * 3 + to.0 * 5) % 4) as usize;
        let plan = |rank| Route::new(RingTopology::new(Rank(rank), world).unwrap(), size);
        let mut operands: Vec<Vec<u64>> = (0..world)
            .map(|rank| {
                let plan = plan(rank);
                let mut bundle = vec![0; plan.elements()];
                for to in (0..world).filter(|&to| to != rank) {
                    bundle[plan.outgoing(Rank(to))].fill(u64::from(rank * 100 + to));
                }
                bundle
            })
            .collect();
        let sent = simulate(&mut operands, |ring, verbs| {
            route(&Route::new(ring, size), verbs)
        });
        let most = Kind::AllToAll.steps(world);
        assert!(sent.iter().all(|&messages| messages <= most));
        for to in 0..world {
            for from in (0..world).filter(|&from| from != to) {
                let got = &operands[to as usize][plan(to).incoming(Rank(from))];
                assert_eq!(got.len(), size(Rank(from), Rank(to)));
                assert!(got.iter().all(|&v| v == u64::from(from * 100 + to)));
            }
        }
    }
}

#[test]
fn broadcast_reaches_every_rank_from_every_root() {
    for world in 1..=7_u32 {
        for root in 0..world {
            let mut operands: Vec<Vec<u64>> =
                (0..world).map(|rank| vec![u64::from(rank); 3]).collect();
            let sent = simulate(&mut operands, |ring, verbs| {
                broadcast(ring, Rank(root), 3, verbs)
            });
            assert!(operands.iter().flatten().all(|&v| v == u64::from(root)));
            assert_eq!(sent.iter().sum::<u32>(), world - 1);
        }
    }
}

#[test]
fn all_gather_gives_every_block_to_every_rank() {
    for world in 1..=7_u32 {
        let mut operands: Vec<Vec<u64>> = (0..world)
            .map(|rank| {
                let mut blocks = vec![0; 2 * world as usize];
                blocks[2 * rank as usize..][..2].fill(u64::from(rank) + 1);
                blocks
            })
            .collect();
        let sent = simulate(&mut operands, |ring, verbs| all_gather(ring, 2, verbs));
        let expected: Vec<u64> = (1..=u64::from(world)).flat_map(|v| [v, v]).collect();
        assert!(operands.iter().all(|operand| *operand == expected));
        let steps = Kind::AllGather.steps(world);
        assert!(sent.iter().all(|&messages| messages == steps));
    }
}

#[test]
fn no_rank_leaves_a_barrier_before_all_have_entered() {
    for world in 2..=6 {
        for absent in 0..world {
            let mut operands = vec![Vec::new(); world as usize];
            let outcome = run(&mut operands, |ring, verbs| {
                if ring.rank() == Rank(absent) {
                    return Ok(());
                }
                barrier(ring, verbs)
            });
            let left = |rank: u32| outcome.scripts[rank as usize].is_empty();
            assert!((0..world).all(|rank| left(rank) == (rank == absent)));
        }
    }
}

#[test]
fn phases_follow_the_laps() {
    let phases: Vec<_> = (0..6)
        .map(|step| Kind::AllReduce(ElementType::F32, Reduce::Sum).phase(step, 4))
        .collect();
    assert_eq!(phases[..3], [Phase::ReduceScatter; 3]);
    assert_eq!(phases[3..], [Phase::AllGather; 3]);
    assert_eq!(Kind::AllGather.phase(0, 4), Phase::AllGather);
    assert_eq!(Kind::Broadcast(Rank(1)).phase(0, 4), Phase::Broadcast);
}
