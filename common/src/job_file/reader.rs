//! Reads one table: typed values out, and an error for every key that nobody asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::JobFileErrorKind;
use super::document::{Item, Located, Value, dotted};

/// Keys that differ by no more edits than this look alike.
const EDITS_MAX: usize = 2;

/// A table and the keys that were asked for so far.
pub(super) struct Reader<'a> {
    item: &'a Item,
    entries: &'a BTreeMap<String, Item>,
    path: String,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Reader<'a> {
    pub fn new(item: &'a Item, path: &str) -> Result<Self, Located> {
        match &item.value {
            Value::Table(entries) => Ok(Self {
                item,
                entries,
                path: path.to_owned(),
                known: RefCell::new(Vec::new()),
            }),
            other => Err(bad_value(item, path, "a table", other.describe())),
        }
    }

    /// A table that must be there.
    pub fn table(&self, key: &'static str) -> Result<Reader<'a>, Located> {
        let item = self.required(key, "a table")?;
        Reader::new(item, &dotted(&self.path, key))
    }

    /// A table that may be missing.
    pub fn optional_table(&self, key: &'static str) -> Result<Option<Reader<'a>>, Located> {
        self.get(key)
            .map(|item| Reader::new(item, &dotted(&self.path, key)))
            .transpose()
    }

    pub fn get(&self, key: &'static str) -> Option<&'a Item> {
        self.known.borrow_mut().push(key);
        self.entries.get(key)
    }

    pub fn required(&self, key: &'static str, expected: &str) -> Result<&'a Item, Located> {
        self.get(key).ok_or_else(|| self.missing(key, expected))
    }

    pub fn string(&self, key: &'static str, expected: &str) -> Result<String, Located> {
        self.as_string(self.required(key, expected)?, key, expected)
    }

    pub fn optional_string(
        &self,
        key: &'static str,
        expected: &str,
    ) -> Result<Option<String>, Located> {
        self.get(key)
            .map(|item| self.as_string(item, key, expected))
            .transpose()
    }

    /// One of the named choices.
    pub fn choice<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Result<T, Located> {
        let expected = expected_choices(choices);
        self.as_choice(self.required(key, &expected)?, key, choices)
    }

    pub fn choice_or<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&'static str, T)],
        default: T,
    ) -> Result<T, Located> {
        self.get(key)
            .map_or(Ok(default), |item| self.as_choice(item, key, choices))
    }

    pub fn boolean_or(&self, key: &'static str, default: bool) -> Result<bool, Located> {
        match self.get(key) {
            None => Ok(default),
            Some(item) => match item.value {
                Value::Boolean(value) => Ok(value),
                ref other => Err(self.bad(item, key, "true or false", other.describe())),
            },
        }
    }

    /// A whole number of 0 or more; ranges are checked by `JobSpec::validate`.
    pub fn whole(&self, key: &'static str) -> Result<Option<u64>, Located> {
        self.get(key)
            .map(|item| self.as_whole(item, key, u64::MAX))
            .transpose()
    }

    pub fn whole_or(&self, key: &'static str, default: u64) -> Result<u64, Located> {
        Ok(self.whole(key)?.unwrap_or(default))
    }

    pub fn whole_u32(&self, key: &'static str) -> Result<Option<u32>, Located> {
        let max = u64::from(u32::MAX);
        let number = self
            .get(key)
            .map(|item| self.as_whole(item, key, max))
            .transpose()?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    }

    /// A list of whole numbers.
    pub fn whole_u32_list(&self, key: &'static str, expected: &str) -> Result<Vec<u32>, Located> {
        let item = self.required(key, expected)?;
        let Value::Array(items) = &item.value else {
            return Err(self.bad(item, key, expected, item.value.describe()));
        };
        let max = u64::from(u32::MAX);
        items
            .iter()
            .map(|item| self.as_whole(item, key, max).map(|number| number as u32))
            .collect()
    }

    /// A list of whole numbers below 2^32 that may be missing.
    pub fn optional_u32_list(
        &self,
        key: &'static str,
        expected: &str,
    ) -> Result<Option<Vec<u32>>, Located> {
        let found = self.get(key);
        found
            .map(|_| self.whole_u32_list(key, expected))
            .transpose()
    }

    /// A list of numbers that may be missing.
    pub fn optional_number_list(
        &self,
        key: &'static str,
        expected: &str,
    ) -> Result<Option<Vec<f64>>, Located> {
        let Some(item) = self.get(key) else {
            return Ok(None);
        };
        let Value::Array(items) = &item.value else {
            return Err(self.bad(item, key, expected, item.value.describe()));
        };
        let numbers = items.iter().map(|item| self.as_number(item, key));
        numbers.collect::<Result<_, _>>().map(Some)
    }

    /// A list of tables that may be missing, each with its item.
    pub fn optional_tables(
        &self,
        key: &'static str,
        expected: &str,
    ) -> Result<Option<Vec<(&'a Item, Reader<'a>)>>, Located> {
        let Some(item) = self.get(key) else {
            return Ok(None);
        };
        let Value::Array(items) = &item.value else {
            return Err(self.bad(item, key, expected, item.value.describe()));
        };
        let path = dotted(&self.path, key);
        let tables = items.iter().enumerate().map(|(i, item)| {
            let table = Reader::new(item, &format!("{path}[{i}]"))?;
            Ok((item, table))
        });
        tables.collect::<Result<_, _>>().map(Some)
    }

    /// A list of strings that may be missing.
    pub fn optional_string_list(
        &self,
        key: &'static str,
        expected: &str,
    ) -> Result<Option<Vec<String>>, Located> {
        let Some(item) = self.get(key) else {
            return Ok(None);
        };
        let Value::Array(items) = &item.value else {
            return Err(self.bad(item, key, expected, item.value.describe()));
        };
        let strings = items.iter();
        let strings = strings.map(|item| self.as_string(item, key, expected));
        strings.collect::<Result<_, _>>().map(Some)
    }

    /// A list of whole numbers that may be missing.
    pub fn optional_whole_list(
        &self,
        key: &'static str,
        expected: &str,
    ) -> Result<Option<Vec<u64>>, Located> {
        let Some(item) = self.get(key) else {
            return Ok(None);
        };
        let Value::Array(items) = &item.value else {
            return Err(self.bad(item, key, expected, item.value.describe()));
        };
        let numbers = items.iter().map(|item| self.as_whole(item, key, u64::MAX));
        numbers.collect::<Result<_, _>>().map(Some)
    }

    pub fn number(&self, key: &'static str) -> Result<f64, Located> {
        self.as_number(self.required(key, "a number")?, key)
    }

    pub fn optional_number(&self, key: &'static str) -> Result<Option<f64>, Located> {
        self.get(key)
            .map(|item| self.as_number(item, key))
            .transpose()
    }

    pub fn number_or(&self, key: &'static str, default: f64) -> Result<f64, Located> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// Fails if both keys are there.
    pub fn exclusive(&self, key: &'static str, other: &'static str) -> Result<(), Located> {
        match (self.entries.get(key), self.entries.get(other)) {
            (Some(_), Some(item)) => Err((
                item.origin.clone(),
                JobFileErrorKind::Exclusive {
                    key: dotted(&self.path, key),
                    other: dotted(&self.path, other),
                },
            )),
            _ => Ok(()),
        }
    }

    /// Fails if the table has a key that nobody asked for.
    pub fn finish(self) -> Result<(), Located> {
        let known = self.known.into_inner();
        for (key, item) in self.entries {
            if known.contains(&key.as_str()) {
                continue;
            }
            let mut allowed = known;
            allowed.sort_unstable();
            allowed.dedup();
            let kind = JobFileErrorKind::UnknownKey {
                key: dotted(&self.path, key),
                similar: similar(key, &allowed),
                allowed,
            };
            return Err((item.origin.clone(), kind));
        }
        Ok(())
    }

    /// A key that must be there and is not, or is there misspelt.
    pub fn missing(&self, key: &'static str, expected: &str) -> Located {
        let known = self.known.borrow();
        let misspelt = self.entries.iter().find(|(other, _)| {
            !known.contains(&other.as_str()) && edit_distance(other, key) <= EDITS_MAX
        });
        if let Some((other, item)) = misspelt {
            let kind = JobFileErrorKind::UnknownKey {
                key: dotted(&self.path, other),
                similar: Some(key),
                allowed: vec![key],
            };
            return (item.origin.clone(), kind);
        }
        let kind = JobFileErrorKind::MissingKey {
            key: dotted(&self.path, key),
            expected: expected.to_owned(),
        };
        (self.item.origin.clone(), kind)
    }

    pub fn bad(&self, item: &Item, key: &str, expected: &str, got: String) -> Located {
        bad_value(item, &dotted(&self.path, key), expected, got)
    }

    fn as_string(&self, item: &Item, key: &str, expected: &str) -> Result<String, Located> {
        match &item.value {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.bad(item, key, expected, other.describe())),
        }
    }

    fn as_choice<T: Copy>(
        &self,
        item: &Item,
        key: &str,
        choices: &[(&'static str, T)],
    ) -> Result<T, Located> {
        if let Value::String(text) = &item.value
            && let Some((_, value)) = choices.iter().find(|(name, _)| name == text)
        {
            return Ok(*value);
        }
        Err(self.bad(item, key, &expected_choices(choices), item.value.describe()))
    }

    fn as_whole(&self, item: &Item, key: &str, max: u64) -> Result<u64, Located> {
        let expected = || format!("a whole number from 0 to {max}");
        match item.value {
            Value::Integer(number) => u64::try_from(number)
                .ok()
                .filter(|&number| number <= max)
                .ok_or_else(|| self.bad(item, key, &expected(), number.to_string())),
            ref other => Err(self.bad(item, key, &expected(), other.describe())),
        }
    }

    fn as_number(&self, item: &Item, key: &str) -> Result<f64, Located> {
        match item.value {
            Value::Integer(number) => Ok(number as f64),
            Value::Float(number) => Ok(number),
            ref other => Err(self.bad(item, key, "a number", other.describe())),
        }
    }
}

fn bad_value(item: &Item, key: &str, expected: &str, got: String) -> Located {
    let kind = JobFileErrorKind::BadValue {
        key: key.to_owned(),
        expected: expected.to_owned(),
        got,
    };
    (item.origin.clone(), kind)
}

fn expected_choices<T>(choices: &[(&'static str, T)]) -> String {
    let names: Vec<String> = choices
        .iter()
        .map(|(name, _)| format!("{name:?}"))
        .collect();
    names.join(" or ")
}

/// The known key that looks like `key`, if there is one.
fn similar(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let distance = |other: &&'static str| edit_distance(key, other);
    known
        .iter()
        .copied()
        .min_by_key(distance)
        .filter(|other| edit_distance(key, other) <= EDITS_MAX)
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
