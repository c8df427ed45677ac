//! Texts: what they hold, and everything that is refused.

use proptest::prelude::*;
use ringfold_common::dataset::Target;
use ringfold_common::error::ErrorCode;
use ringfold_common::job::{DataSource, DataSpec, TestData, Tokeniser};
use ringfold_common::vocabulary::{Characters, Vocabulary};
use ringfold_storage::{
    LabelledFiles, Limits, ModelDescription, ReadOptions, StorageError, read_labelled,
    read_unlabelled,
};

use crate::support::*;

const CHARACTER: Tokeniser = Tokeniser::Character;
const BYTE: Tokeniser = Tokeniser::Byte;

fn text_spec(dir: &Dir, bytes: impl AsRef<[u8]>, tokeniser: Tokeniser, context: u32) -> DataSpec {
    spec(text_source(&dir.file("text", bytes), tokeniser, context))
}

fn strided(mut data: DataSpec, stride: u32) -> DataSpec {
    if let DataSource::Text(source) = &mut data.source {
        source.stride = stride;
    }
    data
}

fn characters(text: &str) -> Target {
    Target::Tokens(Vocabulary::Characters(Characters::new(text).unwrap()))
}

fn limited(change: impl FnOnce(&mut Limits)) -> ReadOptions<'static> {
    let mut options = ReadOptions::default();
    change(&mut options.limits);
    options
}

#[test]
fn records_are_windows_with_the_tokens_that_follow() {
    let dir = Dir::new();
    for bytes in [b"abcdef".to_vec(), gzip("abcdef")] {
        let dataset = load(&text_spec(&dir, bytes, BYTE, 2), CLASSES);
        let info = dataset.info();
        assert_eq!(
            (info.train_records, info.test_records, info.features),
            (2, 0, 2)
        );
        assert_eq!(info.target, Target::Tokens(Vocabulary::Bytes));
        let (tokens, labels) = token_rows(dataset.train());
        assert_eq!(tokens, [97, 98, 99, 100]);
        assert_eq!(labels, [98, 99, 100, 101]);
    }
    let spec = strided(text_spec(&dir, "abcdef", BYTE, 2), 1);
    assert_eq!(load(&spec, CLASSES).info().train_records, 4);
    let spec = strided(text_spec(&dir, "abcdef", BYTE, 2), 3);
    assert_eq!(
        token_rows(load(&spec, CLASSES).train()).0,
        [97, 98, 100, 101]
    );
}

#[test]
fn characters_are_numbered_in_their_order() {
    let dir = Dir::new();
    let dataset = load(&text_spec(&dir, "é\u{1f980}bab\r\n", CHARACTER, 6), CLASSES);
    assert_eq!(dataset.info().target, characters("\n\rabé\u{1f980}"));
    let (tokens, labels) = token_rows(dataset.train());
    assert_eq!(tokens, [4, 5, 3, 2, 3, 1]);
    assert_eq!(labels, [5, 3, 2, 3, 1, 0]);
}

#[test]
fn a_vocabulary_may_need_two_bytes_a_token() {
    let dir = Dir::new();
    let text: String = ('\u{4e00}'..'\u{4f10}').collect();
    let dataset = load(&text_spec(&dir, &text, CHARACTER, 271), CLASSES);
    assert_eq!(dataset.info().target.outputs(), 272);
    assert_eq!(token_rows(dataset.train()).1, (1..272).collect::<Vec<_>>());
}

#[test]
fn the_last_tokens_are_for_the_test() {
    let dir = Dir::new();
    let mut spec = text_spec(&dir, "aaaaaaaabc", CHARACTER, 1);
    spec.test = TestData::Fraction {
        fraction: 0.25,
        seed: 0,
    };
    // round(0.25 x 10) = 3: "abc" is left for the test, and its characters are in the vocabulary.
    let dataset = load(&spec, CLASSES);
    assert_eq!(dataset.info().target, characters("abc"));
    assert_eq!(dataset.train().len(), 6);
    assert_eq!(token_rows(dataset.test()), (vec![0, 1], vec![1, 2]));
}

#[test]
fn another_file_is_read_in_the_vocabulary_of_the_training_text() {
    let dir = Dir::new();
    let mut spec = text_spec(&dir, "abcabc", CHARACTER, 2);
    let test = dir.file("test", "cab");
    spec.test = TestData::Files(text_source(&test, CHARACTER, 2));
    let dataset = load(&spec, CLASSES);
    assert_eq!(token_rows(dataset.test()), (vec![2, 0], vec![0, 1]));

    dir.file("test", "caébx");
    let error = refusal(&spec, CLASSES);
    assert_text(
        &error,
        "test: byte 2 (from 0): the character 'é' is not in the training text",
    );
    assert!(error.hint().unwrap().contains("byte"), "{error}");
    let csv = DataSource::Csv(csv_named(&test, "y"));
    spec.test = TestData::Files(csv);
    assert_text(&refusal(&spec, CLASSES), "the data is csv, expected text");
}

#[test]
fn bytes_that_are_no_characters_are_named() {
    let dir = Dir::new();
    let long = "x".repeat(Limits::BUFFER_BYTES - 1);
    for (text, offset) in [
        (b"ab\xffc".to_vec(), 2),
        // Cut off within a character.
        (b"abc\xe2\x82".to_vec(), 3),
        // A character across the buffer's end is one; what follows it is not.
        (
            [long.as_bytes(), "é".as_bytes(), b"\xff"].concat(),
            Limits::BUFFER_BYTES + 1,
        ),
    ] {
        let error = refusal(&text_spec(&dir, &text, CHARACTER, 1), CLASSES);
        assert_text(
            &error,
            &format!("text: byte {offset} (from 0) is not valid UTF-8"),
        );
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        // Bytes are bytes.
        load(&text_spec(&dir, &text, BYTE, 1), CLASSES);
    }
}

#[test]
fn texts_that_are_too_short_say_which_part() {
    let dir = Dir::new();
    let error = refusal(&text_spec(&dir, "", BYTE, 1), CLASSES);
    assert_text(&error, "text: the file is empty");
    load(&text_spec(&dir, "abcd", BYTE, 3), CLASSES);
    assert_text(
        &refusal(&text_spec(&dir, "abc", BYTE, 3), CLASSES),
        "text: the text has 3 tokens, expected at least 4 for data.context = 3",
    );
    let part = |fraction: f64| {
        let mut spec = text_spec(&dir, "abcdefgh", CHARACTER, 3);
        spec.test = TestData::Fraction { fraction, seed: 0 };
        refusal(&spec, CLASSES)
    };
    assert_text(
        &part(0.25),
        "text: the test part has 2 tokens, expected at least 4 for data.context = 3",
    );
    assert_text(
        &part(0.75),
        "text: the training part has 2 tokens, expected at least 4 for data.context = 3",
    );
}

#[test]
fn caps() {
    let dir = Dir::new();
    let spec = text_spec(&dir, "abcd", CHARACTER, 1);
    let error = refusal_with(&spec, CLASSES, &limited(|limits| limits.characters_max = 3));
    assert_text(
        &error,
        "text: byte 3 (from 0): more than 3 distinct characters: the most that a vocabulary has",
    );
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    let error = refusal_with(&spec, CLASSES, &limited(|limits| limits.records_max = 2));
    assert!(matches!(
        error,
        StorageError::TooManyRecords { records_max: 2, .. }
    ));
    let error = refusal_with(&spec, CLASSES, &limited(|limits| limits.file_bytes_max = 3));
    assert!(matches!(
        error,
        StorageError::FileTooLong { bytes_max: 3, .. }
    ));
    // The full vocabulary, and one more.
    let text = |count: u32| -> String {
        (0x1_0000..0x1_0000 + count)
            .filter_map(char::from_u32)
            .collect()
    };
    let full = text_spec(&dir, text(1 << 16), CHARACTER, 1);
    assert_eq!(load(&full, CLASSES).info().target.outputs(), 1 << 16);
    let error = refusal(&text_spec(&dir, text((1 << 16) + 1), CHARACTER, 1), CLASSES);
    assert!(
        matches!(error, StorageError::TooManyCharacters { .. }),
        "{error}"
    );
}

#[test]
fn a_model_reads_further_texts_but_nothing_without_labels() {
    let dir = Dir::new();
    let dataset = load(
        &strided(text_spec(&dir, "abcabc", CHARACTER, 2), 1),
        CLASSES,
    );
    let model = model_spec();
    let model = ModelDescription::new("text".into(), model, &dataset);
    let options = ReadOptions::default();
    let read = |text: &str| {
        let path = dir.file("more", text);
        read_labelled(&LabelledFiles::File(&path), &model, &options)
    };
    assert_eq!(token_rows(&read("cbab").unwrap()).0, [2, 1, 1, 0]);
    assert_text(
        &read("abx").unwrap_err(),
        "more: byte 2 (from 0): the character 'x' is not in the training text",
    );
    let images = dir.file("images", idx(&[1, 1], &[0]));
    let files = LabelledFiles::Idx {
        images: &images,
        labels: &images,
    };
    let error = read_labelled(&files, &model, &options).unwrap_err();
    assert_text(&error, "the data is idx, expected text");
    let error = read_unlabelled(&images, &model, &options).unwrap_err();
    assert_text(&error, "the data is text, expected records");
}

proptest! {
    /// Any text, however it is cut into buffers, gives its characters back.
    #[test]
    fn texts_come_back(text in "\\PC{2,80}", pad in 0usize..8) {
        let dir = Dir::new();
        // Characters of several bytes stand across the end of the buffer.
        let text = "x".repeat(Limits::BUFFER_BYTES - pad) + &text;
        let count = text.chars().count();
        let dataset = load(&text_spec(&dir, &text, CHARACTER, count as u32 - 1), CLASSES);
        let Target::Tokens(vocabulary) = &dataset.info().target else { panic!() };
        let (tokens, labels) = token_rows(dataset.train());
        let mut bytes = Vec::new();
        for &token in tokens.iter().chain(labels.last()) {
            vocabulary.decode(token as u32, &mut bytes);
        }
        prop_assert_eq!(bytes, text.as_bytes());
    }
}
