//! Numbers as bytes.
//!
//! Invariant: every [`Element`] is a primitive number without padding for which every bit pattern
//! is a value, so that its memory may be read and written as bytes. The trait is private to this
//! crate, and only this file implements it.

/// A number that can be summed over ranks.
///
/// # Safety
/// The type has no padding, and every bit pattern is a value of it.
pub(crate) unsafe trait Element: Copy {
    /// Adds the little-endian numbers in `terms` to those in `sums`. Both have the same length, a
    /// multiple of the element's size.
    fn add(sums: &mut [u8], terms: &[u8]);
}

macro_rules! element {
    ($number:ty, $bytes:literal) => {
        // SAFETY: a primitive float has no padding, and every bit pattern is a value.
        unsafe impl Element for $number {
            fn add(sums: &mut [u8], terms: &[u8]) {
                let (sums, []) = sums.as_chunks_mut::<$bytes>() else {
                    unreachable!("segments are cut at elements")
                };
                let (terms, []) = terms.as_chunks::<$bytes>() else {
                    unreachable!("segments are cut at elements")
                };
                for (sum, term) in sums.iter_mut().zip(terms) {
                    let total = <$number>::from_le_bytes(*sum) + <$number>::from_le_bytes(*term);
                    *sum = total.to_le_bytes();
                }
            }
        }
    };
}

element!(f32, 4);
element!(f64, 8);

/// The memory of `numbers`, in the machine's order of bytes, which is little-endian (checked at
/// the crate's root).
pub(crate) fn bytes_of<T: Element>(numbers: &mut [T]) -> &mut [u8] {
    let len = size_of_val(numbers);
    // SAFETY: the pointer and length are those of a live, exclusively borrowed slice, for whose
    // lifetime the result borrows it; bytes need no alignment; by the contract of `Element` all
    // bytes are initialised, and whatever is written to them is a value of `T`.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast::<u8>(), len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_wire() {
        let mut numbers = [1.5_f32, -2.0];
        let expected: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(bytes_of(&mut numbers), &expected[..]);
        assert_eq!(bytes_of::<f64>(&mut []), &[] as &[u8]);
    }

    #[test]
    fn sums_are_those_of_the_numbers() {
        let mut sums = [1.0_f64, f64::MAX, -0.0];
        let mut terms = [0.5, f64::MAX, 0.0];
        f64::add(bytes_of(&mut sums), bytes_of(&mut terms));
        assert_eq!(sums, [1.5, f64::INFINITY, 0.0]);
        let mut sums = [1.0_f32; 33];
        let mut terms = [2.0_f32; 33];
        f32::add(bytes_of(&mut sums), bytes_of(&mut terms));
        assert_eq!(sums, [3.0; 33]);
    }
}
