//! A core with a store and a clock that the test moves, and a word for each event.
//!
//! Every batch of effects is checked against the contract: at most one commit, in front, at the
//! store's revision; afterwards the store holds what the core thinks is durable.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use ringfold_common::clock::UnixMillis;
use ringfold_common::dataset::{DatasetInfo, Target};
use ringfold_common::ids::{Epoch, JobId, NodeName, RingKey, SlotId, Step};
use ringfold_common::job::{
    Activation, Architecture, Cause, ClusterSpec, ColumnRef, CsvSource, DataSource, DataSpec,
    Device, EvaluateEvery, Evaluation, Execution, Failure, FoldMode, GradientBytes, Initialiser,
    JobEvent, JobSpec, JobState, LastBatch, Loss, MlpSpec, ModelSpec, OptimizerSpec, OutputSpec,
    Overlap, Phase, Precision, Progress, Reason, Scale, ScheduleSpec, SgdOptions, Summary,
    TestData, TrainDuration, TrainSpec,
};
use ringfold_coordinator_core::{
    Command, Core, CoreConfig, Effect, Event, ExitCause, Fence, Held, JobView, Now, Refusal, Reply,
    RequestId, SlotInfo, SlotState, Snapshot, StreamEnd,
};

pub struct Rig {
    pub core: Core,
    pub store: Snapshot,
    pub now: Now,
    config: CoreConfig,
    next_slot: u64,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(CoreConfig::default())
    }

    pub fn with(config: CoreConfig) -> Self {
        let now = Now {
            monotonic: Duration::from_secs(100),
            wall: UnixMillis(1_000_000),
        };
        let (core, effects) = Core::restore(config.clone(), Snapshot::default(), now);
        assert_eq!(effects, []);
        Self {
            core,
            store: Snapshot::default(),
            now,
            config,
            next_slot: 1,
        }
    }

    /// A rig with slots on one node, and a job on all of them that has come to `state`.
    pub fn with_job_in(state: JobState, workers: u32) -> (Self, JobId, Vec<SlotId>) {
        let mut rig = Self::new();
        let slots: Vec<_> = (0..workers).map(|_| rig.register("alpha")).collect();
        let job = rig.submit(workers);
        if state == JobState::Running {
            rig.run(&slots);
        }
        assert_eq!(rig.state(job), state);
        (rig, job, slots)
    }

    /// The same with a job that survives `restarts_max` faults, with `min_workers` at least.
    pub fn with_elastic_job(
        workers: u32,
        min_workers: u32,
        restarts_max: u32,
    ) -> (Self, JobId, Vec<SlotId>) {
        let mut rig = Self::new();
        let slots: Vec<_> = (0..workers).map(|_| rig.register("alpha")).collect();
        let mut spec = spec(workers);
        spec.cluster.min_workers = min_workers;
        spec.cluster.restarts_max = restarts_max;
        let Ok(Reply::Submitted { job, .. }) = rig.try_submit(spec, None) else {
            panic!("refused");
        };
        rig.run(&slots);
        assert_eq!(rig.state(job), JobState::Running);
        (rig, job, slots)
    }

    pub fn event(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.core.apply(self.now, event);
        self.commit(&effects);
        effects
    }

    /// Performs the commit of a batch.
    pub fn commit(&mut self, effects: &[Effect]) {
        for (position, effect) in effects.iter().enumerate() {
            if let Effect::Commit { expected, changes } = effect {
                assert_eq!(position, 0, "a commit stands in front: {effects:?}");
                assert_eq!(*expected, self.store.revision);
                assert!(!changes.is_empty());
                self.store.apply(changes);
            }
        }
        assert_eq!(self.store, self.core.durable());
    }

    pub fn restart(&mut self) -> Vec<Effect> {
        let (core, effects) = Core::restore(self.config.clone(), self.store.clone(), self.now);
        self.core = core;
        self.commit(&effects);
        effects
    }

    pub fn advance(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.wall.0 += time.as_millis() as u64;
    }

    pub fn tick_after(&mut self, time: Duration) -> Vec<Effect> {
        self.advance(time);
        self.event(Event::Tick)
    }

    /// A new slot; its pid is its id plus 1000, its host its node's name.
    pub fn register(&mut self, node: &str) -> SlotId {
        let slot = self.next_slot();
        self.event(Event::SlotRegistered {
            slot,
            info: info(node, slot),
        });
        slot
    }

    /// The worker of `former` opens another session, as a new slot with the same process, and says how
    /// its rank stands.
    pub fn come_back(&mut self, former: SlotId, fence: Fence, held: Held) -> (SlotId, Vec<Effect>) {
        let slot = self.next_slot();
        let info = info("alpha", former);
        let effects = self.event(Event::SlotReturned {
            slot,
            info,
            fence,
            held,
        });
        (slot, effects)
    }

    pub fn next_slot(&mut self) -> SlotId {
        let slot = SlotId(self.next_slot);
        self.next_slot += 1;
        slot
    }

    pub fn submit(&mut self, workers: u32) -> JobId {
        match self.try_submit(spec(workers), None) {
            Ok(Reply::Submitted {
                job,
                existing: false,
            }) => job,
            other => panic!("{other:?}"),
        }
    }

    pub fn try_submit(&mut self, spec: JobSpec, token: Option<&str>) -> Result<Reply, Refusal> {
        let effects = self.event(Event::Submit {
            request: RequestId(1),
            spec,
            dataset: dataset(),
            client_token: token.map(str::to_owned),
        });
        reply(&effects)
    }

    pub fn cancel(&mut self, job: JobId) -> (Result<Reply, Refusal>, Vec<Effect>) {
        let request = RequestId(2);
        let effects = self.event(Event::Cancel { request, job });
        (reply(&effects), effects)
    }

    /// What the slot is now, or was and is stopping to be.
    pub fn fence(&self, slot: SlotId) -> Fence {
        match self.slot(slot) {
            Some(SlotState::Assigned(fence) | SlotState::Stopping(fence)) => fence,
            other => panic!("{slot} is {other:?}"),
        }
    }

    pub fn slot(&self, slot: SlotId) -> Option<SlotState> {
        let mut slots = self.core.slots();
        Some(slots.find(|view| view.slot == slot)?.state)
    }

    pub fn listen(&mut self, slot: SlotId) -> Vec<Effect> {
        self.listen_with(slot, None)
    }

    /// With a key of this byte.
    pub fn listen_with_key(&mut self, slot: SlotId, byte: u8) -> Vec<Effect> {
        self.listen_with(slot, Some(RingKey([byte; 32])))
    }

    fn listen_with(&mut self, slot: SlotId, key: Option<RingKey>) -> Vec<Effect> {
        let fence = self.fence(slot);
        let address = format!("{slot}:1");
        self.event(Event::RankListening {
            slot,
            fence,
            address,
            key,
        })
    }

    pub fn train(&mut self, slot: SlotId) -> Vec<Effect> {
        let fence = self.fence(slot);
        self.event(Event::RankTraining { slot, fence })
    }

    /// Brings the job of these slots to [`JobState::Running`].
    pub fn run(&mut self, slots: &[SlotId]) {
        for slot in slots {
            self.listen(*slot);
        }
        for slot in slots {
            self.train(*slot);
        }
    }

    pub fn phase(&mut self, slot: SlotId, phase: Phase) -> Vec<Effect> {
        let fence = self.fence(slot);
        self.event(Event::PhaseChanged { slot, fence, phase })
    }

    pub fn progress(&mut self, slot: SlotId, step: u64) -> Vec<Effect> {
        let (fence, progress) = (self.fence(slot), progress(step));
        self.event(Event::Progress {
            slot,
            fence,
            progress,
        })
    }

    pub fn evaluate(&mut self, slot: SlotId, step: u64) -> Vec<Effect> {
        let (fence, evaluation) = (self.fence(slot), evaluation(step));
        self.event(Event::Evaluation {
            slot,
            fence,
            evaluation,
        })
    }

    /// The rank is done; rank 0 with a summary.
    pub fn finish(&mut self, slot: SlotId) -> Vec<Effect> {
        let fence = self.fence(slot);
        let summary = (fence.rank.0 == 0).then(summary);
        self.event(Event::RankFinished {
            slot,
            fence,
            summary,
        })
    }

    pub fn fail(&mut self, slot: SlotId, cause: Cause) -> Vec<Effect> {
        let fence = self.fence(slot);
        self.event(Event::RankFailed {
            slot,
            fence,
            cause,
            phase: Phase::Training(Step(7)),
            log_tail: vec!["said last".into()],
        })
    }

    pub fn stopped(&mut self, slot: SlotId) -> Vec<Effect> {
        let fence = self.fence(slot);
        self.event(Event::RankStopped { slot, fence })
    }

    /// The slot has the data of the job that it was asked to join.
    pub fn prepared(&mut self, slot: SlotId, job: JobId) -> Vec<Effect> {
        self.event(Event::Prepared { slot, job })
    }

    pub fn close(&mut self, slot: SlotId, end: StreamEnd) -> Vec<Effect> {
        self.event(Event::SlotClosed { slot, end })
    }

    pub fn exit(&mut self, node: &str, slot: SlotId, cause: ExitCause) -> Vec<Effect> {
        self.event(Event::ProcessExited {
            node: NodeName(node.into()),
            pid: pid(slot),
            cause,
            log_tail: vec!["last words".into()],
        })
    }

    pub fn job(&self, job: JobId) -> JobView<'_> {
        self.core.job(job).unwrap_or_else(|| panic!("{job}"))
    }

    pub fn state(&self, job: JobId) -> JobState {
        self.job(job).record.state
    }

    pub fn reason(&self, job: JobId) -> &Reason {
        &self.job(job).record.reason
    }

    /// Why a job that has failed has.
    pub fn failure(&self, job: JobId) -> &Failure {
        assert_eq!(self.state(job), JobState::Failed);
        match self.reason(job) {
            Reason::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }
}

pub fn pid(slot: SlotId) -> u32 {
    1000 + slot.0 as u32
}

pub fn info(node: &str, slot: SlotId) -> SlotInfo {
    SlotInfo {
        node: NodeName(node.into()),
        host: node.into(),
        pid: pid(slot),
        cores: 2,
        memory_bytes: 1 << 30,
        version: "0.1.0".into(),
    }
}

pub fn reply(effects: &[Effect]) -> Result<Reply, Refusal> {
    let mut replies = effects.iter().filter_map(|effect| match effect {
        Effect::Reply { result, .. } => Some(result.clone()),
        _ => None,
    });
    let reply = replies.next().expect("one reply");
    assert_eq!(replies.next(), None);
    reply
}

pub fn sent(effects: &[Effect]) -> Vec<(SlotId, &Command)> {
    let sends = effects.iter().filter_map(|effect| match effect {
        Effect::Send { slot, command } => Some((*slot, command)),
        _ => None,
    });
    sends.collect()
}

pub fn aborted(effects: &[Effect]) -> Vec<SlotId> {
    let sends = sent(effects).into_iter();
    let aborts = sends.filter(|(_, command)| matches!(command, Command::Abort { .. }));
    aborts.map(|(slot, _)| slot).collect()
}

pub fn assigned(effects: &[Effect]) -> Vec<SlotId> {
    let sends = sent(effects).into_iter();
    let assigns = sends.filter(|(_, command)| matches!(command, Command::Assign(_)));
    assigns.map(|(slot, _)| slot).collect()
}

pub fn prepares(effects: &[Effect]) -> Vec<SlotId> {
    let sends = sent(effects).into_iter();
    let asked = sends.filter(|(_, command)| matches!(command, Command::Prepare(_)));
    asked.map(|(slot, _)| slot).collect()
}

pub fn published(effects: &[Effect]) -> Vec<&JobEvent> {
    let events = effects.iter().filter_map(|effect| match effect {
        Effect::Publish(event) => Some(event),
        _ => None,
    });
    events.collect()
}

pub fn commits(effects: &[Effect]) -> bool {
    matches!(effects.first(), Some(Effect::Commit { .. }))
}

pub fn spec(workers: u32) -> JobSpec {
    let train = CsvSource {
        path: "/data/train.csv".into(),
        label: ColumnRef::Index(0),
        header: true,
        delimiter: b',',
    };
    JobSpec {
        name: "test".into(),
        model: ModelSpec {
            architecture: Architecture::Mlp(MlpSpec {
                hidden: vec![8],
                activation: Activation::Relu,
                dropout: 0.0,
                initialiser: Initialiser::HeNormal,
            }),
            loss: Loss::CrossEntropy,
            loss_options: ringfold_common::job::LossOptions::default(),
            input: Vec::new(),
            weights: None,
        },
        data: DataSpec {
            source: DataSource::Csv(train),
            scale: Scale::None,
            test: TestData::None,
        },
        train: TrainSpec {
            duration: TrainDuration::Epochs(1),
            global_batch: 32,
            last_batch: LastBatch::Keep,
            seed: 1,
            accumulate: 1,
            precision: Precision::F32,
            workspace_mb_max: None,
            optimizer: OptimizerSpec::Sgd(SgdOptions::new(0.1)),
            groups: Vec::new(),
            decay_biases: true,
            schedule: ScheduleSpec::constant(),
            clip_norm: None,
            clip_value: None,
            ema: None,
            l2: 0.0,
            evaluate: EvaluateEvery::End,
            report_steps: 10,
            check_steps: 0,
        },
        cluster: ClusterSpec {
            workers,
            min_workers: 1,
            restarts_max: 0,
            replicas: workers,
            mode: FoldMode::Auto,
            threads: 0,
            device: Device::Auto,
            compression: None,
            overlap: Overlap::Auto,
            bucket_bytes: 0,
            tls: false,
        },
        output: OutputSpec {
            dir: "/out".into(),
            timeline: None,
        },
    }
}

pub fn dataset() -> DatasetInfo {
    DatasetInfo {
        train_records: 100,
        test_records: 10,
        features: 4,
        target: Target::Classes(vec!["a".into(), "b".into()]),
        fingerprint: [7; 32],
    }
}

pub fn progress(step: u64) -> Progress {
    Progress {
        step: Step(step),
        steps_total: 100,
        epoch: Epoch(0),
        epochs_total: 1,
        samples: step * 32,
        loss: 0.5,
        learning_rate: 0.1,
        gradient_norm: 1.0,
        samples_per_second: 100.0,
        communication_share: 0.25,
        gradient_bytes: GradientBytes::default(),
    }
}

pub fn evaluation(step: u64) -> Evaluation {
    Evaluation {
        step: Step(step),
        epoch: Epoch(0),
        records: 10,
        metrics: BTreeMap::from([("test_loss".to_owned(), 0.5)]),
    }
}

pub fn summary() -> Summary {
    Summary {
        steps: 100,
        epochs: 1,
        samples: 3200,
        wall_seconds: 4.0,
        samples_per_second: 800.0,
        parameters: 58,
        metrics: BTreeMap::from([("train_loss".to_owned(), 0.25)]),
        weights_blake3: "00ff".into(),
        output_dir: "/out".into(),
        execution: Execution {
            mode: FoldMode::Fast,
            replicas: 2,
            replicas_at_once: 1,
            threads: 1,
            arena_bytes: 4096,
            resident_bytes_max: 1 << 20,
            gradient_bytes: GradientBytes::default(),
            buckets: 0,
            bucket_bytes_max: 0,
        },
    }
}
