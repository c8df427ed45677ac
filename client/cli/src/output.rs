//! The same events for people and for machines.

pub mod json;
pub mod people;
mod progress;

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use ringfold_client::{ClientError, Submitted, api};
use ringfold_common::job::JobState;

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
    /// The state that was shown last.
    state: Option<api::JobState>,
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
            state: None,
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
        let line = format!("{}{existing}", submitted.job.job_id);
        self.bar.suspend(|| print(&line))
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
                if !self.is_news(change.state()) {
                    return Ok(());
                }
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

    /// What to do when the coordinator can't be reached, and when it is back.
    pub fn on_interruption(&self) -> impl Fn(Option<&ClientError>) + Send + 'static {
        let (style, bar) = (self.style, self.bar.clone());
        let shown_before = Mutex::new(None);
        move |error| {
            let mut before = shown_before.lock().unwrap_or_else(PoisonError::into_inner);
            let lost = error.map(|error| format!("lost the coordinator ({error}); trying again"));
            match (lost, before.take()) {
                (Some(line), shown) => {
                    if shown.is_none() && style != Style::Terminal {
                        eprintln!("{line}");
                    }
                    *before = Some(shown.unwrap_or_else(|| bar.message()));
                    bar.show(line);
                }
                (None, Some(shown)) => {
                    if style != Style::Terminal {
                        eprintln!("the coordinator is back");
                    }
                    bar.show(shown);
                }
                (None, None) => {}
            }
        }
    }

    /// The user has seen enough of a job that goes on.
    pub fn left(&self, job_id: &str) {
        self.bar.clear();
        if self.style != Style::Json {
            eprintln!("{job_id} goes on; `ringfold cancel {job_id}` ends it");
        }
    }

    /// A bar shows every reason until the job ends. Without one, a line tells each reason to wait,
    /// and each new state.
    fn is_news(&mut self, state: api::JobState) -> bool {
        let changed = self.state.replace(state) != Some(state);
        let ended = JobState::try_from(state).is_ok_and(JobState::is_terminal);
        match self.style {
            Style::Terminal => ended,
            _ => changed || state == api::JobState::Queued,
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
