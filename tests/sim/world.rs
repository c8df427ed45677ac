//! A shell without IO: it feeds the core, performs its effects, and shows each step to the
//! checkers.

use std::collections::BTreeMap;
use std::time::Duration;

use ringfold_common::clock::UnixMillis;
use ringfold_common::ids::SlotId;
use ringfold_common::job::{JobEventKind, JobState, Reason};
use ringfold_coordinator_core::{
    Change, CloseReason, Core, CoreConfig, Effect, Event, Fence, Now, Reply, SlotInfo, Snapshot,
};

use crate::checkers::{Checker, Step, all};
use crate::draw::Draw;
use crate::worker::Worker;

pub struct World {
    pub core: Core,
    pub store: Snapshot,
    pub now: Now,
    pub draw: Draw,
    /// Workers whose streams are open.
    pub workers: BTreeMap<SlotId, Worker>,
    /// Processes whose streams have ended, or will, before their agent says so.
    pub unreaped: Vec<(&'static str, u32)>,
    /// Workers without a session, that will have one.
    pub away: Vec<Worker>,
    pub counts: BTreeMap<&'static str, u64>,
    /// Every effect, in words.
    pub history: Vec<String>,
    /// The next batch stops after its commit.
    pub crash_after_commit: bool,
    config: CoreConfig,
    checkers: Vec<Box<dyn Checker>>,
    next_slot: u64,
    tell: bool,
}

impl World {
    pub fn new(seed: u64, tell: bool) -> Self {
        let config = CoreConfig {
            queued_jobs_max: 4,
            ended_jobs_max: 5,
            events_per_job_max: 8,
            token_bytes_max: 4,
            slots_max: 12,
            ..CoreConfig::default()
        };
        let now = Now {
            monotonic: Duration::ZERO,
            wall: UnixMillis(1_000),
        };
        let store = Snapshot::default();
        let (core, _) = Core::restore(config.clone(), store.clone(), now);
        Self {
            core,
            store,
            now,
            draw: Draw::new(seed),
            workers: BTreeMap::new(),
            unreaped: Vec::new(),
            away: Vec::new(),
            counts: BTreeMap::new(),
            history: Vec::new(),
            crash_after_commit: false,
            config,
            checkers: all(),
            next_slot: 1,
            tell,
        }
    }

    pub fn next_slot(&mut self) -> SlotId {
        let slot = SlotId(self.next_slot);
        self.next_slot += 1;
        slot
    }

    pub fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_insert(0) += 1;
    }

    /// Time passes. The wall clock jumps now and then.
    pub fn advance(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.wall.0 += time.as_millis() as u64;
        if self.draw.once_in(20) {
            self.now.wall.0 = self.draw.below(1 << 20);
        }
    }

    pub fn event(&mut self, event: Event) -> Result<(), String> {
        let words = format!("{event:?}");
        let returned = match &event {
            Event::SlotReturned { slot, fence, .. } => Some((*slot, *fence)),
            _ => None,
        };
        let before = self.core.stale_messages();
        let effects = self.core.apply(self.now, event);
        *self.counts.entry("stale messages").or_insert(0) += self.core.stale_messages() - before;
        self.perform(&words, &effects, returned, false)
    }

    /// The process dies and starts again: streams end, soft state is lost.
    pub fn restart(&mut self) -> Result<(), String> {
        self.count("restarts");
        // Most processes live on, and come back with the ranks that they hold.
        let mut back = Vec::new();
        for worker in std::mem::take(&mut self.workers).into_values() {
            match self.draw.once_in(4) {
                true => self.unreaped.push((worker.node, worker.pid)),
                false => back.push(worker),
            }
        }
        let (core, effects) = Core::restore(self.config.clone(), self.store.clone(), self.now);
        self.core = core;
        self.perform("restart", &effects, None, true)?;
        self.away.extend(back);
        Ok(())
    }

    /// A worker that has no session opens one.
    pub fn come_back(&mut self) -> Result<(), String> {
        let Some(mut worker) = self.away.pop() else {
            return Ok(());
        };
        let slot = self.next_slot();
        let info = SlotInfo {
            pid: worker.pid,
            ..crate::rig::info(worker.node, slot)
        };
        let held = worker.held(&mut self.draw);
        self.workers.insert(slot, worker);
        match held {
            None => self.event(Event::SlotRegistered { slot, info }),
            Some((fence, held)) => {
                self.count("returned");
                self.event(Event::SlotReturned {
                    slot,
                    info,
                    fence,
                    held,
                })
            }
        }
    }

    fn perform(
        &mut self,
        words: &str,
        effects: &[Effect],
        returned: Option<(SlotId, Fence)>,
        restarted: bool,
    ) -> Result<(), String> {
        self.tell(words, effects);
        for (position, effect) in effects.iter().enumerate() {
            if let Effect::Commit { expected, changes } = effect {
                if position > 0 || *expected != self.store.revision || changes.is_empty() {
                    return Err(format!("bad commit after {words}: {effects:?}"));
                }
                self.store.apply(changes);
                self.count_changes(changes);
            }
        }
        if self.crash_after_commit && matches!(effects.first(), Some(Effect::Commit { .. })) {
            self.crash_after_commit = false;
            self.count("crashes after a commit");
            return self.restart();
        }
        for effect in effects {
            self.deliver(effect)
                .map_err(|broken| format!("{broken}, after {words}"))?;
        }
        let step = Step {
            core: &self.core,
            store: &self.store,
            effects,
            returned,
            restarted,
        };
        for checker in &mut self.checkers {
            checker
                .check(&step)
                .map_err(|broken| format!("{}: {broken}, after {words}", checker.name()))?;
        }
        Ok(())
    }

    fn deliver(&mut self, effect: &Effect) -> Result<(), String> {
        match effect {
            Effect::Commit { .. } => {}
            Effect::Send { slot, command } => {
                if matches!(command, ringfold_coordinator_core::Command::Abort { .. }) {
                    self.count("aborts");
                }
                if let ringfold_coordinator_core::Command::Assign(assignment) = command
                    && assignment.fence.rank.0 == 0
                    && assignment.world < assignment.spec.cluster.workers
                {
                    self.count("worlds with fewer ranks");
                }
                // A stream may have ended before the core has heard of it.
                if let Some(worker) = self.workers.get_mut(slot) {
                    worker.receive(command)?;
                }
            }
            Effect::CloseSlot { slot, reason } => {
                self.count(match reason {
                    CloseReason::LeaseExpired { .. } => "leases expired",
                    CloseReason::ProcessEnded => "processes ended",
                    CloseReason::SlotsFull { .. } => "slots full",
                });
                if let Some(worker) = self.workers.remove(slot) {
                    self.unreaped.push((worker.node, worker.pid));
                }
            }
            Effect::Reply { result, .. } => match result {
                Ok(Reply::Submitted { existing: true, .. }) => self.count("existing tokens"),
                Ok(_) => {}
                Err(_) => self.count("refusals"),
            },
            Effect::Publish(event) => {
                if let JobEventKind::State { state, reason, .. } = &event.kind {
                    match state {
                        JobState::Succeeded => self.count("succeeded"),
                        JobState::Failed => self.count("failed"),
                        JobState::Cancelled => self.count("cancelled"),
                        _ => {}
                    }
                    match reason {
                        Reason::CoordinatorRestarted => self.count("requeued"),
                        Reason::Recovering { .. } => self.count("recovered"),
                        Reason::Growing { .. } => self.count("grown"),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn count_changes(&mut self, changes: &[Change]) {
        let dropped = changes
            .iter()
            .filter(|change| matches!(change, Change::DropJob(_)));
        for _ in dropped {
            self.count("dropped jobs");
        }
    }

    fn tell(&mut self, words: &str, effects: &[Effect]) {
        self.history.push(format!("{effects:?}"));
        if self.tell {
            println!("{:?} {words}", self.now.monotonic);
            for effect in effects {
                let words = format!("{effect:?}");
                println!("    {}", words.chars().take(200).collect::<String>());
            }
        }
    }
}
