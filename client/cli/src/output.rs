//! The same events for people and for machines.

pub mod json;
pub mod people;
mod progress;

use std::io::{self, IsTerminal, Write};

use ringfold_client::{Submitted, api};

use progress::Bar;

/// How events are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One JSON object a line on standard output.
    Json,
    /// A progress bar on standard error and lines on standard output.
    Terminal,
    /// Lines on standard output.
    Plain,
}

impl Style {
    /// JSON if asked for, else what standard error can show.
    pub fn choose(json: bool) -> Self {
        if json {
            Self::Json
        } else if io::stderr().is_terminal() {
            Self::Terminal
        } else {
            Self::Plain
        }
    }
}

/// Shows the events of one job.
pub struct Renderer {
    style: Style,
    bar: Bar,
    /// What the last line will hold besides the summary.
    last_progress: Option<api::Progress>,
    /// Tenths of the job that were shown in plain style.
    tenths_shown: u64,
}

impl Renderer {
    pub fn new(style: Style) -> Self {
        Self {
            style,
            bar: Bar::new(style == Style::Terminal),
            last_progress: None,
            tenths_shown: 0,
        }
    }

    pub fn submitted(&mut self, submitted: &Submitted) -> io::Result<()> {
        if self.style == Style::Json {
            return print(&json::submitted(submitted));
        }
        let existing = if submitted.existing {
            " (submitted before)"
        } else {
            ""
        };
        print(&format!("{}{existing}", submitted.job.job_id))
    }

    pub fn event(&mut self, event: &api::JobEvent) -> io::Result<()> {
        use api::job_event::Kind;
        if let Some(Kind::Progress(progress)) = &event.kind {
            self.last_progress = Some(*progress);
        }
        if self.style == Style::Json {
            let last = self.last_progress.as_ref();
            return json::event(event, last).map_or(Ok(()), |object| print(&object));
        }
        match &event.kind {
            Some(Kind::State(change)) => {
                self.bar.state(change);
                let lines = people::state(&event.job_id, change);
                self.bar.suspend(|| lines.iter().try_for_each(print))
            }
            Some(Kind::Progress(progress)) => {
                self.bar.progress(progress);
                self.plain_progress(progress)
            }
            Some(Kind::Evaluation(evaluation)) => {
                let line = people::evaluated(evaluation);
                self.bar.suspend(|| print(&line))
            }
            None => Ok(()),
        }
    }

    /// Without a bar, ten lines tell how far it is.
    fn plain_progress(&mut self, progress: &api::Progress) -> io::Result<()> {
        let tenths = progress.step * 10 / progress.steps_total.max(1);
        if self.style != Style::Plain || tenths <= self.tenths_shown {
            return Ok(());
        }
        self.tenths_shown = tenths;
        print(&people::progressed(progress))
    }
}

fn print(line: &impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
