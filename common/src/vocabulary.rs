//! Text as tokens, and tokens as text.
//!
//! A token is a number below the length of its vocabulary. Two vocabularies: the 256 bytes, by
//! which any file is text; and a set of characters (Unicode code points), which numbers them in
//! their order. What was encoded decodes to the same bytes.

use serde::{Deserialize, Serialize};

/// The most characters of a vocabulary.
pub const CHARACTERS_MAX: usize = 1 << 16;

/// The tokens that a text is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vocabulary {
    /// A byte is its own number.
    Bytes,
    /// A character's number is its position.
    Characters(Characters),
}

/// 1 to [`CHARACTERS_MAX`] distinct characters, in the order of their code points. As JSON, one
/// string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Characters(Vec<char>);

/// Characters that are no vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CharactersError {
    /// Too few or too many.
    #[error("{0} characters: expected 1 to {CHARACTERS_MAX}")]
    Count(usize),
    /// One that doesn't follow on the one before.
    #[error("character {0:?} at position {1}: expected distinct characters in ascending order")]
    Order(char, usize),
}

/// Text that a vocabulary has no tokens for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A character that isn't in it.
    #[error("the character {character:?} at byte {offset} is not in the vocabulary")]
    UnknownCharacter {
        /// The character.
        character: char,
        /// Its first byte, from 0.
        offset: u64,
    },
    /// Bytes that are no characters.
    #[error("byte {offset} is not valid UTF-8")]
    InvalidUtf8 {
        /// The first such byte, from 0.
        offset: u64,
    },
}

impl Characters {
    /// The characters of `text`, which are distinct and in order.
    ///
    /// # Errors
    /// If they are not, or are too few or too many.
    pub fn new(text: &str) -> Result<Self, CharactersError> {
        let characters: Vec<char> = text.chars().collect();
        if !(1..=CHARACTERS_MAX).contains(&characters.len()) {
            return Err(CharactersError::Count(characters.len()));
        }
        match characters.windows(2).position(|pair| pair[0] >= pair[1]) {
            Some(at) => Err(CharactersError::Order(characters[at + 1], at + 1)),
            None => Ok(Self(characters)),
        }
    }

    /// The characters in order.
    #[must_use]
    pub fn as_slice(&self) -> &[char] {
        &self.0
    }

    /// The number of a character.
    #[must_use]
    pub fn number(&self, character: char) -> Option<u32> {
        self.0
            .binary_search(&character)
            .ok()
            .map(|number| number as u32)
    }
}

impl TryFrom<String> for Characters {
    type Error = CharactersError;

    fn try_from(text: String) -> Result<Self, CharactersError> {
        Self::new(&text)
    }
}

impl From<Characters> for String {
    fn from(characters: Characters) -> Self {
        characters.0.into_iter().collect()
    }
}

impl Vocabulary {
    /// Its tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes => 256,
            Self::Characters(characters) => characters.0.len(),
        }
    }

    /// Never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// The first character that has no token.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, EncodeError> {
        let Self::Characters(characters) = self else {
            return Ok(text.iter().copied().map(u32::from).collect());
        };
        let number = |(offset, character): (usize, char)| {
            let unknown = EncodeError::UnknownCharacter {
                character,
                offset: offset as u64,
            };
            characters.number(character).ok_or(unknown)
        };
        match std::str::from_utf8(text) {
            Ok(text) => text.char_indices().map(number).collect(),
            Err(error) => {
                // An unknown character may come first.
                let valid = std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default();
                valid
                    .char_indices()
                    .try_for_each(|at| number(at).map(drop))?;
                Err(EncodeError::InvalidUtf8 {
                    offset: error.valid_up_to() as u64,
                })
            }
        }
    }

    /// Appends the bytes of a token to `text`: one byte, or one character as UTF-8. Nothing for a
    /// number that is no token.
    pub fn decode(&self, token: u32, text: &mut Vec<u8>) {
        match self {
            Self::Bytes => text.extend(u8::try_from(token)),
            Self::Characters(characters) => {
                if let Some(character) = characters.0.get(token as usize) {
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn characters(text: &str) -> Vocabulary {
        Vocabulary::Characters(Characters::new(text).unwrap())
    }

    fn decoded(vocabulary: &Vocabulary, tokens: &[u32]) -> Vec<u8> {
        let mut text = Vec::new();
        for &token in tokens {
            vocabulary.decode(token, &mut text);
        }
        text
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(text in "\\PC{1,60}") {
            let mut distinct: Vec<char> = text.chars().collect();
            distinct.sort_unstable();
            distinct.dedup();
            for vocabulary in [Vocabulary::Bytes, characters(&String::from_iter(distinct))] {
                let tokens = vocabulary.encode(text.as_bytes()).unwrap();
                prop_assert!(tokens.iter().all(|&token| (token as usize) < vocabulary.len()));
                prop_assert_eq!(decoded(&vocabulary, &tokens), text.as_bytes());
                let json = serde_json::to_string(&vocabulary).unwrap();
                prop_assert_eq!(serde_json::from_str::<Vocabulary>(&json).unwrap(), vocabulary);
            }
        }
    }

    #[test]
    fn what_has_no_token_is_named_with_its_place() {
        let vocabulary = characters("abé");
        let unknown = vocabulary.encode("éax".as_bytes()).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "the character 'x' at byte 3 is not in the vocabulary"
        );
        let invalid = vocabulary.encode(b"ab\xff").unwrap_err();
        assert_eq!(invalid, EncodeError::InvalidUtf8 { offset: 2 });
        // The first fault counts.
        let first = vocabulary.encode(b"xb\xff").unwrap_err();
        assert!(matches!(first, EncodeError::UnknownCharacter { .. }));
        assert_eq!(decoded(&vocabulary, &[0, 3]), b"a");
        assert_eq!(decoded(&Vocabulary::Bytes, &[255, 256]), [255]);
    }

    #[test]
    fn characters_are_distinct_sorted_and_not_too_many() {
        assert_eq!(Characters::new(""), Err(CharactersError::Count(0)));
        assert_eq!(Characters::new("aa"), Err(CharactersError::Order('a', 1)));
        assert_eq!(Characters::new("acb"), Err(CharactersError::Order('b', 2)));
        let many = |count: u32| -> String {
            (0x1_0000..0x1_0000 + count)
                .filter_map(char::from_u32)
                .collect()
        };
        assert!(Characters::new(&many(CHARACTERS_MAX as u32)).is_ok());
        assert_eq!(
            Characters::new(&many(CHARACTERS_MAX as u32 + 1)),
            Err(CharactersError::Count(CHARACTERS_MAX + 1))
        );
        let json = serde_json::from_str::<Vocabulary>("{\"characters\":\"ba\"}");
        assert!(json.unwrap_err().to_string().contains("ascending"));
    }
}
