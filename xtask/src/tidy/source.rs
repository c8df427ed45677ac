//! Rust source text, split into code and the rest.
//!
//! This is no parser: it knows comments, literals, and which lines are for tests only. That is
//! enough to look for words in code without finding them in prose.

use std::collections::BTreeSet;
use std::ops::Range;

/// One source file.
#[derive(Debug)]
pub struct Source {
    /// Its path from the root.
    pub path: String,
    /// Its text.
    pub text: String,
    /// The text with comments and the insides of literals blanked. Same bytes per line.
    pub code: String,
    /// True if no shipped code is in it.
    pub is_test: bool,
    /// Byte ranges of items under `#[cfg(test)]`.
    test_items: Vec<TestItem>,
}

#[derive(Debug)]
struct TestItem {
    range: Range<usize>,
    /// The file of `mod name;`: its name, and its `#[path]` if it has one.
    module: Option<(String, Option<String>)>,
}

impl Source {
    /// Reads files, each a path and its text.
    pub fn parse_all(files: Vec<(String, String)>) -> Vec<Self> {
        let mut sources: Vec<Self> = files
            .into_iter()
            .map(|(path, text)| Self::parse(path, text))
            .collect();
        let tests: BTreeSet<String> = sources.iter().flat_map(Self::test_modules).collect();
        for source in &mut sources {
            source.is_test |= tests.iter().any(|module| {
                let rest = source.path.strip_prefix(module.as_str());
                rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            });
        }
        sources
    }

    fn parse(path: String, text: String) -> Self {
        let code = code_of(&text);
        let is_test = path
            .split('/')
            .any(|part| matches!(part, "tests" | "benches" | "examples"));
        Self {
            test_items: test_items(&text, &code),
            path,
            text,
            code,
            is_test,
        }
    }

    /// Where the whole-file test modules that this file names are: paths without `.rs`.
    fn test_modules(&self) -> Vec<String> {
        let (parent, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let stem = file.trim_end_matches(".rs");
        let children = match stem {
            "mod" | "lib" | "main" => parent.to_owned(),
            _ => format!("{parent}/{stem}"),
        };
        let modules = self
            .test_items
            .iter()
            .filter_map(|item| item.module.as_ref());
        modules
            .map(|(name, path)| match path {
                Some(path) => format!("{parent}/{}", path.trim_end_matches(".rs")),
                None => format!("{children}/{name}"),
            })
            .collect()
    }

    /// The `//!` docs at the top.
    pub fn header(&self) -> String {
        let lines = self.text.lines().map(str::trim);
        let header = lines.take_while(|line| line.is_empty() || line.starts_with("//"));
        header
            .filter_map(|line| line.strip_prefix("//!"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Line numbers, from 1, at which `path` stands in code: `HashMap`, or `std::fs`. A
    /// path also stands in `use std::{fs, net};`.
    pub fn lines_with(&self, path: &str, tests_too: bool) -> Vec<usize> {
        let mut at: Vec<usize> = word_positions(&self.code, path).collect();
        if let Some((outer, inner)) = path.rsplit_once("::")
            && !inner.is_empty()
        {
            at.extend(grouped(&self.code, outer, inner));
        }
        at.retain(|&at| tests_too || !self.is_test_at(at));
        let mut lines: Vec<usize> = at
            .into_iter()
            .map(|at| 1 + self.code[..at].matches('\n').count())
            .collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }

    fn is_test_at(&self, at: usize) -> bool {
        self.is_test || self.test_items.iter().any(|item| item.range.contains(&at))
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Where `word` stands and is not a part of a longer word.
fn word_positions<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| {
            let before = at.checked_sub(1).map(|i| bytes[i]);
            let after = bytes.get(at + word.len()).copied();
            let cuts = |side: Option<u8>| !side.is_some_and(is_word);
            let ends_open = !word.bytes().last().is_some_and(is_word);
            cuts(before) && (ends_open || cuts(after))
        })
}

/// Where `inner` stands at the top level of a group `outer::{…}`.
fn grouped(code: &str, outer: &str, inner: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let open = format!("{outer}::{{");
    let mut found = Vec::new();
    for group in word_positions(code, &open) {
        let start = group + open.len();
        let end = closing(bytes, start - 1).unwrap_or(bytes.len());
        for at in word_positions(&code[start..end], inner).map(|at| start + at) {
            let before = code[start..at].trim_end();
            let opened = before.matches('{').count();
            let depth = opened.saturating_sub(before.matches('}').count());
            if depth == 0 && (before.is_empty() || before.ends_with(',')) {
                found.push(at);
            }
        }
    }
    found
}

/// The position of the bracket that closes the one at `open`.
fn closing(bytes: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Blanks comments and the insides of literals, byte for byte; line ends stay.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'\'' => match char_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Whole literals and comments were blanked: what is left is UTF-8.
    String::from_utf8_lossy(&code).into_owned()
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    let end = bytes[at..].iter().position(|&byte| byte == b'\n');
    end.map_or(bytes.len(), |length| at + length)
}

fn block_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).map(|i| bytes[i]);
    if before.is_some_and(|byte| is_word(byte) && !matches!(byte, b'b' | b'c')) {
        return None;
    }
    let hashes = bytes[at + 1..]
        .iter()
        .take_while(|&&byte| byte == b'#')
        .count();
    if bytes.get(at + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let start = at + 2 + hashes;
    let length = bytes[start..]
        .windows(close.len())
        .position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| start + length + close.len()))
}

/// The end of a character literal; `None` for a lifetime.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes
            .get(at + 3..)?
            .iter()
            .position(|&byte| byte == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    // A character has at most four bytes; a lifetime has no closing quote.
    let close = bytes
        .get(at + 2..)?
        .iter()
        .take(4)
        .position(|&byte| byte == b'\'')?;
    let inner = &bytes[at + 1..at + 2 + close];
    (std::str::from_utf8(inner).ok()?.chars().count() == 1).then_some(at + 3 + close)
}

/// The items under `#[cfg(test)]`, or any `cfg` that asks for `test`.
fn test_items(text: &str, code: &str) -> Vec<TestItem> {
    let bytes = code.as_bytes();
    let mut items = Vec::new();
    for (start, _) in code.match_indices("#[cfg(") {
        let Some(end) = closing(bytes, start + 1) else {
            continue;
        };
        let condition = &code[start..end];
        if word_positions(condition, "test").next().is_none() || condition.contains("not(") {
            continue;
        }
        let (item, path) = skip_attributes(text, code, end + 1);
        items.push(TestItem {
            range: start..item_end(code, item),
            module: module_name(&code[item..]).map(|name| (name, path)),
        });
    }
    items
}

/// The start of the item after attributes from `at` on, and its `#[path]`.
fn skip_attributes(text: &str, code: &str, mut at: usize) -> (usize, Option<String>) {
    let mut path = None;
    loop {
        at += code[at..].len() - code[at..].trim_start().len();
        if !code[at..].starts_with("#[") {
            return (at, path);
        }
        let end = closing(code.as_bytes(), at + 1).map_or(code.len(), |end| end + 1);
        if code[at..].starts_with("#[path") {
            path = text[at..end].split('"').nth(1).map(str::to_owned);
        }
        at = end;
    }
}

/// `name` of `mod name;`.
fn module_name(item: &str) -> Option<String> {
    let head = item.split(['{', ';']).next()?;
    let is_file = item[head.len()..].starts_with(';');
    let mut words = head.split_whitespace().rev();
    let name = words.next()?;
    (is_file && words.next() == Some("mod")).then(|| name.to_owned())
}

fn item_end(code: &str, start: usize) -> usize {
    let bytes = code.as_bytes();
    let first = code[start..]
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next();
    let is_value = matches!(first, Some("let" | "static"))
        || code[start..].starts_with("const ") && !code[start..].starts_with("const fn");
    let is_item = matches!(
        first,
        Some(
            "pub"
                | "fn"
                | "impl"
                | "struct"
                | "enum"
                | "mod"
                | "use"
                | "trait"
                | "type"
                | "unsafe"
                | "async"
                | "extern"
                | "const"
                | "macro_rules"
        )
    );
    let mut at = start;
    while at < bytes.len() {
        match bytes[at] {
            b';' => return at + 1,
            // A field, a match arm or an element of a list.
            b',' if !is_item && !is_value => return at + 1,
            b')' | b']' | b'}' => return at,
            b'(' | b'[' | b'{' => {
                let Some(end) = closing(bytes, at) else {
                    return bytes.len();
                };
                if bytes[at] == b'{' && !is_value {
                    return end + 1;
                }
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    at
}

#[cfg(test)]
pub fn sketch(path: &str, text: &str) -> Source {
    Source::parse(path.to_owned(), text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, path: &str) -> Vec<usize> {
        sketch("a/src/lib.rs", text).lines_with(path, false)
    }

    #[test]
    fn prose_and_literals_are_not_code() {
        let text = "// HashMap\n/* HashMap /* HashMap */ HashMap */\nlet a = \"HashMap \\\" HashMap\";\n\
                    let b = r#\"HashMap \" HashMap\"#; let c = b\"HashMap\";\nlet d = '\"'; HashMap";
        assert_eq!(lines(text, "HashMap"), [5]);
    }

    #[test]
    fn lifetimes_are_not_literals() {
        let text = "fn f<'a>(x: &'a str) -> HashMap<'a> {}\nlet c = '\\''; let d = 'é'; HashMap";
        assert_eq!(lines(text, "HashMap"), [1, 2]);
    }

    #[test]
    fn a_word_is_whole() {
        assert_eq!(
            lines("let my_HashMap = HashMaps::new();", "HashMap"),
            [0; 0]
        );
        assert_eq!(lines("std::fs::read(x)", "std::fs"), [1]);
        assert_eq!(lines("std::fsx::read(x)", "std::fs"), [0; 0]);
        assert_eq!(lines("operand::x", "rand::"), [0; 0]);
        assert_eq!(lines("rand::random()", "rand::"), [1]);
    }

    #[test]
    fn groups_of_imports_are_seen() {
        assert_eq!(lines("use std::{\n  fmt,\n  fs::File,\n};", "std::fs"), [3]);
        assert_eq!(lines("use std::{fmt::{fs}, x};", "std::fs"), [0; 0]);
        assert_eq!(lines("use std::{offs, fmt};", "std::fs"), [0; 0]);
    }

    #[test]
    fn test_items_do_not_count() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  use x::HashMap;\n}\nfn b() { HashMap }";
        assert_eq!(lines(text, "HashMap"), [6]);
        let field = "struct A {\n #[cfg(test)]\n a: HashMap<u8, (u8, u8)>,\n b: HashMap,\n}";
        assert_eq!(lines(field, "HashMap"), [4]);
        let shipped = "#[cfg(not(test))]\nfn a() { HashMap }";
        assert_eq!(lines(shipped, "HashMap"), [2]);
        let value = "#[cfg(test)]\nlet a = A { b: HashMap };\nHashMap";
        assert_eq!(lines(value, "HashMap"), [3]);
    }

    #[test]
    fn test_modules_in_files_of_their_own_are_found() {
        let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        let sources = Source::parse_all(vec![
            file("a/src/b.rs", "#[cfg(test)]\nmod tests;"),
            file("a/src/b/tests.rs", ""),
            file("a/src/b/tests/deep.rs", ""),
            file(
                "a/src/c.rs",
                "#[cfg(test)]\n#[path = \"c_checks.rs\"]\nmod checks;",
            ),
            file("a/src/c_checks.rs", ""),
            file("a/src/lib.rs", "#[cfg(test)]\nmod testing;\nmod b;"),
            file("a/src/testing.rs", ""),
            file("a/tests/x.rs", ""),
        ]);
        let tests: Vec<&str> = sources
            .iter()
            .filter(|s| s.is_test)
            .map(|s| s.path.as_str())
            .collect();
        assert_eq!(
            tests,
            [
                "a/src/b/tests.rs",
                "a/src/b/tests/deep.rs",
                "a/src/c_checks.rs",
                "a/src/testing.rs",
                "a/tests/x.rs"
            ]
        );
    }

    #[test]
    fn the_header_ends_with_the_first_code() {
        let source = sketch("a.rs", "//! One.\n//!\n//! Two.\n\nfn a() {}\n//! Three");
        assert_eq!(source.header(), " One.\n\n Two.");
    }
}
