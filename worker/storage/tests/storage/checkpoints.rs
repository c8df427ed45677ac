//! Checkpoints: what dies while it writes harms nothing, and what was altered is named.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use ringfold_storage::checkpoint::{
    CHUNK_BYTES, Checkpoint, Directory, Entry, FORMAT_VERSION, Keep, Manifest, Store, StoreWriter,
    TensorEntry, list, newest, part_range, prune, write_manifest, write_part,
};

/// Some bytes that depend on the step.
fn state(step: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| (at * 31 + step * 7) as u8)
        .collect()
}

fn manifest(step: u64, tensors: Vec<TensorEntry>) -> Manifest {
    Manifest {
        format: FORMAT_VERSION,
        written_by: "test".into(),
        written_unix_ms: 1000 * step,
        job: "a job".into(),
        step,
        chunk_bytes: CHUNK_BYTES,
        header: serde_json::json!({"seed": 7}),
        tensors,
        parts: Vec::new(),
    }
}

/// Writes `bytes` as the checkpoint of `step`, in `writers` parts.
fn write(
    store: &dyn Store,
    bytes: &[u8],
    writers: u32,
    mut manifest: Manifest,
) -> Result<(), ringfold_storage::checkpoint::CheckpointError> {
    let len = bytes.len() as u64;
    for number in 0..writers {
        let range = part_range(len, writers, number);
        let part = write_part(store, manifest.step, number, range, |range, to| {
            to.extend_from_slice(&bytes[range.start as usize..range.end as usize]);
        })?;
        manifest.parts.push(part);
    }
    write_manifest(store, &manifest)
}

fn write_small(
    store: &dyn Store,
    step: u64,
) -> Result<(), ringfold_storage::checkpoint::CheckpointError> {
    let tensors = vec![
        TensorEntry::f32("parameters/w", [3, 5]),
        TensorEntry::f32("optimizer/first/w", [3, 5]),
        TensorEntry::f32("statistics/count", []),
    ];
    write(store, &state(step, 124), 2, manifest(step, tensors))
}

fn read(checkpoint: &Checkpoint<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    checkpoint
        .read(|start, chunk| {
            assert_eq!(start, bytes.len() as u64);
            bytes.extend_from_slice(chunk);
        })
        .unwrap();
    bytes
}

/// The step of the newest good checkpoint, with its bytes checked, and what was passed over.
fn newest_step(store: &dyn Store) -> (Option<u64>, Vec<String>) {
    let (found, skipped) = newest(store).unwrap();
    let step = found.map(|found| {
        let step = found.manifest().step;
        let bytes = read(&found);
        assert_eq!(bytes, state(step, bytes.len()));
        step
    });
    (step, skipped.iter().map(ToString::to_string).collect())
}

fn fresh() -> (tempfile::TempDir, Directory) {
    let dir = tempfile::tempdir().unwrap();
    let store = Directory::new(dir.path().join("checkpoints"));
    (dir, store)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any tensors by any number of writers come back, whole and by any range.
    #[test]
    fn any_state_comes_back(
        shapes in proptest::collection::vec(proptest::collection::vec(0usize..40, 0..3), 0..6),
        long in 0usize..900_000,
        writers in 1u32..6,
        (from, to) in (0u64..4_000_000, 0u64..4_000_000),
    ) {
        let (_dir, store) = fresh();
        let mut tensors: Vec<TensorEntry> = shapes
            .into_iter()
            .enumerate()
            .map(|(at, shape)| TensorEntry::f32(format!("t{at}"), shape))
            .collect();
        tensors.push(TensorEntry::f32("long", [long]));
        let len: u64 = tensors.iter().map(|tensor| tensor.bytes().unwrap()).sum();
        let bytes = state(3, len as usize);
        write(&store, &bytes, writers, manifest(3, tensors.clone())).unwrap();

        let checkpoint = Checkpoint::open(&store, 3).unwrap();
        prop_assert_eq!(checkpoint.manifest().state_bytes(), len);
        prop_assert_eq!(&read(&checkpoint), &bytes);
        let mut found = 0;
        for (tensor, (entry, range)) in tensors.iter().zip(checkpoint.tensors()) {
            prop_assert_eq!(tensor, entry);
            prop_assert_eq!(range.start, found);
            found = range.end;
            prop_assert_eq!(checkpoint.tensor(&tensor.name).unwrap().1, range);
        }
        prop_assert!(checkpoint.tensor("nothing").is_none());

        // A range comes in chunks that cover it, and no others.
        let (from, to) = (from.min(to).min(len), to.max(from).min(len));
        let mut covered: Option<(u64, u64)> = None;
        checkpoint.read_range(from..to, |start, chunk| {
            let end = start + chunk.len() as u64;
            assert!(start < to && end > from);
            assert_eq!(chunk, &bytes[start as usize..end as usize]);
            assert!(covered.is_none_or(|(_, last)| last == start));
            covered = Some((covered.map_or(start, |(first, _)| first), end));
        }).unwrap();
        match covered {
            None => prop_assert!(from >= to),
            Some((first, last)) => prop_assert!(first <= from && to <= last),
        }
    }
}

#[test]
fn parts_are_whole_chunks_and_cover_the_state() {
    for bytes in [0, 4, CHUNK_BYTES, CHUNK_BYTES + 4, 10 * CHUNK_BYTES - 8] {
        for writers in 1..7 {
            let mut end = 0;
            for number in 0..writers {
                let range = part_range(bytes, writers, number);
                assert_eq!(range.start, end);
                assert!(range.start.is_multiple_of(CHUNK_BYTES) || range.start == bytes);
                end = range.end;
            }
            assert_eq!(end, bytes);
        }
    }
}

/// A directory whose user is killed after so many bytes and calls.
#[derive(Debug)]
struct Dying<'d> {
    directory: &'d Directory,
    left: AtomicI64,
}

impl Dying<'_> {
    /// How much of `wanted` is still done.
    fn lives(&self, wanted: usize) -> usize {
        let wanted = wanted as i64;
        let left = self.left.fetch_sub(wanted, Ordering::SeqCst);
        left.clamp(0, wanted) as usize
    }
}

fn killed() -> io::Error {
    io::Error::other("killed")
}

impl Store for Dying<'_> {
    fn create(&self, name: &str) -> io::Result<Box<dyn StoreWriter + '_>> {
        if self.lives(1) == 0 {
            return Err(killed());
        }
        let inner = Some(self.directory.create(name)?);
        Ok(Box::new(DyingWriter { store: self, inner }))
    }

    fn read(&self, name: &str, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.directory.read(name, start, bytes)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.directory.len(name)
    }

    fn directories(&self) -> io::Result<Vec<Entry>> {
        self.directory.directories()
    }

    fn remove(&self, directory: &str, first: &str) -> io::Result<()> {
        self.directory.remove(directory, first)
    }
}

struct DyingWriter<'d> {
    store: &'d Dying<'d>,
    inner: Option<Box<dyn StoreWriter + 'd>>,
}

impl StoreWriter for DyingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let lives = self.store.lives(bytes.len());
        if let Some(inner) = &mut self.inner {
            inner.write(&bytes[..lives])?;
        }
        if lives == bytes.len() {
            return Ok(());
        }
        // A process that is killed tidies nothing up.
        std::mem::forget(self.inner.take());
        Err(killed())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let inner = self.inner.take();
        if self.store.lives(1) == 0 {
            std::mem::forget(inner);
            return Err(killed());
        }
        inner.map_or(Ok(()), |inner| inner.finish())
    }
}

#[test]
fn a_writer_that_dies_at_any_byte_leaves_what_was_there() {
    let (_dir, directory) = fresh();
    write_small(&directory, 10).unwrap();
    let mut deaths = 0;
    for left in 0.. {
        let dying = Dying {
            directory: &directory,
            left: AtomicI64::new(left),
        };
        if write_small(&dying, 20).is_ok() {
            break;
        }
        deaths += 1;
        let (step, skipped) = newest_step(&directory);
        assert_eq!(step, Some(10), "killed after {left}");
        for skipped in skipped {
            let expected = "checkpoint step-0000000020: it has no manifest: it was never finished";
            assert_eq!(skipped, expected);
        }
    }
    assert!(deaths > 124, "{deaths}");
    assert_eq!(newest_step(&directory), (Some(20), Vec::new()));
}

fn files(root: &Path, step: u64) -> BTreeMap<String, Vec<u8>> {
    let dir = root.join(format!("step-{step:010}"));
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn every_flipped_byte_and_every_cut_is_named_and_passed_over() {
    let (_dir, store) = fresh();
    write_small(&store, 10).unwrap();
    write_small(&store, 20).unwrap();
    let whole = files(store.root(), 20);
    assert_eq!(
        whole.keys().map(String::as_str).collect::<Vec<_>>(),
        ["manifest.json", "part-00000.bin", "part-00001.bin"]
    );
    let refused = |file: &str, what: String| {
        let (step, skipped) = newest_step(&store);
        assert_eq!(step, Some(10), "{what}");
        assert_eq!(skipped.len(), 1, "{what}: {skipped:?}");
        let named = skipped[0].starts_with("checkpoint step-0000000020: ");
        assert!(named && skipped[0].contains(file), "{what}: {skipped:?}");
    };
    for (file, bytes) in &whole {
        let path = store.root().join("step-0000000020").join(file);
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1 << (at % 8);
            fs::write(&path, &altered).unwrap();
            refused(file, format!("byte {at} of {file}"));
            fs::write(&path, &bytes[..at]).unwrap();
            refused(file, format!("{file} cut to {at} bytes"));
        }
        fs::write(&path, [&bytes[..], b"\n"].concat()).unwrap();
        refused(file, format!("{file} with a byte too many"));
        // A part of no bytes may be missing as little as any other.
        fs::remove_file(&path).unwrap();
        refused("", format!("{file} missing"));
        fs::write(&path, bytes).unwrap();
    }
    // All of one checkpoint in the place of another.
    for (file, bytes) in files(store.root(), 10) {
        let dir = store.root().join("step-0000000030");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(file), bytes).unwrap();
    }
    let (step, skipped) = newest_step(&store);
    assert_eq!(step, Some(20));
    assert!(
        skipped[0].contains("step is 10: its directory is that of step 30"),
        "{skipped:?}"
    );
}

/// A manifest with its hash, whatever it says.
fn forge(store: &Directory, step: u64, json: &serde_json::Value) {
    let mut text = json.to_string();
    text.pop();
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let dir = store.root().join(format!("step-{step:010}"));
    fs::create_dir_all(&dir).unwrap();
    let text = format!("{text},\"blake3\":\"{hash}\"}}\n");
    fs::write(dir.join("manifest.json"), text).unwrap();
}

#[test]
fn numbers_that_a_manifest_must_not_have_are_refused_by_name() {
    let (_dir, store) = fresh();
    write_small(&store, 20).unwrap();
    let checkpoint = Checkpoint::open(&store, 20).unwrap();
    let good = serde_json::to_value(checkpoint.manifest()).unwrap();
    forge(&store, 20, &good);
    assert_eq!(newest_step(&store).0, Some(20));
    let huge = u64::MAX;
    let changes: [(&str, serde_json::Value, &str); 14] = [
        (
            "/format",
            9.into(),
            "the format is 9: this version of ringfold reads 1",
        ),
        ("/step", 21.into(), "step is 21"),
        ("/chunk_bytes", 0.into(), "chunk_bytes is 0"),
        (
            "/chunk_bytes",
            12.into(),
            "chunk_bytes is 12: a multiple of 8",
        ),
        (
            "/chunk_bytes",
            huge.into(),
            "chunk_bytes is 18446744073709551615: at most",
        ),
        (
            "/tensors/0/dtype",
            "f64".into(),
            "parameters/w of f64 [3, 5] can't be read",
        ),
        (
            "/tensors/0/shape",
            vec![huge, 2].into(),
            "parameters/w of f32 [18446744073709551615, 2]",
        ),
        (
            "/tensors/0/shape",
            vec![1_u64 << 42].into(),
            "the bytes of all tensors is",
        ),
        (
            "/tensors/1/shape",
            vec![2].into(),
            "the bytes of all parts is 124: the tensors have 72",
        ),
        (
            "/parts/1/file",
            "../../secret".into(),
            "part 1 is called \"../../secret\"",
        ),
        (
            "/parts/0/bytes",
            60.into(),
            "part-00000.bin is 60: only the last part may end within",
        ),
        (
            "/parts/1/bytes",
            huge.into(),
            "the length of part-00001.bin is 18446744073709551615",
        ),
        (
            "/parts/1/chunks",
            serde_json::json!([]),
            "hashes of part-00001.bin is 0: 1 are expected",
        ),
        ("/tensors", "none".into(), "invalid type"),
    ];
    for (at, value, expected) in changes {
        let mut changed = good.clone();
        *changed.pointer_mut(at).unwrap() = value;
        forge(&store, 20, &changed);
        let error = Checkpoint::open(&store, 20).unwrap_err().to_string();
        assert!(error.contains(expected), "{at}: {error}");
    }
    let manifest = store.root().join("step-0000000020/manifest.json");
    let file = fs::File::create(&manifest).unwrap();
    // Holes take no room.
    file.set_len((1 << 28) + 1).unwrap();
    let error = Checkpoint::open(&store, 20).unwrap_err().to_string();
    assert!(
        error.contains("at most 268435456 bytes are allowed"),
        "{error}"
    );
}

#[test]
fn what_is_kept_is_told_by_count_steps_and_age() {
    let steps = |store: &Directory| -> Vec<u64> {
        list(store)
            .unwrap()
            .iter()
            .map(|listed| listed.step)
            .collect()
    };
    let (_dir, store) = fresh();
    let keep = Keep {
        newest: 2,
        every_steps: Some(30),
        age_max: None,
    };
    assert!(
        prune(&store, &keep, SystemTime::UNIX_EPOCH)
            .unwrap()
            .is_empty()
    );
    for step in [10, 20, 30, 40, 50, 60] {
        write_small(&store, step).unwrap();
    }
    // One that was never finished, and one that is on its way.
    for step in [15, 70] {
        let range = part_range(8, 1, 0);
        write_part(&store, step, 0, range, |_, to| to.extend([0; 8])).unwrap();
    }
    fs::create_dir_all(store.root().join("step-7")).unwrap();
    let removed = prune(&store, &keep, SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(
        removed,
        [
            "step-0000000040",
            "step-0000000020",
            "step-0000000015",
            "step-0000000010"
        ]
    );
    assert_eq!(steps(&store), [70, 60, 50, 30]);
    // Step 50 was finished in second 50.
    let keep = Keep {
        age_max: Some(Duration::from_secs(40)),
        ..keep
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(89);
    prune(&store, &keep, now).unwrap();
    assert_eq!(steps(&store), [70, 60, 50]);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    prune(&store, &keep, now).unwrap();
    assert_eq!(steps(&store), [70, 60]);
    assert_eq!(newest_step(&store).0, Some(60));
    assert!(store.root().join("step-7").is_dir(), "it is none of ours");
}

const VICTIM: &str = "RINGFOLD_TEST_CHECKPOINTS";

#[test]
#[ignore = "it is the process that another test kills"]
fn writes_checkpoints_until_it_is_killed() {
    let Some(root) = std::env::var_os(VICTIM) else {
        return;
    };
    let store = Directory::new(root);
    for step in 1.. {
        println!("step {step} begins");
        write(
            &store,
            &state(step, 3 << 20),
            3,
            manifest(step, vec![TensorEntry::f32("w", [3 << 18])]),
        )
        .unwrap();
        println!("step {step} is done");
    }
}

#[test]
fn a_process_that_is_killed_while_it_writes_leaves_what_was_done() {
    let (_dir, store) = fresh();
    let mut killed = 0;
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("checkpoints::writes_checkpoints_until_it_is_killed")
            .env(VICTIM, store.root())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = format!("step {} begins", 2 + round);
        let said = lines.find(|line| line.as_ref().unwrap().ends_with(&wanted));
        assert!(said.is_some(), "it ended before it said {wanted:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        // What it said before it died may be in the pipe still.
        let done = lines.map_while(Result::ok).filter_map(|line| {
            let step = line.strip_prefix("step ")?.strip_suffix(" is done")?;
            step.parse::<u64>().ok()
        });
        let done = done.last().unwrap_or(1 + round);
        let (step, _) = newest_step(&store);
        let step = step.unwrap();
        assert!(step == done || step == done + 1, "{step} after {done}");
        fs::remove_dir_all(store.root()).unwrap();
    }
    assert_eq!(killed, 6);
}
