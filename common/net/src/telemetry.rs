//! Logs on standard error, and the last lines of them in memory.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The environment variable that sets what is logged, such as `debug` or `ringfold_worker=trace`.
pub const LOG_VARIABLE: &str = "RINGFOLD_LOG";

/// The last lines that were logged. Clones share them.
#[derive(Clone, Debug)]
pub struct LogTail {
    lines: Arc<Mutex<VecDeque<String>>>,
    lines_max: usize,
    line_bytes_max: usize,
}

impl LogTail {
    /// Keeps the last `lines_max` lines, each cut to `line_bytes_max` bytes.
    #[must_use]
    pub fn new(lines_max: usize, line_bytes_max: usize) -> Self {
        Self {
            lines: Arc::default(),
            lines_max,
            line_bytes_max,
        }
    }

    /// Adds a line.
    pub fn push(&self, line: &str) {
        let mut end = line.len().min(self.line_bytes_max);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= self.lines_max {
            lines.pop_front();
        }
        lines.push_back(line[..end].to_owned());
    }

    /// The lines, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

/// Starts logging on standard error: what [`LOG_VARIABLE`] says, else `default`. What is logged is
/// kept in `tail` too. A second call changes nothing.
pub fn init(default: &str, tail: Option<LogTail>) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE)
        .unwrap_or_else(|_| EnvFilter::try_new(default).unwrap_or_default());
    let ansi = tail.is_none() && io::stderr().is_terminal();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Tee { tail })
        .with_ansi(ansi)
        .with_target(false)
        .try_init();
}

/// Writes to standard error and to a tail.
struct Tee {
    tail: Option<LogTail>,
}

impl<'a> MakeWriter<'a> for Tee {
    type Writer = TeeLine<'a>;

    fn make_writer(&'a self) -> TeeLine<'a> {
        TeeLine {
            tail: self.tail.as_ref(),
        }
    }
}

/// One event's text, written whole.
struct TeeLine<'a> {
    tail: Option<&'a LogTail>,
}

impl Write for TeeLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(bytes)?;
        if let Some(tail) = self.tail {
            String::from_utf8_lossy(bytes)
                .lines()
                .for_each(|line| tail.push(line));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_lines_and_cuts_long_ones() {
        let tail = LogTail::new(2, 5);
        for line in ["one", "two", "thrée-long"] {
            tail.push(line);
        }
        assert_eq!(tail.lines(), ["two", "thr\u{e9}"]);
    }
}
