//! A step whose gradients are summed over ranks while they are computed.
//!
//! # Contract
//! - All replicas of the rank but the last that run at once are computed and folded as ever. Of those
//!   last ones, a bucket whose gradients are final in all of them is folded with what is there, by
//!   whoever finished it, and handed to the ring, which sums it over all ranks meanwhile. The model's
//!   state and the loss are the last bucket.
//! - Every rank starts the sums of all buckets in order, so all ranks must have the same [`Buckets`].
//! - The fold of a bucket is that of the whole: the same tree over replicas, the same additions. A
//!   reproducible sum has the same bits for any buckets, and as without them. A fast one depends on
//!   them as it depends on the world: for three ranks and more.
//! - A replica that computes in rounds sends in its last one.
//! - Each bucket is compressed for itself, if the job compresses ([`GradientSum`]); the last one isn't.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfold_collective::{InFlight, Pending, ReplicaBuffers, Ring};
use ringfold_common::clock::Clock;
use ringfold_common::job::FoldMode;
use ringfold_compute::TrainHook;
use ringfold_compute::cpu::team;

use super::round::Round;
use super::{Lane, Lanes, StepInput, add_terms};
use crate::batches::Batches;
use crate::buckets::Buckets;
use crate::compression::GradientSum;
use crate::contribution::Contribution;
use crate::error::{TrainError, check_abort};

/// How a step's gradients are summed while they are computed.
pub struct Overlapped<'a> {
    /// What sums them.
    pub ring: &'a mut Ring,
    /// In which messages.
    pub buckets: &'a Buckets,
    /// In which order: [`FoldMode::Fast`], or by the tree over replicas.
    pub mode: FoldMode,
    /// How, in which form.
    pub sum: &'a mut GradientSum,
}

/// What became of a step.
#[derive(Debug)]
pub struct Ran {
    /// When the last gradient was computed.
    pub computed: Duration,
    /// The sums of the buckets, in order; that of the model's state and the loss is the last.
    pub transfers: Vec<Transfer>,
}

/// When a bucket was summed, on the step's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its gradients were final and folded.
    pub ready: Duration,
    /// The ring began it.
    pub began: Duration,
    /// It was summed over all ranks.
    pub ended: Duration,
    /// Its length.
    pub bytes: usize,
}

impl Lanes {
    /// As [`Lanes::run`] and a sum of `fold` over all ranks, which is in [`ReplicaBuffers::sum`]
    /// afterwards.
    ///
    /// # Errors
    /// As [`Lanes::run`], and the ring's.
    pub fn run_overlapped(
        &mut self,
        input: &StepInput<'_>,
        fold: &mut ReplicaBuffers<f32, Contribution>,
        overlapped: Overlapped<'_>,
        clock: &dyn Clock,
    ) -> Result<Ran, TrainError> {
        let Overlapped {
            ring,
            buckets,
            mode,
            sum,
        } = overlapped;
        sum.begin_buckets(input.step, ends_of(buckets, input))?;
        let sum = &*sum;
        let split = self.split();
        let began = clock.monotonic();
        let last = self.replicas.len().saturating_sub(1) / split.at_once * split.at_once;
        let (before, wave) = self.replicas.split_at_mut(last);
        for wave in before.chunks_mut(split.at_once) {
            super::run_wave(&mut self.lanes, wave, split, input, fold)?;
        }

        let lanes = &mut self.lanes[..wave.len()];
        let (parameters, states) = (input.parameters.len(), input.state.len());
        let mut contributions = Vec::with_capacity(lanes.len());
        for lane in lanes.iter_mut() {
            let free = lane.contribution.take().or_else(|| fold.reuse());
            contributions.push(match free {
                Some(contribution) => contribution,
                None => Contribution::new(parameters, states)?,
            });
        }
        let parts = fold.parts(&ends_of(buckets, input))?;
        let mut work: Vec<Work<'_, '_>> = lanes
            .iter_mut()
            .zip(&*wave)
            .zip(&mut contributions)
            .map(|((lane, batches), contribution)| {
                lane.batches = Some(*batches);
                Work {
                    lane,
                    contribution: Some(contribution),
                }
            })
            .collect();
        let (transfers, computed) = ring.in_flight(|in_flight| {
            let sums = Sums::new(in_flight, parts, work.len(), (mode, sum), clock);
            team::each_on(split.threads, &mut work, |number, work| {
                let hand_in = HandIn {
                    sums: &sums,
                    replica: number,
                };
                work.run(input, split.threads, buckets.ends(), hand_in);
            });
            let computed = clock.monotonic();
            let failed = work.iter().any(|work| work.lane.result.is_err());
            // Where a replica has failed, not all sums were started, and the ring goes down.
            let transfers = if failed {
                Ok(Vec::new())
            } else {
                sums.finish()
            };
            (transfers, computed)
        })?;
        for (lane, batches) in lanes.iter_mut().zip(wave) {
            *batches = lane.batches.take().unwrap_or(*batches);
            std::mem::replace(&mut lane.result, Ok(()))?;
        }
        let transfers = transfers?;
        // What was added bucket by bucket is not added again.
        for contribution in contributions {
            fold.push_with(contribution, |_, _| {})?;
        }
        if mode == FoldMode::Fast {
            fold.add_up_with(|_, _| {})?;
        }
        self.record(computed.saturating_sub(began));
        Ok(Ran {
            computed,
            transfers,
        })
    }
}

/// Where the buckets of gradients end, and that of the model's state and the loss.
fn ends_of(buckets: &Buckets, input: &StepInput<'_>) -> Vec<usize> {
    let mut ends = buckets.ends().to_vec();
    ends.push(input.parameters.len() + Contribution::rest_len(input.state.len()));
    ends
}

/// A replica that runs now, and where what it adds is written.
struct Work<'a, 'env> {
    lane: &'a mut Lane,
    contribution: Option<&'env mut Contribution>,
}

impl<'env> Work<'_, 'env> {
    fn run(
        &mut self,
        input: &StepInput<'_>,
        threads: usize,
        ends: &[usize],
        hand_in: HandIn<'_, '_, 'env>,
    ) {
        if let (Some(mut batches), Some(contribution)) =
            (self.lane.batches, self.contribution.take())
        {
            let lane = &mut *self.lane;
            lane.result = lane.contribute_in_parts(
                &mut batches,
                contribution,
                input,
                (threads, ends),
                hand_in,
            );
            lane.batches = Some(batches);
        }
    }
}

impl Lane {
    /// As [`Lane::contribute`], handing in each bucket as soon as it is final.
    fn contribute_in_parts<'env>(
        &mut self,
        batches: &mut Batches,
        contribution: &'env mut Contribution,
        input: &StepInput<'_>,
        (threads, ends): (usize, &[usize]),
        mut hand_in: HandIn<'_, '_, 'env>,
    ) -> Result<(), TrainError> {
        let micro_batch = batches.micro_batch(input.step);
        let rounds = batches.rounds();
        let parts = (0..rounds).map(|round| (round, micro_batch.round(round, rounds)));
        let mut parts: Vec<_> = parts.filter(|(_, part)| !part.is_empty()).collect();
        let Some((round, part)) = parts.pop() else {
            contribution.clear();
            let (gradients, rest) = contribution.split();
            for (number, piece) in pieces(gradients, ends).into_iter().enumerate() {
                hand_in.finished(number, piece);
            }
            hand_in.rest(ends.len(), rest);
            return Ok(());
        };
        let mut loss = 0.0;
        let accumulates = !parts.is_empty();
        for (number, (round, part)) in parts.into_iter().enumerate() {
            check_abort(input.abort)?;
            let target = match (&mut self.round, number > 0) {
                (Some(round), true) => round,
                _ => &mut *contribution,
            };
            let run = Round {
                part: &part,
                number: round,
                threads,
                ends: &[input.parameters.len()],
            };
            let mean = run.run_whole(&mut self.plans, batches, input, target, &mut self.spans)?;
            loss += mean * part.len() as f64;
            if let (Some(round), true) = (&self.round, number > 0) {
                contribution.add(round);
            }
        }
        check_abort(input.abort)?;

        let last = Round {
            part: &part,
            number: round,
            threads,
            ends,
        };
        let (plans, spans) = (&mut self.plans, &mut self.spans);
        let (states, samples) = (input.state.len(), part.len() as f64);
        let global_len = micro_batch.global_len() as f64;
        match (&mut self.round, accumulates) {
            (Some(added), true) => {
                let (sums, rest) = contribution.split();
                let mut add = AddAndHandIn {
                    sums: pieces(sums, ends).into_iter(),
                    hand_in: &mut hand_in,
                };
                let written = added.start(input.state);
                let mean = last.run(plans, batches, input, written, spans, &mut add)?;
                added.weigh_state(part.weight());
                add_terms(&mut rest[..states], added.state(), None);
                rest[states] = ((loss + mean * samples) / global_len) as f32;
                hand_in.rest(ends.len(), rest);
            }
            _ => {
                let (gradients, rest) = contribution.start_rest(input.state);
                let written = (gradients, &mut rest[..states]);
                let mean = last.run(plans, batches, input, written, spans, &mut hand_in)?;
                Contribution::weigh(&mut rest[..states], part.weight());
                rest[states] = (mean * samples / global_len) as f32;
                hand_in.rest(ends.len(), rest);
            }
        }
        Ok(())
    }
}

/// Cuts a vector at `ends`.
fn pieces<'a>(mut vector: &'a mut [f32], ends: &[usize]) -> Vec<&'a mut [f32]> {
    let mut start = 0;
    let mut pieces = Vec::with_capacity(ends.len());
    for &end in ends {
        let (piece, rest) = vector.split_at_mut(end - start);
        pieces.push(piece);
        (vector, start) = (rest, end);
    }
    pieces
}

/// Hands in the buckets of one of the replicas that run now.
struct HandIn<'s, 'q, 'env> {
    sums: &'s Sums<'q, 'env>,
    replica: usize,
}

impl<'env> HandIn<'_, '_, 'env> {
    /// The model's state and the loss as bucket `number`.
    fn rest(&self, number: usize, rest: &'env mut [f32]) {
        self.sums.hand_in(self.replica, number, rest);
    }
}

impl<'env> TrainHook<'env, f32> for HandIn<'_, '_, 'env> {
    fn finished(&mut self, part: usize, gradients: &'env mut [f32]) {
        if let Some(half) = self.sums.sum.bucket_rounding(part) {
            half.round(gradients);
        }
        self.sums.hand_in(self.replica, part, gradients);
    }
}

/// Adds what the last round adds to the sums of those before, and hands these in.
struct AddAndHandIn<'h, 's, 'q, 'env> {
    sums: std::vec::IntoIter<&'env mut [f32]>,
    hand_in: &'h mut HandIn<'s, 'q, 'env>,
}

impl<'g> TrainHook<'g, f32> for AddAndHandIn<'_, '_, '_, '_> {
    fn finished(&mut self, part: usize, gradients: &'g mut [f32]) {
        if let Some(sums) = self.sums.next() {
            add_terms(sums, gradients, None);
            self.hand_in.finished(part, sums);
        }
    }
}

/// The sums of a step's buckets over all replicas and ranks.
struct Sums<'q, 'env> {
    in_flight: &'q InFlight<'env>,
    mode: FoldMode,
    sum: &'env GradientSum,
    clock: &'env dyn Clock,
    state: Mutex<State<'env>>,
}

struct State<'env> {
    buckets: Vec<Bucket<'env>>,
    /// Those before have been started.
    next: usize,
    pending: Vec<Pending<Transfer>>,
    failed: Option<TrainError>,
}

/// One bucket on its way to the ring.
enum Bucket<'env> {
    /// By replica that runs now, its part, once it is in.
    Open {
        fold: ReplicaBuffers<f32, &'env mut [f32]>,
        parts: Vec<Option<&'env mut [f32]>>,
    },
    /// Its parts are added up.
    Folding,
    /// It waits for the buckets before it.
    Folded {
        fold: ReplicaBuffers<f32, &'env mut [f32]>,
        ready: Duration,
    },
    /// The ring has it.
    Started,
}

impl<'q, 'env> Sums<'q, 'env> {
    fn new(
        in_flight: &'q InFlight<'env>,
        folds: Vec<ReplicaBuffers<f32, &'env mut [f32]>>,
        replicas: usize,
        (mode, sum): (FoldMode, &'env GradientSum),
        clock: &'env dyn Clock,
    ) -> Self {
        let open = |fold| Bucket::Open {
            fold,
            parts: (0..replicas).map(|_| None).collect(),
        };
        Self {
            in_flight,
            mode,
            sum,
            clock,
            state: Mutex::new(State {
                buckets: folds.into_iter().map(open).collect(),
                next: 0,
                pending: Vec::new(),
                failed: None,
            }),
        }
    }

    /// Takes a replica's part of a bucket; whoever brings the last one adds all up.
    fn hand_in(&self, replica: usize, bucket: usize, part: &'env mut [f32]) {
        let taken = {
            let mut state = self.lock();
            let place = &mut state.buckets[bucket];
            if let Bucket::Open { parts, .. } = place {
                parts[replica] = Some(part);
                if parts.iter().any(Option::is_none) {
                    return;
                }
            }
            std::mem::replace(place, Bucket::Folding)
        };
        let Bucket::Open { fold, parts } = taken else {
            return;
        };
        let folded = self.fold(bucket, fold, parts.into_iter().flatten());
        let mut state = self.lock();
        match folded {
            Ok(fold) => {
                let ready = self.clock.monotonic();
                state.buckets[bucket] = Bucket::Folded { fold, ready };
                self.start(&mut state);
            }
            Err(error) => {
                state.failed.get_or_insert(error);
            }
        }
    }

    fn fold(
        &self,
        bucket: usize,
        mut fold: ReplicaBuffers<f32, &'env mut [f32]>,
        parts: impl Iterator<Item = &'env mut [f32]>,
    ) -> Result<ReplicaBuffers<f32, &'env mut [f32]>, TrainError> {
        let half = self.sum.bucket_rounding(bucket);
        let rounding = half.map(|half| (half, usize::MAX));
        let add = |sums: &mut [f32], terms: &[f32]| add_terms(sums, terms, rounding);
        for part in parts {
            fold.push_with(part, add)?;
        }
        if self.mode == FoldMode::Fast {
            fold.add_up_with(add)?;
        }
        Ok(fold)
    }

    /// Starts the sums of all buckets that are next.
    fn start(&self, state: &mut State<'env>) {
        while let Some(place) = state.buckets.get_mut(state.next)
            && matches!(place, Bucket::Folded { .. })
        {
            let started = std::mem::replace(place, Bucket::Started);
            let bucket = state.next;
            state.next += 1;
            if let Bucket::Folded { fold, ready } = started {
                state.pending.push(self.sum(bucket, fold, ready));
            }
        }
    }

    fn sum(
        &self,
        bucket: usize,
        mut fold: ReplicaBuffers<f32, &'env mut [f32]>,
        ready: Duration,
    ) -> Pending<Transfer> {
        let (sum, clock) = (self.sum, self.clock);
        self.in_flight.start(sum.calls(bucket), move |ring| {
            let began = clock.monotonic();
            sum.run_bucket(bucket, ring, &mut fold)?;
            Ok(Transfer {
                ready,
                began,
                ended: clock.monotonic(),
                bytes: size_of_val(&**fold.sum()?),
            })
        })
    }

    /// Waits for all sums.
    fn finish(self) -> Result<Vec<Transfer>, TrainError> {
        let sum = self.sum;
        let state = self.state.into_inner();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.failed {
            return Err(error);
        }
        let pending = state.pending.into_iter();
        let ended = pending.map(Pending::wait).collect::<Result<_, _>>();
        ended.map_err(|error| sum.error(error))
    }

    fn lock(&self) -> MutexGuard<'_, State<'env>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
