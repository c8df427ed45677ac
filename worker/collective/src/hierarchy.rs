//! Ranks that share hosts: shared memory inside a host, a ring of the hosts' leaders between them.
//!
//! A vector goes through the levels in pieces of [`PIECE_BYTES`]: the ranks of a host fold theirs in
//! shared memory, leaders fold those of hosts over TCP, and each hands the result to its host. Every
//! rank ends with the bytes of the leaders' ring.
//!
//! A failure at one level closes the other, so that the ranks of all hosts learn of it. Its error
//! names ranks and operations as the whole ring numbers them.

use std::net::SocketAddr;

use ringfold_common::ids::Rank;

use crate::algorithm::TreeStep;
use crate::element::Fold;
use crate::identity::{DEADLINE_MAX, validate_identity};
use crate::locality::{Record, record, text};
use crate::over_tcp::{self, Net};
use crate::ring::in_rank_order;
use crate::topology::{Hosts, RingTopology};
use crate::transport::shared::{Board, SharedHost, Terms, half_bytes, join_board};
use crate::transport::tcp::{Call, Operand, have_cores};
use crate::{AbortSignal, CollectiveError, Identity, Listener, Metrics, RingOptions};

/// The bytes of a vector that pass the levels at once. Ranks hear of their leader once a piece; they
/// wait for it twice as long as it waits for others.
pub const PIECE_BYTES: usize = 8 << 20;

/// This rank's place among hosts.
pub(crate) struct Levels {
    hosts: Hosts,
    rank: Rank,
    /// The ranks of this host, unless it has one; rank 0 of it is the leader.
    host: Option<Box<Board>>,
    /// How their terms are folded.
    steps: Vec<TreeStep>,
    /// At a leader: those of all hosts, unless there is one.
    leaders: Option<(RingTopology, Box<Net>)>,
    half_bytes: usize,
    on_host: Numbers,
    among_leaders: Numbers,
}

/// The numbers of a level's operations, of which a call makes several, without gaps.
#[derive(Clone, Copy, Default)]
struct Numbers {
    last: u64,
    /// The last one before the call.
    before: u64,
}

impl Numbers {
    /// The next operation, for a part of `call`.
    fn next(&mut self, call: Call, piece: &[u8]) -> Call {
        self.last += 1;
        Call {
            operation: self.last,
            kind: call.kind,
            bytes: piece.len() as u64,
        }
    }
}

impl Levels {
    /// Joins both levels. At a leader, `listen` opens the port for
    /// the others. `exchange` gives each rank's record to all. All ranks call it, with the same
    /// hosts, of which none has more ranks than fit a segment.
    ///
    /// # Errors
    /// Those of joining a ring, whose ranks are then counted on this host, or among leaders.
    pub fn join(
        hosts: Hosts,
        identity: Identity,
        listen: impl FnOnce(&Hosts) -> Result<Listener, CollectiveError>,
        options: RingOptions,
        abort: AbortSignal,
        mut exchange: impl FnMut(&Record) -> Result<Vec<Record>, CollectiveError>,
    ) -> Result<Self, CollectiveError> {
        let rank = identity.rank;
        let leads = hosts.leader(rank) == rank;
        let meeting = leads.then(SharedHost::bind).transpose()?;
        let listener = leads.then(|| listen(&hosts)).transpose()?;
        let name = meeting.as_ref().map_or("", SharedHost::address);
        let names = exchange(&record(name))?;
        let addr = listener.as_ref().map(|l| l.addr().to_string());
        let addrs = exchange(&record(addr.as_deref().unwrap_or("")))?;

        let local = Identity {
            rank: hosts.local_rank(rank),
            world: hosts.local_world(rank),
            ..identity
        };
        let inside = RingOptions {
            progress_deadline: (options.progress_deadline * 2).min(DEADLINE_MAX),
            ..options
        };
        let host = match (local.world, meeting) {
            (1, _) => None,
            (_, Some(meeting)) => Some(meeting.join_board(local, inside, abort.clone())?),
            (_, None) => {
                let name = text(&names[hosts.leader(rank).0 as usize]);
                Some(join_board(name, local, inside, abort.clone())?)
            }
        };
        let among = Identity {
            rank: hosts.host_index(rank),
            world: hosts.leaders().len() as u32,
            ..identity
        };
        let leaders = match listener {
            Some(listener) if among.world > 1 => {
                let peers = addresses(&hosts, &addrs)?;
                let ring = validate_identity(&among)?;
                let options = RingOptions {
                    spin: options.spin && have_cores(local.world as usize),
                    ..options
                };
                let (meeting, mut link) = listener.meet(ring, among, &peers, &options, abort)?;
                if options.direct {
                    meeting.meet_directly(&mut link)?;
                }
                Some((ring, Box::new(Net::new(link))))
            }
            _ => None,
        };
        Ok(Self {
            steps: in_rank_order(local.world),
            hosts,
            rank,
            host: host.map(Box::new),
            leaders,
            half_bytes: half_bytes(options.segment_bytes),
            on_host: Numbers::default(),
            among_leaders: Numbers::default(),
        })
    }

    /// Which rank is where.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// The ring of leaders, at one of them.
    pub fn leaders_mut(&mut self) -> Option<&mut Net> {
        self.leaders.as_mut().map(|(_, net)| &mut **net)
    }

    /// The bytes of half a slot of the segments that ranks of hosts share.
    pub fn half_bytes(&self) -> usize {
        self.half_bytes
    }

    /// Folds `operand`, which has a fold, over all ranks.
    pub fn all_reduce(&mut self, call: Call, operand: Operand<'_>) -> Result<(), CollectiveError> {
        let Operand {
            bytes,
            element_bytes,
            fold,
        } = operand;
        let Some(fold) = fold else {
            debug_assert!(false, "an all-reduce folds");
            return Ok(());
        };
        for numbers in [&mut self.on_host, &mut self.among_leaders] {
            numbers.before = numbers.last;
        }
        let result = match bytes.is_empty() {
            true => self.fold_piece(call, &mut [], (fold, element_bytes)),
            false => bytes
                .chunks_mut(PIECE_BYTES)
                .try_for_each(|piece| self.fold_piece(call, piece, (fold, element_bytes))),
        };
        result.inspect_err(|_| self.shut_down())
    }

    /// Closes both levels.
    pub fn shut_down(&self) {
        if let Some(board) = &self.host {
            board.shut_down();
        }
        if let Some((_, net)) = &self.leaders {
            net.shut_down();
        }
    }

    /// Adds the counters of both levels to `metrics`.
    pub fn count(&self, metrics: &mut Metrics) {
        if let Some(board) = &self.host {
            metrics.bytes_sent += board.bytes_sent;
            metrics.bytes_received += board.bytes_received;
        }
        if let Some((_, net)) = &self.leaders {
            net.count(metrics);
        }
    }

    fn fold_piece(
        &mut self,
        call: Call,
        piece: &mut [u8],
        (fold, element_bytes): (Fold, usize),
    ) -> Result<(), CollectiveError> {
        self.run_on_host(call, piece, |board, piece, steps| {
            let terms = Terms {
                counts: &[],
                steps,
                fold,
                element_bytes,
            };
            board.all_reduce(&mut [piece], &terms)
        })?;
        if let Some((ring, net)) = &mut self.leaders {
            let part = self.among_leaders.next(call, piece);
            let operand = Operand {
                bytes: &mut *piece,
                element_bytes,
                fold: Some(fold),
            };
            let leaders = self.hosts.leaders();
            over_tcp::all_reduce(*ring, net, part, operand).map_err(|error| {
                let error = error.with_ranks(|index| leaders[index.0 as usize]);
                error.of_operation(call.operation, self.among_leaders.before)
            })?;
        }
        self.run_on_host(call, piece, |board, piece, _| {
            board.broadcast(Rank(0), piece)
        })
    }

    /// Runs one operation in the memory of this host.
    fn run_on_host(
        &mut self,
        call: Call,
        piece: &mut [u8],
        run: impl FnOnce(&mut Board, &mut [u8], &[TreeStep]) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let Some(board) = &mut self.host else {
            return Ok(());
        };
        let result = board
            .begin(self.on_host.next(call, piece))
            .and_then(|()| run(board, piece, &self.steps));
        let (hosts, here) = (&self.hosts, self.hosts.host_index(self.rank));
        result.map_err(|error| {
            let error = error.with_ranks(|local| hosts.rank_at(here, local));
            error.of_operation(call.operation, self.on_host.before)
        })
    }
}

fn addresses(hosts: &Hosts, records: &[Record]) -> Result<Vec<SocketAddr>, CollectiveError> {
    let leaders = hosts.leaders().iter();
    leaders
        .map(|leader| {
            let addr = text(&records[leader.0 as usize]);
            addr.parse().map_err(|_| {
                let what = format!("rank {leader} says that it listens at {addr:?}");
                let error = std::io::Error::new(std::io::ErrorKind::InvalidData, what);
                CollectiveError::system("reach the leader of a host", error)
            })
        })
        .collect()
}
