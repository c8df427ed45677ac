//! Every rank's verbs are written down first and then carried out in any order that the queues
//! between ranks allow: what could deadlock, doesn't pair up, or sends a range that is received
//! into before it has left, is seen for every world and length without one socket.

use std::collections::VecDeque;

use super::*;

const WORLDS: [u32; 18] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 32,
];

/// The lengths of Gloo's tests, and one below the number of ranks.
fn lengths(world: u32) -> impl Iterator<Item = usize> {
    [0, 1, 2, 3, 4, 100, 1000, 10_000]
        .into_iter()
        .chain([world as usize - 1])
}

#[derive(Clone, Debug)]
enum Verb {
    Send(Rank, Range<usize>),
    Recv(Rank, Range<usize>),
    RecvReduce(Rank, Range<usize>),
    Flush,
}

#[derive(Default)]
struct Script(VecDeque<Verb>);

impl PeerVerbs for Script {
    fn enter(&mut self, _: Phase) {}
    fn send(&mut self, to: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        self.0.push_back(Verb::Send(to, range));
        Ok(())
    }
    fn recv(&mut self, from: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        self.0.push_back(Verb::Recv(from, range));
        Ok(())
    }
    fn recv_reduce(&mut self, from: Rank, range: Range<usize>) -> Result<(), CollectiveError> {
        self.0.push_back(Verb::RecvReduce(from, range));
        Ok(())
    }
    fn flush(&mut self) -> Result<(), CollectiveError> {
        self.0.push_back(Verb::Flush);
        Ok(())
    }
}

fn topology(rank: u32, world: u32) -> RingTopology {
    RingTopology::new(Rank(rank), world).unwrap()
}

/// How far an operation came.
struct Outcome {
    /// By rank: all its verbs were carried out.
    finished: Vec<bool>,
    /// Rounds in which, at once, every rank did whatever it could.
    rounds: usize,
}

/// Runs one operation as far as it goes. With `lazily`, a queued range is read only when its
/// receiver takes it, as by a socket whose buffers are full.
fn run(
    operands: &mut [Vec<u64>],
    lazily: bool,
    algorithm: impl Fn(RingTopology, &mut Script) -> Result<(), CollectiveError>,
) -> Outcome {
    let world = operands.len();
    let mut scripts: Vec<_> = (0..world as u32)
        .map(|rank| {
            let mut script = Script::default();
            algorithm(topology(rank, world as u32), &mut script).unwrap();
            script.0
        })
        .collect();
    type Queue = VecDeque<(Range<usize>, Vec<u64>)>;
    let mut queues: Vec<Vec<Queue>> = vec![vec![VecDeque::new(); world]; world];
    let mut rounds = 0;
    loop {
        let mut moved = false;
        // What is sent in a round is received in the next.
        let sent_before: Vec<Vec<usize>> = queues
            .iter()
            .map(|row| row.iter().map(VecDeque::len).collect())
            .collect();
        let mut taken = vec![vec![0; world]; world];
        for rank in 0..world {
            while let Some(verb) = scripts[rank].front().cloned() {
                match verb {
                    Verb::Flush => {}
                    Verb::Send(to, range) => {
                        let values = operands[rank][range.clone()].to_vec();
                        queues[rank][to.0 as usize].push_back((range, values));
                    }
                    Verb::Recv(from, ref range) | Verb::RecvReduce(from, ref range) => {
                        let from = from.0 as usize;
                        if taken[from][rank] == sent_before[from][rank] {
                            break;
                        }
                        taken[from][rank] += 1;
                        let (there, mut values) = queues[from][rank].pop_front().unwrap();
                        if lazily {
                            values = operands[from][there.clone()].to_vec();
                        }
                        assert_eq!(there.len(), range.len(), "messages pair up");
                        let adds = matches!(verb, Verb::RecvReduce(..));
                        for (mine, got) in operands[rank][range.clone()].iter_mut().zip(values) {
                            *mine = if adds { *mine + got } else { got };
                        }
                    }
                }
                scripts[rank].pop_front();
                moved = true;
            }
        }
        if !moved {
            break;
        }
        rounds += 1;
    }
    let finished: Vec<bool> = scripts.iter().map(VecDeque::is_empty).collect();
    if finished.iter().all(|&finished| finished) {
        assert!(queues.iter().flatten().all(VecDeque::is_empty), "unread");
    }
    Outcome { finished, rounds }
}

/// Runs one operation to its end, and returns the rounds that it took.
fn simulate(
    operands: &mut [Vec<u64>],
    lazily: bool,
    algorithm: impl Fn(RingTopology, &mut Script) -> Result<(), CollectiveError>,
) -> usize {
    let outcome = run(operands, lazily, algorithm);
    assert!(outcome.finished.iter().all(|&f| f), "deadlock");
    outcome.rounds
}

fn values(world: u32, elements: usize) -> (Vec<Vec<u64>>, Vec<u64>) {
    let operand = |rank: u64| (0..elements as u64).map(move |i| (rank + 1) * 1000 + i * rank);
    let operands: Vec<Vec<u64>> = (0..u64::from(world))
        .map(|r| operand(r).collect())
        .collect();
    let sums = (0..elements)
        .map(|i| operands.iter().map(|operand| operand[i]).sum())
        .collect();
    (operands, sums)
}

#[test]
fn halving_and_doubling_sums_on_every_rank() {
    for (world, lazily) in WORLDS.into_iter().flat_map(|w| [(w, false), (w, true)]) {
        for elements in lengths(world) {
            let (mut operands, sums) = values(world, elements);
            let rounds = simulate(&mut operands, lazily, |ring, verbs| {
                halving_doubling(ring, elements, verbs)
            });
            assert!(operands.iter().all(|operand| *operand == sums), "{world}");
            let power = power_below(world);
            let extra = if power == world { 0 } else { 2 };
            // One more, since what the last round sends is received after it.
            assert!(
                rounds as u32 <= 2 * power.ilog2() + extra + 1,
                "{world}: {rounds}"
            );
        }
    }
}

#[test]
fn a_world_that_is_a_power_of_two_sends_no_more_than_the_ring() {
    for world in WORLDS.into_iter().filter(|world| world.is_power_of_two()) {
        let elements = 960 * world as usize;
        for rank in 0..world {
            let mut tally = Tally::default();
            halving_doubling(topology(rank, world), elements, &mut tally).unwrap();
            let share = elements - elements / world as usize;
            assert_eq!(tally.elements_sent, 2 * share);
            assert_eq!(tally.sent, 2 * world.ilog2());
            assert_eq!(tally.received, tally.sent);
        }
    }
}

#[test]
fn blocks_are_exchanged_with_every_rank() {
    for world in WORLDS {
        for elements in lengths(world).filter(|&elements| elements <= 1000) {
            let place = |half: usize, rank: Rank| {
                let start = (half * world as usize + rank.0 as usize) * elements;
                start..start + elements
            };
            let mut operands: Vec<Vec<u64>> = (0..world)
                .map(|from| {
                    let mut operand = vec![0; 2 * world as usize * elements];
                    for to in 0..world {
                        operand[place(0, Rank(to))].fill(u64::from(from * 100 + to));
                    }
                    operand
                })
                .collect();
            simulate(&mut operands, true, |ring, verbs| {
                let (out, into) = (|to| place(0, to), |from| place(1, from));
                exchange(ring, Phase::Route, out, into, verbs)
            });
            for (to, from) in (0..world).flat_map(|to| (0..world).map(move |from| (to, from))) {
                let got = &operands[to as usize][place(1, Rank(from))];
                let right = if from == to { 0 } else { from * 100 + to };
                assert!(got.iter().all(|&value| value == u64::from(right)));
            }
        }
    }
}

#[test]
fn chunks_are_summed_at_their_owners_and_handed_to_all() {
    for world in WORLDS {
        for elements in lengths(world) {
            let (mut operands, sums) = values(world, elements);
            simulate(&mut operands, false, |ring, verbs| {
                reduce_scatter_directly(ring, elements, verbs)
            });
            for (rank, operand) in operands.iter().enumerate() {
                let own = chunk(elements, world, rank as u32);
                assert_eq!(operand[own.clone()], sums[own]);
            }
            simulate(&mut operands, true, |ring, verbs| {
                exchange_chunks(ring, elements, verbs)
            });
            assert!(operands.iter().all(|operand| *operand == sums));
        }
    }
}

#[test]
fn a_tree_reaches_every_rank_from_every_root() {
    for world in WORLDS {
        for root in 0..world {
            let mut operands: Vec<Vec<u64>> =
                (0..world).map(|rank| vec![u64::from(rank); 3]).collect();
            let rounds = simulate(&mut operands, true, |ring, verbs| {
                broadcast_tree(ring, Rank(root), 3, verbs)
            });
            assert!(operands.iter().flatten().all(|&v| v == u64::from(root)));
            assert!(rounds as u32 <= world.next_power_of_two().ilog2() + 1);
        }
    }
}

#[test]
fn every_block_is_gathered_at_the_root() {
    for world in WORLDS {
        for root in [0, world / 2, world - 1] {
            let place = |from: Rank| from.0 as usize * 2..from.0 as usize * 2 + 2;
            let mut operands: Vec<Vec<u64>> = (0..world)
                .map(|rank| vec![u64::from(rank); 2 * world as usize])
                .collect();
            simulate(&mut operands, true, |ring, verbs| {
                gather_directly(ring, Rank(root), 0..2, place, verbs)
            });
            let expected: Vec<u64> = (0..u64::from(world)).flat_map(|rank| [rank; 2]).collect();
            assert_eq!(operands[root as usize], expected);
        }
    }
}

#[test]
fn no_rank_leaves_a_barrier_before_all_have_entered() {
    for world in 2..=17 {
        for absent in 0..world {
            let mut operands = vec![Vec::new(); world as usize];
            let outcome = run(&mut operands, false, |ring, verbs| {
                if ring.rank() == Rank(absent) {
                    return Ok(());
                }
                dissemination_barrier(ring, verbs)
            });
            let left = |rank: u32| outcome.finished[rank as usize];
            assert!((0..world).all(|rank| left(rank) == (rank == absent)));
        }
    }
}

#[test]
fn connections_are_mutual_few_and_enough() {
    for world in [2, 3, 63, 64, 65, 100, 1000, 1024] {
        let all: Vec<BTreeSet<Rank>> = (0..world)
            .map(|rank| direct_peers(topology(rank, world)))
            .collect();
        for (rank, peers) in (0..world).zip(&all) {
            let most = match world <= DIRECT_WORLD_MAX {
                true => world - 1,
                false => 3 * world.ilog2() + 2,
            };
            assert!(peers.len() as u32 <= most, "{world}: {}", peers.len());
            assert!(
                peers
                    .iter()
                    .all(|peer| all[peer.0 as usize].contains(&Rank(rank)))
            );
            let mut tally = Tally::default();
            let ring = topology(rank, world);
            halving_doubling(ring, 1, &mut tally).unwrap();
            dissemination_barrier(ring, &mut tally).unwrap();
            for root in [0, 1, world / 2, world - 1] {
                broadcast_tree(ring, Rank(root), 1, &mut tally).unwrap();
            }
            assert!(tally.peers.is_subset(peers));
        }
    }
}
