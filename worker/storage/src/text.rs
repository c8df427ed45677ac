//! Text files as tokens.
//!
//! Of a text of characters nothing but a buffer is kept while it is read to be inspected; its
//! vocabulary is known at its end, when the characters, numbered as they came, get the numbers of
//! their order.

use std::path::Path;
use std::sync::Arc;

use ringfold_common::dataset::{DatasetInfo, Target};
use ringfold_common::job::{DataSource, DataSpec, TestData, TextSource, Tokeniser};
use ringfold_common::vocabulary::{Characters, Vocabulary};

use crate::dataset::{format_name, formats_differ};
use crate::error::StorageError;
use crate::limits::Limits;
use crate::part::Keep;
use crate::stream::{FileStream, Pass};
use crate::windows::{Tokens, WindowShape, Windows};

/// What the files of a text dataset hold.
pub(crate) struct Text {
    pub info: DatasetInfo,
    /// Over no tokens under [`Keep::Nothing`].
    pub train: Windows,
    /// Empty if the job names no test data.
    pub test: Windows,
}

/// What an error calls a part of a text.
const TRAINING_PART: &str = "the training part";
const TEST_PART: &str = "the test part";
const WHOLE: &str = "the text";

/// Reads the text that `source` names and, if the job says so, the test's.
pub(crate) fn read_text(
    pass: &Pass<'_>,
    source: &TextSource,
    spec: &DataSpec,
    keep: Keep,
) -> Result<Text, StorageError> {
    let path = Path::new(&source.path);
    let shape = WindowShape {
        context: source.context as usize,
        stride: source.stride as usize,
    };
    let (vocabulary, all) = match source.tokeniser {
        Tokeniser::Byte => (Vocabulary::Bytes, read_bytes(pass, path, keep)?),
        Tokeniser::Character => find_characters(pass, path, keep)?,
    };
    let windows = |path: &Path, part, all: &Counted, start, count| {
        check_length(path, part, count, shape, &pass.limits)?;
        Ok::<_, StorageError>(all.windows(start, count, shape))
    };
    let (train, test) = match &spec.test {
        TestData::None => {
            let train = windows(path, WHOLE, &all, 0, all.count)?;
            let test = all.windows(0, 0, shape);
            (train, test)
        }
        TestData::Fraction { fraction, .. } => {
            let test_count = (fraction * all.count as f64).round() as u64;
            let train_count = all.count.saturating_sub(test_count);
            (
                windows(path, TRAINING_PART, &all, 0, train_count)?,
                windows(path, TEST_PART, &all, train_count, all.count - train_count)?,
            )
        }
        TestData::Files(DataSource::Text(test)) => {
            let train = windows(path, WHOLE, &all, 0, all.count)?;
            let path = Path::new(&test.path);
            let others = read_known(pass, path, &vocabulary, keep)?;
            (train, windows(path, WHOLE, &others, 0, others.count)?)
        }
        TestData::Files(other) => return Err(formats_differ("text", format_name(other))),
    };
    Ok(Text {
        info: DatasetInfo {
            train_records: train.0,
            test_records: test.0,
            features: source.context,
            target: Target::Tokens(vocabulary),
            fingerprint: pass.fingerprint(),
        },
        train: train.1,
        test: test.1,
    })
}

/// Reads a text in the vocabulary of a model, to evaluate it.
pub(crate) fn read_windows(
    pass: &Pass<'_>,
    path: &Path,
    vocabulary: &Vocabulary,
    shape: WindowShape,
) -> Result<Windows, StorageError> {
    let all = read_known(pass, path, vocabulary, Keep::Records)?;
    check_length(path, WHOLE, all.count, shape, &pass.limits)?;
    Ok(all.windows(0, all.count, shape).1)
}

/// Refuses a part that holds no record, or too many.
fn check_length(
    path: &Path,
    part: &'static str,
    tokens: u64,
    shape: WindowShape,
    limits: &Limits,
) -> Result<(), StorageError> {
    let records = shape.count(tokens);
    if records == 0 {
        return Err(StorageError::TextTooShort {
            path: path.to_owned(),
            part,
            tokens,
            context: shape.context as u64,
        });
    }
    limits.check_records(path, records)
}

/// Tokens that were counted, and kept or not.
struct Counted {
    count: u64,
    tokens: Arc<Tokens>,
}

impl Counted {
    /// How many windows there are over a part, and those of them that were kept.
    fn windows(&self, start: u64, count: u64, shape: WindowShape) -> (u64, Windows) {
        let kept = if self.tokens.len() as u64 == self.count {
            Windows::new(Arc::clone(&self.tokens), start, count, shape)
        } else {
            Windows::new(Arc::clone(&self.tokens), 0, 0, shape)
        };
        (shape.count(count), kept)
    }
}

fn read_known(
    pass: &Pass<'_>,
    path: &Path,
    vocabulary: &Vocabulary,
    keep: Keep,
) -> Result<Counted, StorageError> {
    match vocabulary {
        Vocabulary::Bytes => read_bytes(pass, path, keep),
        Vocabulary::Characters(characters) => read_characters(pass, path, characters, keep),
    }
}

fn read_bytes(pass: &Pass<'_>, path: &Path, keep: Keep) -> Result<Counted, StorageError> {
    let mut stream = FileStream::open(pass, path)?;
    let mut chunk = vec![0; Limits::BUFFER_BYTES];
    let mut tokens = Vec::new();
    loop {
        match stream.read_full(&mut chunk)? {
            0 => break,
            count if keep == Keep::Records => tokens.extend_from_slice(&chunk[..count]),
            _ => {}
        }
    }
    tokens.shrink_to_fit();
    Ok(Counted {
        count: stream.bytes(),
        tokens: Arc::new(Tokens::U8(tokens)),
    })
}

/// Reads a text whose characters are the vocabulary.
fn find_characters(
    pass: &Pass<'_>,
    path: &Path,
    keep: Keep,
) -> Result<(Vocabulary, Counted), StorageError> {
    // By code point, the number in the order of first occurrence, plus one.
    let mut numbers = vec![0u32; char::MAX as usize + 1];
    let mut found: Vec<char> = Vec::new();
    let (mut count, mut tokens) = (0u64, Vec::new());
    each_character(pass, path, |character, offset| {
        let number = &mut numbers[character as usize];
        if *number == 0 {
            if found.len() >= pass.limits.characters_max {
                return Err(StorageError::TooManyCharacters {
                    path: path.to_owned(),
                    characters_max: pass.limits.characters_max,
                    offset,
                });
            }
            found.push(character);
            *number = found.len() as u32;
        }
        count += 1;
        if keep == Keep::Records {
            tokens.push((*number - 1) as u16);
        }
        Ok(())
    })?;
    let mut sorted = found.clone();
    sorted.sort_unstable();
    let characters = Characters::new(&String::from_iter(&sorted)).map_err(|source| {
        StorageError::Vocabulary {
            path: path.to_owned(),
            source,
        }
    })?;
    let positions: Vec<u16> = found
        .iter()
        .filter_map(|&character| characters.number(character))
        .map(|position| position as u16)
        .collect();
    for token in &mut tokens {
        *token = positions[usize::from(*token)];
    }
    let tokens = Arc::new(compact(tokens, found.len()));
    Ok((
        Vocabulary::Characters(characters),
        Counted { count, tokens },
    ))
}

/// Reads a text whose characters must be `characters`.
fn read_characters(
    pass: &Pass<'_>,
    path: &Path,
    characters: &Characters,
    keep: Keep,
) -> Result<Counted, StorageError> {
    let (mut count, mut tokens) = (0u64, Vec::new());
    each_character(pass, path, |character, offset| {
        let Some(number) = characters.number(character) else {
            return Err(StorageError::UnknownCharacter {
                path: path.to_owned(),
                character,
                offset,
            });
        };
        count += 1;
        if keep == Keep::Records {
            tokens.push(number as u16);
        }
        Ok(())
    })?;
    let tokens = Arc::new(compact(tokens, characters.as_slice().len()));
    Ok(Counted { count, tokens })
}

/// Numbers below `vocabulary` in as few bytes as they fit.
fn compact(tokens: Vec<u16>, vocabulary: usize) -> Tokens {
    if vocabulary <= 256 {
        return Tokens::U8(tokens.into_iter().map(|token| token as u8).collect());
    }
    Tokens::U16(tokens)
}

/// Hands every character of a UTF-8 file with its offset in bytes, from 0, to `each`.
fn each_character(
    pass: &Pass<'_>,
    path: &Path,
    mut each: impl FnMut(char, u64) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let mut stream = FileStream::open(pass, path)?;
    let mut buffer = vec![0; Limits::BUFFER_BYTES];
    // Bytes of a character that the last read cut in two, and where the buffer stands.
    let (mut left, mut base) = (0, 0u64);
    loop {
        let got = stream.read_full(&mut buffer[left..])?;
        let bytes = &buffer[..left + got];
        let (valid, fault) = match std::str::from_utf8(bytes) {
            Ok(_) => (bytes.len(), false),
            // Without a length the bytes may still become a character, if there are more.
            Err(error) => (error.valid_up_to(), error.error_len().is_some() || got == 0),
        };
        let text = std::str::from_utf8(&bytes[..valid]).unwrap_or_default();
        for (at, character) in text.char_indices() {
            each(character, base + at as u64)?;
        }
        base += valid as u64;
        if fault {
            return Err(StorageError::TextNotUtf8 {
                path: path.to_owned(),
                offset: base,
            });
        }
        if got == 0 {
            return Ok(());
        }
        left = bytes.len() - valid;
        buffer.copy_within(valid..valid + left, 0);
    }
}
