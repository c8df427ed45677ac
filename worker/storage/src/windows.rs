//! Tokens in memory, and the windows of them that are records.

use std::sync::Arc;

/// The numbers of a text's tokens, as compactly as their vocabulary allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// Of at most 256 different ones.
    U8(Vec<u8>),
    /// Of at most 65,536.
    U16(Vec<u16>),
}

impl Tokens {
    /// Tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(tokens) => tokens.len(),
            Self::U16(tokens) => tokens.len(),
        }
    }
}

/// How windows lie over a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowShape {
    /// Tokens that a model sees at once. A window has one more.
    pub context: usize,
    /// Tokens from the start of one window to that of the next.
    pub stride: usize,
}

impl WindowShape {
    /// Windows that lie wholly within `tokens` tokens.
    pub fn count(self, tokens: u64) -> u64 {
        let (context, stride) = (self.context as u64, self.stride as u64);
        match tokens.checked_sub(context.saturating_add(1)) {
            Some(room) => room / stride + 1,
            None => 0,
        }
    }
}

/// Records of a text: record i is the window of context + 1 tokens at i x stride, of the part of
/// the tokens that starts at `start`. Cloning shares the memory.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    tokens: Arc<Tokens>,
    start: u64,
    len: u64,
    shape: WindowShape,
}

impl Windows {
    /// The windows over `count` tokens from `start` on.
    ///
    /// # Panics
    /// If there aren't so many tokens.
    pub fn new(tokens: Arc<Tokens>, start: u64, count: u64, shape: WindowShape) -> Self {
        assert!(
            start + count <= tokens.len() as u64,
            "windows within the tokens"
        );
        Self {
            tokens,
            start,
            len: shape.count(count),
            shape,
        }
    }

    /// Records.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tokens of a record's input.
    pub fn context(&self) -> usize {
        self.shape.context
    }

    /// No windows over the same tokens.
    pub fn none(&self) -> Self {
        Self {
            len: 0,
            ..self.clone()
        }
    }

    /// Writes the record at `index`: all tokens but the last, and all but the first.
    ///
    /// # Panics
    /// If there is no such record, or the slices don't hold `context` tokens.
    #[inline]
    pub fn copy(&self, index: u64, tokens_out: &mut [i32], labels_out: &mut [i32]) {
        assert!(index < self.len, "record {index} of {}", self.len);
        let start = (self.start + index * self.shape.stride as u64) as usize;
        let end = start + self.shape.context;
        match &*self.tokens {
            Tokens::U8(tokens) => {
                widen(&tokens[start..end], tokens_out);
                widen(&tokens[start + 1..=end], labels_out);
            }
            Tokens::U16(tokens) => {
                widen(&tokens[start..end], tokens_out);
                widen(&tokens[start + 1..=end], labels_out);
            }
        }
    }
}

fn widen<T: Copy + Into<i32>>(from: &[T], to: &mut [i32]) {
    assert_eq!(from.len(), to.len(), "tokens of a record");
    for (to, &token) in to.iter_mut().zip(from) {
        *to = token.into();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every window lies within the text, and another would not.
        #[test]
        fn windows_fill_the_text(count in 0usize..300, context in 1usize..40, stride in 1usize..50) {
            let shape = WindowShape { context, stride };
            let tokens = Arc::new(Tokens::U16((0..count as u16).collect()));
            let windows = Windows::new(tokens, 0, count as u64, shape);
            let (mut inputs, mut labels) = (vec![0; context], vec![0; context]);
            for index in 0..windows.len() {
                windows.copy(index, &mut inputs, &mut labels);
                let start = index as usize * stride;
                let expected: Vec<i32> = (start..start + context).map(|at| at as i32).collect();
                prop_assert_eq!(&inputs, &expected);
                prop_assert!(labels.iter().zip(&inputs).all(|(next, this)| *next == this + 1));
            }
            prop_assert!(windows.len() as usize * stride + context + 1 > count);
        }
    }

    #[test]
    fn a_part_starts_where_it_says() {
        let tokens = Arc::new(Tokens::U8((0..10).collect()));
        let shape = WindowShape {
            context: 2,
            stride: 1,
        };
        let windows = Windows::new(tokens, 6, 4, shape);
        assert_eq!(windows.len(), 2);
        let (mut inputs, mut labels) = ([0; 2], [0; 2]);
        windows.copy(1, &mut inputs, &mut labels);
        assert_eq!((inputs, labels), ([7, 8], [8, 9]));
        assert_eq!(windows.none().len(), 0);
    }
}
