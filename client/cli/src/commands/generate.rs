//! `ringfold generate`.

use std::io::{self, Write};
use std::process::ExitCode;

use ringfold_common::clock::{Clock, SystemClock};
use ringfold_storage::ModelFiles;
use ringfold_train::{Generator, Sampler, SamplingOptions};

use crate::args::GenerateArgs;
use crate::error::CliError;
use crate::output::json;

pub fn run(args: &GenerateArgs) -> Result<ExitCode, CliError> {
    let mut generator = Generator::new(ModelFiles::read(&args.model)?, 1)?;
    let vocabulary = generator.vocabulary().clone();
    let prompt = vocabulary.encode(args.prompt.as_bytes())?;
    let mut sampler = Sampler::new(SamplingOptions {
        temperature: args.temperature,
        top_k: args.top_k.map(|top_k| top_k as usize),
        top_p: args.top_p,
        seed: args.seed,
    });
    let mut out = io::stdout().lock();
    if !args.json {
        out.write_all(args.prompt.as_bytes())
            .map_err(CliError::stdout)?;
    }
    let (mut text, mut pieces) = (Vec::new(), Pieces::default());
    let clock = SystemClock::new();
    let began = clock.monotonic();
    generator.generate(&prompt, args.tokens, &mut sampler, |token| {
        let start = text.len();
        vocabulary.decode(token, &mut text);
        let bytes = &text[start..];
        if args.json {
            writeln!(out, "{}", json::token(token, &pieces.push(bytes)))
        } else {
            out.write_all(bytes)
        }
        .and_then(|()| out.flush())
        .map_err(CliError::stdout)
    })?;
    let seconds = clock.monotonic().saturating_sub(began).as_secs_f64();
    if args.json {
        let text = String::from_utf8_lossy(&text);
        let object = json::generated(&args.prompt, &text, args.tokens, seconds);
        writeln!(out, "{object}").map_err(CliError::stdout)?;
    } else {
        writeln!(out).map_err(CliError::stdout)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes that come one by one as text, a character at a time.
#[derive(Default)]
struct Pieces {
    /// The beginning of a character.
    begun: Vec<u8>,
}

impl Pieces {
    /// The characters that `bytes` complete; what can't become one is U+FFFD.
    fn push(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let mut piece = String::new();
        loop {
            match std::str::from_utf8(&self.begun) {
                Ok(text) => {
                    piece.push_str(text);
                    self.begun.clear();
                    return piece;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    piece.push_str(&String::from_utf8_lossy(&self.begun[..valid]));
                    let Some(bad) = error.error_len() else {
                        self.begun.drain(..valid);
                        return piece;
                    };
                    piece.push(char::REPLACEMENT_CHARACTER);
                    self.begun.drain(..valid + bad);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_characters() {
        let mut pieces = Pieces::default();
        let mut of = |bytes: &[u8]| pieces.push(bytes);
        assert_eq!(of(b"a"), "a");
        assert_eq!(of(b"\xe2"), "");
        assert_eq!(of(b"\x82"), "");
        assert_eq!(of(b"\xac"), "\u{20ac}");
        assert_eq!(of(b"\xff"), "\u{fffd}");
        // A character that is begun and not ended.
        assert_eq!(of(b"\xe2"), "");
        assert_eq!(of(b"ab"), "\u{fffd}ab");
        assert_eq!(of("é".as_bytes()), "é");
    }
}
