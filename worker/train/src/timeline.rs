//! What all ranks did when, as a file for viewers of traces.
//!
//! # Contract
//! - A rank keeps its last [`events_max`] events, and no more memory than these take. Without a
//!   timeline no clock is read for it.
//! - At the end of the job rank 0 gathers all events over the ring and writes one file, whole or not at
//!   all, in the JSON array format of Chrome's trace events ("Trace Event Format", 2016), which
//!   Perfetto reads. Of a job that fails or is cancelled, it writes what the ranks hand over that are
//!   alive: [`Parting`].
//! - A process is a rank; its rows are its steps, the replicas that run at once, and communication.
//!   Waits of buckets, which overlap each other, are asynchronous events.
//! - **Clocks.** Every rank's times are its own clock's. At the end all pass a few barriers; clocks are
//!   shifted so that all ranks leave the quickest of these at the same time. So times of two ranks, on
//!   one host or on several, are comparable to within the time of that barrier, about a round trip.

mod parting;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use ringfold_collective::{CollectiveError, Ring};
use ringfold_common::clock::Clock;
use ringfold_common::ids::{Rank, Step};
use ringfold_storage::{check_output_dir, write_whole};

use crate::error::TrainError;
use crate::lanes::overlapped::Transfer;

pub use parting::Parting;

/// Barriers that clocks are compared at.
const BARRIERS: usize = 5;
/// The most events of one rank, and about the most of all.
const EVENTS_MAX: usize = 1 << 14;
const EVENTS_MAX_OF_ALL: usize = 1 << 18;
const EVENTS_MIN: usize = 1 << 8;
/// Numbers that an event is sent as.
const WORDS: usize = 5;
/// The row of communication; replicas that run at once have those from 1 on.
const COMMUNICATION: u16 = u16::MAX;

/// What a rank does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// It gathers and scales the samples of a batch.
    Gather,
    /// The forward part of a run.
    Forward,
    /// The backward part.
    Backward,
    /// A bucket's gradients are final, and it waits for its turn.
    BucketWait,
    /// A bucket is summed over all ranks.
    Bucket,
    /// Training waits for sums over all ranks.
    Sum,
    /// Clipping and the optimizer.
    Update,
    /// Weights are compared.
    Check,
    /// Test records are evaluated.
    Evaluate,
}

impl Doing {
    const ALL: [(Self, &str); 9] = [
        (Self::Gather, "data"),
        (Self::Forward, "forward"),
        (Self::Backward, "backward"),
        (Self::BucketWait, "bucket waits"),
        (Self::Bucket, "bucket"),
        (Self::Sum, "wait for sums"),
        (Self::Update, "optimizer"),
        (Self::Check, "check"),
        (Self::Evaluate, "evaluation"),
    ];

    fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// What was done from when to when, on the rank's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What.
    pub doing: Doing,
    /// From when.
    pub start: Duration,
    /// To when.
    pub end: Duration,
}

/// A span with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    span: Span,
    row: u16,
    step: Step,
    /// Of a bucket.
    bucket: u32,
    /// Of a bucket; 0 of anything else.
    bytes: u64,
}

/// The last events of a rank.
#[derive(Debug)]
pub struct Timeline {
    events: VecDeque<Event>,
    events_max: usize,
}

/// The most events that each of `world` ranks keeps: 16,384, or fewer where there are over 16 ranks.
#[must_use]
pub fn events_max(world: u32) -> usize {
    (EVENTS_MAX_OF_ALL / world.max(1) as usize).clamp(EVENTS_MIN, EVENTS_MAX)
}

impl Timeline {
    /// That of a rank of `world`.
    #[must_use]
    pub fn new(world: u32) -> Self {
        let events_max = events_max(world);
        Self {
            events: VecDeque::with_capacity(events_max),
            events_max,
        }
    }

    /// Finds out whether the file can be written.
    ///
    /// # Errors
    /// As [`check_output_dir`].
    pub fn check(path: &Path) -> Result<(), TrainError> {
        Ok(check_output_dir(path.parent().unwrap_or(Path::new("/")))?)
    }

    /// Something that the rank itself did in `step`.
    pub fn add(&mut self, step: Step, doing: Doing, start: Duration, end: Duration) {
        let span = Span { doing, start, end };
        self.push(span, 0, step);
    }

    /// What the `lane`-th of the replicas that ran at once did in `step`.
    pub fn add_lane(&mut self, step: Step, lane: usize, spans: impl Iterator<Item = Span>) {
        let row = u16::try_from(lane + 1).unwrap_or(COMMUNICATION - 1);
        spans.for_each(|span| self.push(span, row, step));
    }

    /// The sums of the buckets of `step`.
    pub fn add_transfers(&mut self, step: Step, transfers: &[Transfer]) {
        for (bucket, transfer) in (0..).zip(transfers) {
            let spans = [
                (Doing::BucketWait, transfer.ready, transfer.began),
                (Doing::Bucket, transfer.began, transfer.ended),
            ];
            for (doing, start, end) in spans {
                self.push_event(Event {
                    span: Span { doing, start, end },
                    row: COMMUNICATION,
                    step,
                    bucket,
                    bytes: transfer.bytes as u64,
                });
            }
        }
    }

    fn push(&mut self, span: Span, row: u16, step: Step) {
        self.push_event(Event {
            span,
            row,
            step,
            bucket: 0,
            bytes: 0,
        });
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() == self.events_max {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Gathers the events of all ranks at rank 0, which writes them to `path`. All ranks call it.
    ///
    /// # Errors
    /// The ring's, and a file that can't be written.
    pub fn write(&self, path: &Path, ring: &mut Ring, clock: &dyn Clock) -> Result<(), TrainError> {
        let shifts = shifts(ring, clock)?;
        let counts: Vec<usize> = ring
            .all_gather_bytes(&(self.events.len() as u64).to_le_bytes())?
            .into_iter()
            .map(|count| u64::from_le_bytes(count) as usize)
            .collect();
        let longest = counts.iter().copied().max().unwrap_or(0);
        let mut block: Vec<i64> = self.events.iter().flat_map(to_words).collect();
        block.resize(longest * WORDS, 0);
        let at_root = ring.rank() == Rank(0);
        let mut all = vec![
            0;
            if at_root {
                block.len() * counts.len()
            } else {
                0
            }
        ];
        ring.gather(Rank(0), &block, &mut all)?;
        if !at_root {
            return Ok(());
        }
        let ranks = all.chunks_exact((longest * WORDS).max(1)).zip(&counts);
        let ranks: Vec<Vec<Event>> = ranks
            .map(|(words, &count)| {
                let events = words.chunks_exact(WORDS).take(count);
                events.filter_map(from_words).collect()
            })
            .collect();
        Ok(write_whole(path, trace(&ranks, &shifts).as_bytes())?)
    }
}

/// By rank, what is to be added to its times, in nanoseconds, to make them rank 0's.
fn shifts(ring: &mut Ring, clock: &dyn Clock) -> Result<Vec<i64>, CollectiveError> {
    let mut times = [[0_i64; 2]; BARRIERS];
    for [before, after] in &mut times {
        *before = nanos(clock.monotonic());
        ring.barrier()?;
        *after = nanos(clock.monotonic());
    }
    let mut all = vec![[[0_i64; 2]; BARRIERS]; ring.world() as usize];
    ring.all_gather(
        times.as_flattened(),
        all.as_flattened_mut().as_flattened_mut(),
    )?;
    Ok(aligned(&all))
}

/// The shifts by which all ranks leave at once the barrier in which nobody was for long.
fn aligned(all: &[[[i64; 2]; BARRIERS]]) -> Vec<i64> {
    let longest = |number: usize| {
        let stays = all.iter().map(|rank| rank[number][1] - rank[number][0]);
        stays.max()
    };
    let quickest = (0..BARRIERS).min_by_key(|&number| longest(number));
    let left = |rank: &[[i64; 2]; BARRIERS]| rank[quickest.unwrap_or(0)][1];
    let reference = all.first().map_or(0, left);
    all.iter().map(|rank| reference - left(rank)).collect()
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn to_words(event: &Event) -> [i64; WORDS] {
    let Event {
        span,
        row,
        step,
        bucket,
        bytes,
    } = event;
    let kind = i64::from(span.doing as u8) | i64::from(*row) << 8 | i64::from(*bucket) << 32;
    let (start, end) = (nanos(span.start), nanos(span.end));
    [kind, step.0 as i64, start, end, *bytes as i64]
}

/// `None` of what no rank of this version sends.
fn from_words(words: &[i64]) -> Option<Event> {
    let &[kind, step, start, end, bytes] = words else {
        return None;
    };
    let time = |nanos: i64| Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    Some(Event {
        span: Span {
            doing: Doing::ALL.get((kind & 0xff) as usize)?.0,
            start: time(start),
            end: time(end),
        },
        row: (kind >> 8) as u16,
        step: Step(step as u64),
        bucket: (kind >> 32) as u32,
        bytes: bytes as u64,
    })
}

/// All events as JSON, times in microseconds from the first one.
fn trace(ranks: &[Vec<Event>], shifts: &[i64]) -> String {
    let on_common_clock = |time: Duration, rank: usize| nanos(time).saturating_add(shifts[rank]);
    let starts = ranks.iter().enumerate().flat_map(|(rank, events)| {
        let events = events.iter();
        events.map(move |event| on_common_clock(event.span.start, rank))
    });
    let origin = starts.min().unwrap_or(0);
    let mut json = String::from("[\n");
    for (rank, events) in ranks.iter().enumerate() {
        name_rows(&mut json, rank, events);
        for event in events {
            let at = |time| (on_common_clock(time, rank) - origin) as f64 / 1000.0;
            let (start, end) = (at(event.span.start), at(event.span.end));
            add_event(&mut json, rank, event, (start, end));
        }
    }
    json.truncate(json.trim_end_matches([',', '\n']).len());
    json.push_str("\n]\n");
    json
}

fn name_rows(json: &mut String, rank: usize, events: &[Event]) {
    let rows: std::collections::BTreeSet<u16> = events.iter().map(|event| event.row).collect();
    let mut add = |what: &str, row: u16, name: String| {
        // Names are ours: nothing in them needs escaping.
        let _ = writeln!(
            json,
            "{{\"ph\":\"M\",\"name\":\"{what}\",\"pid\":{rank},\"tid\":{row},\
             \"args\":{{\"name\":\"{name}\"}}}},"
        );
    };
    add("process_name", 0, format!("rank {rank}"));
    for row in rows {
        let name = match row {
            0 => "steps".to_owned(),
            COMMUNICATION => "communication".to_owned(),
            lane => format!("replica at once {lane}"),
        };
        add("thread_name", row, name);
    }
}

fn add_event(json: &mut String, rank: usize, event: &Event, (start, end): (f64, f64)) {
    let Event {
        span, row, step, ..
    } = event;
    let (name, bucket, bytes) = (span.doing.name(), event.bucket, event.bytes);
    let of_bucket = matches!(span.doing, Doing::Bucket | Doing::BucketWait);
    let args = match of_bucket {
        true => format!("{{\"step\":{step},\"bucket\":{bucket},\"bytes\":{bytes}}}"),
        false => format!("{{\"step\":{step}}}"),
    };
    let _ = match span.doing {
        Doing::BucketWait => writeln!(
            json,
            "{{\"ph\":\"b\",\"cat\":\"bucket\",\"id\":\"{rank}.{step}.{bucket}\",\
             \"name\":\"{name}\",\"pid\":{rank},\"tid\":{row},\"ts\":{start:.3},\
             \"args\":{args}}},\n\
             {{\"ph\":\"e\",\"cat\":\"bucket\",\"id\":\"{rank}.{step}.{bucket}\",\
             \"name\":\"{name}\",\"pid\":{rank},\"tid\":{row},\"ts\":{end:.3}}},"
        ),
        _ => writeln!(
            json,
            "{{\"ph\":\"X\",\"name\":\"{name}\",\"pid\":{rank},\"tid\":{row},\
             \"ts\":{start:.3},\"dur\":{:.3},\"args\":{args}}},",
            (end - start).max(0.0)
        ),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn events_survive_their_words_and_unknown_ones_do_not() {
        for (doing, _) in Doing::ALL {
            let event = Event {
                span: Span {
                    doing,
                    start: ms(3),
                    end: Duration::from_nanos(u64::MAX / 4),
                },
                row: COMMUNICATION,
                step: Step(1 << 40),
                bucket: 70_000,
                bytes: 1 << 33,
            };
            assert_eq!(from_words(&to_words(&event)), Some(event));
        }
        assert_eq!(from_words(&[200, 0, 0, 0, 0]), None);
        for (at, (doing, _)) in Doing::ALL.into_iter().enumerate() {
            assert_eq!(doing as usize, at);
        }
    }

    #[test]
    fn the_last_events_are_kept() {
        let mut timeline = Timeline::new(1024);
        assert_eq!(timeline.events_max, 256);
        for step in 1..=1000 {
            timeline.add(Step(step), Doing::Update, ms(step), ms(step + 1));
        }
        assert_eq!(timeline.events.len(), 256);
        assert_eq!(timeline.events[0].step, Step(745));
        assert_eq!(events_max(1), EVENTS_MAX);
    }

    #[test]
    fn clocks_meet_where_all_left_the_quickest_barrier() {
        let mut all = [[[0, 1000]; BARRIERS]; 2];
        all[1] = [[5000, 6200]; BARRIERS];
        // Nobody was in the fourth for long.
        all[0][3] = [2000, 2010];
        all[1][3] = [7000, 7020];
        assert_eq!(aligned(&all), [0, 2010 - 7020]);
    }

    #[test]
    fn a_trace_is_json_on_one_clock() {
        let mut timelines = [Timeline::new(2), Timeline::new(2)];
        for (timeline, late) in timelines.iter_mut().zip([0, 500]) {
            let span = |doing, start, end| Span {
                doing,
                start: ms(late + start),
                end: ms(late + end),
            };
            let lane = [span(Doing::Forward, 10, 20), span(Doing::Backward, 20, 40)];
            timeline.add_lane(Step(3), 1, lane.into_iter());
            let transfer = Transfer {
                ready: ms(late + 25),
                began: ms(late + 26),
                ended: ms(late + 38),
                bytes: 4096,
            };
            timeline.add_transfers(Step(3), &[transfer; 2]);
            timeline.add(Step(3), Doing::Update, ms(late + 40), ms(late + 41));
        }
        let ranks = timelines.map(|timeline| Vec::from(timeline.events));
        let json = trace(&ranks, &[0, -500_000_000]);
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        let events = parsed.as_array().unwrap();
        let of = |name: &str, rank: u64| {
            let found = events
                .iter()
                .find(|event| event["name"] == name && event["pid"] == rank && event["ph"] != "M");
            found.unwrap().clone()
        };
        for rank in 0..2 {
            let backward = of("backward", rank);
            assert_eq!(
                (&backward["ts"], &backward["dur"]),
                (&10e3.into(), &20e3.into())
            );
            assert_eq!(backward["tid"], 2);
            let bucket = of("bucket", rank);
            assert_eq!(
                (&bucket["ts"], &bucket["dur"]),
                (&16e3.into(), &12e3.into())
            );
            assert_eq!(bucket["args"]["bytes"], 4096);
            assert_eq!(of("bucket waits", rank)["ph"], "b");
            assert_eq!(of("optimizer", rank)["args"]["step"], 3);
        }
        let rows = events.iter().filter(|event| event["name"] == "thread_name");
        assert_eq!(rows.count(), 6);
        let nothing = trace(&[Vec::new()], &[0]);
        let parsed: serde_json::Value = serde_json::from_str(&nothing).unwrap();
        assert_eq!(parsed.as_array().unwrap().len(), 1);
    }
}
