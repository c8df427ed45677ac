//! A TOML document whose every value knows where it comes from.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{JobFileErrorKind, Origin, Override};

/// An error before the file's name is put to it.
pub(super) type Located = (Origin, JobFileErrorKind);

/// Keys that exclude each other: setting one by a flag takes the other out of the file.
const EXCLUSIVE: [(&str, &str); 6] = [
    ("train.epochs", "train.steps"),
    ("train.evaluate_epochs", "train.evaluate_steps"),
    ("train.schedule.every_epochs", "train.schedule.every_steps"),
    ("train.schedule.first_epochs", "train.schedule.first_steps"),
    ("train.schedule.over_epochs", "train.schedule.over_steps"),
    (
        "train.schedule.milestones_epochs",
        "train.schedule.milestones_steps",
    ),
];

/// A value and its origin.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub origin: Origin,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    String(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Item>),
    Table(BTreeMap<String, Item>),
}

impl Value {
    /// The value as an error shows it.
    pub fn describe(&self) -> String {
        match self {
            Self::String(text) => {
                let shown: String = text.chars().take(60).collect();
                format!("the string {shown:?}")
            }
            Self::Integer(number) => format!("the number {number}"),
            Self::Float(number) => format!("the number {number}"),
            Self::Boolean(value) => format!("{value}"),
            Self::Datetime(text) => format!("the date {text}"),
            Self::Array(items) => format!("a list of {}", items.len()),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

/// A whole job file.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub root: Item,
}

impl Document {
    pub fn parse(text: &str) -> Result<Self, Located> {
        let lines = Lines::new(text);
        let table = DeTable::parse(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let message = error.message().trim().replace('\n', ", ");
            (lines.origin(start), JobFileErrorKind::Syntax(message))
        })?;
        let origin = Origin::File { line: 1, column: 1 };
        let value = convert_table(table.get_ref(), &lines, "")?;
        Ok(Self {
            root: Item { origin, value },
        })
    }

    /// Lays one `KEY=VALUE` over the document.
    pub fn set(&mut self, change: &Override) -> Result<(), Located> {
        let origin = Origin::Flag(change.flag.clone());
        let bad = |expected: &str, got: String| {
            let kind = JobFileErrorKind::BadValue {
                key: change.key.clone(),
                expected: expected.to_owned(),
                got,
            };
            (Origin::Flag(change.flag.clone()), kind)
        };
        for (one, other) in EXCLUSIVE {
            if change.key == one {
                self.remove(other);
            } else if change.key == other {
                self.remove(one);
            }
        }
        let mut parts: Vec<&str> = change.key.split('.').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(bad(
                "a dotted key such as train.global_batch",
                "empty in part".into(),
            ));
        }
        let last = parts.pop().unwrap_or_default();
        let mut table = &mut self.root;
        for part in parts {
            let entries = entries_of(table).map_err(|got| bad("a key inside a table", got))?;
            table = entries.entry(part.to_owned()).or_insert_with(|| Item {
                origin: origin.clone(),
                value: Value::Table(BTreeMap::new()),
            });
        }
        let entries = entries_of(table).map_err(|got| bad("a key inside a table", got))?;
        let value = parse_value(&change.value, &origin);
        entries.insert(last.to_owned(), Item { origin, value });
        Ok(())
    }

    /// Where the value of a dotted key comes from, or the nearest table around it. `key[1]` is the
    /// second of a list.
    pub fn locate(&self, key: &str) -> Origin {
        // `model.onnx` is short for a kind and a path.
        let key = match key {
            "model.path" if self.holds("model", "onnx") => "model.onnx",
            key => key,
        };
        let mut item = &self.root;
        for part in key.split('.') {
            let (name, index) = match part.strip_suffix(']').and_then(|p| p.split_once('[')) {
                Some((name, index)) => (name, index.parse::<usize>().ok()),
                None => (part, None),
            };
            match &item.value {
                Value::Table(entries) if entries.contains_key(name) => item = &entries[name],
                _ => break,
            }
            if let (Value::Array(items), Some(index)) = (&item.value, index)
                && let Some(element) = items.get(index)
            {
                item = element;
            }
        }
        item.origin.clone()
    }

    fn holds(&self, table: &str, key: &str) -> bool {
        let Value::Table(root) = &self.root.value else {
            return false;
        };
        let table = root.get(table).map(|item| &item.value);
        matches!(table, Some(Value::Table(entries)) if entries.contains_key(key))
    }

    fn remove(&mut self, key: &str) {
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().unwrap_or_default();
        let mut item = &mut self.root;
        for part in parts {
            match &mut item.value {
                Value::Table(entries) => match entries.get_mut(part) {
                    Some(next) => item = next,
                    None => return,
                },
                _ => return,
            }
        }
        if let Value::Table(entries) = &mut item.value {
            entries.remove(last);
        }
    }
}

/// The entries of a table, or what the item is instead.
fn entries_of(item: &mut Item) -> Result<&mut BTreeMap<String, Item>, String> {
    match &mut item.value {
        Value::Table(entries) => Ok(entries),
        other => Err(other.describe()),
    }
}

/// A flag's value: TOML if it is, else the text itself.
fn parse_value(text: &str, origin: &Origin) -> Value {
    let document = format!("v = {text}");
    let parsed = DeTable::parse(&document)
        .ok()
        .filter(|table| table.get_ref().len() == 1);
    let value = parsed.as_ref().and_then(|table| table.get_ref().get("v"));
    value
        .and_then(|value| convert(value, &Lines::new(&document), "").ok())
        .map(|item| with_origin(item.value, origin))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn with_origin(value: Value, origin: &Origin) -> Value {
    let rebase = |item: Item| Item {
        origin: origin.clone(),
        value: with_origin(item.value, origin),
    };
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(rebase).collect()),
        Value::Table(entries) => Value::Table(
            entries
                .into_iter()
                .map(|(key, item)| (key, rebase(item)))
                .collect(),
        ),
        other => other,
    }
}

fn convert_table(table: &DeTable<'_>, lines: &Lines, prefix: &str) -> Result<Value, Located> {
    let mut entries = BTreeMap::new();
    for (key, value) in table {
        let path = dotted(prefix, key.get_ref());
        let mut item = convert(value, lines, &path)?;
        // The key's place is where the eye goes.
        item.origin = lines.origin(key.span().start);
        entries.insert(key.get_ref().clone().into_owned(), item);
    }
    Ok(Value::Table(entries))
}

fn convert(item: &Spanned<DeValue<'_>>, lines: &Lines, path: &str) -> Result<Item, Located> {
    let origin = lines.origin(item.span().start);
    let bad_number = |text: String, expected: &str| {
        let kind = JobFileErrorKind::BadValue {
            key: path.to_owned(),
            expected: expected.to_owned(),
            got: text,
        };
        (origin.clone(), kind)
    };
    let value = match item.get_ref() {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Integer(number) => Value::Integer(
            i128::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| bad_number(number.to_string(), "a whole number below 2^64"))?,
        ),
        DeValue::Float(number) => Value::Float(
            number
                .as_str()
                .parse()
                .map_err(|_| bad_number(number.to_string(), "a floating-point number"))?,
        ),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| convert(item, lines, path))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => convert_table(table, lines, path)?,
    };
    Ok(Item { origin, value })
}

pub(super) fn dotted(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

/// Byte offsets to lines and columns.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { text, starts }
    }

    fn origin(&self, offset: usize) -> Origin {
        let index = self
            .starts
            .partition_point(|&start| start <= offset)
            .saturating_sub(1);
        let start = self.starts[index];
        let before = self
            .text
            .get(start..offset.min(self.text.len()))
            .unwrap_or_default();
        Origin::File {
            line: index + 1,
            column: before.chars().count() + 1,
        }
    }
}
