//! Sizes of files, unfinished code, unsafe code.

use super::Breach;
use super::source::Source;

/// A file may have this many lines.
const LINES_MAX: usize = 1000;
/// A file above this many lines gets a warning.
const LINES_AIM: usize = 600;
/// The macros of unfinished code.
const UNFINISHED: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// Checks one file, but not its size.
pub fn check(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for name in UNFINISHED {
        for line in source.lines_with(name, true) {
            breaches.push(Breach {
                place: format!("{}:{line}", source.path),
                rule: "unfinished",
                what: format!("`{name}`"),
                fix: "finish it, return a typed error, or take it out".to_owned(),
            });
        }
    }
    let states_invariant = source.header().to_lowercase().contains("invariant");
    let unsafe_lines = source.lines_with("unsafe", true);
    if let (false, Some(line)) = (states_invariant, unsafe_lines.first()) {
        breaches.push(Breach {
            place: format!("{}:{line}", source.path),
            rule: "unsafe",
            what: "`unsafe` in a module whose header states no invariant".to_owned(),
            fix: "say in the `//!` docs which invariant keeps it sound, or do without".to_owned(),
        });
    }
    breaches
}

/// A file over the limit.
pub fn too_long(path: &str, text: &str) -> Option<Breach> {
    let lines = text.lines().count();
    (lines > LINES_MAX).then(|| size(path, format!("{lines} lines, at most {LINES_MAX}")))
}

/// A file over the aim, but not over the limit.
pub fn long(path: &str, text: &str) -> Option<Breach> {
    let lines = text.lines().count();
    (LINES_AIM + 1..=LINES_MAX)
        .contains(&lines)
        .then(|| size(path, format!("{lines} lines, more than {LINES_AIM}")))
}

fn size(path: &str, what: String) -> Breach {
    Breach {
        place: path.to_owned(),
        rule: "size",
        what,
        fix: "split it where its module docs would say \"and\"".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::sketch;
    use super::*;

    fn wrong(text: &str) -> Vec<String> {
        let breaches = check(&sketch("a/src/b.rs", text));
        breaches
            .iter()
            .map(|breach| format!("{} {}", breach.place, breach.rule))
            .collect()
    }

    #[test]
    fn unfinished_code_is_found() {
        for name in UNFINISHED {
            let text = format!("fn a() {{\n  {name}(1)\n}}");
            assert_eq!(wrong(&text), ["a/src/b.rs:2 unfinished"], "{name}");
        }
        assert!(wrong("// todo!()\nfn a() { my_dbg!(1); \"unimplemented!()\" }").is_empty());
    }

    #[test]
    fn unsafe_code_needs_a_stated_invariant() {
        let text = "//! Buffers.\n\nfn a() { unsafe { b() } }";
        assert_eq!(wrong(text), ["a/src/b.rs:3 unsafe"]);
        assert!(wrong("//! Invariant: b is called once.\n\nfn a() { unsafe { b() } }").is_empty());
        assert!(wrong("//! Needs no unsafe code.\nfn a() {}").is_empty());
        let late = "fn a() { unsafe { b() } }\n//! invariant";
        assert_eq!(wrong(late).len(), 1);
    }

    #[test]
    fn sizes() {
        let lines = |count: usize| "x\n".repeat(count);
        assert!(too_long("a.rs", &lines(LINES_MAX)).is_none());
        assert!(too_long("a.rs", &lines(LINES_MAX + 1)).is_some());
        assert!(long("a.rs", &lines(LINES_AIM)).is_none());
        assert!(long("a.rs", &lines(LINES_AIM + 1)).is_some());
        assert!(long("a.rs", &lines(LINES_MAX + 1)).is_none());
    }
}
