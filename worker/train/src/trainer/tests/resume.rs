//! Going on from a state: after any fault, on any number of ranks, as if nothing had happened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};

use ringfold_collective::testing::faults::{Fault, Moment, Plan, Wires};
use ringfold_collective::testing::{identity, join_memory, listener, on_threads};
use ringfold_collective::{Listener, RingOptions};
use ringfold_common::clock::UnixMillis;
use ringfold_common::job::EmaSpec;
use ringfold_graph::Graph;

use super::states::batch_norm_graph;
use super::updates::rules;
use super::*;
use crate::state::StateHeader;

/// Attempts that a fault ends, before one that nothing disturbs.
const FAULTS: usize = 5;

/// A clock that aborts its rank when it has been read so often.
struct Trap {
    clock: SystemClock,
    abort: AbortSignal,
    reads_left: AtomicI64,
}

impl Clock for Trap {
    fn monotonic(&self) -> Duration {
        if self.reads_left.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.abort.abort("the trap");
        }
        self.clock.monotonic()
    }

    fn wall(&self) -> UnixMillis {
        self.clock.wall()
    }
}

/// Numbers of a seed.
struct Draws {
    stream: Stream,
    drawn: u64,
}

impl Draws {
    fn new(seed: u64) -> Self {
        Self {
            stream: Stream::new(seed, 77),
            drawn: 0,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        u64::from(self.stream.word(self.drawn)) % bound
    }

    fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// What rank 0 has said, whoever was rank 0. What is said twice must be the same.
#[derive(Default)]
pub(super) struct Said {
    losses: BTreeMap<u64, [u64; 4]>,
    evaluations: BTreeMap<u64, BTreeMap<String, u64>>,
}

impl Said {
    fn progress(&mut self, progress: &Progress) {
        let said = [
            progress.samples,
            progress.loss.to_bits(),
            progress.learning_rate.to_bits(),
            progress.gradient_norm.to_bits(),
        ];
        let before = self.losses.insert(progress.step.0, said);
        assert!(before.is_none_or(|before| before == said), "{progress:?}");
    }

    /// Evaluations are sums over ranks in the order of ranks: the same up to rounding.
    fn evaluation(&mut self, evaluation: &Evaluation) {
        let metrics = evaluation.metrics.iter();
        let rounded = metrics.map(|(name, value)| (name.clone(), (value * 1e6).round() as u64));
        self.evaluations
            .insert(evaluation.step.0, rounded.collect());
    }
}

impl Observer for Mutex<Said> {
    fn phase(&self, _: Phase) {}
    fn step(&self, _: Step) {}
    fn progress(&self, progress: &Progress) {
        self.lock().unwrap().progress(progress);
    }
    fn evaluation(&self, evaluation: &Evaluation) {
        self.lock().unwrap().evaluation(evaluation);
    }
}

pub(super) type Ended = Result<Option<Summary>, TrainError>;

/// A job and what its rank 0 says.
pub(super) struct Job<'a> {
    pub spec: JobSpec,
    dataset: &'a Dataset,
    graph: Option<Graph>,
    said: Mutex<Said>,
}

impl<'a> Job<'a> {
    pub(super) fn new(fixture: &Fixture, dataset: &'a Dataset, graph: Option<Graph>) -> Self {
        Self {
            spec: fixture.spec.clone(),
            dataset,
            graph,
            said: Mutex::default(),
        }
    }

    /// One rank of one attempt.
    fn rank(
        &self,
        (mut ring, abort): (Ring, AbortSignal),
        clock: &dyn Clock,
        warm: &mut Option<TrainingState>,
    ) -> Ended {
        let info = self.dataset.info();
        let (rank, world) = (ring.rank(), ring.world());
        let replicas = self.spec.cluster.replicas;
        let job = RankJob {
            spec: &self.spec,
            dataset: self.dataset,
            rank,
            world,
            part: &RankPart::of(rank, world, replicas, info.test_records),
            threads: 1,
        };
        match &self.graph {
            None => train(&job, &mut ring, &abort, &self.said, clock, warm),
            Some(graph) => {
                let features = info.features as usize;
                let network = Network::from_graph(graph, features, &info.target, 1)?;
                let network = (network, ModelSources::default());
                Run::with_network(&job, network, &abort, &self.said, clock)?.train(&mut ring, warm)
            }
        }
    }

    /// Every rank of one attempt in memory, each with what it holds. The trap of the victim springs
    /// after so many reads of its clock.
    pub(super) fn attempt(
        &self,
        warm: Vec<Option<TrainingState>>,
        victim: usize,
        reads: i64,
    ) -> Vec<(Ended, Option<TrainingState>)> {
        let ranks = join_memory(warm.len() as u32, RingOptions::default());
        let ranks = ranks.into_iter().zip(warm).enumerate();
        on_threads(ranks.collect(), |(at, ((ring, abort), mut warm))| {
            let trap = Trap {
                clock: SystemClock::new(),
                abort: abort.clone(),
                reads_left: AtomicI64::new(if at == victim { reads } else { i64::MAX }),
            };
            let ended = self.rank((ring, abort), &trap, &mut warm);
            (ended, warm)
        })
    }

    pub(super) fn undisturbed(&self, world: usize) -> (String, Said) {
        let nobody = (0..world).map(|_| None).collect();
        let mut ended = self.attempt(nobody, world, 0).into_iter();
        let summary = ended.next().unwrap().0.unwrap().unwrap();
        let said = std::mem::take(&mut *self.said.lock().unwrap());
        (summary.weights_blake3, said)
    }

    /// Attempts that faults end, each on another number of ranks, and one that ends well. Returns the
    /// hash of the weights and how many faults struck after the first step.
    fn disturbed(&self, seed: u64) -> (String, usize) {
        let mut draws = Draws::new(seed);
        let replicas = u64::from(self.spec.cluster.replicas);
        let mut held: Vec<TrainingState> = Vec::new();
        let mut struck = 0;
        for attempt in 0.. {
            let world = 1 + draws.below(replicas) as usize;
            let mut warm: Vec<_> = held.drain(..).map(Some).take(world).collect();
            warm.resize_with(world, || None);
            draws.shuffle(&mut warm);
            let victim = match attempt < FAULTS {
                true => draws.below(world as u64) as usize,
                false => world,
            };
            let reads = draws.below(90) as i64;
            for (at, (ended, state)) in self.attempt(warm, victim, reads).into_iter().enumerate() {
                if let Ok(Some(summary)) = ended {
                    return (summary.weights_blake3, struck);
                }
                let state = state.filter(|state| state.step() > Step(0));
                if at == victim {
                    struck += usize::from(state.is_some());
                    // What a killed process held is gone.
                    if draws.below(2) == 0 {
                        continue;
                    }
                }
                held.extend(state);
            }
            draws.shuffle(&mut held);
        }
        unreachable!("an attempt that nothing disturbs ends well")
    }
}

pub(super) fn fixture() -> Fixture {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    fixture.spec.cluster.mode = FoldMode::Reproducible;
    fixture.spec.cluster.replicas = 5;
    fixture.spec.train.duration = TrainDuration::Epochs(3);
    fixture.spec.train.report_steps = 3;
    fixture.spec.train.evaluate = EvaluateEvery::Period(Period::Steps(7));
    fixture
}

/// Disturbs the job by each of the seeds, and compares.
fn check(fixture: &Fixture, graph: Option<Graph>, seeds: std::ops::Range<u64>) -> usize {
    let dataset = fixture.dataset();
    let job = Job::new(fixture, &dataset, graph.clone());
    let (weights, expected) = job.undisturbed(1);
    let mut struck = 0;
    for seed in seeds {
        let job = Job::new(fixture, &dataset, graph.clone());
        let (got, faults) = job.disturbed(seed);
        let what = format!("seed {seed}: {:?}", fixture.spec.train);
        assert_eq!(got, weights, "{what}");
        let said = job.said.into_inner().unwrap();
        assert_eq!(said.losses, expected.losses, "{what}");
        assert_eq!(said.evaluations, expected.evaluations, "{what}");
        let file = fixture.dir.path().join("out/metrics.jsonl");
        let text = std::fs::read_to_string(file).unwrap();
        let steps = |event: &str| -> Vec<u64> {
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
            let lines = lines.filter(|line: &serde_json::Value| line["event"] == event);
            lines.map(|line| line["step"].as_u64().unwrap()).collect()
        };
        assert!(
            steps("progress").iter().eq(expected.losses.keys()),
            "{text}"
        );
        assert!(steps("evaluation").iter().eq(expected.evaluations.keys()));
        struck += faults;
    }
    struck
}

#[test]
fn after_any_faults_on_any_ranks_every_rule_ends_with_the_bits_of_an_undisturbed_run() {
    let mut struck = 0;
    for (number, rule) in (0..).zip(rules()) {
        let mut fixture = fixture();
        fixture.spec.train.optimizer = rule;
        let seeds = 100 * number..100 * number + 3;
        struck += check(&fixture, None, seeds);
    }
    assert!(struck > 20, "{struck} faults struck after the first step");
}

#[test]
fn so_do_averages_rounds_masks_and_overlapped_sums() {
    let mut fixture = fixture();
    let Architecture::Mlp(mlp) = &mut fixture.spec.model.architecture else {
        unreachable!("the fixture's model")
    };
    mlp.dropout = 0.2;
    fixture.spec.train.accumulate = 2;
    fixture.spec.train.ema = Some(EmaSpec {
        decay: 0.9,
        warmup: true,
    });
    let mut struck = check(&fixture, None, 1000..1006);
    fixture.spec.cluster.overlap = Overlap::On;
    fixture.spec.cluster.bucket_bytes = 64;
    struck += check(&fixture, None, 1100..1106);
    assert!(struck > 15, "{struck} faults struck after the first step");
}

#[test]
fn so_do_running_statistics() {
    let mut fixture = fixture();
    fixture.spec.train.l2 = 0.0;
    fixture.spec.train.check_steps = 1;
    let mut struck = check(&fixture, Some(batch_norm_graph()), 2000..2006);
    fixture.spec.cluster.overlap = Overlap::On;
    fixture.spec.cluster.bucket_bytes = 64;
    struck += check(&fixture, Some(batch_norm_graph()), 2100..2106);
    assert!(struck > 15, "{struck} faults struck after the first step");
}

#[test]
fn a_transport_that_fails_inside_an_operation_leaves_whole_states() {
    let fixture = fixture();
    let dataset = fixture.dataset();
    let (weights, expected) = Job::new(&fixture, &dataset, None).undisturbed(1);
    let mut spent = 0;
    let mut apart = 0;
    for seed in 0..12 {
        let mut draws = Draws::new(3000 + seed);
        let job = Job::new(&fixture, &dataset, None);
        let world = 3;
        let plan = Plan {
            seed,
            world,
            victim: Rank(draws.below(3) as u32),
            operation: 2 + draws.below(30),
            moment: Moment::Sending,
            fault: [Fault::Close, Fault::Truncate][seed as usize % 2],
            elements: 0,
        };
        let listeners: Vec<Listener> = (0..world).map(|_| listener()).collect();
        let targets: Vec<SocketAddr> = listeners.iter().map(Listener::addr).collect();
        let wires = Wires::new(plan, &targets, || {});
        let ended = on_threads((0..world).zip(listeners).collect(), |(rank, listener)| {
            let abort = AbortSignal::new().unwrap();
            let (identity, options) = (identity(rank, world), RingOptions::default());
            let ring = listener.connect_ring(identity, wires.addrs(), options, abort.clone());
            let mut warm = None;
            let ended = job.rank((ring.unwrap(), abort), &SystemClock::new(), &mut warm);
            (ended.is_ok(), warm)
        });
        spent += wires.spent();
        let steps: Vec<_> = ended
            .iter()
            .map(|(_, warm)| warm.as_ref().map(|state| state.step()))
            .collect();
        apart += usize::from(steps.iter().any(|step| *step != steps[0]));
        // Those that hold something are one step apart at most.
        let steps: Vec<u64> = steps.iter().flatten().map(|step| step.0).collect();
        assert!(steps.iter().max().unwrap() - steps.iter().min().unwrap() <= 1);
        if ended.iter().all(|(ok, _)| *ok) {
            continue;
        }
        let mut warm: Vec<_> = ended.into_iter().map(|(_, warm)| warm).collect();
        warm.push(None);
        draws.shuffle(&mut warm);
        let mut ended = job.attempt(warm, 4, 0).into_iter();
        let summary = ended.next().unwrap().0.unwrap().unwrap();
        assert_eq!(summary.weights_blake3, weights, "{plan:?}");
        let said = job.said.into_inner().unwrap();
        assert_eq!(said.losses, expected.losses, "{plan:?}");
    }
    assert!(spent >= 10, "{spent} faults were spent");
    println!("{spent} faults; after {apart} of them ranks held different steps");
}

/// A state of the fixture's job after some steps, by one rank.
pub(super) fn state_after(fixture: &Fixture, steps: u64) -> TrainingState {
    let dataset = fixture.dataset();
    let mut job = Job::new(fixture, &dataset, None);
    job.spec.train.duration = TrainDuration::Steps(steps);
    let mut ended = job.attempt(vec![None], 1, 0).into_iter();
    let (ended, state) = ended.next().unwrap();
    ended.unwrap();
    state.unwrap()
}

pub(super) fn blank(fixture: &Fixture, dataset: &Dataset) -> TrainingState {
    let (spec, info) = (&fixture.spec, dataset.info());
    let job = RankJob {
        spec,
        dataset,
        rank: Rank(0),
        world: 1,
        part: &RankPart::of(Rank(0), 1, spec.cluster.replicas, info.test_records),
        threads: 1,
    };
    let dims = &dataset.columns().dims;
    let records = (info.features, &dims[..]);
    let network = Network::new(&spec.model, records, &info.target, spec.train.l2, 1).unwrap();
    TrainingState::blank(&job, &network).unwrap()
}

/// Makes a header one that doesn't fit.
type Change<'c> = &'c dyn Fn(&mut StateHeader);

#[test]
fn a_state_comes_back_from_its_header_and_ranges_and_others_are_refused_by_name() {
    let mut fixture = fixture();
    fixture.spec.train.schedule = ScheduleSpec::constant();
    fixture.spec.train.ema = Some(EmaSpec {
        decay: 0.9,
        warmup: false,
    });
    fixture.spec.train.optimizer = rules()[7];
    fixture.spec.train.duration = TrainDuration::Epochs(3);
    let steps_total = 3 * 126_u64.div_ceil(16);
    let dataset = fixture.dataset();
    let (weights, _) = Job::new(&fixture, &dataset, None).undisturbed(2);
    let state = state_after(&fixture, 17);
    let header = state.header();
    assert_eq!(header.step, Step(17));
    assert_eq!(header.elements(), Some(state.elements()));
    assert!(
        header
            .parts
            .iter()
            .any(|part| part.name == "average/layers.1.bias")
    );
    assert!((header.parts.iter()).any(|part| part.name == "optimizer/mean/layers.0.weight"));
    let json = serde_json::to_string(&header).unwrap();
    let header: StateHeader = serde_json::from_str(&json).unwrap();
    assert_eq!(header, state.header());

    // In ranges of any length, in any order.
    let mut loaded = blank(&fixture, &dataset);
    loaded.fill(&header).unwrap();
    let elements = state.elements();
    let mut starts = vec![0];
    for length in (1..).map(|number| number * 7 % 61) {
        let start = starts[starts.len() - 1] + length;
        if start >= elements {
            break;
        }
        starts.push(start);
    }
    let ends = starts.iter().skip(1).copied().chain([elements]);
    let mut ranges: Vec<_> = starts.iter().copied().zip(ends).collect();
    Draws::new(5).shuffle(&mut ranges);
    for (start, end) in ranges {
        let mut bytes = Vec::new();
        state.read(start..end, &mut bytes);
        assert_eq!(bytes.len() as u64, (end - start) * 4);
        loaded.write(start, &bytes);
    }
    assert_eq!(loaded.header(), header);
    assert_eq!(loaded.parts(), state.parts());
    let job = Job::new(&fixture, &dataset, None);
    let mut ended = job
        .attempt(vec![None, Some(loaded), None], 3, 0)
        .into_iter();
    let summary = ended.next().unwrap().0.unwrap().unwrap();
    assert_eq!(
        (summary.steps, summary.weights_blake3),
        (steps_total, weights)
    );

    // What is behind the last part is left out.
    let mut bytes = Vec::new();
    state.read(elements - 1..elements + 9, &mut bytes);
    assert_eq!(bytes.len(), 4);
    let mut loaded = blank(&fixture, &dataset);
    loaded.write(elements - 1, &[0; 40]);

    let refused = |change: &dyn Fn(&mut StateHeader)| {
        let mut header = header.clone();
        change(&mut header);
        let error = blank(&fixture, &dataset).fill(&header).unwrap_err();
        error.full()
    };
    let fields: [(Change<'_>, &str); 12] = [
        (
            &|h| h.version = 9,
            "the version of the header is 9, and 1 in the job",
        ),
        (
            &|h| h.origin.replicas = 4,
            "cluster.replicas is 4, and 5 in the job",
        ),
        (
            &|h| h.origin.mode = FoldMode::Fast,
            "cluster.mode is fast, and reproducible",
        ),
        (
            &|h| h.origin.optimizer = "lion".into(),
            "train.optimizer.kind is lion",
        ),
        (
            &|h| h.origin.global_batch = 1,
            "train.global_batch is 1, and 16",
        ),
        (
            &|h| h.origin.last_batch = LastBatch::Drop,
            "train.last_batch is drop, and keep",
        ),
        (&|h| h.origin.accumulate = 2, "train.accumulate is 2"),
        (&|h| h.origin.seed = 1, "train.seed is 1, and 9"),
        (
            &|h| h.origin.data = "00".into(),
            "the hash of the data is 00",
        ),
        (
            &|h| h.parts[1].shape = vec![9],
            "a part is parameters/layers.1.bias [9]",
        ),
        (
            &|h| drop(h.parts.pop()),
            "the number of parts is 19, and 20",
        ),
        (
            &|h| _ = h.optimizer.remove("step"),
            "the optimizer's number step is None",
        ),
    ];
    for (change, expected) in fields {
        let error = refused(change);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn states_of_other_jobs_or_that_differ_are_named_on_all_ranks() {
    let fixture = fixture();
    let dataset = fixture.dataset();
    let errors = |warm: Vec<Option<TrainingState>>| -> Vec<String> {
        let job = Job::new(&fixture, &dataset, None);
        let world = warm.len();
        let ended = job.attempt(warm, world, 0).into_iter();
        ended.map(|(ended, _)| ended.unwrap_err().full()).collect()
    };
    let undisturbed = |fixture: &Fixture| {
        let job = Job::new(fixture, &dataset, None);
        let ended = job.attempt(vec![None, None], 1, 60).into_iter();
        ended.map(|(_, state)| state.unwrap()).next().unwrap()
    };
    let mut other = Fixture::new(Loss::CrossEntropy);
    other.spec = fixture.spec.clone();
    other.spec.train.seed = 10;
    let stranger = undisturbed(&other);
    let named = errors(vec![None, Some(stranger), None]);
    assert_eq!(named[0], "rank 1 holds the training state of another job");
    assert_eq!(named[2], named[0]);
    let expected = "the training state can't go on in this job: train.seed is 10, and 9 in the job";
    assert_eq!(named[1], expected);
    other.spec.train.seed = 9;
    other.spec.train.clip_norm = None;
    let named = errors(vec![Some(undisturbed(&other))]);
    assert!(
        named[0].contains("one of [model], [data] and [train]"),
        "{named:?}"
    );

    // The same step with other numbers: found while they are sent to who needs them.
    let mut damaged = undisturbed(&fixture);
    let same = undisturbed(&fixture);
    assert_eq!(damaged.header().step, same.header().step);
    damaged.write(3, &[1, 2, 3, 4]);
    let named = errors(vec![Some(same), Some(damaged), None]);
    assert!(
        named
            .iter()
            .any(|error| error.contains("rank 0, rank 1 differ")),
        "{named:?}"
    );

    // What a panic left behind in the middle of a step is as nothing.
    let mut torn = undisturbed(&fixture);
    torn.begin_update(FoldMode::Reproducible);
    let job = Job::new(&fixture, &dataset, None);
    let (weights, _) = job.undisturbed(1);
    let mut ended = job.attempt(vec![Some(torn), None], 2, 0).into_iter();
    let summary = ended.next().unwrap().0.unwrap().unwrap();
    assert_eq!(summary.weights_blake3, weights);
}
