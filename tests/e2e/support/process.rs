//! Processes that end with their test.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use super::{LIMIT, Output, until, until_within};

/// A running `ringfold`, at the head of a process group of its own: its children are in it, even
/// after they have lost their parent.
pub struct Process {
    name: String,
    child: Child,
    stdout: Capture,
    stderr: Capture,
}

impl Process {
    /// Starts it with these arguments.
    #[track_caller]
    pub fn start<S: AsRef<str>>(args: &[S]) -> Self {
        Self::start_with(args, &[])
    }

    /// Starts it with these arguments and environment variables.
    #[track_caller]
    pub fn start_with<S: AsRef<str>>(args: &[S], environment: &[(&str, &str)]) -> Self {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringfold"));
        command
            .args(&args)
            .env_remove("RINGFOLD_LOG")
            .env_remove("RINGFOLD_COORDINATOR")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().expect("start ringfold");
        let stdout = Capture::start(child.stdout.take().expect("a pipe"));
        let stderr = Capture::start(child.stderr.take().expect("a pipe"));
        Self {
            name: format!("ringfold {}", args.join(" ")),
            child,
            stdout,
            stderr,
        }
    }

    /// Its process id, which is also its group's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, what: Signal) {
        signal(self.pid(), what);
    }

    /// Sends a signal to it and its children, as a terminal does.
    #[track_caller]
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(pid(self.pid()), signal).expect("signal a process group");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> Output {
        self.wait_within(LIMIT)
    }

    /// Waits for its end, but not for longer than `limit`.
    #[track_caller]
    pub fn wait_within(&mut self, limit: Duration) -> Output {
        let status = until_within(limit, &format!("the end of `{}`", self.name), || {
            self.child.try_wait().expect("wait for a child")
        });
        Output {
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
            code: status.code(),
        }
    }

    /// Waits for a line of its standard output that has `text` in it.
    #[track_caller]
    pub fn line_with(&mut self, text: &str) -> String {
        let what = format!("{text:?} from `{}`", self.name);
        until(&what, || {
            let ended = self.child.try_wait().expect("wait for a child").is_some();
            let seen = match ended {
                true => self.stdout.finish(),
                false => self.stdout.so_far(),
            };
            // A line that is not whole yet is read next time.
            let whole = seen.rfind('\n').map_or("", |end| &seen[..end]);
            let line = whole.lines().find(|line| line.contains(text));
            assert!(line.is_some() || !ended, "no {what} before its end");
            line.map(str::to_owned)
        })
    }

    /// What it has written to standard error by now.
    pub fn log(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits until neither it nor any process of its group is left.
    #[track_caller]
    pub fn leaves_no_process(&mut self) {
        let what = format!("the end of every process of `{}`", self.name);
        until(&what, || {
            let _ = self.child.try_wait();
            group_members(self.pid()).is_empty().then_some(())
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A number is given out anew only after all others: nobody else has this one yet.
        let _ = kill_process_group(pid(self.child.id()), Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let (out, err) = (self.stdout.so_far(), self.stderr.so_far());
            let tail = |text: &str| {
                let lines: Vec<&str> = text.lines().collect();
                lines[lines.len().saturating_sub(40)..].join("\n")
            };
            eprintln!(
                "== {}\n-- stdout\n{}\n-- stderr\n{}",
                self.name,
                tail(&out),
                tail(&err)
            );
        }
    }
}

/// Reads a pipe to its end.
struct Capture {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    fn start(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn so_far(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("read a pipe");
        }
        self.so_far()
    }
}

fn pid(number: u32) -> Pid {
    let number = i32::try_from(number).expect("a process id");
    Pid::from_raw(number).expect("a process id above 0")
}

/// Sends a signal to one process.
#[track_caller]
pub fn signal(process: u32, signal: Signal) {
    if let Err(error) = kill_process(pid(process), signal) {
        panic!("{signal:?} to process {process}: {error}");
    }
}

/// The processes of a group, without those that have ended and wait for their parent to notice.
pub fn group_members(group: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("list /proc");
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| {
        // It may end between the listing and the look.
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else {
            return false;
        };
        // "pid (name) state ppid pgrp ...": the name may hold anything.
        let after_name = stat.rfind(')').map_or("", |end| &stat[end + 1..]);
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ended = matches!(fields.first(), Some(&"Z" | &"X"));
        !ended && fields.get(2) == Some(&group.to_string().as_str())
    })
    .collect()
}
