//! Training goes on from a checkpoint as from a state in memory.

use ringfold_common::clock::UnixMillis;
use ringfold_common::job::EmaSpec;
use ringfold_storage::checkpoint::{Checkpoint, Directory, newest, write_manifest};

use super::resume::{Job, blank, fixture, state_after};
use super::updates::rules;
use super::*;

fn write(store: &Directory, state: &TrainingState, world: u32) {
    let parts = (0..world).map(|rank| state.write_part(store, world, Rank(rank)).unwrap());
    let manifest = state.manifest("fixture", UnixMillis(5), parts.collect());
    write_manifest(store, &manifest).unwrap();
}

#[test]
fn a_checkpoint_by_any_ranks_is_gone_on_from_by_any_others() {
    let mut fixture = fixture();
    fixture.spec.train.schedule = ScheduleSpec::constant();
    fixture.spec.train.optimizer = rules()[7];
    fixture.spec.train.ema = Some(EmaSpec {
        decay: 0.9,
        warmup: true,
    });
    let dataset = fixture.dataset();
    let (weights, _) = Job::new(&fixture, &dataset, None).undisturbed(1);
    let store = Directory::new(fixture.dir.path().join("checkpoints"));
    for (steps, writers, world) in [(9, 1, 3), (17, 3, 2), (20, 5, 1)] {
        write(&store, &state_after(&fixture, steps), writers);
        let (found, skipped) = newest(&store).unwrap();
        assert!(skipped.is_empty(), "{skipped:?}");
        let mut warm = Vec::new();
        for rank in 0..world {
            // Some ranks read it, the others get it from them.
            let mut loaded = blank(&fixture, &dataset);
            loaded.load(found.as_ref().unwrap()).unwrap();
            assert_eq!(loaded.step(), Step(steps));
            warm.push((rank != 1).then_some(loaded));
        }
        let mut ended = Job::new(&fixture, &dataset, None)
            .attempt(warm, world, 0)
            .into_iter();
        let summary = ended.next().unwrap().0.unwrap().unwrap();
        assert_eq!(summary.weights_blake3, weights, "{writers} to {world}");
    }
}

#[test]
fn tensors_are_found_by_name_and_what_does_not_fit_is_named() {
    let fixture = fixture();
    let dataset = fixture.dataset();
    let store = Directory::new(fixture.dir.path().join("checkpoints"));
    let state = state_after(&fixture, 3);
    write(&store, &state, 1);
    let checkpoint = Checkpoint::open(&store, 3).unwrap();

    // The same tensors, written in another order.
    let other = Directory::new(fixture.dir.path().join("others"));
    let mut manifest = checkpoint.manifest().clone();
    manifest.tensors.reverse();
    let mut bytes = Vec::new();
    for tensor in &manifest.tensors {
        let (_, range) = checkpoint.tensor(&tensor.name).unwrap();
        let of_state = range.start / 4..range.end / 4;
        state.read(of_state, &mut bytes);
    }
    let part = ringfold_storage::checkpoint::write_part(
        &other,
        3,
        0,
        0..bytes.len() as u64,
        |range, to| to.extend_from_slice(&bytes[range.start as usize..range.end as usize]),
    );
    manifest.parts = vec![part.unwrap()];
    write_manifest(&other, &manifest).unwrap();
    let mut loaded = blank(&fixture, &dataset);
    loaded.load(&Checkpoint::open(&other, 3).unwrap()).unwrap();
    assert_eq!(loaded.header(), state.header());
    assert_eq!(loaded.parts(), state.parts());

    let refused = |change: &dyn Fn(&mut JobSpec)| {
        let mut other = Fixture::new(Loss::CrossEntropy);
        other.spec = fixture.spec.clone();
        change(&mut other.spec);
        let error = blank(&other, &dataset).load(&checkpoint).unwrap_err();
        error.full()
    };
    let error = refused(&|spec| spec.train.seed = 3);
    assert!(
        error.contains("train.seed is 9, and 3 in the job"),
        "{error}"
    );
    let error = refused(&|spec| {
        spec.train.ema = Some(EmaSpec {
            decay: 0.9,
            warmup: true,
        });
    });
    assert!(
        error.contains("average/layers.0.bias is missing, and f32 [16]"),
        "{error}"
    );
    let error = refused(&|spec| {
        let Architecture::Mlp(mlp) = &mut spec.model.architecture else {
            unreachable!("the fixture's model")
        };
        mlp.hidden = vec![9];
    });
    assert!(
        error.contains("f32 [3, 16], and f32 [3, 9] in the job"),
        "{error}"
    );

    // A byte that was altered after it was found.
    let path = store.root().join("step-0000000003/part-00000.bin");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = blank(&fixture, &dataset).load(&checkpoint).unwrap_err();
    assert!(
        error.to_string().contains("part-00000.bin was altered"),
        "{error}"
    );
}
