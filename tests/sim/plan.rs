//! What happens next: work, clients and faults, drawn by weight; and the recovery at the end.

use std::time::Duration;

use ringfold_common::ids::{JobId, MembershipEpoch, NodeName, Rank, SlotId};
use ringfold_common::job::{Cause, JobSpec, JobState, Phase};
use ringfold_coordinator_core::{Event, ExitCause, Fence, RequestId, StreamEnd};

use crate::rig;
use crate::worker::Worker;
use crate::world::World;

const NODES: [&str; 3] = ["alpha", "beta", "gamma"];
const WORKERS_MAX: u64 = 4;

/// One thing happens.
pub fn act(world: &mut World) -> Result<(), String> {
    if world.draw.once_in(5) {
        world.come_back()?;
    }
    match world.draw.below(100) {
        0..46 => work(world),
        46..56 => register(world),
        56..66 => submit(world),
        66..70 => cancel(world),
        70..73 => rank_fails(world),
        73..76 => stream_ends(world),
        76..80 => process_exits(world),
        80..85 => garbage(world),
        85..95 => time_passes(world),
        95 => long_silence(world),
        96 => quiet(world),
        97 => {
            world.crash_after_commit = true;
            Ok(())
        }
        98 => world.restart(),
        _ => everyone_speaks(world),
    }
}

/// The faults stop; enough healthy slots join. Every job ends.
pub fn recover(world: &mut World) -> Result<(), String> {
    world.crash_after_commit = false;
    for _ in 0..400 {
        if world.core.jobs().all(|job| job.record.state.is_terminal()) {
            return Ok(());
        }
        while !world.away.is_empty() {
            world.come_back()?;
        }
        while (world.workers.len() as u64) < WORKERS_MAX + 2 {
            register(world)?;
        }
        everyone_speaks(world)?;
        world.advance(Duration::from_millis(700));
        world.event(Event::Tick)?;
        for slot in slots(world) {
            works(world, slot)?;
        }
    }
    let left = world
        .core
        .jobs()
        .filter(|job| !job.record.state.is_terminal());
    let left: Vec<_> = left
        .map(|job| (job.record.id, job.record.reason.clone()))
        .collect();
    let slots: Vec<_> = world.core.slots().collect();
    Err(format!("no progress: {left:?}, slots {slots:?}"))
}

fn slots(world: &World) -> Vec<SlotId> {
    world.workers.keys().copied().collect()
}

fn any_slot(world: &mut World) -> Option<SlotId> {
    let slots = slots(world);
    world.draw.pick(&slots)
}

fn work(world: &mut World) -> Result<(), String> {
    match any_slot(world) {
        Some(slot) => works(world, slot),
        None => register(world),
    }
}

fn works(world: &mut World, slot: SlotId) -> Result<(), String> {
    let Some(worker) = world.workers.get_mut(&slot) else {
        return Ok(());
    };
    let event = worker.next(slot, &mut world.draw);
    world.event(event.unwrap_or(Event::Heard { slot }))
}

fn register(world: &mut World) -> Result<(), String> {
    let slot = world.next_slot();
    let node = world.draw.pick(&NODES).unwrap_or(NODES[0]);
    let info = rig::info(node, slot);
    let worker = Worker {
        node,
        pid: info.pid,
        rank: None,
        preparing: None,
    };
    world.workers.insert(slot, worker);
    world.event(Event::SlotRegistered { slot, info })
}

fn submit(world: &mut World) -> Result<(), String> {
    let workers = world.draw.below(WORKERS_MAX + 1);
    let workers = if world.draw.once_in(20) { 13 } else { workers };
    let tokens = [
        None,
        None,
        None,
        Some("a"),
        Some("b"),
        Some(""),
        Some("too long"),
    ];
    let token = world.draw.pick(&tokens).flatten();
    world.event(Event::Submit {
        request: RequestId(1),
        spec: elastic(workers as u32),
        dataset: rig::dataset(),
        client_token: token.map(str::to_owned),
    })
}

fn any_job(world: &mut World) -> JobId {
    let unknown = world.store.next_job.next();
    let mut jobs: Vec<_> = world.core.jobs().map(|job| job.record.id).collect();
    jobs.push(unknown);
    world.draw.pick(&jobs).unwrap_or(unknown)
}

fn cancel(world: &mut World) -> Result<(), String> {
    let (request, job) = (RequestId(2), any_job(world));
    world.event(Event::Cancel { request, job })
}

/// Most jobs survive some faults, with some ranks fewer; how many depends on their size.
fn elastic(workers: u32) -> JobSpec {
    let mut spec = rig::spec(workers);
    spec.cluster.restarts_max = [1, 0, 2, 1, 3][workers as usize % 5];
    spec.cluster.min_workers = workers.div_ceil(2).max(1);
    spec
}

/// Nobody queues any more, and for a while nothing goes wrong: what runs may grow.
fn quiet(world: &mut World) -> Result<(), String> {
    let queued =
        |job: &ringfold_coordinator_core::JobView<'_>| job.record.state == JobState::Queued;
    let waiting: Vec<_> = world.core.jobs().filter(queued).collect();
    let waiting: Vec<_> = waiting.iter().map(|job| job.record.id).collect();
    for job in waiting {
        let request = RequestId(2);
        world.event(Event::Cancel { request, job })?;
    }
    process_exits(world)?;
    for round in 0..12 {
        if round % 6 == 0 {
            register(world)?;
        }
        world.advance(Duration::from_millis(300));
        world.event(Event::Tick)?;
        for slot in slots(world) {
            works(world, slot)?;
        }
    }
    Ok(())
}

fn rank_fails(world: &mut World) -> Result<(), String> {
    let Some(slot) = any_slot(world) else {
        return Ok(());
    };
    let Some(worker) = world.workers.get_mut(&slot) else {
        return Ok(());
    };
    match worker.fail(slot, &mut world.draw) {
        Some(event) => world.event(event),
        None => Ok(()),
    }
}

fn stream_ends(world: &mut World) -> Result<(), String> {
    let Some(slot) = any_slot(world) else {
        return Ok(());
    };
    if let Some(worker) = world.workers.remove(&slot) {
        match world.draw.once_in(2) {
            true => world.unreaped.push((worker.node, worker.pid)),
            false => world.away.push(worker),
        }
    }
    let ends = [StreamEnd::Lost, StreamEnd::Lost, StreamEnd::Left];
    let end = world.draw.pick(&ends).unwrap_or(StreamEnd::Lost);
    let running = |world: &World| {
        let jobs = world.core.jobs();
        jobs.filter(|job| job.record.state == JobState::Running)
            .count()
    };
    let before = running(world);
    let busy = world
        .core
        .slots()
        .any(|view| view.slot == slot && view.state != ringfold_coordinator_core::SlotState::Free);
    world.event(Event::SlotClosed { slot, end })?;
    if busy && before > 0 && running(world) == before {
        world.count("causes sought");
    }
    Ok(())
}

/// An agent reaps a process: one whose stream has ended, or one whose stream has not.
fn process_exits(world: &mut World) -> Result<(), String> {
    let open = world
        .workers
        .values()
        .map(|worker| (worker.node, worker.pid));
    let mut processes: Vec<_> = open.collect();
    processes.extend(world.unreaped.iter().rev().take(4));
    let Some((node, pid)) = world.draw.pick(&processes) else {
        return Ok(());
    };
    world.unreaped.retain(|process| *process != (node, pid));
    let causes = [
        ExitCause::Signalled(9),
        ExitCause::Exited(1),
        ExitCause::Exited(0),
    ];
    let cause = world.draw.pick(&causes).unwrap_or(ExitCause::Exited(1));
    world.event(Event::ProcessExited {
        node: NodeName(node.into()),
        pid,
        cause,
        log_tail: vec!["last words".into()],
    })
}

/// A message that no worker that keeps to the protocol would send now.
fn garbage(world: &mut World) -> Result<(), String> {
    let slot = match any_slot(world) {
        Some(slot) if !world.draw.once_in(4) => slot,
        _ => SlotId(world.draw.below(60)),
    };
    let held = world.workers.get(&slot).and_then(|worker| worker.rank);
    let fence = Fence {
        job: any_job(world),
        membership_epoch: MembershipEpoch(world.draw.below(4)),
        rank: Rank(world.draw.below(5) as u32),
    };
    // The fence that would be right makes it no garbage.
    if held.is_some_and(|rank| rank.fence == fence) {
        return Ok(());
    }
    let address = "nowhere:1".to_owned();
    let event = match world.draw.below(12) {
        0 => Event::RankListening {
            slot,
            fence,
            address,
            key: None,
        },
        1 => Event::RankTraining { slot, fence },
        2 => Event::PhaseChanged {
            slot,
            fence,
            phase: Phase::Saving,
        },
        3 => Event::Progress {
            slot,
            fence,
            progress: rig::progress(1),
        },
        4 => Event::Evaluation {
            slot,
            fence,
            evaluation: rig::evaluation(1),
        },
        5 => Event::RankFinished {
            slot,
            fence,
            summary: Some(rig::summary()),
        },
        6 => Event::RankFailed {
            slot,
            fence,
            cause: Cause::Error("garbage".into()),
            phase: Phase::Saving,
            log_tail: Vec::new(),
        },
        7 => Event::RankStopped { slot, fence },
        9 => Event::Prepared {
            slot,
            job: fence.job,
        },
        10 => Event::PrepareFailed {
            slot,
            job: fence.job,
        },
        8 => Event::ProcessExited {
            node: NodeName("nowhere".into()),
            pid: 1,
            cause: ExitCause::Exited(1),
            log_tail: Vec::new(),
        },
        _ => Event::SlotClosed {
            slot: SlotId(1_000_000),
            end: StreamEnd::Lost,
        },
    };
    world.event(event)
}

fn time_passes(world: &mut World) -> Result<(), String> {
    let time = Duration::from_millis(world.draw.below(1_500));
    world.advance(time);
    world.event(Event::Tick)
}

/// All but some speak, and the leases of those expire.
fn long_silence(world: &mut World) -> Result<(), String> {
    world.advance(Duration::from_millis(10_001));
    for slot in slots(world) {
        if !world.draw.once_in(4) {
            world.event(Event::Heard { slot })?;
        }
    }
    world.event(Event::Tick)
}

fn everyone_speaks(world: &mut World) -> Result<(), String> {
    for slot in slots(world) {
        world.event(Event::Heard { slot })?;
    }
    Ok(())
}
