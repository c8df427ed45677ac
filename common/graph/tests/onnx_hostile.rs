//! The ONNX reader on damaged models: no panic, and memory in proportion to the file.
//!
//! Invariant of the `unsafe` here: the allocator passes every call on to the system's, unchanged, and
//! only counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use proptest::prelude::*;
use ringfold_graph::onnx::{self, ReadOptions};

struct Counting;

thread_local! {
    /// Bytes that this thread has taken and not given back, and the most of them since a reset.
    static TAKEN: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    // A thread that ends has no counter any more.
    let _ = TAKEN.try_with(|taken| {
        let (now, most) = taken.get();
        taken.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: every call goes to the system's allocator with its own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the pointer came from `alloc`, so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `f` held at once.
fn peak<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let (before, _) = TAKEN.get();
    TAKEN.set((before, before));
    let result = f();
    let (_, most) = TAKEN.get();
    (result, usize::try_from(most - before).unwrap_or(0))
}

fn models() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/golden/onnx");
    let names = [
        "mlp",
        "cnn",
        "resnet",
        "unet",
        "encoder",
        "decoder_script",
        "lstm_both_ways",
    ];
    let read = |name: &&str| std::fs::read(folder.join(format!("{name}.onnx"))).unwrap();
    names.iter().map(read).collect()
}

#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Flip(usize, u8),
    Cut(usize),
    Remove(usize, usize),
    Repeat(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, to)| Damage::Set(at, to)),
        (any::<usize>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        any::<usize>().prop_map(Damage::Cut),
        (any::<usize>(), 1..40usize).prop_map(|(at, len)| Damage::Remove(at, len)),
        (any::<usize>(), 1..200usize).prop_map(|(at, len)| Damage::Repeat(at, len)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let len = bytes.len().max(1);
    match *damage {
        _ if bytes.is_empty() => {}
        Damage::Set(at, to) => bytes[at % len] = to,
        Damage::Flip(at, bit) => bytes[at % len] ^= 1 << bit,
        Damage::Cut(at) => bytes.truncate(at % len),
        Damage::Remove(at, count) => {
            let at = at % len;
            bytes.drain(at..(at + count).min(len));
        }
        Damage::Repeat(at, count) => {
            let at = at % len;
            let part = bytes[at..(at + count).min(len)].to_vec();
            bytes.splice(at..at, part);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_models_are_models_or_errors(
        which in 0..7usize,
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let mut bytes = models().swap_remove(which);
        for damage in &damages {
            apply(&mut bytes, damage);
        }
        let (names, decoding) = peak(|| onnx::inputs(&bytes).is_ok());
        // Some 200 bytes for each message of two.
        prop_assert!(decoding <= 512 * bytes.len() + 4096, "{decoding} bytes, {names}");
        if let Ok(model) = onnx::read(&bytes, &ReadOptions::default()) {
            prop_assert!(model.graph.verify().is_ok());
        }
    }

    #[test]
    fn any_bytes_are_a_model_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = onnx::read(&bytes, &ReadOptions::default());
        let _ = onnx::read_tensor(&bytes);
    }
}
