//! Repository chores: `cargo xtask tidy`.

mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
Repository chores of Ringfold.

Usage: cargo xtask <COMMAND>

Commands:
  tidy    Check what the compiler can't: dependency walls, pure crates, clock reads, manifests,
          comments of the wire format, docs of the job file, sizes of files. Changes nothing.
          Exits with 1 if anything is wrong.
  help    Print this text (also: --help, -h)
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    Tidy,
}

fn parse(words: &[String]) -> Result<Command, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => Ok(Command::Tidy),
        ["tidy", "--help" | "-h"] | ["help" | "--help" | "-h"] => Ok(Command::Help),
        [] => Err("a command is missing".to_owned()),
        words => Err(format!("unknown arguments `{}`", words.join(" "))),
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match parse(&words) {
        Ok(Command::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Command::Tidy) => run_tidy(),
        Err(wrong) => {
            eprint!("{wrong}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn run_tidy() -> ExitCode {
    let report = match tidy::run(&repository()) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("tidy could not run: {error}");
            return ExitCode::from(2);
        }
    };
    for warning in &report.warnings {
        println!("warning: {warning}");
    }
    for breach in &report.breaches {
        println!("error: {breach}");
    }
    println!("{}", report.summary());
    if report.breaches.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The root of the repository: the directory above this crate's.
fn repository() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or_else(|| own.clone(), Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn commands_are_read() {
        assert_eq!(parse_line("tidy"), Ok(Command::Tidy));
        assert_eq!(parse_line("--help"), Ok(Command::Help));
        assert_eq!(parse_line("tidy --help"), Ok(Command::Help));
        assert!(parse_line("").is_err());
        assert!(parse_line("tidy now").unwrap_err().contains("`tidy now`"));
    }
}
