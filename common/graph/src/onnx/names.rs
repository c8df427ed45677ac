//! Names: patterns, and names of ONNX as names of a graph.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::NAME_LEN_MAX;

/// True if `name` matches `pattern`, in which `*` stands for any text and `?` for one character.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and what it has eaten up to.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, eaten)) => {
                    star = Some((at, eaten + 1));
                    p = at + 1;
                    n = eaten + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Names of one kind, each taken once.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: BTreeSet<String>,
    /// The last number behind a name that was taken.
    numbers: BTreeMap<String, usize>,
}

impl Names {
    /// The name with `_` for every character that a graph's name can't have, and a number at the end
    /// if it is taken.
    pub(super) fn take(&mut self, name: &str) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        let base = name.chars().map(|c| if fits(c) { c } else { '_' });
        let mut base: String = base.take(NAME_LEN_MAX - 12).collect();
        if base.is_empty() {
            base.push('_');
        }
        let mut candidate = base.clone();
        while !self.taken.insert(candidate.clone()) {
            let number = self.numbers.entry(base.clone()).or_insert(1);
            *number += 1;
            candidate = format!("{base}_{number}");
        }
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_globs() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("bn*.bias", "bn1.bias", true),
            ("bn*.bias", "bn1.biases", false),
            ("*.?", "a.b.c", true),
            ("a*b*c", "aXbYbZc", true),
            ("a", "ab", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn names_are_valid_and_unique() {
        let mut names = Names::default();
        assert_eq!(names.take("onnx::MatMul_1"), "onnx__MatMul_1");
        assert_eq!(names.take("onnx..MatMul"), "onnx..MatMul");
        assert_eq!(names.take("onnx::MatMul_1"), "onnx__MatMul_1_2");
        assert_eq!(names.take(""), "_");
        assert_eq!(names.take(&"x".repeat(999)).len(), NAME_LEN_MAX - 12);
    }
}
