//! Inverted dropout with counter-based masks.

use ringfold_common::random::{Domain, Stream, stream_key};

use super::Source;
use crate::backend::RunArgs;
use crate::element::Element;

/// The probability and the stream of one dropout node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability of zero, in `[0, 1)`.
    pub rate: f64,
    /// The node's key.
    pub key: u64,
}

/// `dst = mask · src / (1 - rate)`. The mask of element `i` depends on (seed, step, replica, node
/// key, `i`) alone, so that the same call on `dy` is the gradient.
pub fn dropout<T: Element>(spec: &Dropout, args: &RunArgs, dst: &mut [T], src: Source<'_, T>) {
    if let Source::Apart(src) = src {
        dst.copy_from_slice(src);
    }
    let key = stream_key(args.seed, Domain::Dropout, args.step, args.replica);
    let stream = Stream::new(key, spec.key);
    // An element is zeroed if its 32-bit word is below this.
    let threshold = (spec.rate * (1u64 << 32) as f64) as u32;
    let scale = T::from_f64(1.0 / (1.0 - spec.rate));
    for (block, chunk) in dst.chunks_mut(4).enumerate() {
        let words = stream.block(block as u64);
        for (x, word) in chunk.iter_mut().zip(words) {
            *x = if word < threshold {
                T::ZERO
            } else {
                *x * scale
            };
        }
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
