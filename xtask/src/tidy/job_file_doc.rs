//! `docs/job-file.md` names every key and every choice that the job-file reader reads.

use std::collections::{BTreeMap, BTreeSet};

use super::Breach;

/// The reader's functions whose first argument is a key; `period` takes two.
const READERS: [&str; 19] = [
    ".table(",
    ".optional_table(",
    ".get(",
    ".required(",
    ".string(",
    ".optional_string(",
    ".choice(",
    ".choice_or(",
    ".boolean_or(",
    ".whole(",
    ".whole_or(",
    ".whole_u32(",
    ".whole_u32_list(",
    ".optional_whole_list(",
    ".number(",
    ".optional_number(",
    ".number_or(",
    ".missing(",
    ".exclusive(",
];

/// Checks that every name in `tables`, the reader's source, stands in backquotes in `doc`.
pub fn check(tables_path: &str, tables: &str, doc_path: &str, doc: &str) -> Vec<Breach> {
    let documented = documented(doc);
    let names = names(tables);
    let missing = names.iter().filter(|(name, _)| !documented.contains(*name));
    missing
        .map(|(name, line)| Breach {
            place: doc_path.to_owned(),
            rule: "job file",
            what: format!("`{name}`, which {tables_path}:{line} reads, is not there"),
            fix: "add its type, default, range and an example".to_owned(),
        })
        .collect()
}

/// Keys and choices, each with the first line that reads it.
fn names(tables: &str) -> BTreeMap<&str, usize> {
    let mut names = BTreeMap::new();
    let mut add = |name, at: usize| {
        let line = 1 + tables[..at].matches('\n').count();
        names.entry(name).or_insert(line);
    };
    for reader in READERS {
        for (at, _) in tables.match_indices(reader) {
            if let Some((name, _)) = literal(&tables[at + reader.len()..]) {
                add(name, at);
            }
        }
    }
    // `period(&table, "every_epochs", "every_steps")`.
    for (at, _) in tables.match_indices("period(&table,") {
        let arguments = tables[at..].split(')').next().unwrap_or_default();
        for name in arguments.split('"').skip(1).step_by(2) {
            add(name, at);
        }
    }
    // `("relu", Activation::Relu)`, and matches on a choice's text.
    for (at, _) in tables.match_indices("(\"") {
        if let Some((name, rest)) = literal(&tables[at + 1..])
            && rest.trim_start().strip_prefix(',').is_some_and(|value| {
                value
                    .trim_start()
                    .starts_with(|c: char| c.is_uppercase() || c == '(')
            })
        {
            add(name, at);
        }
    }
    for (at, pattern) in tables.match_indices("if text == ") {
        if let Some((name, _)) = literal(&tables[at + pattern.len()..]) {
            add(name, at);
        }
    }
    names
}

/// The name in the string literal that `text` starts with, and what follows.
fn literal(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then_some((name, rest))
}

/// The words in backquotes.
fn documented(doc: &str) -> BTreeSet<&str> {
    let spans = doc
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    spans
        .flat_map(|span| span.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = r#"
        const KINDS: [(&str, Kind); 2] = [("one", Kind::One), ("two", Kind::Two)];
        let a = table.string("path", "the path of a file")?;
        let b = table
            .whole_or("seed", 0)?;
        let c = period(&table, "every_epochs", "every_steps")?;
        match text { text if text == "none" => 0 }
        table.missing("epochs", "a whole number")
    "#;

    fn missing(doc: &str) -> Vec<String> {
        let breaches = check("tables.rs", TABLES, "doc.md", doc);
        breaches.into_iter().map(|breach| breach.what).collect()
    }

    #[test]
    fn a_whole_doc_passes() {
        let doc =
            "`one` `two` `data.path` `seed = 3` `every_epochs` `every_steps` `\"none\"` `epochs`";
        assert_eq!(missing(doc), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_named_is_found() {
        let got = missing("`one` `path` `every_epochs` `none` `epochs` and seed, two");
        assert_eq!(got.len(), 3);
        assert!(got.contains(&"`seed`, which tables.rs:5 reads, is not there".to_owned()));
        assert!(got.iter().any(|what| what.starts_with("`every_steps`")));
        assert!(got.iter().any(|what| what.starts_with("`two`")));
    }
}
