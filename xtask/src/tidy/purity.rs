//! Pure crates touch nothing outside; one file reads the clock.

use super::Breach;
use super::source::Source;

/// The one file that reads the machine's clocks.
const CLOCK: &str = "common/src/clock.rs";

/// Where code is pure: beginnings of paths.
const PURE: [&str; 5] = [
    "common/src/",
    "common/graph/src/",
    "coordinator/core/src/",
    "worker/collective/src/topology",
    "worker/collective/src/algorithm",
];

/// What pure code must not name, and what it does instead.
const FORBIDDEN: [(&str, &str); 12] = [
    ("Instant", "take the time as an argument"),
    ("SystemTime", "take the time as an argument"),
    ("std::net", "take bytes, or a verb of a transport"),
    ("std::fs", "take the text, and let the shell read the file"),
    ("std::io", "take the bytes, and let the shell move them"),
    ("std::env", "take the value as an argument"),
    (
        "std::process",
        "return an effect, and let the shell perform it",
    ),
    (
        "std::thread",
        "return an effect, and let the shell perform it",
    ),
    (
        "rand::",
        "draw from `ringfold_common::random`, keyed by a seed",
    ),
    (
        "getrandom",
        "draw from `ringfold_common::random`, keyed by a seed",
    ),
    ("HashMap", "use `BTreeMap`: hash order would show"),
    ("HashSet", "use `BTreeSet`: hash order would show"),
];

/// Checks one file.
pub fn check(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    if source.path == CLOCK {
        return breaches;
    }
    let pure = PURE.iter().any(|start| source.path.starts_with(start));
    for (word, fix) in FORBIDDEN.iter().filter(|_| pure) {
        for line in source.lines_with(word, false) {
            breaches.push(Breach {
                place: format!("{}:{line}", source.path),
                rule: "purity",
                what: format!("`{}` in pure code", word.trim_end_matches(':')),
                fix: (*fix).to_owned(),
            });
        }
    }
    for read in ["Instant::now", "SystemTime::now"] {
        for line in source.lines_with(read, true) {
            breaches.push(Breach {
                place: format!("{}:{line}", source.path),
                rule: "clock",
                what: format!("`{read}` outside {CLOCK}"),
                fix: "take a `ringfold_common::clock::Clock`; tests hold theirs still".to_owned(),
            });
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::source::sketch;
    use super::*;

    fn wrong(path: &str, text: &str) -> Vec<String> {
        let breaches = check(&sketch(path, text));
        breaches
            .iter()
            .map(|breach| format!("{} {}", breach.place, breach.rule))
            .collect()
    }

    #[test]
    fn every_forbidden_word_is_found_in_every_pure_place() {
        for start in PURE {
            let path = format!("{start}x.rs");
            for (word, _) in FORBIDDEN {
                let text = format!("fn a() {{}}\nfn b() {{ {word}; }}\n");
                assert_eq!(wrong(&path, &text), [format!("{path}:2 purity")], "{word}");
            }
        }
    }

    #[test]
    fn words_in_prose_tests_and_other_crates_pass() {
        let path = "coordinator/core/src/x.rs";
        assert!(wrong(path, "// a HashMap\nfn a() -> BTreeMap {}").is_empty());
        assert!(wrong(path, "#[cfg(test)]\nmod tests { use std::fs; }").is_empty());
        assert!(wrong("coordinator/core/tests/x.rs", "use std::fs;").is_empty());
        assert!(wrong("common/net/src/x.rs", "use std::net::TcpStream;").is_empty());
        assert!(wrong("worker/collective/src/transport/x.rs", "std::net::A").is_empty());
    }

    #[test]
    fn one_file_reads_the_clock_and_no_test_does() {
        assert!(wrong(CLOCK, "Instant::now(); SystemTime::now();").is_empty());
        for path in ["worker/src/x.rs", "worker/tests/x.rs", "xtask/src/main.rs"] {
            assert_eq!(
                wrong(path, "let a =\n std::time::Instant::now();"),
                [format!("{path}:2 clock")]
            );
            assert_eq!(
                wrong(path, "SystemTime::now()"),
                [format!("{path}:1 clock")]
            );
        }
        assert!(wrong("worker/src/x.rs", "clock.monotonic()").is_empty());
    }
}
