//! A job starts with all its ranks at once, 0 to world, on distinct slots that are registered.

use std::collections::{BTreeMap, BTreeSet};

use ringfold_common::dataset::RankPart;
use ringfold_common::job::JobState;
use ringfold_coordinator_core::{Assignment, Command, Effect, SlotState};

use super::{Checker, Step};

#[derive(Default)]
pub struct Gangs;

impl Checker for Gangs {
    fn name(&self) -> &'static str {
        "gangs are all or nothing"
    }

    fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        let mut gangs: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for effect in step.effects {
            if let Effect::Send {
                slot,
                command: Command::Assign(assignment),
            } = effect
            {
                let gang = gangs.entry(assignment.fence.job).or_default();
                gang.push((*slot, assignment));
            }
        }
        let registered: BTreeMap<_, _> = step
            .core
            .slots()
            .map(|view| (view.slot, view.state))
            .collect();
        for (job, gang) in &gangs {
            let view = step.core.job(*job).ok_or("a job that is not there")?;
            let cluster = &view.record.spec.cluster;
            let world = gang.len() as u32;
            // Only a job that ran before may do with less.
            let fewest = match view.record.membership_epoch.0 {
                1 => cluster.workers,
                _ => cluster.min_workers,
            };
            if !(fewest..=cluster.workers).contains(&world) {
                return Err(format!("{job} started with {world} ranks: {gang:?}"));
            }
            let ranks = gang.iter().map(|(_, assignment)| assignment.fence.rank.0);
            if !ranks.eq(0..world) || view.record.state != JobState::Starting {
                return Err(format!("{job} of {world} started with {gang:?}"));
            }
            let slots: BTreeSet<_> = gang.iter().map(|(slot, _)| *slot).collect();
            if slots.len() != gang.len() {
                return Err(format!("{job} has a slot twice: {gang:?}"));
            }
            for (slot, assignment) in gang {
                let state = SlotState::Assigned(assignment.fence);
                if registered.get(slot) != Some(&state) || !fits(assignment, world) {
                    return Err(format!("{slot} can't be {assignment:?}"));
                }
            }
        }
        // What runs has all its ranks; what does not has none.
        for view in step.core.jobs() {
            let ranks = view.ranks.len();
            let cluster = &view.record.spec.cluster;
            let world = cluster.min_workers as usize..=cluster.workers as usize;
            let running = matches!(view.record.state, JobState::Starting | JobState::Running);
            if (running && !world.contains(&ranks))
                || (view.record.state == JobState::Queued && ranks != 0)
            {
                return Err(format!("{} has {ranks} ranks of {world:?}", view.record.id));
            }
        }
        Ok(())
    }
}

fn fits(assignment: &Assignment, world: u32) -> bool {
    let (spec, dataset) = (&assignment.spec, &assignment.dataset);
    let part = RankPart::of(
        assignment.fence.rank,
        world,
        spec.cluster.replicas,
        dataset.test_records,
    );
    assignment.world == world
        && assignment.part == part
        && assignment.spec_hash == spec.hash(dataset)
}
