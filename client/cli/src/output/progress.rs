//! The progress bar of a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ringfold_client::api;

/// A bar on standard error, or nothing. Clones share it.
#[derive(Clone)]
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    pub fn new(visible: bool) -> Self {
        let target = if visible {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        if visible {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self { bar }
    }

    /// Shows why a job isn't training; takes the bar away when it has ended.
    pub fn state(&self, change: &api::StateChange) {
        match change.state() {
            api::JobState::Succeeded | api::JobState::Failed | api::JobState::Cancelled => {
                self.clear();
            }
            _ => self.show(change.reason.clone()),
        }
    }

    /// Shows a line in place of what the job does.
    pub fn show(&self, line: String) {
        self.bar.set_message(line);
    }

    /// The line that is shown.
    pub fn message(&self) -> String {
        self.bar.message()
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    pub fn progress(&self, progress: &api::Progress) {
        if self.bar.length() != Some(progress.steps_total) {
            self.bar.set_length(progress.steps_total);
            let template = "{bar:28} {percent:>3}% {msg}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
        }
        self.bar.set_position(progress.step);
        self.bar.set_message(format!(
            "epoch {}/{}, loss {:.4}, {} samples/s",
            progress.epoch + 1,
            progress.epochs_total,
            progress.loss,
            super::people::grouped(progress.samples_per_second as u64),
        ));
    }

    /// Prints without tearing the bar.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}
