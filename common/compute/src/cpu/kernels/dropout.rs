//! Inverted dropout with counter-based masks.
//!
//! The masks are the words of [`Stream`](ringfold_common::random::Stream), drawn here for `BLOCKS`
//! blocks at a time, so that the rounds of the generator run in vectors. A test pins the equality.

use std::sync::Arc;

use ringfold_common::random::{Domain, stream_key};
use ringfold_graph::op::Dropout;

use super::Source;
use crate::backend::RunArgs;
use crate::cpu::kernel::Kernel;
use crate::cpu::memory::{Operands, Results};
use crate::cpu::simd::widest;
use crate::element::Element;

pub(crate) fn lower<T: Element>(op: Dropout) -> Arc<dyn Kernel<T>> {
    Arc::new(DropoutKernel { op })
}

#[derive(Debug)]
struct DropoutKernel {
    op: Dropout,
}

impl<T: Element> Kernel<T> for DropoutKernel {
    fn run(&self, results: &mut Results<'_, T>, operands: &Operands<'_, T>, args: &RunArgs) {
        dropout(&self.op, args, results.take(0), operands.source(0));
    }
}

/// `dst = mask · src / (1 - rate)`. The mask of element `i` depends on (seed, step, replica, node
/// key, `i`) alone, so that the same call on `dy` is the gradient.
pub fn dropout<T: Element>(spec: &Dropout, args: &RunArgs, dst: &mut [T], src: Source<'_, T>) {
    dropout_from(spec, args, 0, dst, src);
}

/// [`dropout`] of the elements from `start` on.
pub fn dropout_from<T: Element>(
    spec: &Dropout,
    args: &RunArgs,
    start: usize,
    dst: &mut [T],
    src: Source<'_, T>,
) {
    let factors = Factors::new(spec, args);
    // What is drawn together before `start`.
    let before = start % DRAWN;
    let head = match before {
        0 => 0,
        _ => (DRAWN - before).min(dst.len()),
    };
    let (head, rest) = dst.split_at_mut(head);
    let (head_src, rest_src) = (src.part(0, head.len()), src.part(head.len(), rest.len()));
    if !head.is_empty() {
        let drawn = factors.draw::<T>((start - before) as u64);
        multiply(head, head_src, &drawn[before..]);
    }
    let start = start + head.len();
    widest(
        #[inline(always)]
        || {
            for (run, chunk) in rest.chunks_mut(DRAWN).enumerate() {
                let first = run * DRAWN;
                let factors = factors.draw::<T>((start + first) as u64);
                multiply(chunk, rest_src.part(first, chunk.len()), &factors);
            }
        },
    );
}

/// `dst = src · factors`, as many as there are elements.
#[inline(always)]
fn multiply<T: Element>(dst: &mut [T], src: Source<'_, T>, factors: &[T]) {
    match src {
        Source::InPlace => {
            for (x, &factor) in dst.iter_mut().zip(factors) {
                *x *= factor;
            }
        }
        Source::Apart(src) => {
            for ((d, &x), &factor) in dst.iter_mut().zip(src).zip(factors) {
                *d = x * factor;
            }
        }
    }
}

/// What the elements of a tensor are multiplied by: 0, or `1 / (1 - rate)`.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    key: u64,
    substream: u64,
    /// An element is zeroed if its 32-bit word is below this.
    threshold: u32,
    scale: f64,
}

impl Factors {
    /// Those of a node in a run.
    #[must_use]
    pub fn new(spec: &Dropout, args: &RunArgs) -> Self {
        Self {
            key: stream_key(args.seed, Domain::Dropout, args.step, args.replica),
            substream: spec.key,
            threshold: (spec.rate * (1u64 << 32) as f64) as u32,
            scale: 1.0 / (1.0 - spec.rate),
        }
    }

    /// Those of the elements from `start` on, a multiple of 4.
    #[inline(always)]
    pub(crate) fn draw<T: Element>(&self, start: u64) -> [T; DRAWN] {
        let mut words = [[0; 4]; BLOCKS];
        draw(&mut words, self.key, self.substream, start / 4);
        let scale = T::from_f64(self.scale);
        let mut factors = [T::ZERO; DRAWN];
        for (factor, &word) in factors.iter_mut().zip(words.as_flattened()) {
            *factor = T::select(word < self.threshold, T::ZERO, scale);
        }
        factors
    }
}

/// Blocks of four words that are drawn together.
const BLOCKS: usize = 16;

/// Elements whose words are drawn together.
pub const DRAWN: usize = 4 * BLOCKS;

/// Writes the blocks `first .. first + BLOCKS` of the stream `substream` under `key`: Philox4x32-10,
/// one counter a lane (constants: Salmon et al., SC 2011).
#[inline(always)]
fn draw(words: &mut [[u32; 4]; BLOCKS], key: u64, substream: u64, first: u64) {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    let mut c0: [u32; BLOCKS] = std::array::from_fn(|lane| (first + lane as u64) as u32);
    let mut c1: [u32; BLOCKS] = std::array::from_fn(|lane| ((first + lane as u64) >> 32) as u32);
    let mut c2 = [substream as u32; BLOCKS];
    let mut c3 = [(substream >> 32) as u32; BLOCKS];
    for _ in 0..10 {
        for lane in 0..BLOCKS {
            let p0 = 0xD251_1F53 * u64::from(c0[lane]);
            let p1 = 0xCD9E_8D57 * u64::from(c2[lane]);
            c0[lane] = (p1 >> 32) as u32 ^ c1[lane] ^ k0;
            c1[lane] = p1 as u32;
            c2[lane] = (p0 >> 32) as u32 ^ c3[lane] ^ k1;
            c3[lane] = p0 as u32;
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    for (lane, block) in words.iter_mut().enumerate() {
        *block = [c0[lane], c1[lane], c2[lane], c3[lane]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rate: f64, key: u64, args: &RunArgs) -> Vec<f32> {
        let mut ones = vec![1.0f32; 10_001];
        dropout(&Dropout { rate, key }, args, &mut ones, Source::InPlace);
        ones
    }

    #[test]
    fn masks_keep_the_mean_and_depend_on_every_part_of_the_key() {
        let args = RunArgs::default();
        let base = mask(0.25, 0, &args);
        assert!(base.iter().all(|&x| x == 0.0 || x == 1.0 / 0.75));
        let mean = base.iter().sum::<f32>() / base.len() as f32;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert_eq!(base, mask(0.25, 0, &args));
        let others = [
            mask(0.25, 1, &args),
            mask(0.25, 0, &RunArgs { seed: 1, ..args }),
            mask(0.25, 0, &RunArgs { step: 1, ..args }),
            mask(0.25, 0, &RunArgs { replica: 1, ..args }),
        ];
        assert!(others.iter().all(|other| *other != base));
    }

    #[test]
    fn a_part_of_a_tensor_has_its_part_of_the_mask() {
        let args = RunArgs::default();
        let all = mask(0.5, 3, &args);
        let spec = Dropout { rate: 0.5, key: 3 };
        for (start, len) in [
            (3 * DRAWN, 100),
            (1, 200),
            (DRAWN + 63, 1),
            (17, 5),
            (70, 58),
        ] {
            let mut part = vec![1.0f32; len];
            dropout_from(&spec, &args, start, &mut part, Source::InPlace);
            assert_eq!(part, all[start..][..len]);
            dropout_from(
                &spec,
                &args,
                start,
                &mut part,
                Source::Apart(&vec![1.0; len]),
            );
            assert_eq!(part, all[start..][..len]);
        }
    }

    #[test]
    fn words_are_those_of_the_stream() {
        for first in [0, 16, (1 << 32) - 8, u64::from(u32::MAX) * 5] {
            let (key, substream) = (0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321);
            let stream = ringfold_common::random::Stream::new(key, substream);
            let mut words = [[0; 4]; BLOCKS];
            draw(&mut words, key, substream, first);
            for (i, &word) in words.as_flattened().iter().enumerate() {
                assert_eq!(word, stream.word(4 * first + i as u64));
            }
        }
    }

    #[test]
    fn a_rate_of_zero_changes_nothing() {
        assert!(mask(0.0, 0, &RunArgs::default()).iter().all(|&x| x == 1.0));
    }

    #[test]
    fn a_prefix_of_the_batch_has_a_prefix_of_the_mask() {
        let args = RunArgs::default();
        let all = mask(0.5, 3, &args);
        let mut some = vec![1.0f32; 17];
        let spec = Dropout { rate: 0.5, key: 3 };
        dropout(&spec, &args, &mut some, Source::Apart(&[1.0; 17]));
        assert_eq!(some, all[..17]);
    }
}
