//! Integers and truth values in memories of floats.
//!
//! Invariant of the unsafe code: [`Element`] is sealed to `f32` and `f64`, plain numbers without
//! padding; every bit pattern is a value of every type that is viewed here (`f32`, `f64`, `i32`,
//! `i64`, `u8`), and `align_to` cuts off what isn't aligned. Places start at multiples of 64 bytes,
//! so nothing is cut off; the caller takes the length that it needs and would panic otherwise.

use crate::element::Element;

/// A type that can be seen in a memory of floats.
pub(crate) trait Plain: Copy {}
impl Plain for i32 {}
impl Plain for i64 {}
impl Plain for u8 {}

/// The first `len` elements of the memory as `V`.
pub(crate) fn view<T: Element, V: Plain>(memory: &[T], len: usize) -> &[V] {
    // SAFETY: every bit pattern of one type is a value of the other (see the module).
    let (_, elements, _) = unsafe { memory.align_to::<V>() };
    &elements[..len]
}

/// The first `len` elements of the memory as `V`, to change.
pub(crate) fn view_mut<T: Element, V: Plain>(memory: &mut [T], len: usize) -> &mut [V] {
    // SAFETY: every bit pattern of one type is a value of the other (see the module).
    let (_, elements, _) = unsafe { memory.align_to_mut::<V>() };
    &mut elements[..len]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Arena;

    #[test]
    fn views_read_what_views_wrote() {
        let mut arena = Arena::<f32>::zeros(32).unwrap();
        view_mut::<f32, i64>(&mut arena, 16).fill(-7);
        assert_eq!(view::<f32, i64>(&arena, 16), [-7; 16]);
        view_mut::<f32, u8>(&mut arena[16..], 3).copy_from_slice(&[1, 0, 1]);
        assert_eq!(view::<f32, u8>(&arena[16..], 3), [1, 0, 1]);
        assert_eq!(view::<f32, i64>(&arena, 8), [-7; 8]);
    }
}
